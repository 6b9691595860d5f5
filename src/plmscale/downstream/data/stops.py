"""Stops that a source left out of a sequence, put back by comparison with the wild type."""

from __future__ import annotations

import numpy as np

from plmscale.downstream.data.letters import STOP


def with_stops(sequence: str, wild_type: str) -> str:
    """Return `sequence` with `*` where its letters are missing against `wild_type`.

    The places are those that leave the fewest differences from the wild type; among equals the
    last one is taken. So the stop is at its own place unless a neighbour says the same: a stop in
    a run of one letter, or next to a substitution by the letter that the stop replaced.
    """
    missing = len(wild_type) - len(sequence)
    if missing <= 0:
        return sequence
    own, reference = (np.frombuffer(text.encode(), np.uint8) for text in (sequence, wild_type))
    n = len(reference)
    # cost[d][i]: fewest differences over the first i places, d of them stops.
    cost = np.full((missing + 1, n + 1), n + 1)
    cost[0] = _differences(own, reference, 0)
    stop_at = np.zeros((missing + 1, n + 1), int)
    for d in range(1, missing + 1):
        behind = _differences(own, reference, d)
        # A stop at place p: the best up to p with one stop fewer, then differences from p + 1 on.
        entry = cost[d - 1][:-1] - behind[1:]
        best = np.minimum.accumulate(entry)
        last = np.maximum.accumulate(np.where(entry == best, np.arange(n), 0))
        cost[d][1:] = best + behind[1:]
        stop_at[d][1:] = last
    letters, end = [], n
    for d in range(missing, 0, -1):
        place = int(stop_at[d][end])
        letters.append(STOP + sequence[place + 1 - d : end - d])
        end = place
    return sequence[:end] + "".join(reversed(letters))


def _differences(own: np.ndarray, reference: np.ndarray, shift: int) -> np.ndarray:
    """Return (n + 1,) counts over the first i places where own[i - shift] is not reference[i].

    Places that `own` does not reach count as differences.
    """
    unequal = np.ones(len(reference), int)
    places = np.arange(shift, min(len(reference), len(own) + shift))
    unequal[places] = own[places - shift] != reference[places]
    return np.concatenate([[0], np.cumsum(unequal)])
