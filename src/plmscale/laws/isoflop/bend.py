"""Does the loss of the optima follow a power law of compute, or does it bend away from one?

Intervals of K and c hold the noise of the minima only. Where the minima bend, a straight line in
log-log foretells losses beyond the budgets worse than that noise says; here is by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_BUDGETS = 4
# A quadratic term beyond three of its standard errors is no noise.
BENDS = 3.0


def find_bend(
    log_c: Array, log_loss: Array, sd: Array, exponent: float, log_k: float
) -> dict[str, float] | None:
    """Return how minima (budgets,) leave ln L = log_k - exponent ln C, None where they do not.

    `sd` is the noise of each ln L. `misfit` is the root mean square of what the law leaves (in
    ln L); `slope_error` the change of the local exponent between the middle and an end of the
    budgets, which is how wrong the law's slope may be beyond them; `c_low` and `c_high` are the
    local exponents at the first and last budget by a quadratic in ln C.
    """
    if len(log_c) < MIN_BUDGETS or not (np.isfinite(log_loss).all() and (sd > 0).all()):
        return None
    middle = (log_c.min() + log_c.max()) / 2
    u = log_c - middle
    design = np.column_stack([np.ones_like(u), u, u * u]) / sd[:, None]
    covariance = np.linalg.inv(design.T @ design)
    _, slope, bend = covariance @ design.T @ (log_loss / sd)
    t = bend / np.sqrt(covariance[2, 2])
    if not abs(t) > BENDS:
        return None
    half = float(np.ptp(log_c)) / 2
    left = log_loss - (log_k - exponent * log_c)
    return {
        "t": float(t),
        "misfit": float(np.sqrt(np.mean(left**2))),
        "slope_error": float(2 * abs(bend) * half),
        "c_low": float(-(slope - 2 * bend * half)),
        "c_high": float(-(slope + 2 * bend * half)),
    }


def bend_text(bend: Mapping[str, float]) -> str:
    """Say that the loss bends, and what follows from it."""
    return (
        f"L_opt bends away from a power law: its exponent goes from {bend['c_low']:.3f} to "
        f"{bend['c_high']:.3f} over these budgets, and the law misses their minima by "
        f"{bend['misfit']:.1%} of the loss; intervals of a loss are widened for it"
    )


def bend_error(entry: Mapping[str, Any], flops: float) -> float:
    """Return the standard deviation of ln L_opt at a compute that the bend adds to the noise."""
    bend = entry.get("bend")
    if not bend:
        return 0.0
    low, high = entry["fitted_range"]["flops"]
    beyond = max(0.0, np.log(flops / high), np.log(low / flops))
    return float(np.hypot(bend["misfit"], bend["slope_error"] * beyond))
