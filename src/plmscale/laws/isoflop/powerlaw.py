"""y = A x^p through a few points, in log-log or in linear space, for many replicates at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_EXPONENTS = (-3.0, 5.0)


def fit_loglog(log_x: Array, log_y: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Regress log y on log x. `log_x` is (points,), `log_y` (replicates, points).

    `weight` (as `log_y`, all equal if None) is one over the variance of each point, up to a
    factor. Returns log A and p, each (replicates,). A replicate with a NaN gives NaN.
    """
    weight = np.ones_like(log_y) if weight is None else weight
    weight = weight / weight.sum(axis=1, keepdims=True)
    centre = weight @ log_x
    u = log_x - centre[:, None]
    slope = (weight * u * log_y).sum(axis=1) / (weight * u * u).sum(axis=1)
    return (weight * log_y).sum(axis=1) - slope * centre, slope


def fit_linear(log_x: Array, log_y: Array) -> tuple[Array, Array]:
    """Least squares of y = A x^p with errors in y itself, the construction of Cheng et al. 2024.

    Shapes as in `fit_loglog`, every point counts the same. For a given p the best A is closed form, which leaves a search in
    one dimension: a grid over p, zoomed in until its step is below 1e-10.
    """
    u = log_x - log_x.max()
    # The largest y sets the scale, so nothing overflows whatever the units.
    top = log_y.max(axis=1, keepdims=True)
    y = np.exp(log_y - top)
    low = np.full(len(y), _EXPONENTS[0])
    high = np.full(len(y), _EXPONENTS[1])
    steps = np.linspace(0.0, 1.0, 41)
    p = low
    while True:
        grid = low[:, None] + (high - low)[:, None] * steps
        basis = np.exp(grid[:, :, None] * u)
        projected = np.einsum("rgp,rp->rg", basis, y)
        # Minimising the residual is maximising the explained part.
        explained = projected**2 / np.einsum("rgp,rgp->rg", basis, basis)
        p = grid[np.arange(len(y)), np.argmax(explained, axis=1)]
        step = (high - low) / (len(steps) - 1)
        if step.max() < 1e-10:
            break
        low, high = p - 2 * step, p + 2 * step
    basis = np.exp(p[:, None] * u)
    scale = (basis * y).sum(axis=1) / (basis * basis).sum(axis=1)
    # explained is flat to rounding at its top; one Gauss-Newton step in p recovers the digits.
    residual = y - scale[:, None] * basis
    slope = scale[:, None] * basis * u
    slope_free = slope - basis * ((slope * basis).sum(1) / (basis * basis).sum(1))[:, None]
    p = p + (slope_free * residual).sum(1) / np.maximum((slope_free * slope_free).sum(1), 1e-300)
    basis = np.exp(p[:, None] * u)
    scale = (basis * y).sum(axis=1) / (basis * basis).sum(axis=1)
    log_a = np.log(scale) + top[:, 0] - p * log_x.max()
    return log_a, p


def scatter(log_x: Array, log_y: Array, weight: Array) -> float:
    """Estimate the standard deviation of ln y about its power law beyond the points' own errors.

    All (points,); `weight` is one over each point's variance. DerSimonian and Laird 1986 for a
    regression: the weighted residual sum of squares above its expectation. 0 below three points.
    """
    if len(log_x) < 3:
        return 0.0
    intercept, slope = fit_loglog(log_x, log_y[None], weight[None])
    squares = float(weight @ (log_y - intercept[0] - slope[0] * log_x) ** 2)
    design = np.column_stack([np.ones_like(log_x), log_x - log_x.mean()])
    normal = design.T @ (design * weight[:, None])
    crossed = design.T @ (design * (weight**2)[:, None])
    free = float(weight.sum() - np.trace(np.linalg.solve(normal, crossed)))
    return float(np.sqrt(max(squares - (len(log_x) - 2), 0.0) / free)) if free > 0 else 0.0
