"""Embeddings on disk: computed once per model, layer and sequence, and shared by all tasks.

    FOLDER/v1/<digest of the model>/<layer>-means/part-*/keys.npy, values.npy
    FOLDER/v1/<digest of the model>/<layer>-residues[-half]/part-*/keys.npy, lengths.npy, values.npy

A part is a folder that is written beside its place and renamed, never changed, and read through a
memory map. So two processes can share a store: at worst both compute the same. When all parts
together exceed the store's limit the least recently used ones are removed; who still reads one keeps
it until it is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from plmscale.downstream.batches import default_tokens
from plmscale.downstream.models.adapter import Adapter
from plmscale.downstream.models.states import mean_states, residue_states
from plmscale.files import disk_full_is_told, follow_umask

# To be raised when the same model and sequence give other numbers: another rule of windows, say.
_FORMAT = "v1"
_LIMIT = 50 << 30
# What one part holds at most: what a process that is killed loses, and what is in memory.
_PART_BYTES, _PART_SEQUENCES = 128 << 20, 4096
_MAPPED_BYTES, _OPEN_PARTS = 4 << 20, 128
_LEAVINGS_SECONDS = 86400.0
_LARGEST_HALF = float(np.finfo(np.float16).max)


class Store:
    """Embeddings of proteins by models.

    folder: where they are kept; None keeps them until the store is gone. limit: bytes of the folder
    at most. half: keep the states of residues as float16, at half the size (means never are).
    """

    def __init__(self, folder: Path | None = None, limit: int = _LIMIT, half: bool = False) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="plmscale-store-")
        self.folder = Path(folder or self._own.name)  # type: ignore[union-attr]
        self.limit, self.half = limit, half
        self._parts: dict[Path, _Parts] = {}
        self._unchecked = 0

    def means(self, adapter: Adapter, sequences: Sequence[str], layer: int = -1) -> np.ndarray:
        """Return the mean over the residues of each sequence, float32 (n, d).

        Sequences that the model cannot take at once are run in windows. Raises PlmscaleError for an
        empty sequence, and where the model's states are no numbers.
        """

        def compute(chosen: list[str]) -> list[np.ndarray]:
            found = mean_states(adapter, chosen, layer, default_tokens(adapter))
            return list(found[:, None])

        rows = self._get(adapter, sequences, layer, "means", compute, np.float32)
        return np.concatenate(rows) if rows else np.empty((0, adapter.info.width), np.float32)

    def residues(
        self, adapter: Adapter, sequences: Sequence[str], layer: int = -1
    ) -> list[np.ndarray]:
        """Return the states of each sequence's residues, (length, d) in float32, or float16 with
        `half`; read-only views of files, so that more than fits into memory can be asked for.

        Errors as of `means`.
        """

        def compute(chosen: list[str]) -> list[np.ndarray]:
            return residue_states(adapter, chosen, layer, default_tokens(adapter))

        kind, dtype = ("residues-half", np.float16) if self.half else ("residues", np.float32)
        return self._get(adapter, sequences, layer, kind, compute, dtype)

    def _get(
        self,
        adapter: Adapter,
        sequences: Sequence[str],
        layer: int,
        kind: str,
        compute: Callable[[list[str]], list[np.ndarray]],
        dtype: type,
    ) -> list[np.ndarray]:
        number = adapter.layer_number(layer)
        place = self.folder / _FORMAT / adapter.info.digest / f"{number}-{kind}"
        parts = self._parts.setdefault(place, _Parts(place))
        keys = [_key(sequence) for sequence in sequences]
        found = parts.find(keys)
        missing = {key: s for key, s in zip(keys, sequences) if key not in found}
        # Alike lengths together: that is what makes batches without much padding.
        todo = sorted(missing.items(), key=lambda item: (-len(item[1]), item[1]))
        rows = 1 if kind == "means" else 0
        for chunk in _chunks(todo, 4 * adapter.info.width, rows):
            values = [_as(value, dtype) for value in compute([sequence for _, sequence in chunk])]
            found |= parts.write([key for key, _ in chunk], values)
            self._unchecked += sum(value.nbytes for value in values)
            if self._unchecked > self.limit // 100:
                self._shrink({path for each in self._parts.values() for path in each.used})
                self._unchecked = 0
        return [found[key] for key in keys]

    def _shrink(self, keep: set[Path]) -> None:
        """Remove the parts that were not used for longest until the limit is kept."""
        parts = []
        for path in self.folder.glob(f"{_FORMAT}/*/*/part-*"):
            with contextlib.suppress(OSError):
                size = sum(entry.stat().st_size for entry in os.scandir(path))
                parts.append((path.stat().st_mtime, size, path))
        excess = sum(size for _, size, _ in parts) - self.limit
        for _, size, path in sorted(parts):
            if excess <= 0:
                return
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)
                excess -= size


class _Parts:
    """The parts in one folder. used: those that gave something since the store was made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.used = folder, set[Path]()
        self._where: dict[bytes, tuple[Path, int, int]] = {}
        self._seen: set[Path] = set()
        self._values: OrderedDict[Path, np.ndarray] = OrderedDict()
        _remove_leavings(folder)

    def find(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        """Return what is there of `keys`."""
        if any(key not in self._where for key in keys):
            self._look()
        found, touched = {}, set()
        for key in keys:
            if key in self._where:
                path, start, stop = self._where[key]
                if (values := self._open(path)) is not None:
                    found[key] = values[start:stop]
                    touched.add(path)
        for path in touched - self.used:
            with contextlib.suppress(OSError):
                os.utime(path)
        self.used |= touched
        return found

    def write(self, keys: list[bytes], values: list[np.ndarray]) -> dict[bytes, np.ndarray]:
        """Write one part; return its values by key as views of the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with disk_full_is_told(self.folder):
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".part-", suffix=".tmp"))
            try:
                lengths = np.array([len(value) for value in values])
                for name, array in (
                    ("keys", np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)),
                    ("lengths", lengths),
                    ("values", np.concatenate(values)),
                ):
                    with open(temporary / f"{name}.npy", "wb") as handle:
                        np.save(handle, array, allow_pickle=False)
                        handle.flush()
                        os.fsync(handle.fileno())
                follow_umask(temporary)
                part = self.folder / temporary.name.removeprefix(".").removesuffix(".tmp")
                os.rename(temporary, part)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        self.used.add(part)
        self._index(part)
        # In memory, should another process have removed the part already.
        return dict(zip(keys, values)) | self.find(keys)

    def _look(self) -> None:
        """Take in parts that others wrote meanwhile."""
        for part in sorted(self.folder.glob("part-*")):
            if part not in self._seen:
                self._index(part)

    def _index(self, part: Path) -> None:
        """Note what a part holds; one that is damaged or just removed holds nothing."""
        self._seen.add(part)
        try:
            keys = np.load(part / "keys.npy", allow_pickle=False)
            ends = np.cumsum(np.load(part / "lengths.npy", allow_pickle=False))
            values = np.load(part / "values.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return
        if len(keys) != len(ends) or (len(ends) and ends[-1] != len(values)):
            return
        for key, start, stop in zip(keys, [0, *ends[:-1].tolist()], ends.tolist()):
            self._where[key.tobytes()] = (part, start, stop)

    def _open(self, part: Path) -> np.ndarray | None:
        """Return the values of a part, None if it was removed meanwhile."""
        if part not in self._values:
            path = part / "values.npy"
            try:
                # A map keeps a file open, so small parts, of which there may be many, are read.
                large = path.stat().st_size > _MAPPED_BYTES
                self._values[part] = np.load(
                    path, mmap_mode="r" if large else None, allow_pickle=False
                )
            except (OSError, ValueError):
                return None
            self._values[part].flags.writeable = False
        self._values.move_to_end(part)
        while len(self._values) > _OPEN_PARTS:
            self._values.popitem(last=False)
        return self._values[part]


def _key(sequence: str) -> bytes:
    return hashlib.blake2b(sequence.encode(), digest_size=16).digest()


def _as(values: np.ndarray, dtype: type) -> np.ndarray:
    if dtype is np.float16:
        values = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF)
    return values.astype(dtype)


def _chunks(
    todo: list[tuple[bytes, str]], row_bytes: int, rows: int
) -> Iterator[list[tuple[bytes, str]]]:
    """Cut into chunks for one part each; `rows` of a sequence's states, 0 for one a residue."""
    chunk: list[tuple[bytes, str]] = []
    size = 0
    for key, sequence in todo:
        chunk.append((key, sequence))
        size += (rows or len(sequence)) * row_bytes
        if size >= _PART_BYTES or len(chunk) == _PART_SEQUENCES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _remove_leavings(folder: Path) -> None:
    """Remove what processes that were killed left more than a day ago."""
    for left in folder.glob(".part-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEAVINGS_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
