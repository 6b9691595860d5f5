"""Inputs and targets of the two objectives, from packed rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from plmscale.corpus.alphabet import EOS, FIRST_RESIDUE, MASK, PAD, STANDARD

IGNORED = -100
_MASK_STREAM = 0x4D41534B


def random_words(seed: int, stream: int, number: int, count: int, block: int = 0) -> np.ndarray:
    """Return `count` uint64 of the Philox stream (seed, stream), from the counter (number, block).

    A counter-based generator (Salmon et al. 2011): any block can be had without those before.
    """
    key = np.array([seed & (2**64 - 1), stream], np.uint64)
    counter = np.array([0, 0, number, block], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def causal_targets(rows: np.ndarray) -> np.ndarray:
    """Return (n, s) int64: the next token of the same protein, EOS included.

    Ignored: what follows an EOS (another protein), the last position of a row (its next token
    is in another row), and padding.
    """
    targets = np.full(rows.shape, IGNORED, np.int64)
    known = (rows[:, :-1] != EOS) & (rows[:, :-1] != PAD) & (rows[:, 1:] != PAD)
    targets[:, :-1][known] = rows[:, 1:][known]
    return targets


def masked(
    rows: np.ndarray, samples: list[int], seed: int, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, s) uint8 and targets (n, s) int64 of masked language modelling.

    Each residue (never a special token) is chosen with probability `ratio`, independently; of
    the chosen, 80 % become <mask>, 10 % one of the 20 amino acids at random, 10 % stay
    (Devlin et al. 2019, section 3.1). Row i depends on (seed, samples[i]) alone.
    """
    length = rows.shape[1]
    words = np.stack([random_words(seed, _MASK_STREAM, s, length) for s in samples])
    chosen = ((words >> np.uint64(32)) < np.uint64(round(ratio * 2**32))) & (rows >= FIRST_RESIDUE)
    fate = (words >> np.uint64(16)) & np.uint64(0xFFFF)
    letter = FIRST_RESIDUE + (((words & np.uint64(0xFFFF)) * len(STANDARD)) >> np.uint64(16))
    inputs = np.where(chosen & (fate < 52429), MASK, rows)
    inputs = np.where(chosen & (fate >= 52429) & (fate < 58982), letter, inputs).astype(np.uint8)
    return inputs, np.where(chosen, rows.astype(np.int64), IGNORED)


def examples(
    recipe: dict[str, Any], rows: np.ndarray, samples: list[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (inputs uint8, targets int64), each (n, s), of `rows` under the recipe's objective."""
    if recipe["objective"] == "clm":
        return rows, causal_targets(rows)
    return masked(rows, samples, seed, recipe["mask_ratio"])
