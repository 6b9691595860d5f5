"""From profiles to laws: optimum of each budget, power laws through them, their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise, choose_noise, interval, law_intervals, sample, seed_noise
from plmscale.laws.isoflop import (
    Minima,
    Profile,
    asymmetry,
    build_profiles,
    parabola_coefficients,
    parabola_minima,
    parabola_values,
    raw_minima,
)
from plmscale.laws.powerlaw import fit_linear, fit_loglog

Array = NDArray[np.float64]

ISOFLOP_METHODS = ("isoflop_raw_loglog", "isoflop_raw_linear", "isoflop_parabola")
_NONE = {
    "N_opt": {"A": None, "a": None},
    "D_opt": {"B": None, "b": None},
    "L_opt": {"K": None, "c": None},
}


def fit_isoflop(
    objective: str,
    rows: pd.DataFrame,
    methods: Sequence[str],
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """Fit the asked IsoFLOP methods to the selected rows of one objective.

    Returns laws.json's entry per method. All methods share one set of simulated losses: each
    profile's parabola (its points themselves where that is concave) plus noise. What a parabola
    cannot know, the asymmetry of the profiles, enters its intervals as a common error of the size
    that a cubic shows.
    """
    profiles, remarks, notes = build_profiles(rows)
    shifts, squares, dof = asymmetry(profiles)
    loss_sd = rows["loss_sd"].to_numpy(dtype=float)
    noise = choose_noise(seed_noise(rows), squares, dof, loss_sd)
    simulated = None
    if noise.known and n_boot and profiles:
        simulated = [_simulate(profile, noise, n_boot, rng) for profile in profiles]
    common = rng.standard_normal(n_boot)
    entries = {}
    for method in methods:
        entry = _fit_method(
            f"{objective} {method}", method, profiles, simulated, shifts, common, rng
        )
        entry["noise"] = {"sd": noise.sd, "source": noise.source, "unit": "nats a token"}
        entry["warnings"] = [
            *(f"{objective} {method}: {text}" for text in remarks), *entry["warnings"]
        ]  # fmt: skip
        entry["notes"] = notes
        entries[method] = entry
    return entries


def _simulate(profile: Profile, noise: Noise, n_boot: int, rng: np.random.Generator) -> Array:
    coefficients = parabola_coefficients(profile, profile.loss[None])
    centre = profile.loss
    if coefficients[0, 2] > 0:
        centre = np.where(profile.near, parabola_values(profile, coefficients)[0], centre)
    return centre + noise.draw(rng, n_boot, len(centre)) / np.sqrt(profile.weight)


def _fit_method(
    where: str,
    method: str,
    profiles: Sequence[Profile],
    simulated: list[Array] | None,
    shifts: Array,
    common: Array,
    rng: np.random.Generator,
) -> dict[str, Any]:
    parabola = method == "isoflop_parabola"
    found = [_minima(profile, profile.loss[None], parabola, None) for profile in profiles]
    spread = None
    if simulated is not None:
        spread = [
            _minima(profile, losses, parabola, rng)
            for profile, losses in zip(profiles, simulated, strict=True)
        ]
        if parabola:
            spread = [
                _shifted(profile, minima, shift * common)
                for profile, minima, shift in zip(profiles, spread, shifts, strict=True)
            ]
    points, warnings, usable = [], [], []
    for i, (profile, minimum) in enumerate(zip(profiles, found, strict=True)):
        point, problem = _point(profile, minimum, None if spread is None else spread[i])
        points.append(point)
        point["asymmetry_shift"] = float(shifts[i]) if parabola else None
        if problem:
            warnings.append(f"{where}, budget {profile.budget:.3g}: {problem}")
        # A raw minimum at the edge is still a bound; a vertex outside the sizes is a guess.
        usable.append(np.isfinite(minimum.log_n[0]) and not (parabola and point["at_edge"]))
    for point, use in zip(points, usable, strict=True):
        point["used"] = bool(use)
    chosen = [i for i, use in enumerate(usable) if use]
    ids = [name for i in chosen for name in profiles[i].run_ids]
    entry: dict[str, Any] = {**_NONE, "ci95": {}, "n_runs": len(ids), "points": points}
    entry["tokens_from"] = "the table's tokens, scaled to one C and interpolated in ln N"
    if len(chosen) < 2:
        text = (
            "no budget has a usable profile" if not chosen
            else f"only one budget ({profiles[chosen[0]].budget:.3g}) has a usable minimum"
        )  # fmt: skip
        entry["warnings"] = [*warnings, f"{where}: {text}; a law needs at least two"]
        return entry
    if len(chosen) == 2:
        warnings.append(f"{where}: two budgets only; nothing checks that the law is a power law")
    log_c = np.log([profiles[i].flops for i in chosen])
    linear = method == "isoflop_raw_linear"
    law = _laws(log_c, [found[i] for i in chosen], linear)
    entry["N_opt"] = {"A": float(np.exp(law["log_A"][0])), "a": float(law["a"][0])}
    entry["D_opt"] = {"B": float(np.exp(law["log_B"][0])), "b": float(law["b"][0])}
    entry["L_opt"] = {"K": float(np.exp(law["log_K"][0])), "c": float(law["c"][0])}
    entry["fitted_range"] = {
        "flops": [float(np.exp(log_c.min())), float(np.exp(log_c.max()))],
        "n_params": _ends([profiles[i].log_n for i in chosen]),
        "tokens": _ends([profiles[i].log_d for i in chosen]),
    }
    if spread is not None:
        replicates = _laws(log_c, [spread[i] for i in chosen], linear)
        entry["ci95"] = law_intervals(replicates)
        entry["bootstrap"] = {
            **sample(replicates),
            "n": len(replicates["a"]),
            "failed": int(np.isnan(replicates["a"]).sum()),
        }
    entry["warnings"] = warnings
    return entry


def _minima(
    profile: Profile, losses: Array, parabola: bool, rng: np.random.Generator | None
) -> Minima:
    return parabola_minima(profile, losses) if parabola else raw_minima(profile, losses, rng)


def _shifted(profile: Profile, minima: Minima, by: Array) -> Minima:
    log_n = minima.log_n + by
    log_d = profile.tokens_at(np.where(np.isnan(log_n), profile.log_n[0], log_n))
    return replace(minima, log_n=log_n, log_d=np.where(np.isnan(log_n), np.nan, log_d))


def _laws(log_c: Array, minima: Sequence[Minima], linear: bool) -> dict[str, Array]:
    fit = fit_linear if linear else fit_loglog

    def power(log_y: Array) -> tuple[Array, Array]:
        failed = ~np.isfinite(log_y).all(axis=1)
        first, second = fit(log_c, np.where(failed[:, None], 0.0, log_y))
        return np.where(failed, np.nan, first), np.where(failed, np.nan, second)

    log_a, a = power(np.column_stack([m.log_n for m in minima]))
    log_b, b = power(np.column_stack([m.log_d for m in minima]))
    loss = np.column_stack([m.loss for m in minima])
    # A vertex far outside can lie below zero; no logarithm, so the replicate counts as failed.
    log_k, minus_c = power(np.log(np.where(loss > 0, loss, np.nan)))
    return {"log_A": log_a, "a": a, "log_B": log_b, "b": b, "log_K": log_k, "c": -minus_c}


def _point(
    profile: Profile, minimum: Minima, spread: Minima | None
) -> tuple[dict[str, Any], str | None]:
    log_n = float(minimum.log_n[0])
    raw = bool(np.isnan(minimum.curvature[0]) and np.isfinite(log_n))
    concave = not np.isfinite(log_n)
    sizes = profile.log_n if raw else profile.log_n[profile.near]
    low, high = sizes[0], sizes[-1]
    edge = concave or (log_n <= low or log_n >= high)
    point: dict[str, Any] = {
        "budget": profile.budget,
        "flops": profile.flops,
        "N_opt": None if concave else _exp(log_n),
        "D_opt": None if concave else _exp(float(minimum.log_d[0])),
        "loss": None if concave else float(minimum.loss[0]),
        "at_edge": bool(edge),
        "curvature": None if raw or concave else float(minimum.curvature[0]),
        "n_sizes": len(profile.log_n),
        "runs": list(profile.run_ids),
        "n_fitted": len(sizes),
        "N_opt_ci95": None,
        "D_opt_ci95": None,
        "loss_ci95": None,
    }
    if spread is not None:
        point["N_opt_ci95"] = [_exp(end) for end in interval(spread.log_n)]
        point["D_opt_ci95"] = [_exp(end) for end in interval(spread.log_d)]
        point["loss_ci95"] = interval(spread.loss)
    if concave:
        return point, "the parabola is concave, so the profile shows no minimum; not used"
    side = "below the smallest" if log_n <= low else "above the largest"
    if edge and raw:
        which = "smallest" if log_n <= low else "largest"
        return point, f"the {which} size has the lowest loss; the optimum may lie beyond it"
    if edge:
        return (
            point,
            f"the parabola's minimum lies {side} fitted size ({_exp(log_n):.3g}); not used",
        )
    return point, None


def _exp(value: float | None) -> float | None:
    return None if value is None or abs(value) > 700 else float(np.exp(value))


def _ends(logs: Sequence[Array]) -> list[float]:
    return [
        float(np.exp(min(x.min() for x in logs))),
        float(np.exp(max(x.max() for x in logs))),
    ]
