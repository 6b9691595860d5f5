"""Checkpoints that a kill at any moment leaves whole, and the lock on a run.

A checkpoint folder holds `recipe.json`, `owner.lock`, one `step-N` folder written by DeepSpeed and
`latest.json`, which names it. A new `step-N` is written under a temporary name, flushed, renamed,
and only then named in `latest.json`; the one before is removed last. These pickles are read only
from the run's own folder, which this program wrote; nothing else is ever unpickled.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json

_LATEST = "latest.json"
_LOCK = "owner.lock"
# Names that do not change what is learned.
_LABELS = {"run_id", "study", "experiment", "fingerprint", "budget"}


@contextmanager
def owned(directory: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold the run's lock; wait `patience` seconds for a dying owner, then name the live one.

    The kernel frees the lock when its holder dies, however it dies.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / _LOCK, "a+", encoding="utf-8") as handle:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    handle.seek(0)
                    owner = handle.read().strip() or "unknown"
                    raise PlmscaleError(
                        f"{directory}: another process trains this run ({owner}); "
                        "stop it or wait for it to end"
                    ) from None
                time.sleep(0.2)
        handle.seek(0)
        handle.truncate()
        job = os.environ.get("SLURM_JOB_ID")
        handle.write(
            f"pid {os.getpid()} on {socket.gethostname()}" + (f", job {job}" if job else "")
        )
        handle.flush()
        yield


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return `key: old -> new` for each field that decides an outcome and differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{prefix}: {json.dumps(old)} -> {json.dumps(new)}"]
    found = []
    for key in sorted(set(old) | set(new)):
        path = f"{prefix}.{key}" if prefix else key
        if key not in _LABELS and path not in ("architecture.name", "corpus.name"):
            found += differences(old.get(key), new.get(key), path)
    return found


def claim(directory: Path, recipe: dict[str, Any]) -> None:
    """Mark the folder as this recipe's, or refuse it by the fields in which they differ."""
    path = directory / "recipe.json"
    if path.exists() and (changed := differences(read_json(path), recipe)):
        raise PlmscaleError(
            f"{directory}: holds a checkpoint of another recipe; differing: "
            f"{'; '.join(changed)}; remove the folder or use another"
        )
    write_json(path, recipe)


def save(engine: Any, directory: Path, step: int, state: dict[str, Any], rank: int) -> None:
    """Save engine and `state` (JSON) as step `step`; all ranks must call it."""
    tag = f"step-{step}"
    temporary = f".tmp-{tag}"
    if rank == 0:
        shutil.rmtree(directory / temporary, ignore_errors=True)
        shutil.rmtree(directory / tag, ignore_errors=True)
    _barrier()
    try:
        engine.save_checkpoint(str(directory), tag=temporary, save_latest=False)
    except (OSError, RuntimeError) as error:
        raise PlmscaleError(f"{directory}: cannot write a checkpoint ({error})") from error
    _barrier()
    if rank != 0:
        return
    write_json(directory / temporary / "state.json", state)
    for path in (directory / temporary).iterdir():
        _flush(path)
    os.rename(directory / temporary, directory / tag)
    _flush(directory)
    write_json(directory / _LATEST, {"tag": tag, "step": step})
    for old in directory.glob("*step-*"):
        if old.name != tag:
            shutil.rmtree(old, ignore_errors=True)


def restore(engine: Any, directory: Path) -> dict[str, Any] | None:
    """Load the latest checkpoint into `engine`; return its state, or None when there is none."""
    if not (directory / _LATEST).exists():
        return None
    tag = read_json(directory / _LATEST)["tag"]
    state = read_json(directory / tag / "state.json")
    try:
        loaded, _ = engine.load_checkpoint(str(directory), tag=tag, load_lr_scheduler_states=False)
    except Exception as error:
        raise PlmscaleError(
            f"{directory / tag}: checkpoint cannot be loaded ({type(error).__name__}: {error}); "
            "remove the checkpoint folder to train from the start"
        ) from error
    if loaded is None:
        raise PlmscaleError(f"{directory / tag}: checkpoint is incomplete; remove the folder")
    return state


def discard(directory: Path) -> None:
    """Remove what only an unfinished run needs; logs, recipe and lock stay."""
    (directory / _LATEST).unlink(missing_ok=True)
    for old in directory.glob("*step-*"):
        shutil.rmtree(old, ignore_errors=True)


def _barrier() -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
