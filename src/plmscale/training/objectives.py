"""Inputs and targets from packed rows: causal and masked language modelling, and both mixed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from plmscale.corpus.alphabet import EOS, FIRST_RESIDUE, MASK, PAD, STANDARD
from plmscale.errors import PlmscaleError
from plmscale.native import rows as native
from plmscale.training.mixture import Mixture

IGNORED = -100
_MASK_STREAM, _MIX_STREAM = 0x4D41534B, 0x4D495845
_BLOCK = 256


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
    np.copyto(targets[:, :-1], rows[:, 1:], where=known)
    return targets


def masked(
    rows: np.ndarray, samples: Sequence[int], seed: int, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, s) uint8 and targets (n, s) int64 of masked language modelling.

    Each residue (never a special token) is chosen with probability `ratio`, independently; of
    the chosen, 80 % become <mask>, 10 % one of the 20 amino acids at random, 10 % stay
    (Devlin et al. 2019, section 3.1). All probabilities are exact to 2^-32. Row i depends on
    (seed, samples[i], s) alone, and what a smaller ratio chooses a larger one chooses too.
    """
    chosen = min(round(ratio * 2**32), 2**32 - 1)
    limits = (chosen * 8 // 10, chosen * 9 // 10, chosen)
    alphabet = (MASK, FIRST_RESIDUE, len(STANDARD))
    numbers = np.asarray(samples, np.int64)
    return native.mask(rows, numbers, seed, _MASK_STREAM, limits, alphabet, IGNORED)


def causal_rows(recipe: dict[str, Any], samples: Sequence[int]) -> bool | np.ndarray:
    """Return which of `samples` are rows of causal language modelling.

    A bool where all are alike; for the objective `mixed` an array (n,) of bool. Each block of
    256 samples holds `clm_share` of them within one, in an order that the data seed shuffles: the
    corpus mix is spread over sample numbers, too, and the two must have nothing to do with each other.
    """
    if recipe["objective"] != "mixed":
        return recipe["objective"] == "clm"
    share = recipe["clm_share"]
    if not 0 < share < 1:
        raise PlmscaleError(f"recipe.clm_share: {share!r}; between 0 and 1 for mixed")
    numbers = np.asarray(samples, np.int64)
    shuffled = numbers.copy()
    for block in np.unique(numbers // _BLOCK):
        mine = numbers // _BLOCK == block
        places = _shuffled_block(recipe["data_seed"], int(block))
        shuffled[mine] = block * _BLOCK + places[numbers[mine] % _BLOCK]
    mixture = Mixture({"clm": share, "mlm": 1 - share})
    sources, _ = mixture.locate_all(shuffled)
    return sources == mixture.sources.index("clm")


@lru_cache(maxsize=64)
def _shuffled_block(seed: int, block: int) -> np.ndarray:
    """Return a permutation of a block's places, by the order of its random words."""
    words = native.philox_words(seed, _MIX_STREAM, block, _BLOCK)
    return np.argsort(np.argsort(words, kind="stable"), kind="stable")


def examples(
    recipe: dict[str, Any], rows: np.ndarray, samples: Sequence[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (inputs uint8, targets int64), each (n, s), of `rows` under the recipe's objective.

    Row i is what it would be alone: it depends on rows[i], samples[i], `seed` and the recipe.
    """
    causal = causal_rows(recipe, samples)
    if causal is True:
        return rows, causal_targets(rows)
    if causal is False:
        return masked(rows, samples, seed, recipe["mask_ratio"])
    inputs, targets = masked(rows, samples, seed, recipe["mask_ratio"])
    inputs[causal] = rows[causal]
    targets[causal] = causal_targets(rows[causal])
    return inputs, targets
