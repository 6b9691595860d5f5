"""A store: one cleaned source on disk, in the order it was read, for the steps up to the shards.

    tokens.bin        uint8 (residues,)   residues of all sequences, one after another
    lengths.bin       int32 (n,)
    hashes.bin        uint64 (n, 2)       XXH3-128 of each sequence's tokens, high word first
    names.bin         uint8               first words of the headers, one after another
    name_lengths.bin  uint16 (n,)
    counts.json       what was read and what became of it; `sequences` n, `residues`

All little-endian, without headers, so that they can be written as a stream and mapped by anyone.
Duplicates are still inside: which of them stay is told by <source>.keep.bin beside the folder.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from plmscale.errors import PlmscaleError
from plmscale.files import disk_full_is_told, read_json

# What becomes of a sequence: the values of <source>.parts.bin.
TRAIN, VALID, TEST, UNUSED, DUPLICATE = range(5)
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
_ARRAYS = {
    "tokens": np.dtype("u1"),
    "lengths": np.dtype("<i4"),
    "hashes": np.dtype("<u8"),
    "names": np.dtype("u1"),
    "name_lengths": np.dtype("<u2"),
}
FILES = [*(f"{name}.bin" for name in _ARRAYS), "counts.json"]
# Longer names are cut: UniRef's have 20 letters, and two bytes hold a length.
_LONGEST_NAME = 65_535
SPAN = 1 << 18


class Store:
    """A finished store, memory-mapped. Sequence i has `lengths[i]` residues."""

    def __init__(self, folder: Path, counts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.folder, self.counts = folder, counts
        self.tokens, self.lengths = arrays["tokens"], arrays["lengths"]
        self.hashes = arrays["hashes"].reshape(-1, 2)
        self.names, self.name_lengths = arrays["names"], arrays["name_lengths"]

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Map the store in `folder`. Raises PlmscaleError where a file is missing or too short."""
        folder = Path(folder)
        counts = read_json(folder / "counts.json")
        arrays = {}
        for name, dtype in _ARRAYS.items():
            path = folder / f"{name}.bin"
            arrays[name] = map_array(path, dtype)
            per_sequence = {"lengths": 1, "name_lengths": 1, "hashes": 2}.get(name)
            expected = counts["residues"] if name == "tokens" else None
            if per_sequence:
                expected = per_sequence * counts["sequences"]
            if expected is not None and len(arrays[name]) != expected:
                raise PlmscaleError(
                    f"{path}: {len(arrays[name]):,} entries where counts.json says {expected:,}; "
                    "remove the folder and build the corpus again"
                )
        return cls(folder, counts, arrays)

    def __len__(self) -> int:
        return len(self.lengths)

    def forget(self) -> None:
        """Give pages that were read back to the system; they stay in its cache.

        Until then they count as memory of this process, in the end as much as the files hold.
        """
        forget(self.tokens, self.lengths, self.hashes, self.names, self.name_lengths)

    def spans(self, size: int = SPAN) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (first, offsets, tokens) of `size` or fewer sequences at a time, from the start.

        Sequence first + i of the store is tokens[offsets[i]:offsets[i + 1]]; offsets are int64.
        """
        residues = 0
        for first in range(0, len(self), size):
            lengths = self.lengths[first : first + size]
            offsets = np.zeros(len(lengths) + 1, np.int64)
            np.cumsum(lengths, out=offsets[1:])
            yield first, offsets, self.tokens[residues : residues + int(offsets[-1])]
            residues += int(offsets[-1])
            self.forget()

    def chosen_names(self, chosen: np.ndarray) -> Iterator[str]:
        """Yield the names of the sequences where `chosen`, bool (n,), is set, in order."""
        start = 0
        for first in range(0, len(self), SPAN):
            lengths = self.name_lengths[first : first + SPAN]
            ends = start + np.cumsum(lengths, dtype=np.int64)
            for i in np.flatnonzero(chosen[first : first + SPAN]).tolist():
                end = int(ends[i])
                yield self.names[end - int(lengths[i]) : end].tobytes().decode("utf-8", "replace")
            start = int(ends[-1])
            self.forget()


def forget(*arrays: np.ndarray) -> None:
    """Give the pages of mapped arrays back to the system; read again, they come from its cache."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def map_array(path: Path, dtype: Any) -> np.ndarray:
    """Map a raw file of `dtype`, read-only; an empty file gives an empty array."""
    try:
        if not path.stat().st_size:
            return np.zeros(0, dtype)
        return np.memmap(path, dtype=dtype, mode="r")
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: is missing; build the corpus again") from None


class StoreWriter:
    """Writes a store as a stream; its files appear under their names when it is closed well."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sequences = self.residues = 0
        self._out: dict[str, IO[bytes]] = {
            name: open(self._temporary(name), "wb", buffering=1 << 20)  # noqa: SIM115
            for name in _ARRAYS
        }

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.tmp"

    def add(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        hashes: np.ndarray,
        names: np.ndarray,
        name_lengths: np.ndarray,
    ) -> None:
        """Append sequences (arrays as in the head of this module)."""
        if len(name_lengths) and int(name_lengths.max()) > _LONGEST_NAME:
            ends = np.cumsum(name_lengths)
            cut = np.minimum(name_lengths, _LONGEST_NAME)
            parts = [names[e - n : e - n + c] for e, n, c in zip(ends, name_lengths, cut)]
            names, name_lengths = np.concatenate(parts), cut
        given = (tokens, lengths, hashes, names, name_lengths)
        with disk_full_is_told(self.folder):
            for (name, dtype), array in zip(_ARRAYS.items(), given, strict=True):
                self._out[name].write(np.ascontiguousarray(array, dtype=dtype).data)  # type: ignore[arg-type]
        self.sequences += len(lengths)
        self.residues += len(tokens)

    def close(self, counts: dict[str, Any]) -> dict[str, Any]:
        """Make the files durable, give them their names, counts.json last; return its content."""
        counts = {**counts, "sequences": self.sequences, "residues": self.residues}
        with disk_full_is_told(self.folder):
            for handle in self._out.values():
                handle.flush()
                os.fsync(handle.fileno())
                handle.close()
        for name in _ARRAYS:
            os.replace(self._temporary(name), self.folder / f"{name}.bin")
        # Written by hand, not by write_json: a reader takes its presence for a finished store.
        temporary = self.folder / ".counts.tmp"
        temporary.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n")
        os.replace(temporary, self.folder / "counts.json")
        return counts

    def discard(self) -> None:
        """Remove what was written."""
        for name, handle in self._out.items():
            with contextlib.suppress(OSError):
                handle.close()
            self._temporary(name).unlink(missing_ok=True)


def write_store(
    folder: str | Path, sequences: Iterable[tuple[str, np.ndarray]], counts: dict[str, Any]
) -> Store:
    """Write (name, tokens uint8) pairs as a store, hashes included; for tests and small inputs."""
    from plmscale.corpus.fastclean import hash_sequences

    writer = StoreWriter(folder)
    for name, tokens in sequences:
        raw = np.frombuffer(name.encode(), np.uint8)
        ends = np.array([0, len(tokens)])
        hashes = hash_sequences(np.ascontiguousarray(tokens, np.uint8).tobytes(), ends)
        writer.add(tokens, np.array([len(tokens)]), hashes, raw, np.array([len(raw)]))
    writer.close(counts)
    return Store.open(folder)
