"""Choosing the next token: what is allowed, with which probability, and the draw. numpy only.

Everything is computed in float64 and in the order of token numbers, and the random numbers of a
sequence depend on (seed, its number) alone. So a sequence does not depend on its batch, up to
the rounding of the model's own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plmscale.corpus.alphabet import EOS, FIRST_EXTRA, FIRST_RESIDUE, LETTERS
from plmscale.errors import PlmscaleError

_STREAM = 0x47454E
_MOST_MOTIFS = 16


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    temperature: logits are divided by it; 0 takes the most probable token. top_k: only the k most
    probable tokens (0: all). top_p: of these only the fewest whose probabilities sum to at least
    this (Holtzman et al. 2020). Length in residues, the prompt's included: no EOS below
    `min_length`, the end at `max_length`. no_repeat: forbids the copy with this number of a motif
    in a row (0: nothing is forbidden), for motifs of 1 to `repetition_window` residues.
    standard: only the 20 amino acids, no X, B, U, Z, O.
    """

    max_length: int
    min_length: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat: int = 0
    repetition_window: int = 6
    standard: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise PlmscaleError(f"--temperature {self.temperature}: 0 or more")
        if self.top_k < 0:
            raise PlmscaleError(f"--top-k {self.top_k}: 1 or more, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise PlmscaleError(f"--top-p {self.top_p}: above 0, up to 1")
        if not 1 <= self.min_length <= self.max_length:
            raise PlmscaleError(
                f"--min-length {self.min_length}, --max-length {self.max_length}: "
                "at least 1, and the first no larger than the second"
            )
        if self.no_repeat == 1 or self.no_repeat < 0:
            raise PlmscaleError(f"--no-repeat {self.no_repeat}: 2 or more, or 0 to allow repeats")
        if not 1 <= self.repetition_window <= _MOST_MOTIFS:
            raise PlmscaleError(
                f"--repetition-window {self.repetition_window}: 1 to {_MOST_MOTIFS} residues"
            )


def uniforms(seed: int, number: int, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1), float64, of sequence `number`: Philox words by counter."""
    key = np.array([seed & (2**64 - 1), _STREAM], np.uint64)
    counter = np.array([0, 0, number, 0], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(count)
    return (words >> np.uint64(11)) * 2.0**-53


class RepeatGuard:
    """Knows for each row which tokens would complete one copy too many of a motif.

    runs[r, p - 1]: how many of the row's last tokens equal the one p places before. `copies`
    copies of a motif of p in a row are p * (copies - 1) such tokens.
    """

    def __init__(self, rows: int, copies: int, longest: int) -> None:
        self.copies = copies
        self.periods = np.arange(1, longest + 1)
        self._runs = np.zeros((rows, longest), np.int64)
        self._last = np.zeros((rows, longest), np.uint8)  # last tokens, the newest first; 0: none

    def add(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """Append one token to each of `rows` (k,), all different."""
        same = self._last[rows] == tokens[:, None]
        self._runs[rows] = np.where(same, self._runs[rows] + 1, 0)
        self._last[rows] = np.column_stack([tokens, self._last[rows, :-1]])

    def forbid(self, rows: np.ndarray, allowed: np.ndarray) -> None:
        """Clear the tokens that must not come next in allowed: bool (k, vocab), one line a row."""
        wrong = self._runs[rows] + 1 >= self.periods * (self.copies - 1)
        line, period = np.nonzero(wrong & (self._last[rows] > 0))
        allowed[line, self._last[rows[line], period]] = False


def allowed_tokens(lengths: np.ndarray, vocab: int, how: Sampling) -> np.ndarray:
    """Return which tokens may follow rows of `lengths` residues, bool (rows, vocab)."""
    end = FIRST_EXTRA if how.standard else FIRST_RESIDUE + len(LETTERS)
    allowed = np.zeros((len(lengths), vocab), bool)
    allowed[:, FIRST_RESIDUE:end] = True
    allowed[:, EOS] = lengths >= how.min_length
    return allowed


def probabilities(logits: np.ndarray, allowed: np.ndarray, how: Sampling) -> np.ndarray:
    """Return the distribution that is drawn from, float64 (rows, vocab).

    In this order: `allowed`, temperature, top_k, top_p; of equal logits the lower token comes
    first, so that exactly k tokens are left.
    """
    logits = np.where(allowed, logits.astype(np.float64), -np.inf)
    order = np.argsort(-logits, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    if how.temperature == 0:
        return (rank == 0).astype(np.float64)
    top = logits.max(1, keepdims=True)
    weights = np.exp((logits - top) / how.temperature)
    if how.top_k:
        weights[rank >= how.top_k] = 0
    weights /= weights.sum(1, keepdims=True)
    if how.top_p < 1:
        ranked = np.take_along_axis(weights, order, 1)
        before = np.cumsum(ranked, 1) - ranked
        kept = np.take_along_axis(before < how.top_p, rank, 1)
        weights = np.where(kept, weights, 0)
        weights /= weights.sum(1, keepdims=True)
    return weights


def draw(distribution: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return a token of each row, int64 (rows,), by inversion of the cumulative distribution."""
    total = np.cumsum(distribution, 1)
    total /= total[:, -1:]
    return (total <= uniform[:, None]).sum(1)
