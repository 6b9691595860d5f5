"""Features of sequences alone: one-hot letters at aligned places or in a window, composition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from plmscale.errors import PlmscaleError

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
# One-hot: the 20 amino acids, a stop, any other letter; in a window also "beyond the end".
_STOP, _OTHER, _BEYOND = 20, 21, 22
_CODE = np.full(256, _OTHER, np.int64)
_CODE[np.frombuffer(STANDARD.encode(), np.uint8)] = np.arange(20)
_CODE[ord("*")] = _STOP
_BLOCK = 1 << 16


def codes(sequence: str) -> NDArray[np.int64]:
    """Return a number of each letter, (length,): 0 to 19, 20 for a stop, 21 for any other."""
    return _CODE[np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)]


def aligned(sequences: Sequence[str]) -> sparse.csr_matrix:
    """Return one-hot letters at each place, (n, 22 length), of sequences of one length.

    Raises PlmscaleError where they differ in length, because places would not correspond.
    """
    lengths = sorted({len(sequence) for sequence in sequences})
    if len(lengths) != 1:
        raise PlmscaleError(
            f"one-hot: sequences of {lengths[0]} to {lengths[-1]} letters, expected one length; the "
            "baseline needs aligned variants of one protein"
        )
    rows = np.stack([codes(sequence) for sequence in sequences])
    return _one_hot(rows, _OTHER + 1)


def composition(sequences: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of each of the 20 amino acids in a sequence's letters, (n, 20)."""
    return np.array([np.bincount(codes(s), minlength=22)[:20] / len(s) for s in sequences])


def dipeptides(sequences: Sequence[str]) -> NDArray[np.float64]:
    """Return `composition` and the share of each ordered pair of neighbours, (n, 420)."""
    pairs = np.zeros((len(sequences), 400))
    for row, sequence in enumerate(sequences):
        code = codes(sequence)
        left, right = code[:-1], code[1:]
        both = (left < 20) & (right < 20)
        pairs[row] = np.bincount(20 * left[both] + right[both], minlength=400)
        pairs[row] /= max(1, len(sequence) - 1)
    return np.hstack([composition(sequences), pairs])


def windows(sequences: Sequence[str], width: int) -> Iterator[sparse.csr_matrix]:
    """Yield one-hot letters around each residue, (rows, 23 width), a block of proteins at a time.

    width: odd; places beyond an end are a letter of their own. Rows are the residues of all
    sequences in order.
    """
    if width % 2 == 0:
        raise ValueError(f"a window of {width} has no middle")
    waiting: list[NDArray[np.int64]] = []
    rows = 0
    for sequence in sequences:
        padded = np.pad(codes(sequence), width // 2, constant_values=_BEYOND)
        waiting.append(np.lib.stride_tricks.sliding_window_view(padded, width))
        rows += len(sequence)
        if rows >= _BLOCK:
            yield _one_hot(np.concatenate(waiting), _BEYOND + 1)
            waiting, rows = [], 0
    if waiting:
        yield _one_hot(np.concatenate(waiting), _BEYOND + 1)


def _one_hot(rows: NDArray[np.int64], letters: int) -> sparse.csr_matrix:
    """(n, places) of numbers below `letters` -> (n, letters * places)."""
    n, places = rows.shape
    at = (rows + letters * np.arange(places)).ravel()
    ends = np.arange(0, at.size + 1, places)
    return sparse.csr_matrix((np.ones(at.size), at, ends), shape=(n, letters * places))
