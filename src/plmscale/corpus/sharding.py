"""Shards of one source: the sequences of each part as uint8 tokens, in files of bounded size.

Where a shard begins and ends follows from lengths and parts alone, so any number of workers
writes the same files. A shard holds residues only, proteins one after another in the order they
were read; its index is int64 (sequences + 1,), offsets into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.store import PARTS, SPAN, TEST, VALID, Store, forget, map_array
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, sha256_file

# The loader finds a protein from the residues before every 64th: one number in memory for 64.
CHUNK = 64
_PIECE = 4 << 20


@dataclass
class _Shard:
    """A run of a store: sequences [first, last) of it that belong to `part`, `start` residues in."""

    part: str
    number: int
    first: int
    start: int
    last: int
    sequences: int = 0
    residues: int = 0


def write_source(
    name: str,
    store: Store,
    split_dir: str | Path,
    out: str | Path,
    max_residues: int,
    workers: int = 1,
    advance: Callable[[int], None] = lambda residues: None,
) -> dict[str, Any]:
    """Write the shards of source `name` below `out`/shards and return its parts of the manifest.

    `split_dir` holds <name>.parts.bin and <name>.identity.bin. `advance` is told residues as they
    are done. Files of the source that an earlier build left are removed.
    """
    out, split_dir = Path(out), Path(split_dir)
    (out / "shards").mkdir(parents=True, exist_ok=True)
    for old in (out / "shards").glob(f"{name}.*"):
        old.unlink()
    parts = map_array(split_dir / f"{name}.parts.bin", np.uint8)
    if len(parts) != len(store):
        raise PlmscaleError(
            f"{split_dir}/{name}.parts.bin: {len(parts):,} entries for {len(store):,} sequences; "
            "remove the corpus folder and build it again"
        )
    planned = {part: _plan(part, store, parts, max_residues) for part in PARTS}
    with ThreadPoolExecutor(workers) as pool:
        shards = [shard for found, _ in planned.values() for shard in found]
        listed = list(pool.map(lambda s: _write(name, s, store, parts, out, advance), shards))
    entry: dict[str, Any] = {}
    for part, (found, before) in planned.items():
        mine = [row for shard, row in zip(shards, listed, strict=True) if shard.part == part]
        entry[part] = {
            "sequences": sum(shard.sequences for shard in found),
            "residues": sum(shard.residues for shard in found),
            "shards": mine,
        }
        if found:
            entry[part]["chunks"] = _save(out, f"{name}.{part}.chunks.npy", before)
    for part, identity in _identities(name, parts, split_dir):
        if len(identity):
            entry[part]["identity"] = _save(out, f"{name}.{part}.identity.npy", identity)
    return entry


def _plan(
    part: str, store: Store, parts: np.ndarray, max_residues: int
) -> tuple[list[_Shard], np.ndarray]:
    """Return the shards of a part and the residues before every 64th of its proteins.

    A protein is never cut by a shard's end; one that is longer than a shard has one of its own.
    """
    shards: list[_Shard] = []
    before: list[np.ndarray] = []
    base = total = seen = 0
    for first, offsets, _ in store.spans():
        chosen = np.flatnonzero(parts[first : first + len(offsets) - 1] == PARTS[part])
        lengths = np.diff(offsets)[chosen]
        ends = np.cumsum(lengths)
        marks = np.arange(-seen % CHUNK, len(chosen), CHUNK)
        before.append(total + ends[marks] - lengths[marks])
        done = used = 0
        while done < len(chosen):
            shard = shards[-1] if shards else None
            room = max_residues - shard.residues if shard else 0
            take = int(np.searchsorted(ends, used + room, side="right")) - done
            if shard is None or take < 1:
                at = int(chosen[done])
                shard = _Shard(part, len(shards), first + at, base + int(offsets[at]), 0)
                shards.append(shard)
                take = int(np.searchsorted(ends, used + max_residues, side="right")) - done
            take = max(take, 1)
            shard.sequences += take
            shard.residues += int(ends[done + take - 1]) - used
            done += take
            used = int(ends[done - 1])
            shard.last = first + int(chosen[done - 1]) + 1
        base += int(offsets[-1])
        total += used
        seen += len(chosen)
    return shards, np.concatenate([*before, [total]]).astype(np.int64)


def _write(
    name: str,
    shard: _Shard,
    store: Store,
    parts: np.ndarray,
    out: Path,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Write one shard and its index; return its line of the manifest."""
    stem = f"shards/{name}.{shard.part}.{shard.number:05d}"
    digest = hashlib.sha256()
    lengths: list[np.ndarray] = []
    start = shard.start
    with atomic_write(out / f"{stem}.bin", "wb") as handle:
        for first in range(shard.first, shard.last, SPAN):
            last = min(first + SPAN, shard.last)
            size = store.lengths[first:last]
            ends = start + np.cumsum(size, dtype=np.int64)
            chosen = parts[first:last] == PARTS[shard.part]
            for piece in _pieces(chosen, ends - size, ends, store.tokens):
                handle.write(piece)
                digest.update(piece)
            lengths.append(size[chosen])
            start = int(ends[-1])
            store.forget()
            forget(parts)
    offsets = np.zeros(shard.sequences + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    with atomic_write(out / f"{stem}.idx.npy", "wb") as handle:
        np.save(handle, offsets, allow_pickle=False)
    advance(shard.residues)
    return {
        "file": f"{stem}.bin",
        "index": f"{stem}.idx.npy",
        "sequences": shard.sequences,
        "residues": int(offsets[-1]),
        "sha256": digest.hexdigest(),
        "index_sha256": sha256_file(out / f"{stem}.idx.npy"),
    }


def _pieces(
    chosen: np.ndarray, starts: np.ndarray, ends: np.ndarray, tokens: np.ndarray
) -> Iterator[bytes]:
    """Yield the tokens of the chosen sequences, a few megabytes at a time."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    view = memoryview(tokens)
    runs: list[memoryview] = []
    size = 0
    # Neighbours are copied in one go: most sequences stay.
    for a, b in zip(starts[edges[::2]].tolist(), ends[edges[1::2] - 1].tolist()):
        runs.append(view[a:b])
        size += b - a
        if size >= _PIECE:
            yield b"".join(runs)
            runs, size = [], 0
    if runs:
        yield b"".join(runs)


def _identities(name: str, parts: np.ndarray, split_dir: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each held-out part with the nearest identities of its sequences, float32."""
    identity = map_array(split_dir / f"{name}.identity.bin", np.float32)
    codes = [
        part[(part == VALID) | (part == TEST)]
        for part in (parts[first : first + SPAN] for first in range(0, len(parts), SPAN))
    ]
    held = np.concatenate(codes) if codes else np.zeros(0, np.uint8)
    if len(held) != len(identity):
        raise PlmscaleError(
            f"{split_dir}/{name}.identity.bin: {len(identity):,} entries for {len(held):,} held-out "
            "sequences; remove the corpus folder and build it again"
        )
    for part in ("valid", "test"):
        yield part, np.asarray(identity[held == PARTS[part]])


def _save(out: Path, name: str, array: np.ndarray) -> dict[str, str]:
    """Write an array beside the shards; return its line of the manifest."""
    path = out / "shards" / name
    with atomic_write(path, "wb") as handle:
        np.save(handle, array, allow_pickle=False)
    return {"file": f"shards/{name}", "sha256": sha256_file(path)}
