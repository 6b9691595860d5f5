"""Do laws fitted to small budgets foretell large ones? Errors beside the stated intervals.

Nothing tests a scaling law like budgets it has not seen. Each method is fitted to the runs up to
one budget alone and asked for the best size and the loss at every larger one, and for the loss of
single large runs beyond the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import finite
from plmscale.laws.advice.advise import advise
from plmscale.laws.bootstrap import Z95, generator
from plmscale.laws.fit import fit_laws
from plmscale.laws.isoflop.methods import fit_isoflop
from plmscale.laws.isoflop.profiles import MIN_SIZES, build_profiles
from plmscale.laws.single import SINGLE_LAWS
from plmscale.laws.table.select import select

# Rounding to whole steps puts a run's C slightly above its budget's label.
_SLACK = 1.25


def holdout(
    runs: pd.DataFrame,
    *,
    curves: Mapping[str, pd.DataFrame] | None = None,
    up_to: float | None = None,
    methods: Sequence[str] | None = None,
    flops_column: str = "flops_6nd",
    n_boot: int = 400,
    seed: int = 0,
    allow_empty: bool = False,
) -> dict[str, Any]:
    """Fit the runs up to the budget `up_to` and compare what follows with the larger ones.

    `up_to` (FLOPs) is by default the largest but one budget that all objectives share. Returns,
    per objective, `targets`: budgets with a profile of their own (their best size and loss by a
    parabola through that budget alone, which no law is asked about) and single runs beyond all
    profiles. Each has `predictions`, one a method: n_params and loss with 95 % intervals, error
    (a factor for N, nats for L) and whether what was seen lies inside.

    A table with fewer than two budgets has nothing to hold out: no objectives, and a `note`.
    So has, with `allow_empty`, one whose given `up_to` leaves no budget on one of its two sides:
    a part of a study, or one that is not finished. Else that raises PlmscaleError.
    """
    shared = {"schema": 1, "flops_column": flops_column, "n_boot": n_boot, "seed": seed}
    table = select(runs, flops_column).runs
    limit = _limit(table) if up_to is None else up_to
    if limit is None:
        note = f"it takes two budgets with {MIN_SIZES} sizes each to hold one out"
        return {**shared, "up_to": None, "objectives": {}, "note": note}
    seen = _seen(table, limit, seed)
    kept = table[_reach(table) <= limit * _SLACK]
    if not any(seen.values()) or kept.empty:
        lacking = f"no runs {'up to' if kept.empty else 'above'} {limit:.3g} FLOPs"
        if allow_empty:
            note = f"there are {lacking}, which laws.fit_up_to asks for"
            return {**shared, "up_to": float(limit), "objectives": {}, "note": note}
        raise PlmscaleError(
            f"holdout: {lacking}; "
            "give --up-to (laws.fit_up_to) a budget between the smallest and the largest"
        )
    chosen = [name for name in methods if name not in SINGLE_LAWS] if methods else None
    ids = set(kept["run_id"])
    small = runs[[name in ids for name in _ids(runs)]]
    laws = fit_laws(
        small, curves=_cut(curves, ids), methods=chosen, flops_column=flops_column, n_boot=n_boot,
        seed=seed,
    )  # fmt: skip
    found: dict[str, Any] = {}
    for objective, targets in seen.items():
        entries = laws["laws"].get(objective, {})
        for target in targets:
            target["predictions"] = _predictions(laws, objective, entries, target)
        mine = kept[kept["objective"] == objective]
        found[objective] = {
            "n_runs_fitted": len(mine),
            "budgets_fitted": sorted(float(b) for b in mine["budget"].dropna().unique()),
            "share_of_flops": float(
                mine["c"].sum() / table.loc[table["objective"] == objective, "c"].sum()
            ),
            "targets": targets,
        }
    return finite({**shared, "up_to": float(limit), "objectives": found, "note": ""})


def _ids(runs: pd.DataFrame) -> list[str]:
    """Return run ids as `select` names them: rows without one are numbered."""
    names = runs["run_id"] if "run_id" in runs else [""] * len(runs)
    return [str(name) if name else f"row {i + 1}" for i, name in enumerate(names)]


def _limit(table: pd.DataFrame) -> float | None:
    """Return the largest but one budget with a profile; of two objectives the smaller one."""
    limits = []
    for _, rows in table.groupby("objective"):
        budgets = _profile_budgets(rows)
        if len(budgets) > 1:
            limits.append(budgets[-2])
    return float(min(limits)) if limits else None


def _profile_budgets(rows: pd.DataFrame) -> list[float]:
    profiles, _, _ = build_profiles(rows)
    return sorted(profile.budget for profile in profiles)


def _reach(table: pd.DataFrame) -> pd.Series:
    return table["budget"].fillna(table["c"])


def _cut(
    curves: Mapping[str, pd.DataFrame] | None, ids: set[str]
) -> dict[str, pd.DataFrame] | None:
    return None if curves is None else {name: c for name, c in curves.items() if name in ids}


def _seen(table: pd.DataFrame, limit: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for objective, rows in table.groupby("objective"):
        rows = rows.reset_index(drop=True)
        entry = fit_isoflop(
            str(objective), rows, ["isoflop_parabola"], 400,
            generator(seed, str(objective), "holdout"),
        )["isoflop_parabola"]  # fmt: skip
        targets = [_budget(point, rows) for point in entry["points"] if point["budget"] > limit]
        top = max((point["budget"] for point in entry["points"]), default=limit)
        beyond = rows[rows["c"] > max(top, limit) * _SLACK]
        targets += [_run(row) for row in beyond.sort_values("c").to_dict("records")]
        found[str(objective)] = targets
    return found


def _budget(point: Mapping[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    mine = rows[rows["run_id"].isin(point["runs"])]
    best = mine.loc[mine["loss"].idxmin()]
    usable = point["N_opt"] is not None and not point["at_edge"]
    return {
        "kind": "budget",
        "flops": point["flops"],
        "budget": point["budget"],
        "n_sizes": point["n_sizes"],
        "n_params": {
            "value": point["N_opt"] if usable else float(best["n_params"]),
            "ci95": point["N_opt_ci95"] if usable else None,
        },
        "loss": {
            "value": point["loss"] if usable else float(best["loss"]),
            "ci95": point["loss_ci95"] if usable else None,
        },
        "from": "a parabola through this budget alone" if usable else "the run with the least loss",
        "best_run": str(best["run_id"]),
    }


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    error = row["loss_sd"] if np.isfinite(row["loss_sd"]) else None
    ends = None if error is None else [row["loss"] - Z95 * error, row["loss"] + Z95 * error]
    return {
        "kind": "run",
        "run_id": str(row["run_id"]),
        "flops": float(row["c"]),
        "n_params": {"value": float(row["n_params"]), "ci95": None},
        "tokens": float(row["tokens"]),
        "loss": {"value": float(row["loss"]), "ci95": ends},
        "from": "one run; its size was chosen, not found",
    }


def _predictions(
    laws: Mapping[str, Any], objective: str, entries: Mapping[str, Any], target: Mapping[str, Any]
) -> list[dict[str, Any]]:
    try:
        answers = advise(laws, objective, target["flops"])["methods"]
    except PlmscaleError:
        return []
    found = []
    for method, answer in answers.items():
        size, loss = answer["n_params"], dict(answer["loss"])
        at = _loss_at(entries[method], target) if target["kind"] == "run" else None
        if at is not None:
            # L(N, D) knows that the run is not at the optimum; other methods only know L_opt(C).
            loss = {"value": at, "ci95": _moved(loss, at)}
        item = {
            "method": method,
            "n_params": size,
            "loss": loss,
            "loss_of": "this N and D" if at is not None else "the best N and D for this compute",
            "loss_error": loss["value"] - target["loss"]["value"],
            "loss_inside": _agrees(loss, target["loss"]),
        }
        if target["kind"] == "budget":
            item["n_ratio"] = size["value"] / target["n_params"]["value"]
            item["n_inside"] = _agrees(size, target["n_params"], log=True)
        found.append(item)
    return found


def _loss_at(entry: Mapping[str, Any], target: Mapping[str, Any]) -> float | None:
    if entry.get("alpha") is None or entry.get("beta") is None or entry.get("E") is None:
        return None
    n, d = target["n_params"]["value"], target["tokens"]
    return (
        entry["E"]
        + math.exp(math.log(entry["A"]) - entry["alpha"] * math.log(n))
        + math.exp(math.log(entry["B"]) - entry["beta"] * math.log(d))
    )


def _moved(loss: Mapping[str, Any], to: float) -> list[float | None]:
    """Return the interval of L_opt moved to `to`: its width is the best guess at hand."""
    shift = to - loss["value"]
    return [None if end is None else end + shift for end in loss["ci95"]]


def _agrees(
    predicted: Mapping[str, Any], seen: Mapping[str, Any], log: bool = False
) -> bool | None:
    """Return whether the two differ by no more than both intervals allow, None without any.

    The half-widths that face each other add as independent errors do; `log` compares ratios.
    """
    scale = math.log if log else float
    ends = predicted["ci95"]
    if ends is None or all(end is None for end in ends):
        return None
    gap = scale(seen["value"]) - scale(predicted["value"])
    toward = 1 if gap > 0 else 0
    room = [(ends[toward], predicted["value"])]
    if seen["ci95"]:
        room.append((seen["ci95"][1 - toward], seen["value"]))
    if any(end is None or (log and end <= 0) for end, _ in room):
        return True
    return bool(abs(gap) <= math.hypot(*(scale(end) - scale(value) for end, value in room)))
