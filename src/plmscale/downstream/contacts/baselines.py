"""What a contact predictor has to beat: chance, the distance in the chain, and residue pairs.

All learn from the training proteins alone and score by the log-odds of a contact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from plmscale.downstream.contacts.pairs import (
    MIN_SEPARATION,
    Protein,
    known,
    labels,
    n_pairs,
    pair_index,
)

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
# Where a bin of separations begins: single ones where contacts are common and their rate changes
# from one to the next (turns, helices, hairpins), wider where both are rare.
BINS = np.array([*range(MIN_SEPARATION, 16), 16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 96, 128, 256])
# Rates begin with what stands for less data, as if seen in so many pairs.
_PRIOR_PAIRS = 20.0

Scorer = Callable[[Protein], np.ndarray]


def separation_bin(separation: np.ndarray) -> np.ndarray:
    """Return the bin, 0 to len(BINS) - 1, of separations of at least 6; of the same shape."""
    return np.digitize(separation, BINS) - 1


def rates(train: Sequence[Protein]) -> np.ndarray:
    """Return the fraction of pairs in contact by bin of separation, float64 (len(BINS),)."""
    return _rates(*_tables(train))


def random(train: Sequence[Protein], seed: int) -> Scorer:
    """Score pairs at random; another order for each protein, the same for each seed."""

    def scores(protein: Protein) -> np.ndarray:
        key = [seed, *protein.id.encode()]
        return np.random.default_rng(key).standard_normal(n_pairs(len(protein)))

    return scores


def separation(train: Sequence[Protein], seed: int) -> Scorer:
    """Score pairs by the rate of contacts at their separation."""
    table = _log_odds(rates(train))

    def scores(protein: Protein) -> np.ndarray:
        i, j = pair_index(len(protein))
        return table[separation_bin(j - i)]

    return scores


def pair_separation(train: Sequence[Protein], seed: int) -> Scorer:
    """Score pairs by the rate of contacts of their two residues at their separation.

    The order of the two does not count; letters that are no standard residue are one class.
    """
    seen, touching = _tables(train)
    rate = _rates(seen, touching)[:, None, None]
    seen, touching = (part + part.transpose(0, 2, 1) for part in (seen, touching))
    table = _log_odds((touching + _PRIOR_PAIRS * rate) / (seen + _PRIOR_PAIRS))

    def scores(protein: Protein) -> np.ndarray:
        i, j = pair_index(len(protein))
        codes = _codes(protein.sequence)
        return table[separation_bin(j - i), codes[i], codes[j]]

    return scores


BASELINES: dict[str, Callable[[Sequence[Protein], int], Scorer]] = {
    "random": random,
    "separation": separation,
    "pair-separation": pair_separation,
}


def _codes(sequence: str) -> np.ndarray:
    """Return int64 (L,): 0-19 for standard residues, 20 for any other letter."""
    codes = np.full(256, len(LETTERS))
    codes[np.frombuffer(LETTERS.encode(), np.uint8)] = np.arange(len(LETTERS))
    return codes[np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)]


def _tables(train: Sequence[Protein]) -> tuple[np.ndarray, np.ndarray]:
    """Return resolved pairs and contacts by bin and the two letters, float64 (bins, 21, 21)."""
    shape = (len(BINS), len(LETTERS) + 1, len(LETTERS) + 1)
    seen, touching = np.zeros(np.prod(shape)), np.zeros(np.prod(shape))
    for protein in train:
        i, j = pair_index(len(protein))
        codes = _codes(protein.sequence)
        cell = np.ravel_multi_index((separation_bin(j - i), codes[i], codes[j]), shape)
        mask = known(protein.resolved)
        contact = mask & labels(protein.contacts, len(protein))
        seen += np.bincount(cell[mask], minlength=len(seen))
        touching += np.bincount(cell[contact], minlength=len(seen))
    return seen.reshape(shape), touching.reshape(shape)


def _rates(seen: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """Return the rate by bin, in (0, 1).

    A bin begins with the rate of the nearer one before it: separations that no training protein is
    long enough for have few contacts, as their neighbours have.
    """
    before = (touching.sum() + 1) / (seen.sum() + 2)
    found = np.empty(len(BINS))
    for at, (pairs, contacts) in enumerate(zip(seen.sum((1, 2)), touching.sum((1, 2)))):
        found[at] = before = (contacts + _PRIOR_PAIRS * before) / (pairs + _PRIOR_PAIRS)
    return found


def _log_odds(rate: np.ndarray) -> np.ndarray:
    return np.log(rate) - np.log1p(-rate)
