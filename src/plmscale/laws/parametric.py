"""L(N, D) = E + A / N^alpha + B / D^beta with intervals and a look at what the data identify.

Hoffmann et al. 2022, approach 3: the sum over runs of Huber(delta = 1e-3) of ln L_fit - ln L.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2

from plmscale.laws.bootstrap import Noise, choose_noise, seed_noise
from plmscale.laws.hoffmann import (
    EXPONENT_BOUNDS,
    HIGH,
    LOW,
    decrement,
    grid_starts,
    polish,
    predict,
    refine,
)

Array = NDArray[np.float64]

MIN_RUNS = 7
_NAMES = ("A", "B", "E", "alpha", "beta")
# A 95 % range of an exponent that spans more than this factor says little about it.
WIDE = 4.0
# One more step may promise this share of the objective and the fit still counts as finished.
CONVERGED = 1e-4


@dataclass(frozen=True)
class ParametricFit:
    """Estimate and replicates; `theta` columns are log A, log B, log E, alpha, beta.

    `theta` is (5,), `replicates` (replicates, 5). `flops_per` is k in C = k N D (6 unless
    attention is counted). `profile_range` gives, per exponent, the values that a likelihood
    ratio test at 95 % does not reject.
    """

    theta: Array
    replicates: Array
    objective: float
    converged: bool
    at_bounds: tuple[str, ...]
    noise: Noise
    flops_per: float
    profile_range: dict[str, list[float]]
    warnings: tuple[str, ...]


def fit_parametric(runs: pd.DataFrame, n_boot: int, rng: np.random.Generator) -> ParametricFit:
    """Fit the selected rows of one objective (columns n_params, tokens, c, loss, loss_sd)."""
    log_n = np.log(runs["n_params"].to_numpy(dtype=float))
    log_d = np.log(runs["tokens"].to_numpy(dtype=float))
    loss = runs["loss"].to_numpy(dtype=float)
    log_loss = np.log(loss)
    centre = (log_n.mean(), log_d.mean())
    u, v = log_n - centre[0], log_d - centre[1]
    theta, value, converged = _global_fit(u, v, loss)

    prediction = predict(theta[None], u, v)[0][0]
    spread = float(((prediction - log_loss) ** 2).sum())
    seeds = seed_noise(runs)
    relative = None if seeds is None else Noise(seeds.sd / loss.mean(), seeds.dof, seeds.source)
    loss_sd = runs["loss_sd"].to_numpy(dtype=float) / loss
    noise = choose_noise(relative, spread, len(loss) - 5, loss_sd)
    if noise.known and n_boot:
        replicates = _replicates(theta, prediction, u, v, noise, n_boot, rng)
    else:
        replicates = np.empty((0, 5))

    ratio = runs["c"].to_numpy(dtype=float) / np.exp(log_n + log_d)
    warnings = []
    if ratio.max() / ratio.min() > 1.1:
        warnings.append(
            f"FLOPs per parameter and token vary from {ratio.min():.3g} to {ratio.max():.3g}; "
            f"optima assume C = {np.median(ratio):.3g} N D"
        )
    at_bounds = _at_bounds(theta)
    ranges = {
        name: _profile_range(i, theta, value, u, v, log_loss, noise)
        for name, i in (("alpha", 3), ("beta", 4))
    }
    warnings += _warnings(runs, theta, loss, converged, at_bounds, ranges)
    return ParametricFit(
        theta=_uncentred(theta[None], centre)[0],
        replicates=_uncentred(replicates, centre),
        objective=value,
        converged=converged,
        at_bounds=at_bounds,
        noise=noise,
        flops_per=float(np.median(ratio)),
        profile_range=ranges,
        warnings=tuple(warnings),
    )


def optimum(theta: Array, flops_per: float) -> dict[str, Array]:
    """Return the compute-optimal laws of parameter sets (sets, 5), each entry (sets,).

    With C = k N D the minimum of L at fixed C is N = G (C/k)^a, D = (C/k)^b / G,
    G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta), b = 1 - a
    (Hoffmann et al. 2022, eq. 4), and there L = E + K C^-c with c = alpha beta / (alpha + beta).
    """
    log_a, log_b, _, alpha, beta = theta.T
    total = alpha + beta
    a, b, c = beta / total, alpha / total, alpha * beta / total
    log_g = (np.log(alpha / beta) + log_a - log_b) / total
    log_k = np.log(flops_per)
    log_na, log_db = log_g - a * log_k, -log_g - b * log_k
    log_excess = np.logaddexp(log_a - alpha * log_na, log_b - beta * log_db)
    return {"log_A": log_na, "a": a, "log_B": log_db, "b": b, "log_K": log_excess, "c": c}


def _uncentred(theta: Array, centre: tuple[float, float]) -> Array:
    moved = theta.copy()
    moved[:, 0] += theta[:, 3] * centre[0]
    moved[:, 1] += theta[:, 4] * centre[1]
    return moved


def _global_fit(u: Array, v: Array, loss: Array) -> tuple[Array, float, bool]:
    starts = grid_starts(u, v, loss[None], steps=40, keep=6)[0]
    log_loss = np.log(loss)
    refined, values = refine(starts, u, v, np.tile(log_loss, (len(starts), 1)), rounds=400)
    order = np.argsort(values)
    polished = [polish(refined[i], u, v, log_loss) for i in order[:3]]
    theta, value = min(
        [(refined[order[0]], float(values[order[0]])), *polished], key=lambda found: found[1]
    )
    return theta, value, decrement(theta, u, v, log_loss) < CONVERGED


def _replicates(
    theta: Array,
    prediction: Array,
    u: Array,
    v: Array,
    noise: Noise,
    n_boot: int,
    rng: np.random.Generator,
) -> Array:
    log_loss = prediction + noise.draw(rng, n_boot, len(u))
    starts = grid_starts(u, v, np.exp(log_loss), steps=16)[:, 0]
    found, value = refine(starts, u, v, log_loss)
    near, near_value = refine(np.tile(theta, (n_boot, 1)), u, v, log_loss)
    return np.where((near_value < value)[:, None], near, found)


def _at_bounds(theta: Array) -> tuple[str, ...]:
    tolerance = 1e-3
    return tuple(
        name
        for name, value, low, high in zip(_NAMES, theta, LOW, HIGH, strict=True)
        if value <= low + tolerance or value >= high - tolerance
    )


def _profile_range(
    index: int, theta: Array, value: float, u: Array, v: Array, log_loss: Array, noise: Noise
) -> list[float]:
    if not noise.known:
        return list(EXPONENT_BOUNDS)
    grid = np.geomspace(*EXPONENT_BOUNDS, 81)
    starts = np.tile(theta, (len(grid), 1))
    starts[:, index] = grid
    # From a floor at zero the objective has no slope back up, so a second set starts with one.
    raised = starts.copy()
    raised[:, 2] = log_loss.min() - np.log(2.0)
    raised[:, :2] -= np.log(2.0)
    target = np.tile(log_loss, (2 * len(grid), 1))
    _, both = refine(np.vstack([starts, raised]), u, v, target, (index,), rounds=200)
    profile = both.reshape(2, len(grid)).min(axis=0)
    # Near the optimum the objective is half the sum of squares, so this is the usual cut.
    inside = grid[profile <= value + chi2.ppf(0.95, 1) / 2 * noise.sd**2]
    if not len(inside):
        return [float(theta[index]), float(theta[index])]
    return [float(inside.min()), float(inside.max())]


def _warnings(
    runs: pd.DataFrame,
    theta: Array,
    loss: Array,
    converged: bool,
    at_bounds: tuple[str, ...],
    ranges: dict[str, list[float]],
) -> list[str]:
    found = []
    if len(runs) < 2 * 5:
        found.append(f"only {len(runs)} runs for five parameters")
    if runs["n_params"].nunique() < 3 or runs["tokens"].nunique() < 3:
        found.append(
            "fewer than three different sizes or token counts: the exponents cannot be told apart"
        )
    if not converged:
        found.append("the fit did not converge")
    if names := [name for name in at_bounds if name != "E"]:
        found.append(f"{', '.join(names)} ended at the bounds of the search")
    if np.exp(theta[2]) < 1e-2 * loss.min():
        found.append(
            "E ended at zero: these losses do not show a floor, so the exponents carry it instead"
        )
    for name, (low, high) in ranges.items():
        if high > WIDE * low:
            found.append(
                f"{name} is hardly identified: the objective barely rises "
                f"from {low:.2g} to {high:.2g}"
            )
    return found
