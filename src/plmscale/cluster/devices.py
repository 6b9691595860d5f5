"""GPUs of one machine without Slurm, shared out by locks: as many runs on each as have room there.

Snakemake counts how much of the GPUs its jobs take, but not which. A run takes a lock for every part of a
GPU that it needs; the kernel frees the locks of a process that ends, however it ends.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

# Parts that a GPU has; `resources: gpu_parts` of a profile without Slurm counts in them.
PARTS = 8
_WAIT_SECONDS = 0.5


def folder() -> Path:
    """Return where the locks of this user on this machine lie."""
    return Path(tempfile.gettempdir()) / f"plmscale-gpus-{getpass.getuser()}"


@contextmanager
def taken(
    gpus: int, slots: int, names: list[str], where: Path | None = None
) -> Iterator[list[str]]:
    """Hold `gpus` whole GPUs, or the `slots`-th part of one; waits until they are free.

    `names` are those the machine has, as CUDA_VISIBLE_DEVICES writes them. Yields the names taken.
    """
    there = where or folder()
    there.mkdir(mode=0o700, parents=True, exist_ok=True)
    parts = PARTS // slots if gpus == 1 else PARTS
    with ExitStack() as stack:
        while True:
            with (there / "choosing").open("w") as turn:
                # One chooses at a time: two that each hold half of what they need would wait for ever.
                fcntl.flock(turn, fcntl.LOCK_EX)
                found = _choose(there, gpus, parts, names)
            if found is not None:
                break
            time.sleep(_WAIT_SECONDS)
        chosen, handles = found
        for handle in handles:
            stack.enter_context(handle)
        yield chosen


def _choose(
    there: Path, gpus: int, parts: int, names: list[str]
) -> tuple[list[str], list[IO[str]]] | None:
    """Lock `parts` parts of `gpus` GPUs, those first that have the least room left."""
    free = {name: _lock_free(there, name) for name in names}
    fitting = sorted((n for n in names if len(free[n]) >= parts), key=lambda n: len(free[n]))
    chosen = fitting[:gpus] if len(fitting) >= gpus else []
    kept = [handle for name in chosen for handle in free[name][:parts]]
    for handle in (handle for handles in free.values() for handle in handles):
        if not any(handle is other for other in kept):
            handle.close()
    return (chosen, kept) if chosen else None


def _lock_free(there: Path, name: str) -> list[IO[str]]:
    """Return the open, locked files of all parts of a GPU that nobody holds."""
    handles = []
    for part in range(PARTS):
        handle = (there / f"{name.replace('/', '_')}.{part}").open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            continue
        handles.append(handle)
    return handles


def visible() -> list[str]:
    """Return the machine's GPUs: those of CUDA_VISIBLE_DEVICES, else all that have a device file."""
    if (asked := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in asked.split(",") if name]
    found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(found, key=int)
