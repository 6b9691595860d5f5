"""`isoflop_joint`: one profile shape for all budgets, N_opt a power law of C, a level per budget.

Where a parabola per budget spends three parameters on each profile, all budgets share the five
of `linex` here; only their levels are free. Budgets with few or flat points then take their
curvature and asymmetry from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise, choose_noise, noise_entry, noise_parts, seed_noise
from plmscale.laws.isoflop import linex
from plmscale.laws.isoflop.entry import law_entry, no_law, point_entry
from plmscale.laws.isoflop.powerlaw import scatter
from plmscale.laws.isoflop.profiles import Minima, Profile, build_profiles

Array = NDArray[np.float64]

METHOD = "isoflop_joint"
# With fewer points than parameters and these, curvature alone is fitted: all profiles are the
# same parabola, and what is not known of their shape widens the intervals only.
SPARE_POINTS = 2


@dataclass(frozen=True)
class JointFit:
    """Shape (6,) in `linex.NAMES`' order, levels (budgets,), and what the residuals tell.

    `sd` is the noise Huber's threshold follows from, `squares` with `dof` the noise that enters
    the intervals, `scatter` the standard deviation in ln N with which the budgets' own minima
    leave the power law beyond noise. `rigid` says that g, s0 and s1 were not fitted.
    """

    theta: Array
    levels: Array
    sd: float
    squares: float
    dof: float
    scatter: float
    rigid: bool


def fit_joint(
    objective: str,
    rows: pd.DataFrame,
    n_boot: int,
    rng: np.random.Generator,
    noise_sd: float | None = None,
) -> dict[str, Any]:
    """Fit the joint law to the selected rows of one objective; returns its entry of laws.json.

    `rows` are those of `select` (losses in nats a token, column `c` the FLOPs that count),
    `noise_sd` a noise of one loss that the user knows. Fewer than two budgets with three sizes
    each, or too few points in all, give an entry without a law and a warning that says so.
    """
    where = f"{objective} {METHOD}"
    profiles, remarks, notes = build_profiles(rows)
    warnings = [f"{where}: {text}" for text in remarks]
    problem = _too_little(profiles)
    if problem:
        return _empty(profiles, [*warnings, f"{where}: {problem}"], notes)
    table = _table(profiles)
    losses = np.concatenate([profile.loss for profile in profiles])
    fit = fit_shape(losses, table)
    found = _minima(profiles, table, fit.theta[None], fit.levels[None])
    seeds = seed_noise(rows)
    known = (seeds, fit.squares, fit.dof, rows["loss_sd"].to_numpy(dtype=float), noise_sd)
    noise = choose_noise(*known)
    spread = None
    if noise.known and n_boot:
        theta, levels = _replicate(fit, table, noise, n_boot, rng)
        spread = _minima(profiles, table, theta, levels)
    points = []
    for i, profile in enumerate(profiles):
        draws = None if spread is None else spread[i]
        point = point_entry(profile, found[i], draws, profile.log_n)
        points.append({**point, "used": True})
    entry = law_entry(where, profiles, points, found, spread, warnings)
    outside = [f"{p['budget']:.3g}" for p in points if p["at_edge"]]
    if outside:
        entry["warnings"].append(
            f"{where}: the minimum lies outside the sizes of budget {', '.join(outside)}; there "
            "it rests on the other budgets"
        )
    if fit.rigid:
        entry["warnings"].append(
            f"{where}: {len(losses)} points in {len(profiles)} budgets are too few to fit how the "
            "profiles' curvature and asymmetry change; they were taken as one parabola"
        )
    low, high = table.bounds()
    if np.isclose(fit.theta, low).any() or np.isclose(fit.theta, high).any():
        entry["warnings"].append(
            f"{where}: the shape ended at a bound; these profiles do not show one common minimum"
        )
    _, _, log_k, g, s0, s1 = fit.theta
    entry["shape"] = {
        "form": "k (exp(s u) - 1 - s u) / s^2, u = ln N - ln N_opt",
        "flops": float(np.exp(np.mean([np.log(profile.flops) for profile in profiles]))),
        "k": float(np.exp(log_k)), "g": float(g), "s": float(s0), "s_per_ln_c": float(s1),
    }  # fmt: skip
    entry["noise"] = noise_entry(
        noise, noise_parts(*known),
        "part of every bootstrap refit",
        scatter={"sd": fit.scatter, "unit": "ln N", "source": "minima of single budgets that "
                 "leave the power law by more than noise"},
    )  # fmt: skip
    entry["notes"] = notes
    return entry


def fit_shape(losses: Array, table: linex.Table) -> JointFit:
    """Fit shape and levels to losses (points,), estimating the noise on the way."""
    rigid = len(losses) < len(table.c) + len(linex.NAMES) + SPARE_POINTS
    # From a first guess on, the noise decides about threshold and penalty, and the fit about the
    # noise, until both stay.
    sd = 0.05 * float(np.std(losses))
    floor = 1e-9 * float(np.abs(losses).mean())
    theta = linex.starts(losses, table, rigid)
    for _ in range(25):
        ridge = linex.penalty(sd, rigid)
        same = np.repeat(losses[None], len(theta), axis=0)
        theta, levels, value = linex.refine(theta, same, table, sd, np.zeros_like(theta), ridge)
        best = [int(np.argmin(value))]
        theta, levels = theta[best], levels[best]
        residual = _residual(losses, theta, levels, table)
        dof = max(len(losses) - _parameters(theta, table, ridge), 1.0)
        old, sd = sd, max(float(np.sqrt(linex.robust_variance(residual, dof))), floor)
        if abs(old - sd) < 1e-4 * old:
            break
    effective = linex.effective_sd(residual, sd)
    beyond = _scatter(theta, residual, table, sd)
    return JointFit(theta[0], levels[0], sd, effective**2 * dof, dof, beyond, rigid)


def _replicate(
    fit: JointFit, table: linex.Table, noise: Noise, n_boot: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Refit simulated tables; returns theta (n_boot, 6) and levels (n_boot, budgets)."""
    moved = np.repeat(fit.theta[None], n_boot, axis=0)
    offset = fit.scatter * rng.standard_normal((n_boot, len(table.c)))
    losses = fit.levels[table.budget] + _rise_with_offsets(moved, offset, table)
    losses = losses + noise.draw(rng, n_boot, len(table.log_n)) / np.sqrt(table.weight)
    # A penalty whose centre is drawn as well makes the replicates as wide as the penalty is vague.
    prior = np.where(np.isfinite(linex.PRIOR_SD), linex.PRIOR_SD, 0.0)
    centre = fit.theta + prior * rng.standard_normal(moved.shape)
    sd = max(fit.sd, noise.sd)
    ridge = linex.penalty(sd, fit.rigid)
    theta, levels, _ = linex.refine(moved, losses, table, sd, centre, ridge)
    low, high = table.bounds()
    lost = (np.isclose(theta, low) | np.isclose(theta, high))[:, :3].any(axis=1)
    theta[lost], levels[lost] = np.nan, np.nan
    return theta, levels


def _rise_with_offsets(theta: Array, offset: Array, table: linex.Table) -> Array:
    rises = np.empty((len(theta), len(table.log_n)))
    for i in range(len(table.c)):
        here = table.budget == i
        one = linex.Table(table.log_n[here], table.budget[here], table.weight[here], table.c)
        shifted = theta.copy()
        shifted[:, 0] += offset[:, i]
        rises[:, here] = linex.rise(shifted, one)
    return rises


def _residual(losses: Array, theta: Array, levels: Array, table: linex.Table) -> Array:
    fitted = levels[0][table.budget] + linex.rise(theta, table)[0]
    return (losses - fitted) * np.sqrt(table.weight)


def _parameters(theta: Array, table: linex.Table, ridge: Array) -> float:
    """Count the parameters the points really decide: penalised ones count in part."""
    slopes = linex.slopes(theta, table)[1][0] * np.sqrt(table.weight)[:, None]
    hot = (table.budget[:, None] == np.arange(len(table.c))) * np.sqrt(table.weight)[:, None]
    slopes = slopes - hot @ np.linalg.lstsq(hot, slopes, rcond=None)[0]
    information = slopes.T @ slopes
    share = np.linalg.pinv(information + np.diag(ridge), hermitian=True) @ information
    return len(table.c) + float(np.trace(share))


def _scatter(theta: Array, residual: Array, table: linex.Table, sd: float) -> float:
    """Estimate how far single budgets' minima stray from the power law beyond noise, in ln N.

    One Gauss-Newton step gives each budget's own offset and its error.
    """
    count = len(table.c)
    weight = linex.huber_weight(residual, sd)
    slope = linex.slopes(theta, table)[1][0, :, 0] * np.sqrt(table.weight)
    offsets, precision = np.zeros(count), np.zeros(count)
    for i in range(count):
        here = table.budget == i
        root = np.sqrt(table.weight[here])
        level = (weight[here] * root * slope[here]).sum() / (weight[here] * root**2).sum()
        free = slope[here] - level * root
        information = float((weight[here] * free**2).sum())
        offsets[i] = float((weight[here] * free * residual[here]).sum()) / max(information, 1e-300)
        precision[i] = information / sd**2
    return scatter(table.c, offsets, precision)


def _table(profiles: Sequence[Profile]) -> linex.Table:
    log_c = np.log([profile.flops for profile in profiles])
    return linex.Table(
        np.concatenate([profile.log_n for profile in profiles]),
        np.repeat(np.arange(len(profiles)), [len(profile.log_n) for profile in profiles]),
        np.concatenate([profile.weight for profile in profiles]),
        log_c - log_c.mean(),
    )


def _minima(
    profiles: Sequence[Profile], table: linex.Table, theta: Array, levels: Array
) -> list[Minima]:
    minima = []
    for i, profile in enumerate(profiles):
        c = table.c[i]
        log_n = theta[:, 0] + theta[:, 1] * c
        there = np.isfinite(log_n)
        log_d = profile.tokens_at(np.where(there, log_n, profile.log_n[0]))
        curvature = np.exp(theta[:, 2] - theta[:, 3] * c)
        minima.append(
            Minima(log_n, np.where(there, log_d, np.nan), levels[:, i], curvature,
                   np.ones(len(theta)))
        )  # fmt: skip
    return minima


def _too_little(profiles: Sequence[Profile]) -> str | None:
    count = len(profiles)
    if count == 0:
        return "no budget has a usable profile; a law needs at least two"
    if count == 1:
        return f"only one budget ({profiles[0].budget:.3g}) has a usable profile; a law needs two"
    return None


def _empty(profiles: Sequence[Profile], warnings: list[str], notes: list[str]) -> dict[str, Any]:
    ids = [name for profile in profiles for name in profile.run_ids]
    return {
        **no_law(), "ci95": {}, "n_runs": len(ids), "points": [], "warnings": warnings,
        "notes": notes,
    }  # fmt: skip
