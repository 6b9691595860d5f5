"""Which proteins occur, letter by letter, within a training protein.

MMseqs2 misses copies that are short or repetitive. Here the first letters of each protein are a key
of 60 bits; the corpus is streamed once, and where a key is met the rest is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from plmscale.corpus import alphabet
from plmscale.training.shards import Proteins, read_manifest

# A shorter peptide occurs by chance.
SHORTEST = 12
_BITS = 5
_CHUNKS = 256
_FILTER_BITS = 22


def copied(sequences: Sequence[str], corpus: Path, sources: Sequence[str]) -> np.ndarray:
    """Return which sequences are part of a training protein, bool (n,).

    sources: those of the corpus that count. False for sequences of fewer than SHORTEST residues.
    """
    tokens = [alphabet.encode(text) for text in sequences]
    keys = [int(_keys(t[:SHORTEST])[0]) if len(t) >= SHORTEST else -1 for t in tokens]
    wanted: dict[int, list[int]] = {}
    for number, key in enumerate(keys):
        if key >= 0:
            wanted.setdefault(key, []).append(number)
    found = np.zeros(len(sequences), bool)
    if not wanted:
        return found
    known = np.array(sorted(wanted), np.uint64)
    # Nearly all places of the corpus are ruled out by one look into a table of bits.
    table = np.zeros(1 << _FILTER_BITS, bool)
    table[_hashed(known)] = True
    for residues, lengths in _pieces(corpus, sources):
        here = _keys(residues)
        places = np.flatnonzero(table[_hashed(here)])
        places = places[np.isin(here[places], known)]
        ends = np.repeat(np.cumsum(lengths), lengths)
        for at in places.tolist():
            for number in wanted[int(here[at])]:
                end = at + len(tokens[number])
                if end <= ends[at] and np.array_equal(residues[at:end], tokens[number]):
                    found[number] = True
    return found


def _keys(residues: np.ndarray) -> np.ndarray:
    """Return the key of the SHORTEST residues from each place on, uint64 (length - SHORTEST + 1,)."""
    count = max(0, len(residues) - SHORTEST + 1)
    keys = np.zeros(count, np.uint64)
    for shift in range(SHORTEST if count else 0):
        keys <<= np.uint64(_BITS)
        keys |= residues[shift : shift + count].astype(np.uint64)
    return keys


def _hashed(keys: np.ndarray) -> np.ndarray:
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _FILTER_BITS)


def _pieces(corpus: Path, sources: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    manifest = read_manifest(corpus)
    for source in sources:
        proteins = Proteins(corpus, source, "train", manifest)
        for start in range(0, proteins.chunks, _CHUNKS):
            yield proteins.read(np.arange(start, min(start + _CHUNKS, proteins.chunks)))
