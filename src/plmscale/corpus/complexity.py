"""Low-complexity share of a source: residues in repeats, by tantan, on a sample of its sequences.

Method: tantan (Frith 2011, Nucleic Acids Research 39:e23) as MMseqs2 carries it and as its
searches mask with it: a hidden Markov model of tandem repeats of up to 50 residues; a residue is
masked where the probability that it lies in a repeat is above 0.9. The first copy of a repeat is
not masked. X, U and O, which MMseqs2 reads as unknown, are not counted.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus import mmseqs
from plmscale.corpus.alphabet import decode

SAMPLE = 20_000  # sequences; the standard error is then about 0.1 % of the residues
_MASKED_FROM = "0.9"
_SPAN = 1 << 20
_UNKNOWN = b"XUOxuo"
_UPPER = bytes(range(ord("A"), ord("Z") + 1))


@dataclass(frozen=True)
class LowComplexity:
    """Share of residues masked in `sample` of a part's sequences, and its standard error."""

    share: float
    standard_error: float
    sample: int


def part_low_complexity(
    corpus_dir: str | Path, part: Mapping[str, Any], sample: int = SAMPLE
) -> LowComplexity:
    """Return the low-complexity share of a part of a manifest, from up to `sample` sequences.

    All of a small part is read, its error is then 0. NaN where the part is empty.
    """
    chosen = sample_numbers(part["sequences"], sample)
    return low_complexity(_read(Path(corpus_dir), part, chosen), part["sequences"])


def low_complexity(sequences: Sequence[np.ndarray], population: int | None = None) -> LowComplexity:
    """Return the share of residues of `sequences` (uint8 tokens each) that tantan masks.

    The standard error is that of a ratio of sums over a simple random sample, without
    replacement, of `population` sequences (None: from an endless one).
    """
    n = len(sequences)
    if not n:
        return LowComplexity(math.nan, math.nan, 0)
    masked, length = masked_residues(sequences).T
    if not length.sum():
        return LowComplexity(math.nan, math.nan, n)
    share = float(masked.sum() / length.sum())
    unsampled = 1.0 if population is None else 1 - n / population
    spread = float(((masked - share * length) ** 2).sum())
    error = math.sqrt(spread * n / (n - 1) * unsampled) / length.sum() if n > 1 else math.nan
    return LowComplexity(share, 0.0 if unsampled == 0 else float(error), n)


def masked_residues(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return (masked, counted) residues of each sequence, int64 (n, 2). Runs MMseqs2."""
    with tempfile.TemporaryDirectory(prefix="plmscale.") as name:
        folder = Path(name)
        with (folder / "sample.fasta").open("w") as handle:
            for number, tokens in enumerate(sequences):
                handle.write(f">{number}\n{decode(tokens)}\n")
        mmseqs.run("createdb", folder / "sample.fasta", folder / "db", "--shuffle", "0")
        mmseqs.run("masksequence", folder / "db", folder / "masked", "--threads", "1",
                   "--mask-prob", _MASKED_FROM)  # fmt: skip
        records = (folder / "masked").read_bytes().split(b"\n\0")[:-1]
    known = [record.translate(None, _UNKNOWN) for record in records]
    return np.array([(len(k.translate(None, _UPPER)), len(k)) for k in known], np.int64)


def sample_numbers(population: int, sample: int) -> np.ndarray:
    """Return `sample` (or all) of the numbers 0 ... `population` - 1, sorted int64.

    Those whose SplitMix64 hash is least: a sample without replacement that is the same on every
    machine and with every version of numpy.
    """
    numbers = np.zeros(0, np.int64)
    hashes = np.zeros(0, np.uint64)
    for first in range(0, population, _SPAN):
        more = np.arange(first, min(first + _SPAN, population), dtype=np.int64)
        mixed = _splitmix64(more.astype(np.uint64))
        if len(hashes) == sample:
            low = mixed < hashes.max(initial=0)
            more, mixed = more[low], mixed[low]
        numbers, hashes = np.concatenate([numbers, more]), np.concatenate([hashes, mixed])
        if len(hashes) > sample:
            least = np.argpartition(hashes, sample)[:sample]
            numbers, hashes = numbers[least], hashes[least]
    return np.sort(numbers)


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 output for state `x` (Steele, Lea & Flood 2014), uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _read(corpus_dir: Path, part: Mapping[str, Any], numbers: np.ndarray) -> list[np.ndarray]:
    """Return the tokens of sequences `numbers` (sorted) of a part, counted through its shards."""
    found: list[np.ndarray] = []
    first = 0
    for shard in part["shards"]:
        low, high = np.searchsorted(numbers, (first, first + shard["sequences"]))
        if high > low:
            tokens = np.memmap(corpus_dir / shard["file"], dtype=np.uint8, mode="r")
            offsets = np.load(corpus_dir / shard["index"], mmap_mode="r", allow_pickle=False)
            for i in (numbers[low:high] - first).tolist():
                found.append(np.array(tokens[int(offsets[i]) : int(offsets[i + 1])]))
        first += shard["sequences"]
    return found
