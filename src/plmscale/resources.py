"""Threads, memory and order of a run, from its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Below this size one core works as fast as two: the matrices are too small to share.
ONE_THREAD_BELOW = 3e6
_BASE_MB = 700


def threads(recipe: Mapping[str, Any], asked: int) -> int:
    """Return CPU threads for a run; `asked` > 0 wins.

    Snakemake caps the number at the cores it was given, so runs side by side never ask for
    more threads than there are cores.
    """
    if asked:
        return asked
    n = recipe["n_params"]
    return 1 if n < ONE_THREAD_BELOW else 2 if n < 10e6 else 4


def memory_mb(recipe: Mapping[str, Any]) -> int:
    """Return memory in MB: weights, gradients and AdamW's state (16 bytes a parameter), and activations.

    Activations are bounded by a micro batch of 16 rows with some 34 d values a token and layer
    (Korthikanti et al. 2022, eq. 1, with an s x s score matrix a head), 2 bytes each.
    """
    shape = recipe["architecture"]
    embedding = shape["vocab_size"] * shape["d_model"] * (1 if shape["tie_embeddings"] else 2)
    states = 16 * (recipe["n_params"] + embedding)
    rows = min(recipe["batch_rows"], 16)
    context = recipe["context"]
    per_token = shape["n_layers"] * (34 * shape["d_model"] + 5 * shape["n_heads"] * context)
    logits = 12 * shape["vocab_size"]
    activations = rows * context * (2 * per_token + logits)
    return _BASE_MB + int((states + activations) / 1e6)


def priority(recipe: Mapping[str, Any]) -> int:
    """Return Snakemake's priority: long runs first, so that no core waits for a late long one."""
    return int(recipe["flops"] ** 0.5 / 1e3)
