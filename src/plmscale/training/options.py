"""What a training process is told beside its recipe: none of it changes what is learned."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Paths, threads and habits of one run. `started` is the Unix time of its launch."""

    recipe: Path
    corpus: Path
    run_dir: Path
    checkpoint_dir: Path
    parent_dir: Path | None = None
    devices: int = 1
    threads: int = 1
    checkpoint_seconds: float = 30.0
    keep_checkpoint: bool = False
    warm: str = "auto"
    started: float = field(default_factory=time.time)


def parse(argv: list[str] | None = None) -> Options:
    """Read the command line of `python -m plmscale.training.launch`."""
    parser = argparse.ArgumentParser(
        prog="python -m plmscale.training.launch",
        description="Train one recipe; a killed run goes on from its checkpoint.",
    )
    parser.add_argument("--recipe", type=Path, required=True, help="recipe.json of the run")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with manifest.json")
    parser.add_argument("--run-dir", type=Path, required=True, help="where results go")
    parser.add_argument("--checkpoint-dir", type=Path, required=True, help="where it restarts from")
    parser.add_argument("--parent-dir", type=Path, help="run folder of the recipe's parent")
    parser.add_argument("--devices", type=int, default=1, help="ranks on this machine")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each rank")
    parser.add_argument("--checkpoint-seconds", type=float, default=30.0)
    parser.add_argument(
        "--keep-checkpoint", action="store_true", help="keep the last checkpoint after success"
    )
    parser.add_argument(
        "--warm",
        choices=("auto", "never"),
        default="auto",
        help="auto: fork from a server that has imported everything (CPU only, not under Slurm)",
    )
    return Options(**vars(parser.parse_args(argv)))
