"""What needs no model: scores of a variant from the mutated letters alone, higher is fitter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from plmscale.corpus.alphabet import STANDARD
from plmscale.downstream.fitness.variants import Variant

# BLOSUM62 in half bits (Henikoff and Henikoff 1992), in the order of _ROWS, lower triangle.
_ROWS = "ARNDCQEGHILKMFPSTWYV"
_BLOSUM62 = """
 4
-1  5
-2  0  6
-2 -2  1  6
 0 -3 -3 -3  9
-1  1  0  0 -3  5
-1  0  0  2 -4  2  5
 0 -2  0 -1 -3 -2 -2  6
-2  0  1 -1 -3  0  0 -2  8
-1 -3 -3 -3 -1 -3 -3 -4 -3  4
-1 -2 -3 -4 -1 -2 -3 -4 -3  2  4
-1  2  0 -1 -3  1  1 -2 -1 -3 -2  5
-1 -1 -2 -3 -1  0 -2 -3 -2  1  2 -1  5
-2 -3 -3 -3 -2 -3 -3 -3 -1  0  0 -3  0  6
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4  7
 1 -1  1  0 -1  0  0  0 -1 -2 -2  0 -1 -2 -1  4
 0 -1  0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1  1  5
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1  1 -4 -3 -2 11
-2 -2 -2 -3 -2 -1 -2 -3  2 -1 -1 -2 -1  3 -3 -2 -2  2  7
 0 -3 -3 -3 -1 -2 -2 -3 -3  3  1 -2  1 -1 -2 -2  0 -3 -1  4
"""
# Hydropathy (Kyte and Doolittle 1982, table 2).
HYDROPATHY = {
    "A": 1.8, "C": 2.5, "D": -3.5, "E": -3.5, "F": 2.8, "G": -0.4, "H": -3.2, "I": 4.5,
    "K": -3.9, "L": 3.8, "M": 1.9, "N": -3.5, "P": -1.6, "Q": -3.5, "R": -4.5, "S": -0.8,
    "T": -0.7, "V": 4.2, "W": -0.9, "Y": -1.3,
}  # fmt: skip


def blosum62() -> dict[tuple[str, str], int]:
    """Return the score of each ordered pair of the 20 residues."""
    table = {}
    for row, line in zip(_ROWS, _BLOSUM62.strip().splitlines(), strict=True):
        for column, score in zip(_ROWS, line.split()):
            table[row, column] = table[column, row] = int(score)
    return table


def by_letters(variants: Sequence[Variant], score: Callable[[str, str], float]) -> np.ndarray:
    """Return the sum of score(old, new) over the mutations of each variant, float64 (n,)."""
    return np.array([sum(score(old, new) for _, old, new in v.mutations) for v in variants], float)


def random(wild: str, variants: Sequence[Variant], seed: int) -> np.ndarray:
    """Return numbers drawn evenly from 0..1, float64 (n,), by seed and the wild type alone."""
    key = [seed, *wild.encode()]
    return np.random.default_rng(key).random(len(variants))


def mutations(wild: str, variants: Sequence[Variant], seed: int) -> np.ndarray:
    """Return minus the number of mutations: constant where all variants have one."""
    return by_letters(variants, lambda old, new: -1.0)


def hydrophobicity(wild: str, variants: Sequence[Variant], seed: int) -> np.ndarray:
    """Return minus the change of hydropathy, summed without its sign."""
    return by_letters(variants, lambda old, new: -abs(HYDROPATHY[old] - HYDROPATHY[new]))


def substitution(wild: str, variants: Sequence[Variant], seed: int) -> np.ndarray:
    """Return the sum of BLOSUM62 scores of wild-type and new residues."""
    table = blosum62()
    return by_letters(variants, lambda old, new: table[old, new])


def frequency(wild: str, variants: Sequence[Variant], seed: int) -> np.ndarray:
    """Return the sum of log f(new) - log f(old), f the wild type's own composition.

    One residue of each kind is added, so that one that the wild type lacks has a frequency.
    """
    count = {letter: wild.count(letter) + 1 for letter in STANDARD}
    return by_letters(variants, lambda old, new: float(np.log(count[new] / count[old])))


BASELINES = {
    "random": random,
    "mutations": mutations,
    "frequency": frequency,
    "hydrophobicity": hydrophobicity,
    "substitution": substitution,
}
