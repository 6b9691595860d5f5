"""What the rules of rules/downstream.smk run: `python -m plmscale.downstream.jobs STEP ...`.

Each step ends well whatever a task, a model or its data do, and writes what became of it (run.Outcome)
into --done: one gated model or missing tool must not stop the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plmscale.downstream import run
from plmscale.downstream.outcome import Outcome, noted, told
from plmscale.downstream.run import Asked
from plmscale.errors import PlmscaleError
from plmscale.files import write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step; 2 for an error in how it was called."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, step in (
        ("fetch", _fetch), ("hub", _hub), ("evaluate", _evaluate), ("baselines", _baselines),
        ("leakage", _leakage),
    ):  # fmt: skip
        command = steps.add_parser(name)
        command.set_defaults(run=step)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--done", type=Path, required=True)
        command.add_argument("--asked", type=json.loads)
        command.add_argument("--model", type=json.loads)
        command.add_argument("--mixes", type=json.loads)
        command.add_argument("--store", type=Path)
        command.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        write_json(args.done, args.run(args))
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    return 0


def asked_of(value: dict[str, Any]) -> Asked:
    """Return what is asked of a task, from its JSON (plan.task_text)."""
    paths = {key: Path(value[key]) if value[key] else None for key in ("folder", "corpus", "cache")}
    lists = {key: tuple(value[key]) for key in ("methods", "insisted", "seeds") if key in value}
    return Asked(**{**value, **paths, **lists})


def open_model(model: dict[str, Any]) -> Any:
    """Open a model from its JSON (plan.Model.options), without a network."""
    from plmscale.downstream import models

    return models.open(
        model["where"], model["name"], model.get("use"), remote_code=model.get("remote_code", False)
    )


def _fetch(args: argparse.Namespace) -> dict[str, Any]:
    return run.fetched(asked_of(args.asked), args.out).to_dict()


def _hub(args: argparse.Namespace) -> dict[str, Any]:
    from plmscale.downstream.models.fetch import find

    model = args.model
    outcome = Outcome("", model["name"])
    with told(outcome, model["name"], ""):
        find(model["where"], download=True, remote_code=model.get("remote_code", False))
    return noted(outcome, args.out, "hub", model["name"]).to_dict()


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from plmscale.downstream.store import Store

    torch.set_num_threads(args.threads)
    model = args.model
    store = Store(args.store)
    asked = asked_of(args.asked)
    made = run.evaluate(asked, model["name"], lambda: open_model(model), args.out, store)
    return scored(made, asked, args.out)


def _baselines(args: argparse.Namespace) -> dict[str, Any]:
    asked = asked_of(args.asked)
    return scored(run.baselines(asked, args.out), asked, args.out)


def scored(made: Outcome, asked: Asked, out: Path) -> dict[str, Any]:
    """Return the outcome as a dictionary, its predictions scored and compared with the twin's."""
    from plmscale.downstream.collect import prepare

    found = made.to_dict()
    try:
        prepare(found, asked.options, out)
    except Exception:
        # The predictions are there; the tables will say what is wrong with them.
        traceback.print_exc(file=sys.stderr)
    return found


def _leakage(args: argparse.Namespace) -> dict[str, Any]:
    mixes = [tuple(sources) for sources in args.mixes]
    return run.leaked(asked_of(args.asked), mixes, args.out, args.threads)


if __name__ == "__main__":
    sys.exit(main())
