"""The fit as it is usually run: scipy's L-BFGS-B from fixed starts, with its default stopping.

The objective is of order 1e-3, and scipy stops when a step lowers it by less than 2e-9 times
max(objective, 1). So the default stops on a gentle slope, far from any optimum, from most starts.
That is how published values can depend on the start; `descent.descend` has no such rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from plmscale.laws.parametric.hoffmann import DELTA

Array = NDArray[np.float64]

PAPER_START = (5.0, 10.0, 1.0, 0.5, 0.5)
"""log A, log B, log E, alpha, beta that Cheng et al. 2024 started from."""


def hoffmann_grid() -> Array:
    """Return the 4,500 starts of Hoffmann et al. 2022: log A, log B, log E, alpha, beta."""
    prefactors, floors = np.arange(0.0, 30.0, 5.0), np.arange(-1.0, 1.5, 0.5)
    exponents = np.arange(0.0, 2.5, 0.5)
    return np.array(list(product(prefactors, prefactors, floors, exponents, exponents)))


@dataclass(frozen=True)
class Stop:
    """Where L-BFGS-B stopped: log A, log B, log E, alpha, beta (N, D not centred); objective."""

    theta: Array
    objective: float


def objective_and_gradient(
    theta: Array, log_n: Array, log_d: Array, log_loss: Array
) -> tuple[float, Array]:
    """Return the Huber objective and its gradient in log A, log B, log E, alpha, beta."""
    a, b, e, alpha, beta = theta
    n_term, d_term, floor = a - alpha * log_n, b - beta * log_d, np.full(len(log_n), e)
    # Starts far away overflow without a common factor taken out.
    top = np.maximum(np.maximum(n_term, d_term), e)
    n_term, d_term, floor = np.exp(n_term - top), np.exp(d_term - top), np.exp(floor - top)
    total = n_term + d_term + floor
    residual = np.log(total) + top - log_loss
    pull = np.clip(residual, -DELTA, DELTA)
    value = float((pull * (residual - pull / 2)).sum())
    pull = pull / total
    n_pull, d_pull = pull * n_term, pull * d_term
    gradient = np.array(
        [n_pull.sum(), d_pull.sum(), pull @ floor, -(n_pull @ log_n), -(d_pull @ log_d)]
    )
    return value, gradient


def lbfgs_stop(start: Array, log_n: Array, log_d: Array, log_loss: Array) -> Stop:
    """Run L-BFGS-B without bounds, with the analytic gradient and scipy's default stopping."""
    found = minimize(
        objective_and_gradient, start, args=(log_n, log_d, log_loss), jac=True,
        method="L-BFGS-B", options={"maxiter": 10_000},
    )  # fmt: skip
    return Stop(found.x, float(found.fun))
