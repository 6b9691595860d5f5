"""Many fits of L = E + A / N^alpha + B / D^beta at once, by damped Gauss-Newton steps.

The valley of this objective is bent: with small exponents A N^-alpha is nearly A - A alpha ln N,
so A, B and E trade against each other along a curve that plain steps follow in hundreds of small
moves. Steps are taken instead in what the data fix one by one: the slopes A alpha and B beta, the
level E + A + B, and the exponents. There ten to twenty steps are enough.

The Huber loss is met half-way between its own curvature (fast near the end, where few points lie
inside delta) and iteratively reweighted squares (which always go down).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plmscale.laws.parametric.hoffmann import (
    DELTA,
    EXPONENT_BOUNDS,
    HIGH,
    LOW,
    huber,
    jacobian,
    terms,
)

Array = NDArray[np.float64]
Hold = Literal["E", "alpha", "beta", "a"]

# A step may change a slope by this factor (e^1.5), an exponent by -60 % or +150 %.
_SLOPE_STEP = 1.5
_EXPONENT_STEP = (0.4, 2.5)
_QUIET_ROUNDS = 3
# Nats; a floor this low is as good as none, and a step down to zero would gain nothing.
_NO_FLOOR = 1e-9
_DAMPING = (1e-12, 1e8)


def descend(
    start: Array,
    u: Array,
    v: Array,
    log_loss: Array,
    *,
    hold: Hold | None = None,
    rounds: int = 200,
    tolerance: float = 1e-9,
) -> tuple[Array, Array]:
    """Lower the Huber objective of each fit until it stands still; return theta and objective.

    `start` is (sets, 5) as in hoffmann.py, `log_loss` (points,) or (sets, points). `hold` keeps
    one thing of the start: E, alpha, beta, or `a` = beta / (alpha + beta), the exponent of
    N_opt(C). A fit ends when `_QUIET_ROUNDS` rounds in a row change its objective by less than
    `tolerance` of it. The objective (sets,) never rises.
    """
    if hold == "beta":
        swap = [1, 0, 2, 4, 3]
        theta, value = descend(start[:, swap], v, u, log_loss, hold="alpha", rounds=rounds,
                               tolerance=tolerance)  # fmt: skip
        return theta[:, swap], value
    theta = np.clip(start, LOW, HIGH)
    target = np.broadcast_to(log_loss, (len(theta), len(u)))
    now = terms(theta, u, v)
    residual = np.log(now[2]) - target
    value = huber(residual)
    damping, mixture = np.full(len(theta), 1e-3), np.ones(len(theta))
    quiet = np.zeros(len(theta), dtype=int)
    active = np.arange(len(theta))
    for _ in range(rounds):
        here = _local(theta[active], now, residual, u, v, damping[active], mixture[active], hold)
        trial = _trial(here, hold)
        tried = terms(trial, u, v)
        tried_residual = np.log(tried[2]) - target[active]
        tried_value = huber(tried_residual)
        better = tried_value < value[active]
        small = np.abs(value[active] - tried_value) <= tolerance * value[active]
        gone = active[better]
        theta[gone], value[gone] = trial[better], tried_value[better]
        pick = better[:, None]
        now = tuple(np.where(pick, new, old) for new, old in zip(tried, now, strict=True))
        residual = np.where(pick, tried_residual, residual)
        damping[active] = np.clip(damping[active] * np.where(better, 1 / 5, 4.0), *_DAMPING)
        mixture[active] = np.clip(mixture[active] * np.where(better, 1 / 4, 4.0), 1e-3, 1.0)
        quiet[active] = np.where(small, quiet[active] + 1, 0)
        going = (quiet[active] < _QUIET_ROUNDS) & (damping[active] < _DAMPING[1])
        if not going.all():
            active = active[going]
            now = tuple(part[going] for part in now)
            residual = residual[going]
        if not len(active):
            break
    return theta, value


class _Local(NamedTuple):
    """The quadratic model at `theta` (sets, 5), and which exponents (sets, 2) may not move."""

    theta: Array
    gradient: Array
    hessian: Array
    damping: Array
    stuck: NDArray[np.bool_]

    def pick(self, rows: NDArray[np.int64]) -> _Local:
        return _Local(*(part[rows] for part in self))


def _local(
    theta: Array, now: tuple[Array, ...], residual: Array, u: Array, v: Array, damping: Array,
    mixture: Array, hold: Hold | None,
) -> _Local:  # fmt: skip
    slopes = jacobian(*now, u, v)
    size = np.abs(residual)
    weight = DELTA / np.maximum(size, DELTA)
    gradient = (slopes @ (weight * residual)[..., None])[..., 0]
    weight = np.where(size <= DELTA, 1.0, mixture[:, None] * weight)
    hessian = (slopes * weight[:, None]) @ slopes.transpose(0, 2, 1)
    stuck = ((theta <= LOW) & (gradient > 0) | (theta >= HIGH) & (gradient < 0))[:, 3:]
    if hold == "alpha":
        stuck[:, 0] = True
    if hold == "a":
        # Only both together may move, and `_exponents` keeps the pair inside its bounds.
        stuck[:] = False
    return _Local(theta, gradient, hessian, damping, stuck)


def _trial(here: _Local, hold: Hold | None) -> Array:
    """Propose parameters (sets, 5); E is free until it meets zero."""
    if hold == "E":
        return _floor_given(here, hold)
    trial = _floor_free(here, hold)
    floor = here.theta[:, 2]
    # A step through the floor ends on it; from there the next one runs along it.
    grounded = floor <= _NO_FLOOR
    through = np.flatnonzero(~grounded & (trial[:, 2] < 0))
    share = (floor[through] / (floor[through] - trial[through, 2]))[:, None]
    trial[through] = here.theta[through] + share * (trial - here.theta)[through]
    trial[through, 2] = 0.0
    along = np.flatnonzero(grounded & ((here.gradient[:, 2] > 0) | (trial[:, 2] < 0)))
    if len(along):
        trial[along] = _floor_given(here.pick(along), hold)
        trial[along, 2] = 0.0
    return trial


def _floor_free(here: _Local, hold: Hold | None) -> Array:
    """Step in (ln A alpha, ln B beta, E + A + B, alpha, beta)."""
    theta = here.theta
    alpha, beta = theta[:, 3], theta[:, 4]
    a, b = np.exp(theta[:, 0]), np.exp(theta[:, 1])
    basis = np.tile(np.eye(5), (len(theta), 1, 1))
    basis[:, 0, 3], basis[:, 1, 4] = -1 / alpha, -1 / beta
    basis[:, 2, 0], basis[:, 2, 1] = -a, -b
    basis[:, 2, 3], basis[:, 2, 4] = a / alpha, b / beta
    fixed = np.zeros(theta.shape, dtype=bool)
    fixed[:, 3:] = here.stuck
    if hold == "a":
        basis[:, :, 3] += (beta / alpha)[:, None] * basis[:, :, 4]
        fixed[:, 4] = True
    step = _solve(here, basis, fixed)
    trial = theta.copy()
    trial[:, 3:] = _exponents(theta, step[:, 3:], hold)
    trial[:, :2] += np.clip(step[:, :2], -_SLOPE_STEP, _SLOPE_STEP)
    trial[:, :2] -= np.log(trial[:, 3:] / theta[:, 3:])
    trial = np.clip(trial, LOW - [0, 0, np.inf, 0, 0], HIGH)
    trial[:, 2] = theta[:, 2] + a + b + step[:, 2] - np.exp(trial[:, :2]).sum(axis=1)
    return trial


def _floor_given(here: _Local, hold: Hold | None) -> Array:
    """Step with E as it is in (ln A alpha, ln B beta, -, alpha, A + B); beta follows from them.

    Where beta is tied (held by its bound, or to alpha by `a`) A + B follows instead.
    """
    theta = here.theta
    alpha, beta = theta[:, 3], theta[:, 4]
    a, b = np.exp(theta[:, 0]), np.exp(theta[:, 1])
    tied = here.stuck[:, 1] | (hold == "a")
    follow = beta / alpha if hold == "a" else np.zeros(len(theta))
    basis = np.zeros((len(theta), 5, 5))
    basis[:, 0, 0] = basis[:, 3, 3] = 1.0
    basis[:, 0, 3] = -1 / alpha
    basis[:, 1, 0], basis[:, 1, 3], basis[:, 1, 4] = -a / b, a / alpha / b, 1 / b
    basis[:, 4] = -beta[:, None] * basis[:, 1]
    basis[:, 4, 1] += beta
    basis[tied, 1], basis[tied, 4] = 0.0, 0.0
    basis[tied, 1, 1] = 1.0
    basis[tied, 1, 3], basis[tied, 4, 3] = (-follow / beta)[tied], follow[tied]
    fixed = np.zeros(theta.shape, dtype=bool)
    fixed[:, 2], fixed[:, 3], fixed[:, 4] = True, here.stuck[:, 0], tied
    step = _solve(here, basis, fixed)
    trial = theta.copy()
    trial[:, 3:] = _exponents(theta, step[:, [3, 3]] * [1.0, 0.0], hold)
    moved = np.clip(step[:, :2], -_SLOPE_STEP, _SLOPE_STEP)
    trial[:, :2] += moved - np.log(trial[:, 3:] / theta[:, 3:])
    level = np.clip(a + b + step[:, 4] - np.exp(trial[:, 0]), b / 3, b * 3)
    trial[:, 1] = np.where(tied, trial[:, 1], np.log(level))
    trial[:, 4] = np.where(tied, trial[:, 4], beta * np.exp(moved[:, 1]) * b / level)
    return np.clip(trial, LOW, HIGH)


def _exponents(theta: Array, step: Array, hold: Hold | None) -> Array:
    """Return alpha and beta (sets, 2) after a step that is kept short and inside the bounds."""
    old = theta[:, 3:]
    low, high = EXPONENT_BOUNDS
    new = np.clip(old + step, old * _EXPONENT_STEP[0], old * _EXPONENT_STEP[1])
    if hold != "a":
        return np.clip(new, low, high)
    factor = np.clip(new[:, 0] / old[:, 0], low / old.min(axis=1), high / old.max(axis=1))
    return old * factor[:, None]


def _solve(here: _Local, basis: Array, fixed: NDArray[np.bool_]) -> Array:
    """Return the damped Gauss-Newton step (sets, 5) in the directions `basis` (sets, 5, 5)."""
    turned = basis.transpose(0, 2, 1)
    free = ~fixed
    slope = np.where(free, (turned @ here.gradient[..., None])[..., 0], 0.0)
    hessian = (turned @ here.hessian @ basis) * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("sii->si", hessian)
    top = diagonal.max(axis=1, keepdims=True)
    ridge = here.damping[:, None] * diagonal + 1e-14 * top + 1e-300
    damped = hessian + np.eye(5) * np.where(fixed, np.maximum(top, 1.0), ridge)[:, None, :]
    return -np.linalg.solve(damped, slope[..., None])[..., 0]
