"""How much of an exponent is choice, and how much is data?

Every choice an analyst makes on the way from logs to N_opt = A C^a is made in turn, and the
exponent that follows is written down with its interval: the method and its space, what counts as
compute, which table (audited or as released, last point or a mean), which budgets take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import finite
from plmscale.laws.bootstrap import Z95
from plmscale.laws.fit import METHODS, fit_laws
from plmscale.laws.single import SINGLE_LAWS

AUDITED = "as given"
_ALL = "all"
FLOPS_NAMES = {"flops_6nd": "6 N D", "flops": "with attention"}


def sensitivity(
    runs: pd.DataFrame,
    *,
    curves: Mapping[str, pd.DataFrame] | None = None,
    variants: Mapping[str, pd.DataFrame] | None = None,
    flops_column: str = "flops_6nd",
    n_boot: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit every method to every variant of the table and the compute; then leave out budgets.

    `variants` are other runs tables by the name of the choice they stand for; `curves` belong to
    `runs`. Returns `rows` (objective, table, flops, budgets, method, a, ci95) and, per objective,
    `effects`: for each choice the exponents' means by level and their spread (`profile_method`:
    among IsoFLOP methods alone), beside the standard error the data leave (from the intervals of
    the same fits). Methods without a law there are
    left out of the effects and listed with a = None.
    """
    tables = {AUDITED: runs, **(variants or {})}
    columns = [flops_column, *(c for c in FLOPS_NAMES if c != flops_column)]
    methods = [name for name in METHODS if name not in SINGLE_LAWS]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, table in tables.items():
        for column in columns:
            if column != "flops_6nd" and not _counted(table, column):
                continue
            rows += _fitted(
                table, name, column, _ALL, methods, curves if name == AUDITED else None,
                n_boot, seed, notes,
            )  # fmt: skip
    for label, table in _without_budgets(runs).items():
        rows += _fitted(
            table, AUDITED, flops_column, label, methods, curves, n_boot, seed, notes
        )  # fmt: skip
    objectives = sorted({row["objective"] for row in rows})
    return finite(
        {
            "schema": 1,
            "n_boot": n_boot,
            "seed": seed,
            "base": {"table": AUDITED, "flops": flops_column, "budgets": _ALL},
            "rows": rows,
            "effects": {o: _effects([r for r in rows if r["objective"] == o]) for o in objectives},
            "notes": notes,
        }
    )


def _counted(table: pd.DataFrame, column: str) -> bool:
    """Return whether the table counts compute this way; 6 N D follows from N and D anyway."""
    return column in table and bool(pd.to_numeric(table[column], errors="coerce").notna().any())


def _without_budgets(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table without its smallest and without its largest budget, if four are there."""
    if "budget" not in runs:
        return {}
    grid = runs[runs["budget"].notna()]
    sizes = grid.groupby("budget")["n_params"].nunique()
    budgets = sorted(sizes.index[sizes >= 3])
    if len(budgets) < 4:
        return {}
    return {
        f"without {budgets[end]:.0e}".replace("e+", "e"): runs[runs["budget"] != budgets[end]]
        for end in (0, -1)
    }


def _fitted(
    table: pd.DataFrame,
    name: str,
    column: str,
    budgets: str,
    methods: Iterable[str],
    curves: Mapping[str, pd.DataFrame] | None,
    n_boot: int,
    seed: int,
    notes: list[str],
) -> list[dict[str, Any]]:
    where = {"table": name, "flops": column, "budgets": budgets}
    wanted = [m for m in methods if m != "envelope" or curves]
    try:
        laws = fit_laws(
            table, curves=curves, methods=wanted, flops_column=column, n_boot=n_boot, seed=seed,
        )["laws"]  # fmt: skip
    except PlmscaleError as error:
        notes.append(f"{name}, {FLOPS_NAMES[column]}, budgets {budgets}: {error}")
        return []
    return [
        {
            "objective": objective,
            **where,
            "method": method,
            "a": (entry.get("N_opt") or {}).get("a"),
            "ci95": (entry.get("ci95") or {}).get("a"),
            "b": (entry.get("D_opt") or {}).get("b"),
        }
        for objective, entries in laws.items()
        for method, entry in entries.items()
        if method in wanted
    ]


def _effects(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far each choice alone moves the exponent, beside the error of the data.

    The effect of a choice is the standard deviation, over its levels, of the mean exponent, from
    rows that agree in all other choices (so that a level without some method is not blamed for
    it). The error of the data is the median standard error of those fits.
    """
    known = pd.DataFrame([row for row in rows if row["a"] is not None])
    if known.empty:
        return {}
    profiles = known[known["method"].str.startswith("isoflop")]
    asked = {
        **{choice: _effect(known, choice) for choice in _CHOICES},
        # The parametric form stands so far from all profiles that it hides how near they are.
        "profile_method": _effect(profiles, "method"),
    }
    widths = [
        (row["ci95"][1] - row["ci95"][0]) / (2 * Z95)
        for row in rows
        if row["ci95"] and None not in row["ci95"]
    ]
    all_a = known["a"].to_numpy(dtype=float)
    return {
        "choices": {choice: item for choice, item in asked.items() if item},
        "data_sd": float(np.median(widths)) if widths else None,
        "all_sd": float(all_a.std(ddof=1)) if len(all_a) > 1 else None,
        "lowest": float(all_a.min()),
        "highest": float(all_a.max()),
        "n_fits": len(all_a),
    }


_CHOICES = ("method", "table", "flops", "budgets")


def _effect(known: pd.DataFrame, choice: str) -> dict[str, Any] | None:
    others = [name for name in _CHOICES if name != choice]
    wide = known.pivot_table(index=others, columns=choice, values="a")
    if choice == "method":
        # A method that few variants have (the envelope needs curves) would cost all of them.
        wide = wide.dropna(axis=1, thresh=max(1, len(wide) // 2))
    # Only fits that every level of the choice has, else levels are not comparable.
    wide = wide.dropna()
    if wide.shape[1] < 2 or wide.empty:
        return None
    means = wide.mean()
    return {
        "levels": {str(level): float(value) for level, value in means.items()},
        "sd": float(means.std(ddof=1)),
        "range": float(means.max() - means.min()),
        "n_fits": int(wide.size),
    }
