"""Train the runs of a pack's list in one job: `python -m plmscale.cluster.packjob --help`.

Writes the pack's result once every run has ended, well or not; a run that failed gets a job of its own
later. Started again, it goes on with the runs that are not finished.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plmscale.cluster import kept
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, read_json, write_json
from plmscale.snakefile import recipe_text
from plmscale.training.launch import finished
from plmscale.training.options import Options
from plmscale.training.pack import Member, Pack


def members_of(listed: dict[str, Any], out: Path, **shared: Any) -> list[Member]:
    """Return the members of a pack's list; writes their recipes where they are to be."""
    members = []
    for name, recipe in listed["runs"].items():
        run_dir, checkpoints = out / "runs" / name, out / "checkpoints" / name
        path, text = run_dir / "recipe.json", recipe_text(recipe) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            run_dir.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(text)
        kept.restore(recipe, run_dir, checkpoints)
        parent, trunk = recipe["parent"], listed["trunks"].get(name)
        members.append(
            Member(
                Options(
                    recipe=path,
                    run_dir=run_dir,
                    checkpoint_dir=checkpoints,
                    parent_dir=out / "runs" / parent["run_id"] if parent else None,
                    trunk_dir=out / "checkpoints" / trunk if trunk else None,
                    **shared,
                )
            )
        )
    return members


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0: all have ended, 1: none got through, 128 + signal: stopped."""
    parser = argparse.ArgumentParser(prog="python -m plmscale.cluster.packjob")
    parser.add_argument("--runs", type=Path, required=True, help="the pack's list")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--done", type=Path, required=True, help="the pack's result")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    parser.add_argument("--keep-checkpoint", action="store_true")
    # As the launcher of a single run has them.
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--micro-rows", type=int, default=0)
    parser.add_argument("--activation-checkpointing", default="auto")
    parser.add_argument("--compile", default="auto")
    args = parser.parse_args(argv)
    try:
        members = members_of(
            read_json(args.runs),
            args.out,
            corpus=args.corpus,
            threads=args.threads,
            checkpoint_seconds=args.checkpoint_seconds,
            keep_checkpoint=args.keep_checkpoint,
            zero_stage=args.zero_stage,
            micro_rows=args.micro_rows,
            activation_checkpointing=args.activation_checkpointing,
            compile=args.compile,
        )
        pack = Pack(members, args.at_once)
        code = pack.run()
        for member in members:
            if finished(member.options):
                kept.keep(member.options.run_dir, member.options.checkpoint_dir)
        if pack.stopped:
            return code
        ended = {row["run"]: row["exit_code"] for row in pack.summary()}
        if all(ended.values()):
            # Not the runs' fault, most likely: another node may do better.
            return 1
        write_json(args.done, {"runs": ended})
        return 0
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
