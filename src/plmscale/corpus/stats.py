"""What is in a corpus, as tables for people and figures; shards are streamed, in bounded memory.

lengths.csv     source, part, length (residues, exact), sequences
residues.csv    source, part, residue, count, frequency
sources.csv     source, role, part, sequences, residues, mean_length, median_length,
                unigram_entropy (nats a residue), low_complexity (share of residues),
                low_complexity_se, low_complexity_sample (sequences; see complexity.py); in the
                row of part `train` also what cleaning counted, and unused_sequences: left out
                because they are near a held-out sequence
duplicates.csv  source, kept_in, sequences: how many were removed because `kept_in` holds them
                (the source itself: a copy within it)
identity.csv    source, part (valid, test), bin, sequences, residues: by the highest identity to
                a sequence trained on
epochs.csv      see epochs.py; only with recipes

A part is train, valid or test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plmscale.corpus.alphabet import FIRST_RESIDUE, LETTERS
from plmscale.corpus.build import load_manifest
from plmscale.corpus.complexity import SAMPLE, part_low_complexity
from plmscale.corpus.epochs import epochs_table
from plmscale.corpus.store import PARTS
from plmscale.files import atomic_write

IDENTITY_BINS = ("no hit", "< 0.3", "0.3-0.5", "0.5-0.9", ">= 0.9")
# As float32, in which identities are stored: 0.9 as float64 is above the float32 of 0.9.
_IDENTITY_EDGES = np.array([0.3, 0.5, 0.9], np.float32)
_PIECE = 1 << 20
_COLUMNS = {
    "lengths": ["source", "part", "length", "sequences"],
    "residues": ["source", "part", "residue", "count", "frequency"],
    "duplicates": ["source", "kept_in", "sequences"],
    "identity": ["source", "part", "bin", "sequences", "residues"],
}


@dataclass
class _Counted:
    """Tokens by value (int64, 256) and sequences by length, of a shard or a part."""

    tokens: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    lengths: Counter[int] = field(default_factory=Counter)


def corpus_tables(
    corpus_dir: str | Path,
    recipes: Iterable[Mapping[str, Any]] | None = None,
    threads: int = 1,
    sample: int = SAMPLE,
) -> dict[str, pd.DataFrame]:
    """Return the tables (see the module's head) of a built corpus.

    `recipes` are those of a study's runs, for the epochs; `sample` is the number of sequences of
    each part that low complexity is looked for in, 0 for none (then MMseqs2 is not run).
    """
    corpus_dir = Path(corpus_dir)
    manifest = load_manifest(corpus_dir)
    rows: dict[str, list[tuple]] = {name: [] for name in _COLUMNS}
    sources = []
    with ThreadPoolExecutor(threads) as pool:
        for name, source in manifest["sources"].items():
            for part in PARTS:
                entry = source[part]
                counted = _Counted()
                for shard in pool.map(lambda s: _count(corpus_dir, s), entry["shards"]):
                    counted.tokens += shard.tokens
                    counted.lengths.update(shard.lengths)
                rows["lengths"] += [(name, part, *n) for n in sorted(counted.lengths.items())]
                rows["residues"] += [(name, part, *row) for row in _frequencies(counted.tokens)]
                if "identity" in entry:
                    rows["identity"] += [(name, part, *row) for row in _bins(corpus_dir, entry)]
                sources.append(
                    {"source": name, "role": source.get("role", "train"), "part": part}
                    | _numbers(counted)
                    | (_complexity(corpus_dir, entry, sample) if sample else {})
                    | (_cleaning(source) if part == "train" else {})
                )
            rows["duplicates"] += _duplicates(name, source.get("cleaning", {}))
    tables = {name: pd.DataFrame(rows[name], columns=c) for name, c in _COLUMNS.items()}
    # Integers that may be absent: as floats they would lose digits and read badly.
    counted_by_cleaning = {
        key for source in manifest["sources"].values() for key in _cleaning(source)
    }
    tables["sources"] = pd.DataFrame(sources).astype(dict.fromkeys(counted_by_cleaning, "Int64"))
    if recipes is not None:
        tables["epochs"] = epochs_table(manifest, recipes)
    return tables


def write_stats(
    corpus_dir: str | Path,
    recipes: Iterable[Mapping[str, Any]] | None = None,
    threads: int = 1,
    sample: int = SAMPLE,
) -> dict[str, pd.DataFrame]:
    """Write the tables of `corpus_tables` to `corpus_dir`/stats/<table>.csv and return them."""
    tables = corpus_tables(corpus_dir, recipes, threads, sample)
    for name, table in tables.items():
        with atomic_write(Path(corpus_dir) / "stats" / f"{name}.csv") as handle:
            table.to_csv(handle, index=False, lineterminator="\n")
    return tables


def _count(corpus_dir: Path, shard: Mapping[str, Any]) -> _Counted:
    counted = _Counted()
    pairs = np.zeros(1 << 16, np.int64)
    with (corpus_dir / shard["file"]).open("rb") as handle:
        while len(tokens := np.fromfile(handle, np.uint8, _PIECE)):
            even = len(tokens) // 2 * 2
            # Two tokens at a time: half the look-ups.
            pairs += np.bincount(tokens[:even].view(np.uint16), minlength=1 << 16)
            counted.tokens += np.bincount(tokens[even:], minlength=256)
    both = pairs.reshape(256, 256)
    counted.tokens += both.sum(axis=0) + both.sum(axis=1)
    for lengths in _lengths(corpus_dir, shard):
        values, times = np.unique(lengths, return_counts=True)
        counted.lengths.update(dict(zip(values.tolist(), times.tolist())))
    return counted


def _lengths(corpus_dir: Path, shard: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yield the lengths of a shard's sequences, int64, some at a time."""
    offsets = np.load(corpus_dir / shard["index"], mmap_mode="r", allow_pickle=False)
    for first in range(0, len(offsets) - 1, _PIECE):
        yield np.diff(offsets[first : first + _PIECE + 1])


def _frequencies(tokens: np.ndarray) -> list[tuple[str, int, float]]:
    counts = tokens[FIRST_RESIDUE : FIRST_RESIDUE + len(LETTERS)]
    total = max(1, int(counts.sum()))
    return [(letter, n, n / total) for letter, n in zip(LETTERS, counts.tolist(), strict=True)]


def _numbers(counted: _Counted) -> dict[str, Any]:
    sequences = counted.lengths.total()
    residues = sum(length * n for length, n in counted.lengths.items())
    share = counted.tokens[counted.tokens > 0] / max(1, residues)
    return {
        "sequences": sequences,
        "residues": residues,
        "mean_length": residues / sequences if sequences else float("nan"),
        "median_length": _median(counted.lengths),
        "unigram_entropy": float(-(share * np.log(share)).sum()) if residues else float("nan"),
    }


def _median(lengths: Counter[int]) -> float:
    """Return the median of numbers given as {number: times}."""
    if not lengths:
        return float("nan")
    values, times = np.array(sorted(lengths.items()), np.int64).T
    ends = np.cumsum(times)
    middle = [(int(ends[-1]) - 1) // 2, int(ends[-1]) // 2]
    return float(values[np.searchsorted(ends, middle, side="right")].mean())


def _complexity(corpus_dir: Path, entry: Mapping[str, Any], sample: int) -> dict[str, Any]:
    found = part_low_complexity(corpus_dir, entry, sample)
    return {
        "low_complexity": found.share,
        "low_complexity_se": found.standard_error,
        "low_complexity_sample": found.sample,
    }


def _cleaning(source: Mapping[str, Any]) -> dict[str, int]:
    """Return what cleaning counted, and the records that are in no part though they stayed."""
    counts = {
        key: value
        for key, value in source.get("cleaning", {}).items()
        if isinstance(value, int) and key not in ("sequences", "residues")
    }
    if "read_sequences" in counts:
        gone = [key for key in counts if key.startswith(("dropped_", "duplicates_"))]
        kept = counts["read_sequences"] - sum(counts[key] for key in gone)
        counts["unused_sequences"] = kept - sum(source[part]["sequences"] for part in PARTS)
    return counts


def _duplicates(name: str, cleaning: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    if "duplicates_within_source" not in cleaning:
        return []
    across = cleaning.get("duplicates_of", {})
    return [
        (name, name, cleaning["duplicates_within_source"]),
        *((name, other, n) for other, n in sorted(across.items())),
    ]


def _bins(corpus_dir: Path, entry: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return (bin, sequences, residues) of a held-out part, all bins in order."""
    identity = np.load(corpus_dir / entry["identity"]["file"], mmap_mode="r", allow_pickle=False)
    sequences = np.zeros(len(IDENTITY_BINS), np.int64)
    residues = np.zeros(len(IDENTITY_BINS), np.int64)
    first = 0
    for shard in entry["shards"]:
        for lengths in _lengths(corpus_dir, shard):
            found = identity_bins(np.asarray(identity[first : first + len(lengths)]))
            sequences += np.bincount(found, minlength=len(sequences))
            residues += np.bincount(found, lengths, len(residues)).astype(np.int64)
            first += len(lengths)
    return list(zip(IDENTITY_BINS, sequences.tolist(), residues.tolist(), strict=True))


def identity_bins(identity: np.ndarray) -> np.ndarray:
    """Return the index into IDENTITY_BINS of each identity, float32 (n,), NaN for no hit."""
    edge = np.searchsorted(_IDENTITY_EDGES, identity, side="right")
    return np.where(np.isnan(identity), 0, 1 + edge)
