"""L = E + A / N^alpha + B / D^beta: model, Huber objective, and a search for where to start.

Parameters inside are (log A, log B, E, alpha, beta), N and D measured from their geometric means,
which decorrelates prefactors and exponents. E is in nats, so that it can be exactly zero.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3
EXPONENT_BOUNDS = (0.005, 3.0)
_LOG_BOUNDS = (-25.0, 15.0)
LOW = np.array([_LOG_BOUNDS[0]] * 2 + [0.0] + [EXPONENT_BOUNDS[0]] * 2)
HIGH = np.array([_LOG_BOUNDS[1]] * 2 + [np.inf] + [EXPONENT_BOUNDS[1]] * 2)
NAMES = ("A", "B", "E", "alpha", "beta")


def terms(theta: Array, u: Array, v: Array) -> tuple[Array, Array, Array]:
    """Return A / N^alpha, B / D^beta and L in nats, each (sets, points).

    `theta` is (sets, 5); `u` and `v` are centred ln N and ln D (points,).
    """
    a, b, e, alpha, beta = theta.T[:, :, None]
    n_term, d_term = np.exp(a - alpha * u), np.exp(b - beta * v)
    return n_term, d_term, n_term + d_term + e


def log_prediction(theta: Array, u: Array, v: Array) -> Array:
    """Return ln L (sets, points)."""
    return np.log(terms(theta, u, v)[2])


def huber(residual: Array) -> Array:
    """Huber's loss with delta = 1e-3 summed over the last axis (Hoffmann et al. 2022, eq. 3)."""
    size = np.abs(residual)
    inner = np.minimum(size, DELTA)
    return (inner * (size - inner / 2)).sum(axis=-1)


def jacobian(n_term: Array, d_term: Array, total: Array, u: Array, v: Array) -> Array:
    """Return the derivatives of ln L (sets, 5, points) from what `terms` returns."""
    found = np.empty((len(total), 5, len(u)))
    np.divide(n_term, total, out=found[:, 0])
    np.divide(d_term, total, out=found[:, 1])
    np.divide(1.0, total, out=found[:, 2])
    np.multiply(found[:, 0], -u, out=found[:, 3])
    np.multiply(found[:, 1], -v, out=found[:, 4])
    return found


def linear_fit(
    u: Array, v: Array, losses: Array, alphas: Array, betas: Array, floor: bool = True
) -> tuple[Array, Array]:
    """Solve A, B, E >= 0 exactly for given exponents (cells,), for each row of `losses`.

    For given exponents the loss is linear in (A, B, E); relative errors are squared. The
    non-negative optimum is the best unconstrained one over all subsets of the columns, so no
    iterative solver is needed. `losses` is (replicates, points); without `floor` E stays 0.
    Returns the error (cells, replicates) and A, B, E (cells, 3, replicates).
    """
    weight = 1.0 / losses.mean(axis=0)
    target = losses * weight
    columns = np.stack(
        [np.exp(-alphas[:, None] * u), np.exp(-betas[:, None] * v), np.ones((len(alphas), len(u)))],
        axis=1,
    )
    columns = columns * weight
    gram = columns @ columns.transpose(0, 2, 1)
    moment = columns @ target.T
    total = (target**2).sum(axis=1)
    best = np.full((len(alphas), len(losses)), np.inf)
    solution = np.zeros((len(alphas), 3, len(losses)))
    width = 3 if floor else 2
    for size in range(1, width + 1):
        for subset in map(list, combinations(range(width), size)):
            inverse = np.linalg.pinv(gram[:, subset][:, :, subset], hermitian=True)
            part = moment[:, subset]
            found = inverse @ part
            error = total - (found * part).sum(axis=1)
            better = (found >= 0).all(axis=1) & (error < best)
            best = np.where(better, error, best)
            filled = np.zeros_like(solution)
            filled[:, subset] = found
            solution = np.where(better[:, None], filled, solution)
    return best, solution


def as_theta(solution: Array, alphas: Array, betas: Array, level: Array) -> Array:
    """Return parameters (..., 5) from A, B, E (..., 3) and exponents (...).

    A and B that are zero become 1e-4 of `level` (...), for a logarithm to start from.
    """
    logs = np.log(np.maximum(solution[..., :2], 1e-4 * level[..., None]))
    return np.concatenate([logs, solution[..., 2:], np.stack([alphas, betas], axis=-1)], axis=-1)


def grid_starts(u: Array, v: Array, losses: Array, steps: int = 24, keep: int = 1) -> Array:
    """Search (alpha, beta) on a log grid with the rest solved exactly, for each row of `losses`.

    `losses` is (replicates, points); returns (replicates, keep, 5): the best cells that are lower
    than their neighbours.
    """
    exponents = np.geomspace(0.02, 2.0, steps)
    alphas, betas = (g.ravel() for g in np.meshgrid(exponents, exponents, indexing="ij"))
    error, solution = linear_fit(u, v, losses, alphas, betas)
    order = _local_minima(error, steps, keep)
    chosen = solution.transpose(0, 2, 1)[order, np.arange(len(losses))[:, None]]
    level = np.broadcast_to(losses.mean(axis=1)[:, None], order.shape)
    return as_theta(chosen, alphas[order], betas[order], level)


def _local_minima(errors: Array, steps: int, keep: int) -> NDArray[np.int64]:
    if keep == 1:
        return np.argmin(errors, axis=0)[:, None]
    grid = errors.reshape(steps, steps, -1)
    padded = np.pad(grid, ((1, 1), (1, 1), (0, 0)), constant_values=np.inf)
    around = [
        padded[1 + i : 1 + i + steps, 1 + j : 1 + j + steps]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if i or j
    ]
    lowest = (grid <= np.min(around, axis=0)).reshape(errors.shape)
    # Cells that are no local minimum come after all that are.
    ranked = np.argsort(np.where(lowest, errors, errors + errors.max() + 1.0), axis=0)
    return ranked[:keep].T


def decrement(theta: Array, u: Array, v: Array, log_loss: Array) -> float:
    """Return what one more Gauss-Newton step promises to take off the objective, as a share of it.

    Parameters held by their bounds and directions the data do not see do not count.
    """
    n_term, d_term, total = terms(theta[None], u, v)
    residual = np.log(total[0]) - log_loss
    slopes = jacobian(n_term, d_term, total, u, v)[0]
    weight = DELTA / np.maximum(np.abs(residual), DELTA)
    gradient = slopes @ (residual * weight)
    held = ((theta <= LOW) & (gradient > 0)) | ((theta >= HIGH) & (gradient < 0))
    slopes, gradient = slopes[~held], gradient[~held]
    hessian = (slopes * weight) @ slopes.T
    promised = gradient @ np.linalg.pinv(hessian, rcond=1e-10, hermitian=True) @ gradient / 2
    return float(promised / max(huber(residual), 1e-12))
