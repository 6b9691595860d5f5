"""IsoFLOP profiles: the best size at each budget, and power laws through the optima.

Hoffmann et al. 2022, approach 2. N_opt = A C^a, D_opt = B C^b, L_opt = K C^-c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Rows without a budget belong together when their FLOPs lie within this ratio of the group's
# least: wide enough for budgets rounded to whole steps, far below a factor 3 between budgets.
SAME_BUDGET = 1.25
MIN_SIZES = 3
# Rounding to whole steps moves C by less; beyond it losses are brought to one C first.
SAME_FLOPS = 0.01
# Real profiles rise exponentially on both sides, so sizes more than a factor WINDOW from the one
# with the lowest loss bend a parabola and say little about its minimum. The MIN_POINTS nearest
# sizes are kept whatever their distance. Both are settled by benchmarks/law_coverage.py.
WINDOW = 4.0
MIN_POINTS = 5


@dataclass(frozen=True)
class Profile:
    """One budget: points in order of size. All logs are natural.

    `flops` is the C of the profile; `log_n`, `loss`, `log_d` and `weight` (runs averaged in the
    point) are (points,); `log_d` holds the tokens that spend `flops` at that size.
    """

    budget: float
    flops: float
    log_n: Array
    loss: Array
    log_d: Array
    weight: Array
    run_ids: tuple[str, ...]
    loss_sd: Array

    @property
    def near(self) -> NDArray[np.bool_]:
        """Which points a parabola is fitted to: (points,)."""
        distance = np.abs(self.log_n - self.log_n[np.argmin(self.loss)])
        nearest = np.sort(distance)[min(MIN_POINTS, len(distance)) - 1]
        return distance <= max(np.log(WINDOW), nearest) + 1e-9

    def tokens_at(self, log_n: Array) -> Array:
        """Interpolate log tokens at `log_n` (any shape), straight lines beyond the ends.

        With C = 6 N D this is C / 6N exactly.
        """
        left = np.clip(np.searchsorted(self.log_n, log_n) - 1, 0, len(self.log_n) - 2)
        slope = np.diff(self.log_d) / np.diff(self.log_n)
        return self.log_d[left] + slope[left] * (log_n - self.log_n[left])


@dataclass(frozen=True)
class Minima:
    """Optimum of one profile for every replicate: (replicates,) each; NaN where there is none.

    `weight` is what the optimum counts for in a power law: one over the variance of its ln N.
    """

    log_n: Array
    log_d: Array
    loss: Array
    curvature: Array
    weight: Array


def group_budgets(runs: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Return the budget of each row and remarks on how it was found.

    The column `budget` decides; if it is empty throughout, rows whose FLOPs (column `c`) lie
    within a factor SAME_BUDGET of the group's least share the geometric mean of their FLOPs.
    """
    if runs["budget"].notna().any():
        return runs["budget"], []
    flops = np.sort(runs["c"].to_numpy())
    starts = [flops[0]]
    for value in flops:
        if value > starts[-1] * SAME_BUDGET:
            starts.append(value)
    group = np.searchsorted(starts, runs["c"].to_numpy(), side="right") - 1
    means = np.exp(runs.groupby(group)["c"].agg(lambda c: np.log(c).mean()))
    remark = f"no column budget: runs whose FLOPs lie within a factor {SAME_BUDGET:g} were grouped"
    return pd.Series(means.loc[group].to_numpy(), index=runs.index), [remark]


def build_profiles(runs: pd.DataFrame) -> tuple[list[Profile], list[str], list[str]]:
    """Turn selected rows of one objective into profiles in order of budget.

    Returns the profiles, warnings, and notes (what a reader may know but need not worry about).

    Runs of one size in one budget (seeds) are averaged. Where the chosen FLOP count differs
    between the sizes of a budget by more than SAME_FLOPS, losses are moved to the budget's mean
    C along the frontier: by the envelope theorem dL_opt / dln C is, at the optimum, the slope of
    the loss at fixed N.
    """
    budgets, notes = group_budgets(runs)
    remarks: list[str] = []
    groups = []
    counts = runs.groupby(budgets)["n_params"].nunique()
    whole = bool((counts >= MIN_SIZES).any())
    for budget, rows in runs.groupby(budgets):
        count = int(counts[budget])
        if count < MIN_SIZES:
            # A lone run beside whole profiles is a side study, not a gap in the grid.
            (notes if whole and count == 1 else remarks).append(
                f"budget {budget:.3g}: only {count} size{'s' if count > 1 else ''}, a profile "
                f"needs {MIN_SIZES}; not used ({', '.join(rows['run_id'])})"
            )
            continue
        groups.append((float(budget), rows, np.exp(np.log(rows["c"]).mean())))
    if budgets.isna().any():
        lost = runs.loc[budgets.isna(), "run_id"]
        notes.append(f"{len(lost)} runs have no budget and are in no profile: {', '.join(lost)}")
    spread = max(
        (np.abs(np.log(rows["c"] / centre)).max() for _, rows, centre in groups), default=0.0
    )
    slope = 0.0
    if spread > SAME_FLOPS:
        slope = _frontier_slope(groups)
        remarks.append(
            f"FLOPs differ by up to {np.expm1(spread):.0%} within a budget; losses were moved "
            f"to one C along the frontier ({slope:.3g} nats per unit of ln C)"
            if slope
            else f"FLOPs differ by up to {np.expm1(spread):.0%} within a budget and one budget "
            "alone does not tell how loss changes with C; taken as they are"
        )
    return (
        [_profile(budget, rows, centre, slope) for budget, rows, centre in groups],
        remarks,
        notes,
    )


def _frontier_slope(groups: list) -> float:
    if len(groups) < 2:
        return 0.0
    log_c = np.array([np.log(centre) for _, _, centre in groups])
    best = np.array([rows["loss"].min() for _, rows, _ in groups])
    return float(min(np.polyfit(log_c, best, 1)[0], 0.0))


def _profile(budget: float, rows: pd.DataFrame, flops: float, slope: float) -> Profile:
    # Means over the runs of a size are taken in one order, whatever the table's.
    ordered = rows.sort_values(["n_params", "run_id"])
    shift = np.log(flops / ordered["c"].to_numpy())
    sizes, point, weight = np.unique(
        ordered["n_params"].to_numpy(dtype=float), return_inverse=True, return_counts=True
    )
    loss_sd = ordered["loss_sd"].to_numpy(dtype=float)
    known = np.isfinite(loss_sd)
    with np.errstate(invalid="ignore"):
        mean_sd = np.bincount(point, np.where(known, loss_sd, 0.0)) / np.bincount(point, known)
    return Profile(
        budget=budget,
        flops=float(flops),
        log_n=np.log(sizes),
        loss=np.bincount(point, ordered["loss"].to_numpy() + slope * shift) / weight,
        log_d=np.bincount(point, np.log(ordered["tokens"].to_numpy()) + shift) / weight,
        weight=weight.astype(float),
        run_ids=tuple(ordered["run_id"]),
        loss_sd=mean_sd,
    )


def parabola_coefficients(profile: Profile, losses: Array) -> Array:
    """Fit loss = k0 + k1 u + k2 u^2, u = ln N - mean(ln N), to each row of `losses`.

    `losses` is (replicates, points), of which the `near` ones count; returns (replicates, 3).
    """
    root = np.sqrt(profile.weight * profile.near)
    return (losses * root) @ _parabola_solver(profile).T


def _parabola_solver(profile: Profile) -> Array:
    """Return the (3, points) matrix from losses times root weight to coefficients."""
    u = profile.log_n - profile.log_n.mean()
    root = np.sqrt(profile.weight * profile.near)
    return np.linalg.pinv(np.column_stack([np.ones_like(u), u, u * u]) * root[:, None])


def parabola_values(profile: Profile, coefficients: Array) -> Array:
    """Evaluate parabolas (replicates, 3) at the profile's sizes: (replicates, points)."""
    u = profile.log_n - profile.log_n.mean()
    return coefficients @ np.vstack([np.ones_like(u), u, u * u])


def parabola_minima(profile: Profile, losses: Array, sd: float = 1.0) -> Minima:
    """Locate the vertex for each row of `losses` (replicates, points); concave rows are NaN.

    `sd` is the noise of a loss. An optimum weighs what its own error allows: the vertex
    v = -k1 / 2 k2 has the variance sd^2 (0, 1, 2v) G (0, 1, 2v)' / 4 k2^2 with G the inverse of
    the normal equations, so a flat profile says little and a concave one nothing.
    """
    k0, k1, k2 = parabola_coefficients(profile, losses).T
    convex = k2 > 0
    safe = np.where(convex, k2, np.nan)
    vertex = -k1 / (2 * safe)
    log_n = profile.log_n.mean() + vertex
    log_d = profile.tokens_at(np.where(convex, log_n, profile.log_n[0]))
    solve = _parabola_solver(profile)
    toward = solve[1] + 2 * vertex[:, None] * solve[2]
    variance = sd**2 * (toward**2).sum(axis=1) / (4 * safe**2)
    weight = np.where(convex, 1 / variance, 0.0)
    return Minima(log_n, np.where(convex, log_d, np.nan), k0 - k1**2 / (4 * safe), 2 * k2, weight)


def asymmetry(profiles: Sequence[Profile]) -> tuple[Array, float, int]:
    """Measure how far the asymmetry of real profiles may pull each parabola's vertex in ln N.

    One cubic coefficient is shared by all profiles (each keeps its own parabola), and its effect
    is the way from a parabola's vertex to the minimum of its cubic, at most a factor e. Returns
    the shifts (profiles,), 0 where concave, and the residual sum of squares left after the cubic
    with its degrees of freedom.
    """
    squares, cross, cubes, dof = 0.0, 0.0, 0.0, 0
    parts = []
    for profile in profiles:
        u = profile.log_n - profile.log_n.mean()
        both = np.vstack([profile.loss, u**3])
        coefficients = parabola_coefficients(profile, both)
        residual = (both - parabola_values(profile, coefficients))[:, profile.near]
        weight = profile.weight[profile.near]
        squares += float(weight @ residual[0] ** 2)
        cross += float(weight @ (residual[0] * residual[1]))
        cubes += float(weight @ residual[1] ** 2)
        dof += int(profile.near.sum()) - 3
        parts.append(coefficients)
    if dof < 2 or cubes < 1e-12:
        return np.zeros(len(profiles)), squares, dof
    left = max(squares - cross**2 / cubes, 0.0)
    k3, error = cross / cubes, np.sqrt(left / (dof - 1) / cubes)
    shifts = []
    for loss, cube in parts:
        low, middle, high = (_cubic_shift(loss, cube, k3 + z * error) for z in (-1, 0, 1))
        # What the cubic shows, and what it may not show for noise.
        shifts.append(np.copysign(np.hypot(middle, (high - low) / 2), middle))
    return np.array(shifts), left, dof - 1


def _cubic_shift(loss: Array, cube: Array, k3: float) -> float:
    """Return the way from a parabola's vertex to the minimum once a cubic k3 u^3 is let in.

    `loss` and `cube` are the parabolas (3,) fitted to the losses and to u^3.
    """
    if loss[2] <= 0:
        return 0.0
    vertex = -loss[1] / (2 * loss[2])
    _, k1, k2 = loss - k3 * cube
    u = vertex
    for _ in range(8):
        bend = max(2 * k2 + 6 * k3 * u, 0.5 * loss[2])
        u = float(np.clip(u - (k1 + 2 * k2 * u + 3 * k3 * u * u) / bend, vertex - 1, vertex + 1))
    return u - vertex


def raw_minima(profile: Profile, losses: Array, rng: np.random.Generator | None = None) -> Minima:
    """Pick the size with the least loss for each row of `losses` (replicates, points).

    With `rng` the optimum is drawn evenly from the chosen size's cell (half-way to its
    neighbours in log N): a raw minimum does not know where between the sizes it lies, and
    an interval has to say so.
    """
    best = np.argmin(losses, axis=1)
    log_n = profile.log_n[best]
    if rng is not None:
        middle = (profile.log_n[1:] + profile.log_n[:-1]) / 2
        # At the ends a cell reaches as far out as it does in.
        low = np.r_[2 * profile.log_n[0] - middle[0], middle]
        high = np.r_[middle, 2 * profile.log_n[-1] - middle[-1]]
        log_n = low[best] + (high - low)[best] * rng.random(len(best))
    loss = losses[np.arange(len(best)), best]
    even = np.ones(len(best))
    return Minima(log_n, profile.tokens_at(log_n), loss, np.full(len(best), np.nan), even)
