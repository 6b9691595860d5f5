"""Least squares for many bootstrap replicates at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# exp of this is a D_t / D_F that no data tell from zero or infinity.
_STEEP = 30.0


def regress(design: Array, y: Array, weight: Array) -> Array:
    """Weighted least squares for many replicates: (points, terms), (R, points), (R, points).

    Points of weight zero may be NaN. Returns (R, terms), NaN where the weights leave too little.
    """
    y = np.where(weight > 0, y, 0.0)
    normal = np.einsum("pi,rp,pj->rij", design, weight, design)
    right = np.einsum("pi,rp,rp->ri", design, weight, y)
    scale = np.sqrt(np.einsum("rii->ri", normal))
    scale = np.where(scale > 0, scale, 1.0)
    normal = normal / scale[:, :, None] / scale[:, None, :]
    sound = np.isfinite(right).all(axis=1) & (np.linalg.cond(normal) < 1e10)
    safe = np.where(sound[:, None, None], normal, np.eye(design.shape[1]))
    found = np.linalg.solve(safe, np.where(sound[:, None], right / scale, 0.0)[..., None])[..., 0]
    return np.where(sound[:, None], found / scale, np.nan)


def worth_law(design: Array, log_e: Array) -> Array:
    """Fit ln(D_E / D_F) = ln(1 + exp(design @ theta)), that is D_t / D_F = exp(design @ theta).

    `design` is (points, terms), `log_e` (1 + replicates, points) with the estimate first; returns
    theta, (1 + replicates, terms), NaN for a replicate with a value that is not finite. The same
    law as a regression of ln D_t, but with the errors where they arise: a pair whose loss came
    out a little worse after pre-training than before has no ln D_t, and still says something.
    Points weigh by the spread of their replicates. Levenberg-Marquardt, all replicates at once.
    """
    # Medians, since the spread of a few reruns gives replicates heavy tails.
    middle = np.median(log_e[np.isfinite(log_e).all(axis=1)], axis=0)
    spread = np.nanmedian(np.abs(np.where(np.isfinite(log_e), log_e, np.nan) - middle), axis=0)
    root = 1 / spread if (spread > 0).all() else np.ones(len(design))
    root = root / root.max()
    # Terms like ln D and ln N are nearly parallel; orthogonal ones leave the search well posed.
    basis, back = np.linalg.qr(design * root[:, None])
    basis = basis / root[:, None]
    sound = np.isfinite(log_e).all(axis=1)
    y = np.where(sound[:, None], log_e, log_e[:1])
    start = np.log(np.expm1(max(float(y[0].mean()), 1e-2)))
    theta = np.tile((basis * root[:, None] ** 2).T @ np.full(len(root), start), (len(y), 1))
    damping = np.full(len(y), 1e-3)

    def cost_of(theta: Array) -> tuple[Array, Array, Array]:
        inner = np.clip(theta @ basis.T, -_STEEP, _STEEP)
        residual = (y - np.logaddexp(0.0, inner)) * root
        return (residual**2).sum(axis=1), residual, inner

    cost, residual, inner = cost_of(theta)
    for _ in range(100):
        jacobian = (root / (1 + np.exp(-inner)))[:, :, None] * basis
        normal = np.einsum("rpi,rpj->rij", jacobian, jacobian)
        level = damping * np.einsum("rii->r", normal) + 1e-12
        step = np.linalg.solve(
            normal + level[:, None, None] * np.eye(basis.shape[1]),
            np.einsum("rpi,rp->ri", jacobian, residual)[..., None],
        )[..., 0]
        tried, tried_residual, tried_inner = cost_of(theta + step)
        better = tried < cost
        if not (better & (cost - tried > 1e-12 * cost)).any() and (damping > 1).all():
            break
        theta = np.where(better[:, None], theta + step, theta)
        residual = np.where(better[:, None], tried_residual, residual)
        inner = np.where(better[:, None], tried_inner, inner)
        cost = np.where(better, tried, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, 1e9)
    found = np.linalg.solve(back, theta.T).T
    return np.where(sound[:, None], found, np.nan)
