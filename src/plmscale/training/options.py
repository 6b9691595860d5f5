"""What a training process is told beside its recipe: none of it changes what is learned."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

# Environment variable, set by a pack: how many runs share a device.
AT_ONCE = "PLMSCALE_AT_ONCE"


@dataclass(frozen=True)
class Options:
    """Paths, threads and habits of one run. `started` is the Unix time of its launch."""

    recipe: Path
    corpus: Path
    run_dir: Path
    checkpoint_dir: Path
    parent_dir: Path | None = None
    trunk_dir: Path | None = None
    devices: int = 1
    threads: int = 1
    zero_stage: int = 0
    micro_rows: int = 0
    activation_checkpointing: str = "auto"
    compile: str = "auto"
    checkpoint_seconds: float = 30.0
    keep_checkpoint: bool = False
    warm: str = "auto"
    launcher: str = "auto"
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
    parser.add_argument(
        "--trunk-dir",
        type=Path,
        help="checkpoint folder of a shorter run with the same beginning (wsd schedule); where it "
        "holds nothing of use, training starts from the beginning, with the same result",
    )
    parser.add_argument("--devices", type=int, default=1, help="ranks on this machine")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each rank")
    parser.add_argument(
        "--zero-stage", type=int, choices=(0, 1, 2, 3), default=0, help="0: by size and memory"
    )
    parser.add_argument("--micro-rows", type=int, default=0, help="rows a forward; 0: by memory")
    parser.add_argument(
        "--activation-checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="recompute activations in the backward pass; auto: where memory asks for it",
    )
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="compile the blocks; auto: on GPUs, for runs long enough to pay for it",
    )
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
    parser.add_argument(
        "--launcher",
        choices=("auto", "local", "env", "slurm"),
        default="auto",
        help="who starts the ranks. local: this process, on this machine; env: torchrun did (RANK, "
        "WORLD_SIZE, MASTER_ADDR are set); slurm: srun did, a task a rank; auto: by environment",
    )
    return Options(**vars(parser.parse_args(argv)))
