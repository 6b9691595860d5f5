"""Exact duplicates within and across sources, by 128-bit hash: the first source keeps the sequence.

Hashes are spilled to buckets on disk by their first bits, and each bucket is sorted by itself, so
memory is that of a few buckets and one bit a sequence, whatever the corpus's size. Two different
sequences among n share a hash with probability n^2 / 2^129 (fastclean.py).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from plmscale.corpus.store import SPAN, Store
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, disk_full_is_told

BUCKET = 2_000_000  # sequences; 24 bytes each on disk, about 100 in memory while sorted
_MOST_BUCKETS = 512  # all of them are open at once
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<i8")])


@dataclass(frozen=True)
class _Found:
    """The duplicates of a bucket: the number of each, of the copy before it, and of the one kept."""

    numbers: np.ndarray
    before: np.ndarray
    keepers: np.ndarray


def remove_duplicates(
    stores: Mapping[str, Path], out: str | Path, threads: int = 1, bucket: int = BUCKET
) -> dict[str, dict[str, Any]]:
    """Write `out`/<source>.keep.bin for each store, in order of priority; return what was removed.

    keep.bin is uint8 (n,): 1 for a sequence that stays, 0 for one that an earlier source or an
    earlier place of its own source holds. Counts of a source: `duplicates_within_source`,
    `duplicates_across_sources` (a copy is counted once: within, if its own source has an earlier
    one), `duplicates_of` {source: n} for the latter, `sequences` and `residues` kept.
    `bucket` is how many sequences or so are sorted at a time. Raises PlmscaleError for a source
    of which nothing is left.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    opened = {name: Store.open(folder) for name, folder in stores.items()}
    first = np.cumsum([0, *(len(store) for store in opened.values())])
    dropped = np.zeros((int(first[-1]) + 7) // 8, np.uint8)
    counts: dict[str, Counter[str]] = {name: Counter() for name in opened}
    names = list(opened)
    with (
        disk_full_is_told(out),
        tempfile.TemporaryDirectory(dir=out, prefix=".hashes.") as work,
        ThreadPoolExecutor(threads) as pool,
    ):
        files = _spill(list(opened.values()), Path(work), bucket)
        for found in pool.map(_sort, files):
            np.bitwise_or.at(dropped, found.numbers >> 3, _bit(found.numbers))
            owner, before, keeper = (
                np.searchsorted(first, numbers, side="right") - 1
                for numbers in (found.numbers, found.before, found.keepers)
            )
            keeper[owner == before] = -1  # its own source has an earlier copy
            pairs, times = np.unique(np.stack([owner, keeper]), axis=1, return_counts=True)
            for o, k, n in zip(*pairs.tolist(), times.tolist()):
                counts[names[o]][names[k] if k >= 0 else ""] += n
    result = {}
    for index, (name, store) in enumerate(opened.items()):
        kept, residues = _write(out / f"{name}.keep.bin", store, dropped, int(first[index]))
        within = counts[name].pop("", 0)
        if not kept:
            raise PlmscaleError(
                f"corpus.sources.{name}: every sequence is in an earlier source; leave this one out"
            )
        result[name] = {
            "duplicates_within_source": within,
            "duplicates_across_sources": counts[name].total(),
            "duplicates_of": dict(sorted(counts[name].items())),
            "sequences": kept,
            "residues": residues,
        }
    return result


def _bit(numbers: np.ndarray) -> np.ndarray:
    return np.left_shift(np.uint8(1), (numbers & 7).astype(np.uint8))


def _spill(stores: list[Store], work: Path, bucket: int) -> list[Path]:
    """Write (hash, number) of all sequences to files by the first bits of the hash."""
    total = sum(map(len, stores))
    bits = 0
    while total > bucket << bits and 1 << bits < _MOST_BUCKETS:
        bits += 1
    paths = [work / f"{k:03d}" for k in range(1 << bits)]
    handles: list[IO[bytes]] = [path.open("wb", buffering=1 << 16) for path in paths]
    try:
        number = 0
        for store in stores:
            for start in range(0, len(store), SPAN):
                hashes = np.array(store.hashes[start : start + SPAN])
                records = np.empty(len(hashes), _RECORD)
                records["high"], records["low"] = hashes[:, 0], hashes[:, 1]
                records["number"] = np.arange(number, number + len(hashes))
                number += len(hashes)
                store.forget()
                if not bits:
                    handles[0].write(records.tobytes())
                    continue
                which = (hashes[:, 0] >> np.uint64(64 - bits)).astype(np.uint16)
                # Stable, so that numbers stay in order within a bucket.
                records = records[np.argsort(which, kind="stable")]
                ends = np.cumsum(np.bincount(which, minlength=1 << bits)).tolist()
                for handle, a, b in zip(handles, [0, *ends], ends):
                    if b > a:
                        handle.write(records[a:b].tobytes())
    finally:
        for handle in handles:
            handle.close()
    return paths


def _sort(path: Path) -> _Found:
    """Return the duplicates in a bucket, and remove its file."""
    records = np.fromfile(path, _RECORD)
    path.unlink()
    order = np.argsort(records["high"])
    high = records["high"][order]
    same = high[1:] == high[:-1]
    twin = np.zeros(len(high), bool)
    twin[1:] |= same
    twin[:-1] |= same
    # Few sequences have a twin: only those are put in full order, hash and number.
    records = records[order[twin]]
    records = records[np.lexsort((records["number"], records["low"], records["high"]))]
    equal = np.zeros(len(records), bool)
    equal[1:] = (records["high"][1:] == records["high"][:-1]) & (
        records["low"][1:] == records["low"][:-1]
    )
    heads = np.maximum.accumulate(np.where(equal, 0, np.arange(len(records))))
    numbers = records["number"]
    return _Found(numbers[equal], numbers[np.flatnonzero(equal) - 1], numbers[heads[equal]])


def _write(path: Path, store: Store, dropped: np.ndarray, first: int) -> tuple[int, int]:
    """Write keep.bin of a store whose sequence 0 is number `first`; return what is kept."""
    kept = residues = 0
    with atomic_write(path, "wb") as handle:
        for start in range(0, len(store), SPAN):
            lengths = store.lengths[start : start + SPAN]
            begin = first + start
            bits = np.unpackbits(
                dropped[begin >> 3 : (begin + len(lengths) + 7) >> 3], bitorder="little"
            )
            keep = 1 - bits[begin & 7 : (begin & 7) + len(lengths)]
            handle.write(keep.tobytes())
            kept += int(keep.sum())
            residues += int(lengths[keep.astype(bool)].sum(dtype=np.int64))
            store.forget()
    return kept, residues
