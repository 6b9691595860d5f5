"""Train one recipe: `python -m plmscale.training.launch --recipe ... `; see `--help`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.training.options import Options, parse
from plmscale.training.places import resolve

OUTPUTS = ("curve.csv", "validation.csv", "model.safetensors", "config.json", "metrics.json")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code (2 for a mistake told in one line)."""
    options = parse(argv)
    try:
        if finished(options):
            print(f"{options.run_dir}: already finished", flush=True)
            return 0
        return run(options)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2


def all_there(folder: Path) -> bool:
    """Return whether a folder holds every file that a run ends with."""
    return all((folder / name).exists() for name in OUTPUTS)


def finished(options: Options) -> bool:
    """Return whether the run folder already holds this recipe's results."""
    if not all_there(options.run_dir):
        return False
    recipe, metrics = read_json(options.recipe), read_json(options.run_dir / "metrics.json")
    return metrics.get("fingerprint") == recipe.get("fingerprint")


def run(options: Options) -> int:
    """Train in a child of the fork server where one can be used, else in this process."""
    if options.warm == "auto" and warm_allowed() and resolve(options.launcher) == "local":
        from plmscale.training import forkserver

        code = forkserver.submit(options)
        if code is not None:
            return code
    from plmscale.training.ranks import launch

    return launch(options)


def warm_allowed() -> bool:
    """A fork cannot take over a GPU, and under Slurm a server would outlive its job step.

    Other systems than Linux lack what ties a child's life to its client's.
    """
    if sys.platform != "linux" or "SLURM_JOB_ID" in os.environ:
        return False
    return shutil.which("nvidia-smi") is None


if __name__ == "__main__":
    sys.exit(main())
