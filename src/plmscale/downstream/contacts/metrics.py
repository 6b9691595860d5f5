"""Precision of the pairs scored highest, from stored scores, under every definition in use.

P@L/k of a protein: of its L/k pairs with the highest scores, the fraction that are contacts.
The field disagrees on the rest, so each choice is part of the metric's definition:

- separation: only pairs with |i-j| in a range count (`>=6`, `>=12`, `>=24`, `6-11`, `12-23`);
- L: the length of the sequence, or the number of its resolved residues;
- average: macro, the mean over proteins; micro, all chosen pairs of all proteins in one pool;
- a protein in which no pair of the range is a contact counts as 0 (`zero`), or is left out
  (`skip`). One that has no pair of the range at all is always left out.

Pairs with an unresolved residue are masked. At least one pair is chosen and at most all there are.
Where equal scores straddle the last place, the expectation over a random order of them counts, so
that a constant predictor gets the rate of contacts, whatever order the pairs are stored in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plmscale.downstream.contacts.pairs import known, labels, pair_index

RANGES: dict[str, tuple[int, int | None]] = {
    ">=6": (6, None),
    ">=12": (12, None),
    ">=24": (24, None),
    "6-11": (6, 11),
    "12-23": (12, 23),
}
FRACTIONS = {"L": 1, "L/2": 2, "L/5": 5}
LENGTHS = ("sequence", "resolved")


@dataclass(frozen=True)
class Counts:
    """Per protein: what all precisions are made of.

    chosen: int64 (proteins, ranges, lengths, fractions), pairs that were chosen; 0 where the
    protein has no pair in the range. hits: float64 of the same shape, contacts among them (not
    whole where scores are equal). contacts: int64 (proteins, ranges), contacts there are. The
    axes follow RANGES, LENGTHS and FRACTIONS.
    """

    chosen: np.ndarray
    hits: np.ndarray
    contacts: np.ndarray

    def of(self, where: str, length: str, fraction: str, no_contacts: str) -> tuple:
        """Return (kept, hits, chosen) of one definition: bool, float64 and int64 (proteins,)."""
        at = list(RANGES).index(where), LENGTHS.index(length), list(FRACTIONS).index(fraction)
        hits, chosen = self.hits[:, *at], self.chosen[:, *at]
        kept = chosen > 0
        if no_contacts == "skip":
            kept = kept & (self.contacts[:, at[0]] > 0)
        return kept, hits, chosen


def top_hits(ordered: np.ndarray, contact: np.ndarray, tops: Sequence[int]) -> list[float]:
    """Return how many contacts are expected among the `top` highest scores, for each top.

    ordered: scores (n,), falling; contact: bool (n,), of the same pairs; each top lies in 1..n.
    Equal scores at the edge are taken in random order.
    """
    total = np.concatenate([[0], np.cumsum(contact)])
    rising = ordered[::-1]
    found = []
    for top in tops:
        # The first place with the score at the edge, and the one after the last.
        first = len(ordered) - int(np.searchsorted(rising, ordered[top - 1], side="right"))
        after = len(ordered) - int(np.searchsorted(rising, ordered[top - 1], side="left"))
        share = (top - first) / (after - first)
        found.append(float(total[first] + share * (total[after] - total[first])))
    return found


def count(
    scores: np.ndarray, contacts: np.ndarray, resolved: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return chosen, hits and contacts of one protein, as in Counts without the first axis.

    scores: (n_pairs,) in the order of pair_index; contacts: (k, 2); resolved: bool (L,).
    """
    length = len(resolved)
    i, j = pair_index(length)
    scores = np.asarray(scores, np.float32)
    # One sort serves all ranges. What is masked goes first, so that there is less to sort.
    kept = np.flatnonzero(known(resolved))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    ordered, contact = scores[order], labels(contacts, length)[order]
    separation = (j - i)[order]
    shape = (len(RANGES), len(LENGTHS), len(FRACTIONS))
    chosen, hits = np.zeros(shape, np.int64), np.zeros(shape)
    there = np.zeros(len(RANGES), np.int64)
    sizes = {"sequence": length, "resolved": int(resolved.sum())}
    for r, (low, high) in enumerate(RANGES.values()):
        inside = separation >= low
        if high is not None:
            inside &= separation <= high
        pairs = int(inside.sum())
        if not pairs:
            continue
        there[r] = int(contact[inside].sum())
        tops = [
            min(max(1, sizes[rule] // part), pairs)
            for rule in LENGTHS
            for part in FRACTIONS.values()
        ]
        chosen[r] = np.reshape(tops, shape[1:])
        hits[r] = np.reshape(top_hits(ordered[inside], contact[inside], tops), shape[1:])
    return chosen, hits, there
