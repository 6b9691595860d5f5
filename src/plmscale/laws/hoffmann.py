"""Numerics of L = E + A / N^alpha + B / D^beta: search, Huber objective, batched refinement.

Parameters inside are (a, b, e, alpha, beta) with A = exp(a) and so on, N and D measured from
their geometric means, which decorrelates prefactors and exponents.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]

DELTA = 1e-3
EXPONENT_BOUNDS = (0.005, 3.0)
_LOG_BOUNDS = (-25.0, 15.0)
LOW = np.array([_LOG_BOUNDS[0]] * 3 + [EXPONENT_BOUNDS[0]] * 2)
HIGH = np.array([_LOG_BOUNDS[1]] * 3 + [EXPONENT_BOUNDS[1]] * 2)


def predict(theta: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return ln L (sets, points) and the share of each term in L (sets, points, 3).

    `theta` is (sets, 5); `u` and `v` are centred ln N and ln D (points,).
    """
    a, b, e, alpha, beta = theta.T[:, :, None]
    terms = np.stack([a - alpha * u, b - beta * v, np.broadcast_to(e, (len(theta), len(u)))], -1)
    top = terms.max(axis=-1, keepdims=True)
    parts = np.exp(terms - top)
    total = parts.sum(axis=-1, keepdims=True)
    return (top + np.log(total))[..., 0], parts / total


def huber(residual: Array) -> Array:
    """Huber's loss with delta = 1e-3 summed over the last axis (Hoffmann et al. 2022, eq. 3)."""
    size = np.abs(residual)
    return np.where(size <= DELTA, residual**2 / 2, DELTA * (size - DELTA / 2)).sum(axis=-1)


def _jacobian(share: Array, u: Array, v: Array) -> Array:
    n_term, d_term = share[..., 0], share[..., 1]
    return np.stack([n_term, d_term, share[..., 2], -n_term * u, -d_term * v], axis=-1)


def grid_starts(u: Array, v: Array, losses: Array, steps: int = 24, keep: int = 1) -> Array:
    """Search (alpha, beta) on a log grid with the rest solved exactly, for each row of `losses`.

    For given exponents the loss is linear in (A, B, E) >= 0; relative errors are squared. The
    non-negative optimum is the best unconstrained one over all subsets of three columns, so no
    iterative solver is needed. `losses` is (replicates, points); returns (replicates, keep, 5):
    the best cells that are lower than their neighbours.
    """
    exponents = np.geomspace(0.02, 2.0, steps)
    weight = 1.0 / losses.mean(axis=0)
    target = losses * weight
    total = (target**2).sum(axis=1)
    cells = steps * steps
    best = np.full((cells, len(losses)), np.inf)
    solution = np.zeros((cells, len(losses), 3))
    alphas, betas = (g.ravel() for g in np.meshgrid(exponents, exponents, indexing="ij"))
    columns = np.stack(
        [np.exp(-alphas[:, None] * u), np.exp(-betas[:, None] * v), np.ones((cells, len(u)))], -1
    )
    columns = columns * weight[None, :, None]
    gram = np.einsum("cpi,cpj->cij", columns, columns)
    moment = np.einsum("cpi,rp->cri", columns, target)
    for size in (1, 2, 3):
        for subset in map(list, combinations(range(3), size)):
            inverse = np.linalg.pinv(gram[:, subset][:, :, subset], hermitian=True)
            found = moment[..., subset] @ inverse
            explained = (found * moment[..., subset]).sum(axis=-1)
            error = np.where((found >= 0).all(axis=-1), total - explained, np.inf)
            better = error < best
            best = np.where(better, error, best)
            filled = np.zeros_like(solution)
            filled[..., subset] = found
            solution = np.where(better[..., None], filled, solution)
    order = _local_minima(best, steps, keep)
    replicate = np.arange(len(losses))[:, None]
    chosen = solution[order, replicate]
    floor = 1e-4 * losses.mean(axis=1)[:, None, None]
    logs = np.log(np.maximum(chosen, floor))
    exponent_pair = np.stack([alphas[order], betas[order]], axis=-1)
    return np.concatenate([logs, exponent_pair], axis=-1)


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


def refine(
    theta: Array, u: Array, v: Array, log_loss: Array, fixed: tuple[int, ...] = (), rounds: int = 80
) -> tuple[Array, Array]:
    """Lower the Huber objective of many fits at once by damped Gauss-Newton steps.

    `theta` is (sets, 5), `log_loss` (sets, points); parameters in `fixed` stay. Returns theta and
    the objective (sets,). The objective never rises.
    """
    theta = np.clip(theta, LOW, HIGH)
    free = [i for i in range(5) if i not in fixed]
    damping = np.full(len(theta), 1e-3)
    value = huber(predict(theta, u, v)[0] - log_loss)
    active = np.arange(len(theta))
    quiet = np.zeros(len(theta), dtype=int)
    for _ in range(rounds):
        now = theta[active]
        prediction, share = predict(now, u, v)
        residual = prediction - log_loss[active]
        weight = DELTA / np.maximum(np.abs(residual), DELTA)
        jacobian = _jacobian(share, u, v)[..., free]
        weighted = jacobian * weight[..., None]
        hessian = np.matmul(weighted.transpose(0, 2, 1), jacobian)
        gradient = np.matmul(weighted.transpose(0, 2, 1), residual[..., None])
        diagonal = np.einsum("sii->si", hessian)
        ridge = damping[active, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True)
        hessian = hessian + np.eye(len(free)) * (ridge + 1e-300)[:, None, :]
        step = np.linalg.solve(hessian, gradient)[..., 0]
        trial = now.copy()
        trial[:, free] -= np.clip(step, -2.0, 2.0)
        trial = np.clip(trial, LOW, HIGH)
        tried = huber(predict(trial, u, v)[0] - log_loss[active])
        better = tried < value[active]
        small = (value[active] - tried) <= 1e-7 * value[active]
        accepted = active[better]
        theta[accepted] = trial[better]
        value[accepted] = tried[better]
        damping[active] = np.where(better, damping[active] / 5, damping[active] * 6)
        damping = np.clip(damping, 1e-12, 1e8)
        quiet[active] = np.where(small, quiet[active] + 1, 0)
        active = active[quiet[active] < 4]
        if not len(active):
            break
    return theta, value


def polish(theta: Array, u: Array, v: Array, log_loss: Array) -> tuple[Array, float]:
    """Finish one fit (5,) by bounded L-BFGS with the analytic gradient: theta and objective."""
    # In units of delta^2 the objective is of order one, which the stopping rules expect.
    unit = DELTA**2

    def objective(x: Array) -> tuple[float, Array]:
        prediction, share = predict(x[None], u, v)
        residual = prediction[0] - log_loss
        slope = np.clip(residual, -DELTA, DELTA)
        return float(huber(residual)) / unit, slope @ _jacobian(share, u, v)[0] / unit

    found = minimize(
        objective,
        theta,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(LOW, HIGH, strict=True)),
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-7, "maxcor": 20},
    )
    return found.x, float(found.fun) * unit


def decrement(theta: Array, u: Array, v: Array, log_loss: Array) -> float:
    """Return what one more Gauss-Newton step promises to take off the objective, as a share of it.

    Parameters at their bounds and directions the data do not see do not count.
    """
    prediction, share = predict(theta[None], u, v)
    residual = prediction[0] - log_loss
    free = (theta > LOW + 1e-3) & (theta < HIGH - 1e-3)
    jacobian = _jacobian(share, u, v)[0][:, free]
    weight = DELTA / np.maximum(np.abs(residual), DELTA)
    hessian = jacobian.T @ (jacobian * weight[:, None])
    gradient = jacobian.T @ (residual * weight)
    promised = gradient @ np.linalg.pinv(hessian, rcond=1e-10, hermitian=True) @ gradient / 2
    return float(promised / max(huber(residual), 1e-12))
