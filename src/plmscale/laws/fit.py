"""Runs table in, laws with intervals and warnings out: the content of laws.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import finite
from plmscale.laws.bootstrap import generator, interval, law_intervals, sample
from plmscale.laws.isolaws import ISOFLOP_METHODS, fit_isoflop
from plmscale.laws.parametric import MIN_RUNS, fit_parametric, optimum
from plmscale.laws.select import OBJECTIVES, select
from plmscale.provenance import git_state, versions

METHODS = (*ISOFLOP_METHODS, "parametric")
# A replicate without a minimum, or an interval of an exponent this wide, says nothing.
MANY_FAILED = 0.05
NOTHING = 1.0


def fit_laws(
    runs: pd.DataFrame,
    *,
    methods: Sequence[str] | None = None,
    flops_column: str = "flops_6nd",
    n_boot: int = 1000,
    seed: int = 0,
    inputs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fit every method to every objective of a runs table; returns the content of laws.json.

    `methods` is a subset of METHODS (all by default), `flops_column` the compute that counts
    (`flops_6nd` or `flops`), `n_boot` the bootstrap replicates, `inputs` names with SHA-256 for
    the provenance. N in parameters, D in tokens, C in FLOPs, loss in nats a token. The result
    holds no NaN (None instead) and is the same for the same table and seed. Prefactors are those
    of N_opt = A C^a, D_opt = B C^b, L_opt = K C^-c (plus E for `parametric`).

    Raises PlmscaleError for an unknown method, and whatever `select` raises about the table.
    """
    methods = tuple(methods or METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        raise PlmscaleError(f"law method {unknown[0]!r} is unknown; allowed: {', '.join(METHODS)}")
    if n_boot < 0:
        raise PlmscaleError(f"bootstrap replicates: {n_boot} is negative")
    selection = select(runs, flops_column)
    laws: dict[str, Any] = {}
    warnings: list[str] = []
    for objective in OBJECTIVES:
        rows = selection.runs[selection.runs["objective"] == objective].reset_index(drop=True)
        general = selection.warnings.get(objective, [])
        if objective in selection.warnings and rows.empty:
            general = [*general, f"{objective}: no run is left to fit a law to"]
        warnings += general
        if rows.empty:
            continue
        laws[objective] = _fit_objective(objective, rows, methods, n_boot, seed)
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
            "flops_column": flops_column,
            "flops_convention": _CONVENTIONS[flops_column],
            "n_rows": len(runs),
            "laws": "N_opt = A C^a, D_opt = B C^b, L_opt = [E +] K C^-c; intervals are 95 %",
        },
        "laws": laws,
        "excluded": selection.excluded,
        "warnings": list(dict.fromkeys(warnings)),
    }
    return finite(_plain(result))


_CONVENTIONS = {
    "flops_6nd": "C = 6 N D, N without embeddings",
    "flops": "C as the table's column flops counts it (for plmscale's own runs with attention "
    "and output head)",
}


def _fit_objective(
    objective: str, rows: pd.DataFrame, methods: Sequence[str], n_boot: int, seed: int
) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    wanted = [name for name in methods if name in ISOFLOP_METHODS]
    if wanted:
        rng = generator(seed, objective, "isoflop")
        entries.update(fit_isoflop(objective, rows, wanted, n_boot, rng))
    if "parametric" in methods:
        entries["parametric"] = _parametric_entry(objective, rows, n_boot, seed)
    for name, entry in entries.items():
        entry["warnings"] = [
            *entry["warnings"], *_interval_warnings(f"{objective} {name}", entry, n_boot)
        ]  # fmt: skip
    return entries


def _parametric_entry(objective: str, rows: pd.DataFrame, n_boot: int, seed: int) -> dict[str, Any]:
    where = f"{objective} parametric"
    shared = {
        "n_runs": len(rows),
        "runs": list(rows["run_id"]),
        "fitted_range": _fitted_range(rows),
    }
    if len(rows) < MIN_RUNS:
        empty: dict[str, Any] = dict.fromkeys(("E", "A", "B", "alpha", "beta", "objective"))
        text = f"{where}: {len(rows)} runs are too few for five parameters ({MIN_RUNS} needed)"
        return {
            **empty, **shared, "N_opt": {"A": None, "a": None}, "D_opt": {"B": None, "b": None},
            "L_opt": {"E": None, "K": None, "c": None}, "ci95": {}, "converged": False,
            "warnings": [text],
        }  # fmt: skip
    fit = fit_parametric(rows, n_boot, generator(seed, objective, "parametric"))
    point = {name: float(v[0]) for name, v in optimum(fit.theta[None], fit.flops_per).items()}
    spread = optimum(fit.replicates, fit.flops_per)
    theta = fit.theta
    floor = float(np.exp(theta[2]))
    # A floor a millionth of a nat high is none; say zero rather than 1e-11.
    floor = 0.0 if floor < 1e-6 else floor
    replicate = {
        "E": np.exp(fit.replicates[:, 2]), "A": np.exp(fit.replicates[:, 0]),
        "B": np.exp(fit.replicates[:, 1]), "alpha": fit.replicates[:, 3],
        "beta": fit.replicates[:, 4],
    }  # fmt: skip
    ends = {name: interval(values) for name, values in replicate.items()}
    nested = law_intervals(spread)
    nested["L_opt"]["E"] = ends["E"]
    ends |= nested
    return {
        "E": floor,
        "A": float(np.exp(theta[0])),
        "B": float(np.exp(theta[1])),
        "alpha": float(theta[3]),
        "beta": float(theta[4]),
        "objective": fit.objective,
        "objective_name": "sum of Huber(1e-3) of ln L_fit - ln L",
        "converged": fit.converged,
        "at_bounds": list(fit.at_bounds),
        "profile_range": fit.profile_range,
        "flops_per_param_token": fit.flops_per,
        "N_opt": {"A": float(np.exp(point["log_A"])), "a": point["a"]},
        "D_opt": {"B": float(np.exp(point["log_B"])), "b": point["b"]},
        "L_opt": {"E": floor, "K": float(np.exp(point["log_K"])), "c": point["c"]},
        "ci95": ends,
        "noise": {"sd": fit.noise.sd, "source": fit.noise.source, "unit": "relative"},
        "bootstrap": {
            **sample({**spread, "E": replicate["E"]}),
            "n": len(fit.replicates),
            "failed": 0,
        },
        **shared,
        "warnings": [f"{where}: {text}" for text in fit.warnings],
    }


def _interval_warnings(where: str, entry: Mapping[str, Any], n_boot: int) -> list[str]:
    if entry["N_opt"].get("a") is None:
        return []
    found = []
    boot = entry.get("bootstrap") or {}
    if not n_boot or not boot.get("n"):
        return [
            f"{where}: no intervals, since "
            + ("none were asked for" if not n_boot else "nothing tells the noise of a loss")
        ]
    if boot["failed"] > MANY_FAILED * boot["n"]:
        found.append(
            f"{where}: {boot['failed']} of {boot['n']} bootstrap replicates have no minimum "
            "(a profile turned concave); the intervals are widened for them"
        )
    for law, letter in (("N_opt", "a"), ("D_opt", "b")):
        low, high = entry["ci95"][law].get(letter) or (None, None)
        if low is None or high is None:
            found.append(
                f"{where}: the interval of {law}'s exponent {letter} is unbounded; "
                "these runs say nothing about it"
            )
        elif high - low >= NOTHING:
            found.append(
                f"{where}: the interval of {law}'s exponent {letter} "
                f"[{low:.2f}, {high:.2f}] is wider than the whole range from 0 to 1; "
                "it says nothing"
            )
    return found


def _fitted_range(rows: pd.DataFrame) -> dict[str, list[float]]:
    named = {"flops": rows["c"], "n_params": rows["n_params"], "tokens": rows["tokens"]}
    return {name: [float(v.min()), float(v.max())] for name, v in named.items()}


def _count_reasons(excluded: list[dict[str, str]]) -> list[str]:
    kinds = {
        "status": "status not done", "starts": "start from other weights",
        "corpus": "another corpus", "mask": "another mask ratio", "loss": "no finite loss",
    }  # fmt: skip
    counts = pd.Series([kinds[row["why"].split()[0]] for row in excluded]).value_counts()
    return [f"{count} {kind}" for kind, count in sorted(counts.items())]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
