"""laws.json's entry `parametric`: the fit, its laws, and what of it the data tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from plmscale.files import finite
from plmscale.laws.bootstrap import interval, law_intervals, sample
from plmscale.laws.parametric.fit import MIN_RUNS, ParametricFit, fit_parametric, optimum
from plmscale.laws.parametric.landscape import Profile, drawn, identified

_LETTERS = ("E", "A", "B", "alpha", "beta", "objective")
# FLOPs per parameter and token that differ by more make one C = k N D a rough assumption.
_SAME_RATIO = 1.1


def parametric_entry(
    objective: str, rows: pd.DataFrame, n_boot: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Fit E + A / N^alpha + B / D^beta to the selected rows of one objective.

    Beside the laws and their intervals the entry holds `optima` (where fits end: parameters,
    objective, N_opt exponent `a`, how many of how many starts, `stationary`), `profiles` (per
    parameter [value, rise of the objective in units of the 95 % cut]), `profile_range` (the
    values not rejected) and `identified` (per parameter whether the data tell it).
    """
    where = f"{objective} parametric"
    shared = {
        "n_runs": len(rows),
        "runs": list(rows["run_id"]),
        "fitted_range": {
            name: [float(rows[column].min()), float(rows[column].max())]
            for name, column in (("flops", "c"), ("n_params", "n_params"), ("tokens", "tokens"))
        },
    }
    if len(rows) < MIN_RUNS:
        text = f"{where}: {len(rows)} runs are too few for five parameters ({MIN_RUNS} needed)"
        return {
            **dict.fromkeys(_LETTERS), **shared, "N_opt": {"A": None, "a": None},
            "D_opt": {"B": None, "b": None}, "L_opt": {"E": None, "K": None, "c": None},
            "ci95": {}, "converged": False, "optima": [], "profiles": {}, "identified": {},
            "warnings": [text],
        }  # fmt: skip
    fit = fit_parametric(rows, n_boot, rng)
    spread = optimum(fit.replicates, fit.flops_per)
    replicate = {
        "E": np.exp(fit.replicates[:, 2]), "A": np.exp(fit.replicates[:, 0]),
        "B": np.exp(fit.replicates[:, 1]), "alpha": fit.replicates[:, 3],
        "beta": fit.replicates[:, 4],
    }  # fmt: skip
    ends = {name: interval(values) for name, values in replicate.items()}
    nested = law_intervals(spread)
    nested["L_opt"]["E"] = ends["E"]
    told = identified(fit.profiles)
    laws = _laws(fit.theta, fit.flops_per)
    entry = {
        **_letters(fit.theta),
        "objective": fit.objective,
        "objective_name": "sum of Huber(1e-3) of ln L_fit - ln L",
        "converged": bool(fit.converged),
        "at_bounds": list(fit.at_bounds),
        "profile_range": {name: list(p.range) for name, p in fit.profiles.items()},
        "profiles": {name: drawn(p) for name, p in fit.profiles.items()},
        "identified": told,
        "optima": [_optimum_entry(found, fit) for found in fit.optima],
        "flops_per_param_token": fit.flops_per,
        **laws,
        "ci95": ends | nested,
        "noise": {"sd": fit.noise.sd, "source": fit.noise.source, "unit": "relative"},
        "bootstrap": {
            **sample({**spread, "E": replicate["E"]}),
            "n": len(fit.replicates),
            "failed": 0,
        },
        **shared,
        "notes": _notes(fit),
        "warnings": [f"{where}: {text}" for text in _warnings(rows, fit, told)],
    }
    return finite(entry)


def _letters(theta: np.ndarray) -> dict[str, float]:
    floor = float(np.exp(theta[2]))
    return {
        # A floor a millionth of a nat high is none; say zero rather than 1e-11.
        "E": 0.0 if floor < 1e-6 else floor,
        "A": float(np.exp(theta[0])),
        "B": float(np.exp(theta[1])),
        "alpha": float(theta[3]),
        "beta": float(theta[4]),
    }


def _laws(theta: np.ndarray, flops_per: float) -> dict[str, dict[str, float]]:
    point = {name: float(v[0]) for name, v in optimum(theta[None], flops_per).items()}
    return {
        "N_opt": {"A": float(np.exp(point["log_A"])), "a": point["a"]},
        "D_opt": {"B": float(np.exp(point["log_B"])), "b": point["b"]},
        "L_opt": {"E": _letters(theta)["E"], "K": float(np.exp(point["log_K"])),
                  "c": point["c"]},
    }  # fmt: skip


def _optimum_entry(found: dict[str, Any], fit: ParametricFit) -> dict[str, Any]:
    letters = _letters(found["theta"])
    total = letters["alpha"] + letters["beta"]
    return {
        **letters,
        "objective": found["objective"],
        "ratio": found["objective"] / fit.objective if fit.objective > 0 else None,
        "a": letters["beta"] / total if total else None,
        "starts": found["starts"],
        "of": found["of"],
        "stationary": found["stationary"],
        "search": found["search"],
    }


def _notes(fit: ParametricFit) -> list[str]:
    stop = fit.optima[-1]
    if stop["stationary"] or stop["objective"] <= 1.001 * fit.objective:
        return []
    return [
        "L-BFGS-B with scipy's default stopping, from the start of Cheng et al. 2024, ends at an "
        f"objective {stop['objective'] / max(fit.objective, 1e-300):.3g} times the least one, on "
        "a slope: it is no optimum"
    ]


def _warnings(rows: pd.DataFrame, fit: ParametricFit, told: dict[str, bool]) -> list[str]:
    found = []
    ratio = rows["c"] / (rows["n_params"] * rows["tokens"])
    if ratio.max() / ratio.min() > _SAME_RATIO:
        found.append(
            f"FLOPs per parameter and token vary from {ratio.min():.3g} to {ratio.max():.3g}; "
            f"optima assume C = {fit.flops_per:.3g} N D"
        )
    if len(rows) < 2 * 5:
        found.append(f"only {len(rows)} runs for five parameters")
    if rows["n_params"].nunique() < 3 or rows["tokens"].nunique() < 3:
        found.append(
            "fewer than three different sizes or token counts: the exponents cannot be told apart"
        )
    if not fit.converged:
        found.append("the fit did not converge")
    if names := [name for name in fit.at_bounds if name != "E"]:
        found.append(f"{', '.join(names)} ended at the bounds of the search")
    if np.exp(fit.theta[2]) < 1e-2 * rows["loss"].min():
        found.append(
            "E ended at zero: these losses do not show a floor, so the exponents carry it instead"
        )
    elif told.get("E") is False:
        found.append(f"E is hardly identified: {_range(fit.profiles['E'])}, zero included")
    for name in ("alpha", "beta"):
        if told.get(name) is False:
            found.append(f"{name} is hardly identified: {_range(fit.profiles[name])}")
    return found


def _range(profile: Profile) -> str:
    low, high = profile.range
    return f"the objective barely rises from {low:.2g} to {high:.2g}"
