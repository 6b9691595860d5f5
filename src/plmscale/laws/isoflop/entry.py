"""The entry of laws.json that optima per budget give: points, three power laws, intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.laws.bootstrap import interval, law_intervals, sample
from plmscale.laws.isoflop.bend import bend_text, find_bend
from plmscale.laws.isoflop.powerlaw import fit_loglog
from plmscale.laws.isoflop.profiles import Minima, Profile

Array = NDArray[np.float64]
Fitter = Callable[[Array, Array, Array], tuple[Array, Array]]


def no_law() -> dict[str, Any]:
    """Return the laws of an entry that has none."""
    return {
        "N_opt": {"A": None, "a": None},
        "D_opt": {"B": None, "b": None},
        "L_opt": {"K": None, "c": None},
    }


def law_entry(
    where: str,
    profiles: Sequence[Profile],
    points: list[dict[str, Any]],
    found: Sequence[Minima],
    spread: Sequence[Minima] | None,
    warnings: list[str],
    fit: Fitter = fit_loglog,
) -> dict[str, Any]:
    """Fit power laws through the optima of the profiles whose point has `used`; return an entry.

    `found` holds one optimum a profile, `spread` the same for every bootstrap replicate, each
    with the weight its place deserves; `fit` is the space the power laws are fitted in.
    """
    chosen = [i for i, point in enumerate(points) if point["used"]]
    ids = [name for i in chosen for name in profiles[i].run_ids]
    entry: dict[str, Any] = {**no_law(), "ci95": {}, "n_runs": len(ids), "points": points}
    entry["tokens_from"] = "the table's tokens, scaled to one C and interpolated in ln N"
    if len(chosen) < 2:
        text = (
            "no budget has a usable profile" if not chosen
            else f"only one budget ({profiles[chosen[0]].budget:.3g}) has a usable minimum"
        )  # fmt: skip
        entry["warnings"] = [*warnings, f"{where}: {text}; a law needs at least two"]
        return entry
    if len(chosen) == 2:
        warnings = [
            *warnings, f"{where}: two budgets only; nothing checks that the law is a power law"
        ]  # fmt: skip
    log_c = np.log([profiles[i].flops for i in chosen])
    law = power_laws(log_c, [found[i] for i in chosen], fit)
    entry["N_opt"] = {"A": float(np.exp(law["log_A"][0])), "a": float(law["a"][0])}
    entry["D_opt"] = {"B": float(np.exp(law["log_B"][0])), "b": float(law["b"][0])}
    entry["L_opt"] = {"K": float(np.exp(law["log_K"][0])), "c": float(law["c"][0])}
    entry["fitted_range"] = {
        "flops": [float(np.exp(log_c.min())), float(np.exp(log_c.max()))],
        "n_params": _ends([profiles[i].log_n for i in chosen]),
        "tokens": _ends([profiles[i].log_d for i in chosen]),
    }
    if spread is not None:
        replicates = power_laws(log_c, [spread[i] for i in chosen], fit)
        entry["ci95"] = law_intervals(replicates)
        entry["bootstrap"] = {
            **sample(replicates),
            "n": len(replicates["a"]),
            "failed": int(np.isnan(replicates["a"]).sum()),
        }
        bend = _bend(log_c, [found[i] for i in chosen], [spread[i] for i in chosen], law)
        if bend is not None:
            entry["bend"] = bend
            warnings = [*warnings, f"{where}: {bend_text(bend)}"]
    entry["warnings"] = warnings
    return entry


def _bend(
    log_c: Array, found: Sequence[Minima], spread: Sequence[Minima], law: dict[str, Array]
) -> dict[str, float] | None:
    loss = np.array([minima.loss[0] for minima in found])
    if not (loss > 0).all():
        return None
    sd = np.array([np.nanstd(minima.loss) for minima in spread]) / loss
    return find_bend(log_c, np.log(loss), sd, float(law["c"][0]), float(law["log_K"][0]))


def power_laws(log_c: Array, minima: Sequence[Minima], fit: Fitter) -> dict[str, Array]:
    """Return log A, a, log B, b, log K and c, each (replicates,), from the optima per budget.

    An optimum that is not there has no weight; a replicate with fewer than two fails (NaN).
    """
    weight = np.column_stack([m.weight for m in minima])

    def power(log_y: Array) -> tuple[Array, Array]:
        there = np.isfinite(log_y) & (weight > 0)
        failed = there.sum(axis=1) < 2
        first, second = fit(
            log_c,
            np.where(there, log_y, 0.0),
            np.where(failed[:, None], 1.0, np.where(there, weight, 0.0)),
        )
        return np.where(failed, np.nan, first), np.where(failed, np.nan, second)

    log_a, a = power(np.column_stack([m.log_n for m in minima]))
    log_b, b = power(np.column_stack([m.log_d for m in minima]))
    loss = np.column_stack([m.loss for m in minima])
    # A vertex far outside can lie below zero; there is no logarithm of it.
    log_k, minus_c = power(np.log(np.where(loss > 0, loss, np.nan)))
    return {"log_A": log_a, "a": a, "log_B": log_b, "b": b, "log_K": log_k, "c": -minus_c}


def point_entry(
    profile: Profile, minimum: Minima, spread: Minima | None, sizes: Array
) -> dict[str, Any]:
    """Describe one budget's optimum; `sizes` are the ln N in order that it was found from."""
    log_n = float(minimum.log_n[0])
    missing = not np.isfinite(log_n)
    curvature = float(minimum.curvature[0])
    point: dict[str, Any] = {
        "budget": profile.budget,
        "flops": profile.flops,
        "N_opt": None if missing else exp(log_n),
        "D_opt": None if missing else exp(float(minimum.log_d[0])),
        "loss": None if missing else float(minimum.loss[0]),
        "at_edge": bool(missing or log_n <= sizes[0] or log_n >= sizes[-1]),
        "curvature": curvature if np.isfinite(curvature) and not missing else None,
        "n_sizes": len(profile.log_n),
        "runs": list(profile.run_ids),
        "n_fitted": len(sizes),
        "N_opt_ci95": None,
        "D_opt_ci95": None,
        "loss_ci95": None,
    }
    if spread is not None:
        point["N_opt_ci95"] = [exp(end) for end in interval(spread.log_n)]
        point["D_opt_ci95"] = [exp(end) for end in interval(spread.log_d)]
        point["loss_ci95"] = interval(spread.loss)
    return point


def exp(value: float | None) -> float | None:
    """Return e^value, None where it is None or overflows."""
    return None if value is None or abs(value) > 700 else float(np.exp(value))


def _ends(logs: Sequence[Array]) -> list[float]:
    return [
        float(np.exp(min(x.min() for x in logs))),
        float(np.exp(max(x.max() for x in logs))),
    ]
