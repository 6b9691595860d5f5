"""Checkpoints that a kill at any moment leaves whole, and that any layout can go on from.

A checkpoint folder holds `recipe.json`, `owner.lock`, `step-N` folders and `latest.json`, which names the
one to go on from. In `step-N` every rank has `rank-K.safetensors` with the stretches of fp32 weights and
AdamW moments that it owns, and `rank-K.json` with their places and the file's hash; rank 0 adds
`state.json`. No pickle, nothing of DeepSpeed's: any number of ranks and any ZeRO stage reads it.

Saving copies the numbers into memory and goes on training; a thread writes them under a temporary name,
flushes, reads them back and compares hashes. Only then is the folder renamed and named in `latest.json`,
and only then the one before is removed. A save that fails (a full disk) leaves the one before in place.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.training.lock import Owner
from plmscale.training.state import KINDS, adam_step, fill, fragments

LATEST = "latest.json"
STATE = "state.json"
# A rank that writes slower than this is given up, and with it this checkpoint. Less than the 30
# minutes after which ranks that wait for each other take one for lost.
_WRITE_SECONDS = 1200.0
# Names that do not change what is learned.
_LABELS = {"run_id", "study", "experiment", "fingerprint", "budget"}


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


@dataclass
class Saved:
    """What saving has cost so far: `blocked` is time in which nothing was trained, in seconds."""

    count: int = 0
    failed: int = 0
    blocked: float = 0.0
    writing: float = 0.0
    last_bytes: int = 0
    errors: list[str] = field(default_factory=list)


class Saver:
    """Writes checkpoints of one run in the background; one instance on each rank.

    `keep` names steps whose folders stay under `directory`/`trunk` when they are no longer the
    latest: what other runs with the same beginning go on from.
    """

    def __init__(
        self, directory: Path, rank: int, world: int, owner: Owner | None, keep: set[int]
    ) -> None:
        self.directory, self.rank, self.world = directory, rank, world
        self.owner, self.keep = owner, keep
        self.report = Saved()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether the last checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, engine: Any, step: int, state: dict[str, Any]) -> None:
        """Save engine and `state` (JSON) as step `step`; all ranks must call it at the same step.

        Waits for the checkpoint before, so that at most one is being written.
        """
        start = time.monotonic()
        self.wait()
        temporary = self.directory / f".tmp-step-{step}"
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):
                temporary.mkdir()
        barrier()
        tensors, places = {}, []
        for piece in fragments(engine):
            for kind in KINDS:
                view = getattr(piece, kind)
                tensors[f"{kind}/{piece.name}"] = view.to("cpu", torch.float32, copy=True)
            places.append({"name": piece.name, "start": piece.start, "numel": piece.numel})
        state = {**state, "step": step, "adam_step": adam_step(engine), "ranks": self.world}
        self._thread = threading.Thread(
            target=self._write, args=(temporary, step, tensors, places, state), name="checkpoint"
        )
        self._thread.start()
        self.report.blocked += time.monotonic() - start

    def wait(self) -> None:
        """Wait until what is being written is there, or has failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(
        self,
        folder: Path,
        step: int,
        tensors: dict[str, Tensor],
        places: list[dict[str, Any]],
        state: dict[str, Any],
    ) -> None:
        start = time.monotonic()
        try:
            written = _write_rank(folder, self.rank, tensors, places)
            if self.rank == 0:
                sizes = [written, *_wait_for_ranks(folder, range(1, self.world))]
                write_json(folder / STATE, state)
                self._commit(folder, step)
                self.report.last_bytes = sum(sizes)
            self.report.count += 1
        except Exception as error:
            # Of whatever kind: training goes on, and a stop must not be told as saved.
            self.report.failed += 1
            reason = f"checkpoint of step {step:,} was not written: {error or type(error).__name__}"
            self.report.errors.append(reason)
            self._give_up(folder, reason)
        finally:
            self.report.writing += time.monotonic() - start

    def _give_up(self, folder: Path, reason: str) -> None:
        """Free the space first: where the disk is full, even the note to rank 0 needs some."""
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            print(
                f"plmscale: warning: {self.directory}: {reason}; the one before stays", flush=True
            )
            return
        name = f"rank-{self.rank:05d}"
        with suppress(OSError, PlmscaleError):
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
            write_json(folder / f"{name}.json", {"error": reason})

    def _commit(self, folder: Path, step: int) -> None:
        if self.owner is not None:
            self.owner.leave_if_replaced()
        tag = f"step-{step}"
        shutil.rmtree(self.directory / tag, ignore_errors=True)
        os.rename(folder, self.directory / tag)
        flush(self.directory)
        write_json(self.directory / LATEST, {"tag": tag, "step": step})
        # Before anything is removed, the new name must be on the disk, too.
        flush(self.directory)
        for old in self.directory.glob("*step-*"):
            if old.name != tag:
                self._let_go(old)

    def discard(self) -> None:
        """Remove what only an unfinished run needs; logs, recipe, lock and trunk stay."""
        (self.directory / LATEST).unlink(missing_ok=True)
        (self.directory / "progress.json").unlink(missing_ok=True)
        for old in self.directory.glob("*step-*"):
            self._let_go(old)

    def _let_go(self, old: Path) -> None:
        number = old.name.removeprefix("step-")
        if number.isdigit() and int(number) in self.keep:
            trunk = self.directory / "trunk"
            trunk.mkdir(exist_ok=True)
            shutil.rmtree(trunk / old.name, ignore_errors=True)
            os.rename(old, trunk / old.name)
        else:
            shutil.rmtree(old, ignore_errors=True)


def _write_rank(
    folder: Path, rank: int, tensors: dict[str, Tensor], places: list[dict[str, Any]]
) -> int:
    """Write one rank's file, read it back, and only then its JSON; return the file's bytes."""
    path = folder / f"rank-{rank:05d}.safetensors"
    expected = {name: _digest(tensor) for name, tensor in tensors.items()}
    save_file(tensors, path)
    flush(path)
    # What is read back should come from the disk, not from memory.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    with safe_open(path, "pt") as stored:
        wrong = [name for name in expected if _digest(stored.get_tensor(name)) != expected[name]]
    if wrong:
        raise PlmscaleError(f"{path}: {wrong[0]} reads back otherwise than it was written")
    size = path.stat().st_size
    write_json(
        folder / f"rank-{rank:05d}.json", {"bytes": size, "places": places, "xxh3": expected}
    )
    flush(folder)
    return size


def _digest(tensor: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor.contiguous().numpy().view(np.uint8).data)


def _wait_for_ranks(folder: Path, ranks: range) -> list[int]:
    """Wait for the JSON of other ranks; return their files' bytes."""
    deadline = time.monotonic() + _WRITE_SECONDS
    sizes = []
    for rank in ranks:
        path = folder / f"rank-{rank:05d}.json"
        while not path.exists():
            if time.monotonic() > deadline:
                raise PlmscaleError(f"rank {rank} did not write its part in {_WRITE_SECONDS:.0f} s")
            time.sleep(0.01)
        found = read_json(path)
        if "error" in found:
            raise PlmscaleError(f"rank {rank}: {found['error']}")
        sizes.append(found["bytes"])
    return sizes


def latest(directory: Path) -> Path | None:
    """Return the folder to go on from, or None where there is none."""
    if not (directory / LATEST).exists():
        return None
    return directory / read_json(directory / LATEST)["tag"]


def is_whole(folder: Path) -> bool:
    """Return whether all files of a checkpoint are there; a kill may have left a part."""
    try:
        ranks = read_json(folder / STATE)["ranks"]
    except (PlmscaleError, KeyError, TypeError):
        return False
    names = [f"rank-{rank:05d}" for rank in range(ranks)]
    return all((folder / f"{n}{end}").exists() for n in names for end in (".json", ".safetensors"))


def restore(engine: Any, folder: Path) -> dict[str, Any]:
    """Load the checkpoint in `folder` into `engine`, of whatever layout; return its state."""
    state = read_json(folder / STATE)
    try:
        fill(engine, Stored(folder, state["ranks"]).read, state["adam_step"])
    except (OSError, KeyError, SafetensorError) as error:
        raise PlmscaleError(
            f"{folder}: checkpoint cannot be loaded ({type(error).__name__}: {error}); "
            "remove the checkpoint folder to train from the start"
        ) from error
    return state


class Stored:
    """The parameters of a checkpoint folder, read by name and stretch."""

    def __init__(self, folder: Path, ranks: int) -> None:
        # Parameter -> (start, length, number of the file).
        self._places: dict[str, list[tuple[int, int, int]]] = {}
        self._files: list[Any] = []
        self._digests: list[dict[str, str]] = []
        self._checked: set[tuple[int, str]] = set()
        self._folder = folder
        for rank in range(ranks):
            index = read_json(folder / f"rank-{rank:05d}.json")
            self._files.append(safe_open(folder / f"rank-{rank:05d}.safetensors", "pt"))
            self._digests.append(index["xxh3"])
            for place in index["places"]:
                part = (place["start"], place["numel"], rank)
                self._places.setdefault(place["name"], []).append(part)

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Return `numel` fp32 values of parameter `name` from `start`; a `state.Reader`."""
        out = torch.empty(numel, dtype=torch.float32)
        found = 0
        for first, length, rank in self._places[name]:
            begin, end = max(start, first), min(start + numel, first + length)
            if begin < end:
                stored = self._tensor(rank, f"{kind}/{name}")
                out[begin - start : end - start] = stored[begin - first : end - first]
                found += end - begin
        if found != numel:
            raise PlmscaleError(f"{self._folder}: {name} is incomplete; remove the folder")
        return out

    def _tensor(self, rank: int, key: str) -> Tensor:
        tensor = self._files[rank].get_tensor(key)
        if (rank, key) not in self._checked:
            if _digest(tensor) != self._digests[rank][key]:
                raise PlmscaleError(
                    f"{self._folder}/rank-{rank:05d}.safetensors: {key} is damaged; remove the "
                    "checkpoint folder to train from the start"
                )
            self._checked.add((rank, key))
        return tensor


def of_first(value: bool, device: str) -> bool:
    """Return rank 0's `value`, on all ranks."""
    told = torch.tensor(int(value), device=device)
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast(told, 0)
    return bool(told)


def barrier() -> None:
    """Wait for all ranks."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()


def flush(path: Path) -> None:
    """Have the file system write a file or folder out."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
