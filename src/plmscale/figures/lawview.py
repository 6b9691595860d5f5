"""Reading laws.json: the one place where figures and report know how a law is written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from plmscale.paper.published import POWER_LAWS, values

METHODS = {
    "isoflop_joint": "joint profile",
    "isoflop_parabola": "parabola in log N",
    "isoflop_spline": "spline in log N",
    "isoflop_raw_loglog": "raw minima, log-log",
    "isoflop_raw_linear": "raw minima, linear",
    "envelope": "envelope of curves",
    "parametric": "parametric L(N, D)",
}
"""Methods in the order they are shown, with the names readers see."""

PREFERRED = (
    "isoflop_joint", "isoflop_parabola", "parametric", "isoflop_spline", "isoflop_raw_loglog",
    "envelope",
)  # fmt: skip
"""Which method speaks for a study: the first of these that gave a law."""

PUBLISHED = {
    objective: {law: values(printed) for law, printed in laws.items()}
    for objective, laws in POWER_LAWS.items()
}
"""Cheng et al. 2024 (arXiv 2411.02142): coefficient and exponent of each law."""

_POINT = {
    "budget": np.nan, "N_opt": np.nan, "D_opt": np.nan, "loss": np.nan, "at_edge": False,
    "used": True,
}  # fmt: skip
_LETTERS = {"N_opt": ("A", "a"), "D_opt": ("B", "b")}


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * C^exponent with its 95 % interval and bootstrap sample, where known."""

    coefficient: float
    exponent: float
    interval: tuple[float, float] | None = None
    sample: np.ndarray | None = None  # one row a resample: coefficient, exponent

    def at(self, flops: np.ndarray | float) -> np.ndarray:
        """Return y for a compute of `flops`."""
        return self.coefficient * np.asarray(flops, dtype=float) ** self.exponent

    def band(self, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the 2.5 and 97.5 % quantiles of y over the resamples, or None without a sample."""
        if self.sample is None or len(self.sample) < 20:
            return None
        logs = np.log(self.sample[:, :1]) + self.sample[:, 1:] * np.log(np.asarray(flops))[None]
        low, high = np.quantile(logs, [0.025, 0.975], axis=0)
        return np.exp(np.clip(low, -700, 700)), np.exp(np.clip(high, -700, 700))


def methods(laws: dict[str, Any], objective: str) -> dict[str, dict[str, Any]]:
    """Return the entries of one objective, in the order of METHODS, unknown methods last."""
    entries = laws.get("laws", {}).get(objective, {})
    known = [name for name in METHODS if isinstance(entries.get(name), dict)]
    other = sorted(
        name for name, entry in entries.items() if name not in METHODS and _is_law(entry)
    )
    return {name: entries[name] for name in known + other}


def _is_law(entry: Any) -> bool:
    return isinstance(entry, dict) and any(key in entry for key in ("N_opt", "D_opt", "E"))


def objectives(laws: dict[str, Any]) -> list[str]:
    """Return the objectives that have an entry, CLM first."""
    return sorted(name for name, entry in laws.get("laws", {}).items() if isinstance(entry, dict))


def power_law(entry: dict[str, Any] | None, which: str) -> PowerLaw | None:
    """Return the law of "N_opt" or "D_opt", or None where the method gave none."""
    first, second = _LETTERS[which]
    law = (entry or {}).get(which) or {}
    coefficient, exponent = number(law.get(first)), number(law.get(second))
    if coefficient is None or exponent is None or coefficient <= 0:
        return None
    return PowerLaw(coefficient, exponent, interval(entry, which, second), _sample(entry, which))


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(entry: dict[str, Any], which: str | None, letter: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a parameter: `letter` of `which`, or of the entry itself.

    An end that the bootstrap could not bound is infinite; None where no interval was made.
    """
    found = entry.get("ci95") or {}
    if which is not None:
        found = found.get(which) or {}
    return pair(found.get(letter))


def point_interval(point: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Return the 95 % interval of "N_opt", "D_opt" or "loss" of one budget's minimum."""
    return pair(point.get(f"{name}_ci95"))


def pair(ends: Any) -> tuple[float, float] | None:
    """Return an interval as two floats, infinite where unbounded; None where there is none."""
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = number(ends[0]), number(ends[1])
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _sample(entry: dict[str, Any], which: str) -> np.ndarray | None:
    first, second = _LETTERS[which]
    sample = entry.get("bootstrap") or {}
    columns = list(sample.get("columns") or [])
    rows = np.array(sample.get("rows") or [], dtype=float)
    if second not in columns or not len(rows):
        return None
    if f"log_{first}" in columns:
        # Replicates that ran away become infinite, and are left out below.
        with np.errstate(over="ignore"):
            coefficient = np.exp(rows[:, columns.index(f"log_{first}")])
    elif first in columns:
        coefficient = rows[:, columns.index(first)]
    else:
        return None
    found = np.column_stack([coefficient, rows[:, columns.index(second)]])
    return found[np.isfinite(found).all(axis=1) & (found[:, 0] > 0)]


def points(entry: dict[str, Any] | None) -> pd.DataFrame:
    """Return the per-budget minima of a method, sorted by budget (empty where it has none)."""
    table = pd.DataFrame((entry or {}).get("points") or [])
    for column, default in _POINT.items():
        if column not in table:
            table[column] = default
    for column in ("budget", "N_opt", "D_opt", "loss"):
        table[column] = pd.to_numeric(table[column])
    return table.sort_values("budget", ignore_index=True)


def preferred(laws: dict[str, Any], objective: str) -> str | None:
    """Return the method that speaks for `objective`, or None when no method gave a law."""
    found = methods(laws, objective)
    for name in (*PREFERRED, *found):
        if power_law(found.get(name), "N_opt") is not None:
            return name
    return None


def warnings(laws: dict[str, Any]) -> list[str]:
    """Return every warning of the file once: the general ones, then those of each method."""
    found = list(laws.get("warnings") or [])
    for entry in laws.get("laws", {}).values():
        for law in entry.values() if isinstance(entry, dict) else ():
            if isinstance(law, dict):
                found += law.get("warnings") or []
    return list(dict.fromkeys(str(text) for text in found))


def excluded(laws: dict[str, Any]) -> list[dict[str, str]]:
    """Return the runs the laws left out, each with run_id, objective, status and why."""
    rows = list(laws.get("excluded") or [])
    keys = ("run_id", "objective", "status", "why")
    return [{key: str(row.get(key, "")) for key in keys} for row in rows]
