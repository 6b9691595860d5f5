"""The three power laws of an entry of laws.json as arrays: the estimate and its replicates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.errors import PlmscaleError

Array = NDArray[np.float64]

COLUMNS = ("log_A", "a", "log_B", "b", "log_K", "c")


def law_rows(entry: Mapping[str, Any], where: str) -> dict[str, Array]:
    """Return ln A, a, ln B, b, ln K, c and E of an entry, each (1 + replicates,), estimate first.

    Raises PlmscaleError for an entry that gave no law; `where` names it.
    """
    n, d, loss = (entry.get(name) or {} for name in ("N_opt", "D_opt", "L_opt"))
    if n.get("a") is None or d.get("b") is None or loss.get("c") is None:
        why = next(iter(entry.get("warnings") or []), "fit the laws again to see why")
        raise PlmscaleError(f"{where}: this method gave no law; {why}")
    first = {"log_A": math.log(n["A"]), "a": n["a"], "log_B": math.log(d["B"]), "b": d["b"],
             "log_K": math.log(loss["K"]), "c": loss["c"], "E": loss.get("E") or 0.0}  # fmt: skip
    boot = entry.get("bootstrap") or {}
    names = boot.get("columns") or COLUMNS
    rows = np.array(boot.get("rows") or [], dtype=float).reshape(-1, len(names))
    spread = {"E": np.zeros(len(rows)), **dict(zip(names, rows.T, strict=True))}
    return {name: np.r_[value, spread[name]] for name, value in first.items()}


def resized(values: Array, count: int) -> Array:
    """Return (1 + count,) from (1 + replicates,): the estimate, then replicates taken in turn.

    Replicates of two bootstraps are independent, so any pairing of them is a fair sample. Without
    replicates the estimate stands for them.
    """
    if len(values) == 1:
        return np.repeat(values, 1 + count)
    return np.r_[values[0], values[1 + np.arange(count) % (len(values) - 1)]]
