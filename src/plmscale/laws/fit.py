"""Runs table in, laws with intervals and warnings out: the content of laws.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError, suggest
from plmscale.files import finite
from plmscale.laws.estimators import METHODS, Curves, fit_objective, holds_law, shortcoming
from plmscale.laws.table.select import OBJECTIVES, Selection, select
from plmscale.laws.table.units import flops_warnings, loss_unit_warning
from plmscale.provenance import git_state, versions

__all__ = ["METHODS", "fit_laws"]

CONVENTIONS = {
    "flops_6nd": "C = 6 N D, N without embeddings",
    "flops": "C as the table's column flops counts it (for plmscale's own runs with attention "
    "and output head)",
}


def fit_laws(
    runs: pd.DataFrame,
    *,
    curves: Curves | None = None,
    methods: Sequence[str] | None = None,
    flops_column: str = "flops_6nd",
    n_boot: int = 1000,
    seed: int = 0,
    noise_sd: float | None = None,
    inputs: Mapping[str, str] | None = None,
    where: str = "runs table",
) -> dict[str, Any]:
    """Fit every method to every objective of a runs table; returns the content of laws.json.

    `curves` (learning curves by run_id) are what `envelope` needs. `methods` is a subset of
    METHODS (all by default), `flops_column` the compute that counts (`flops_6nd` or `flops`),
    `n_boot` the bootstrap replicates, `noise_sd` how far the loss of a rerun would differ (nats a
    token) where that is known, `inputs` names with SHA-256 for the provenance, `where` the table's
    name in errors. N in parameters, D in tokens, C in FLOPs, loss in nats a token. The
    result holds no NaN (None instead) and is the same for the same table and seed. Prefactors are
    those of N_opt = A C^a, D_opt = B C^b, L_opt = K C^-c (plus E where a method knows a floor).

    Raises PlmscaleError for an unknown method, and whatever `select` raises about the table.
    """
    methods = tuple(methods or METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        raise PlmscaleError(f"law method {unknown[0]!r} is unknown{suggest(unknown[0], METHODS)}")
    if n_boot < 0:
        raise PlmscaleError(f"bootstrap replicates: {n_boot} is negative")
    if noise_sd is not None and not noise_sd > 0:
        raise PlmscaleError(f"noise of a loss: {noise_sd:g} is not positive")
    selection = select(runs, flops_column, where)
    laws: dict[str, Any] = {}
    warnings = _table_warnings(selection)
    for objective in OBJECTIVES:
        rows = selection.runs[selection.runs["objective"] == objective].reset_index(drop=True)
        warnings += selection.warnings.get(objective, [])
        if rows.empty:
            if objective in selection.warnings:
                warnings.append(f"{objective}: no run is left to fit a law to")
            continue
        laws[objective] = fit_objective(
            objective, rows, curves or {}, methods, n_boot, seed, noise_sd
        )
        warnings += _what_is_left(objective, rows, laws[objective])
        for entry in laws[objective].values():
            warnings += entry["warnings"]
    if selection.excluded:
        warnings.append(
            f"{len(selection.excluded)} of {len(runs)} runs are in no law: "
            + "; ".join(_count_reasons(selection.excluded))
        )
    result = {
        "schema": 1,
        "provenance": {
            "inputs": dict(inputs or {}),
            "versions": versions(),
            "git": git_state(),
            "seed": seed,
            "n_boot": n_boot,
            "noise_sd": noise_sd,
            "flops_column": flops_column,
            "flops_convention": CONVENTIONS[flops_column],
            "n_rows": len(runs),
            "laws": "N_opt = A C^a, D_opt = B C^b, L_opt = [E +] K C^-c; intervals are 95 %",
        },
        "laws": laws,
        "excluded": selection.excluded,
        "warnings": list(dict.fromkeys(warnings)),
    }
    return finite(plain(result))


def _table_warnings(selection: Selection) -> list[str]:
    table = selection.runs
    if table.empty:
        return []
    unit = loss_unit_warning(table["loss"])
    return [*([unit] if unit else []), *flops_warnings(table)]


def _what_is_left(
    objective: str, rows: pd.DataFrame, entries: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say what a table of one size or one budget cannot give, and what it still does."""
    lacking = shortcoming(rows)
    if lacking is None:
        return []
    still = [name for name, entry in entries.items() if holds_law(entry)]
    points = (entries.get("isoflop_parabola") or {}).get("points") or []
    best = [point["N_opt"] for point in points if point["N_opt"] and not point["at_edge"]]
    text = f"{objective}: {lacking}: "
    if lacking.startswith("one size"):
        text += "N_opt(C), D_opt(C), L(C) and L(N, D) need three sizes or more"
    elif lacking.startswith("one budget"):
        text += "N_opt(C), D_opt(C), L(C) and L(N, D) need two budgets or more"
    else:
        text += "N_opt(C), D_opt(C), L(C) and L(N, D) need different token counts"
    if len(best) == 1:
        text += f"; the best size at this budget is {best[0]:.3g} parameters (parabola)"
    return [text + (f"; fitted all the same: {', '.join(still)}" if still else "")]


def _count_reasons(excluded: list[dict[str, str]]) -> list[str]:
    kinds = {
        "status": "status not done", "starts": "start from other weights",
        "corpus": "another corpus", "mask": "another mask ratio",
        "trained": "trained on both objectives",
    }  # fmt: skip
    counts = pd.Series([kinds[row["why"].split()[0]] for row in excluded]).value_counts()
    return [f"{count} {kind}" for kind, count in sorted(counts.items())]


def plain(value: Any) -> Any:
    """Return `value` with NumPy scalars as Python's own and tuples as lists, as JSON needs."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
