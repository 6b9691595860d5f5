"""One profile shape for all budgets of an IsoFLOP table, fitted to many tables at once.

    loss = level[budget] + k (exp(s u) - 1 - s u) / s^2,   u = ln N - m - a c
    k = exp(log_k - g c),  s = s0 + s1 c,  c = ln C - its mean over the budgets

The curve is the LINEX function (Varian 1975): a parabola at s = 0, else linear on one side and
exponential on the other, with one minimum (at u = 0, where its second derivative is k) for any s.
It is what one end of the profile of E + A / N^alpha + B / D^beta becomes when the other exponent
goes to zero. docs/decisions.md holds the comparison with other shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAMES = ("m", "a", "log_k", "g", "s0", "s1")
# Where few sizes tell them, g, s0 and s1 are drawn to zero with these standard deviations: wide
# beside what the paper's profiles show (g -0.3 to -0.1, s0 -0.3 to 0.5, s1 -0.1 to 0.06) and what
# E + A / N^alpha + B / D^beta implies (g = alpha beta / (alpha + beta), s0 near beta - alpha).
PRIOR_SD = np.array([np.inf, np.inf, np.inf, 0.25, 0.5, 0.06])
# Huber's constant, in standard deviations: 95 % efficient for Gaussian noise.
CLIP = 1.345
# E min(z^2, CLIP^2) and P(|z| < CLIP) of a standard normal z.
_CLIPPED_SQUARE, _INSIDE = 0.7102, 0.8214
_LOG_K, _STEP = (-14.0, 5.0), 1.0
# Series below, no overflow above.
_SMALL, _STEEP = 0.02, 40.0


@dataclass(frozen=True)
class Table:
    """Points of all profiles together: (points,) each, and `budget` as an index into `c`.

    `c` is (budgets,); `weight` counts the runs averaged in a point.
    """

    log_n: Array
    budget: NDArray[np.int64]
    weight: Array
    c: Array

    def bounds(self) -> tuple[Array, Array]:
        """Return the least and greatest allowed parameters (6,)."""
        low = np.array([self.log_n.min() - 3, -1.5, _LOG_K[0], -2.0, -3.0, -0.5])
        high = np.array([self.log_n.max() + 3, 3.0, _LOG_K[1], 2.0, 3.0, 0.5])
        return low, high


def rise(theta: Array, table: Table) -> Array:
    """Return the loss above the minimum (sets, points) of each theta (sets, 6)."""
    u, s, k = _places(theta, table)
    z = np.clip(s * u, -_STEEP, _STEEP)
    return k * u * u * _second(z, np.expm1(z))


def slopes(theta: Array, table: Table) -> tuple[Array, Array]:
    """Return `rise` (sets, points) and its derivatives by theta (sets, points, 6)."""
    u, s, k = _places(theta, table)
    c = table.c[table.budget]
    z = np.clip(s * u, -_STEEP, _STEEP)
    grown = np.expm1(z)
    second = _second(z, grown)
    above = k * u * u * second
    small = np.abs(z) < _SMALL
    safe = np.where(small, 1.0, z)
    first = np.where(small, 1 + z / 2 + z**2 / 6 + z**3 / 24 + z**4 / 120, grown / safe)
    third = np.where(
        small,
        1 / 6 + z / 12 + z**2 / 40 + z**3 / 180 + z**4 / 1008,
        (first - 2 * second) / safe,
    )
    by_m, by_s = -k * u * first, k * u**3 * third
    return above, np.stack([by_m, by_m * c, above, -above * c, by_s, by_s * c], axis=-1)


def _places(theta: Array, table: Table) -> tuple[Array, Array, Array]:
    m, a, log_k, g, s0, s1 = theta.T[:, :, None]
    c = table.c[table.budget]
    return table.log_n - m - a * c, s0 + s1 * c, np.exp(log_k - g * c)


def _second(z: Array, grown: Array) -> Array:
    """Return (exp(z) - 1 - z) / z^2 from z and expm1(z), by its series where that cancels."""
    small = np.abs(z) < _SMALL
    safe = np.where(small, 1.0, z)
    series = 0.5 + z / 6 + z**2 / 24 + z**3 / 120 + z**4 / 720
    return np.where(small, series, (grown - safe) / safe**2)


def refine(
    theta: Array,
    losses: Array,
    table: Table,
    sd: float,
    centre: Array,
    ridge: Array,
    rounds: int = 60,
) -> tuple[Array, Array, Array]:
    """Lower the penalised Huber objective of many fits at once by damped Gauss-Newton steps.

    `theta` and the penalty's `centre` are (sets, 6), its weight `ridge` is (6,), `losses` (sets,
    points), `sd` the noise of a loss, which sets Huber's threshold. Returns theta, levels (sets,
    budgets) and the objective (sets,), which never rises.
    """
    low, high = table.bounds()
    theta = np.clip(theta, low, high)
    hot = (table.budget[:, None] == np.arange(len(table.c))).astype(float)
    count = len(NAMES)
    levels = _levels(losses - rise(theta, table), table, hot)

    def objective(theta: Array, levels: Array, rows: NDArray[np.int64]) -> Array:
        residual = losses[rows] - levels @ hot.T - rise(theta, table)
        size = np.abs(residual) * np.sqrt(table.weight)
        edge = CLIP * sd
        rho = np.where(size <= edge, size**2 / 2, edge * (size - edge / 2)).sum(axis=1)
        return rho + ((theta - centre[rows]) ** 2 @ ridge) / 2

    active = np.arange(len(theta))
    value = objective(theta, levels, active)
    damping = np.full(len(theta), 1e-3)
    quiet = np.zeros(len(theta), dtype=int)
    for _ in range(rounds):
        now = theta[active]
        above, by_theta = slopes(now, table)
        residual = losses[active] - levels[active] @ hot.T - above
        weight = table.weight * huber_weight(residual * np.sqrt(table.weight), sd)
        by_level = np.broadcast_to(hot, (*above.shape, len(table.c)))
        jacobian = np.concatenate([by_theta, by_level], axis=-1)
        weighted = (jacobian * weight[..., None]).transpose(0, 2, 1)
        hessian = weighted @ jacobian
        gradient = (weighted @ residual[..., None])[..., 0]
        gradient[:, :count] -= ridge * (now - centre[active])
        diagonal = np.einsum("sii->si", hessian)
        diagonal[:, :count] += ridge
        diagonal += damping[active, None] * diagonal + 1e-12 * diagonal.max(1, keepdims=True)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        trial = np.clip(now + np.clip(step[:, :count], -_STEP, _STEP), low, high)
        tried_levels = levels[active] + step[:, count:]
        tried = objective(trial, tried_levels, active)
        better = tried < value[active]
        small = (value[active] - tried) <= 1e-9 * value[active]
        accepted = active[better]
        theta[accepted], levels[accepted] = trial[better], tried_levels[better]
        value[accepted] = tried[better]
        damping[active] = np.clip(np.where(better, damping[active] / 8, damping[active] * 5),
                                  1e-12, 1e9)  # fmt: skip
        quiet[active] = np.where(small, quiet[active] + 1, 0)
        active = active[quiet[active] < 3]
        if not len(active):
            break
    return theta, levels, value


def penalty(sd: float, rigid: bool = False) -> Array:
    """Return the weight (6,) that draws g, s0 and s1 to their centre at noise `sd`.

    `rigid` holds them there: for tables with too few points to tell them.
    """
    weight = (sd / PRIOR_SD) ** 2
    return np.where(np.isfinite(PRIOR_SD), 1e6, 0.0) if rigid else weight


def _levels(above: Array, table: Table, hot: Array) -> Array:
    return (above * table.weight) @ hot / (table.weight @ hot)


def huber_weight(residual: Array, sd: float) -> Array:
    """Return the weight of each residual in a Huber fit: 1 inside CLIP sd, falling outside."""
    return CLIP * sd / np.maximum(np.abs(residual), CLIP * sd)


def starts(losses: Array, table: Table, rigid: bool = False, keep: int = 12) -> Array:
    """Search m, a, g and s0 on a grid with k and the levels solved exactly; returns (keep, 6).

    For a given place and form of the minimum the loss is linear in k and the levels. `rigid`
    leaves g and s0 at zero.
    """
    hot = (table.budget[:, None] == np.arange(len(table.c))).astype(float)
    middle = np.quantile(table.log_n, np.linspace(0.1, 0.9, 13))
    forms = ((0.0,), (0.0,)) if rigid else ((-0.3, 0.0, 0.3), (-0.5, 0.0, 0.5))
    grids = (middle, np.linspace(0.1, 1.0, 10), *forms)
    m, a, g, s0 = (values.ravel() for values in np.meshgrid(*grids, indexing="ij"))
    cells = np.column_stack([m, a, np.zeros_like(m), g, s0, np.zeros_like(m)])
    above = rise(cells, table)
    above = above - _levels(above, table, hot) @ hot.T
    target = losses - _levels(losses[None], table, hot)[0] @ hot.T
    k = np.maximum((above * table.weight) @ target / ((above**2) @ table.weight), 1e-4)
    error = ((target - k[:, None] * above) ** 2) @ table.weight
    cells[:, 2] = np.log(k)
    return cells[np.argsort(error, kind="stable")[:keep]]


def robust_variance(residual: Array, dof: float) -> float:
    """Estimate the noise variance by Huber's proposal 2; `residual` (points,) is already weighted.

    Solves sum min(r^2, (CLIP sd)^2) = dof E min(z^2, CLIP^2) sd^2.
    """
    squares = residual**2
    variance = float(squares.sum() / dof)
    for _ in range(60):
        variance = float(np.minimum(squares, CLIP**2 * variance).sum() / (dof * _CLIPPED_SQUARE))
    return variance


def effective_sd(residual: Array, sd: float) -> float:
    """Return the Gaussian noise that moves a Huber fit as much as these residuals do.

    The variance of an M-estimate is E psi^2 / (E psi')^2 (Huber 1964); E psi' is the share of
    residuals inside the threshold, which outliers lower.
    """
    inside = float(np.mean(np.abs(residual) < CLIP * sd))
    return sd * _INSIDE / min(max(inside, 0.4), _INSIDE)
