"""One job's attempt at a run: `python -m plmscale.cluster.step OPTIONS -- COMMAND...`.

Starts COMMAND by srun, a task a rank, on the nodes of the Slurm job it runs in, and decides what its end
means for the job: finished; time is up, so back into the queue; memory was short, which the next
attempt is told; or failed. Without --srun, on a machine of its own, it waits for GPUs with room and runs
COMMAND there.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plmscale.cluster import devices, kept, notes, slurm
from plmscale.files import read_json
from plmscale.training.launch import all_there

# 128 + SIGUSR1, 128 + SIGTERM: what a trainer returns that was told to stop and has saved.
STOPPED = (138, 143)
_KILLED = 137
_DEVICE_MEMORY = re.compile(r"(CUDA|HIP)( error:)? out of memory|torch\.\S*OutOfMemoryError")
_HOST_MEMORY = re.compile(
    r"oom[-_ ]kill|Out Of Memory|MemoryError|DefaultCPUAllocator.*memory", re.IGNORECASE
)
# After `scontrol requeue` Slurm ends this job.
_REQUEUE_SECONDS = 180


@dataclass(frozen=True)
class Place:
    """Where a command runs: `tasks` ranks on `nodes` nodes with `cpus` cores each.

    gpus: in all; slots: runs that share the GPU.
    """

    nodes: int
    tasks: int
    cpus: int
    gpus: int = 0
    slots: int = 1


def command(place: Place, words: Sequence[str], job: str) -> tuple[list[str], dict[str, str]]:
    """Return the srun command line and what is added to its environment.

    All numbers are given: the job step of Snakemake's executor strips those of the job.
    """
    srun = ["srun", f"--nodes={place.nodes}", f"--ntasks={place.tasks}"]
    srun += [f"--cpus-per-task={place.cpus}", "--kill-on-bad-exit=1", "--wait=0"]
    added = {}
    if place.tasks > 1 and "MASTER_ADDR" not in os.environ:
        address = slurm.address_of_first_node(job)
        added = {"MASTER_ADDR": address} if address else {}
    return [*srun, *words], added


@contextmanager
def placed(
    place: Place, words: Sequence[str], job: str
) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield what to run, and what to add to its environment, while its devices are held."""
    if job:
        yield command(place, words, job)
    elif place.gpus and (names := devices.visible()):
        with devices.taken(place.gpus, place.slots, names) as taken:
            yield list(words), {"CUDA_VISIBLE_DEVICES": ",".join(taken)}
    else:
        yield list(words), {}


def run_watched(
    words: Sequence[str], added: dict[str, str], pass_on: bool = True
) -> tuple[int, str]:
    """Run a command, passing its output on; return its exit code and the memory that was short.

    That is "host", "device" or empty. A signal that ends this process is passed on, and the command
    waited for; under Slurm, which tells the ranks itself (and srun would kill them), it is not.
    """
    process = subprocess.Popen(
        words,
        env={**os.environ, **added},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: process.terminate() if pass_on else None)
    short = ""
    for line in process.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        if _DEVICE_MEMORY.search(line):
            short = "device"
        elif not short and _HOST_MEMORY.search(line):
            short = "host"
    code = process.wait()
    code = code if code >= 0 else 128 - code
    if code == _KILLED and not short:
        short = "host"
    return code, short if code else ""


def requeue(job: str, checkpoint_dir: Path, members: Sequence[Path]) -> str:
    """Put this job back into the queue, where it gets its whole time again; return why not.

    Not where it is being cancelled, and not where the last time brought no saved step: such a
    chain would never end.
    """
    if (state := slurm.state_of(job)) not in ("", "RUNNING"):
        return f"the job is {state.lower()}"
    saved, before = notes.steps_saved(members), notes.read(checkpoint_dir)["requeued_at"]
    if before is not None and saved <= before:
        return (
            "no step was saved since the last time its walltime was over; raise node_walltime "
            "in the profile, or lower execution.checkpoint_seconds"
        )
    notes.write(checkpoint_dir, requeued_at=saved)
    print(f"plmscale: time is up; job {job} goes back into the queue", flush=True)
    if slurm.ask(["scontrol", "requeue", job], 60) is None:
        return "Slurm did not requeue it"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m plmscale.cluster.step")
    parser.add_argument(
        "--srun", action="store_true", help="in a job of Slurm: start ranks by srun"
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--slots", type=int, default=1, help="runs that share the GPU")
    parser.add_argument("--run-dir", type=Path, help="where results go; a pack has none")
    parser.add_argument("--checkpoint-dir", type=Path, required=True, help="where notes are kept")
    parser.add_argument("--member", type=Path, action="append", help="checkpoints of a pack's run")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args(argv)
    recipe = args.run_dir / "recipe.json" if args.run_dir else None
    if recipe and kept.restore(read_json(recipe), args.run_dir, args.checkpoint_dir):
        print(f"{args.run_dir.name}: already trained by another job", flush=True)
        return 0
    job = os.environ.get("SLURM_JOB_ID", "") if args.srun else ""
    place = Place(args.nodes, args.tasks, args.cpus, args.gpus, args.slots)
    with placed(place, args.command, job) as (words, added):
        code, short = run_watched(words, added, pass_on=not job)
    if code == 0:
        if recipe and all_there(args.run_dir):
            kept.keep(args.run_dir, args.checkpoint_dir)
        notes.write(args.checkpoint_dir, requeued_at=None)
        return 0
    if short:
        key = f"{short}_memory"
        notes.write(args.checkpoint_dir, **{key: notes.read(args.checkpoint_dir)[key] + 1})
        print(f"plmscale: {short} memory was short; the next attempt asks for more", flush=True)
    elif job and code in STOPPED:
        why = requeue(job, args.checkpoint_dir, args.member or [args.checkpoint_dir])
        if not why:
            time.sleep(_REQUEUE_SECONDS)
            why = "Slurm did not end it after the requeue"
        print(f"plmscale: job {job} does not go on: {why}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
