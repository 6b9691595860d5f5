"""What the validation batches add to a loss, told from other runs that read the same ones.

Near a run's end, the loss of every run j of its stream and objective at validation number k is

    L_jk = trend_j(k) + g_j c_k + e_jk,    g_j = 1 + b (ln N_j - mean ln N),

with a parabola in ln k for each trend, the common effect c (large models feel a hard batch more:
g) and the runs' own noise e. The run in question takes no part in the estimate; it is told g c by
its own size. c is the posterior mean under c ~ N(0, s_c^2): where few runs tell, it shrinks towards
zero. What a parabola could follow stays in the trends, so c has no level and no slope over the
window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plmscale.paper.evidence import STEPS_PER_VALIDATION
from plmscale.paper.group import Run

Array = NDArray[np.float64]

# The steep beginning is no parabola.
FIRST = 11
# A window reaches a third of the way back and on, within these numbers of validations.
_HALF = (12, 60)
TREND_PARAMETERS = 3
LEAST_POINTS = 10
# The noise of single runs shows from two on.
LEAST_RUNS = 2
_ROUNDS = 6
# Huber's constant: a loss spike of one run counts as this many standard deviations.
_CLIP = 2.0
# Gains of the released runs span 0.6 to 1.2 over 6 in ln N.
_SLOPE_SD = 0.15
# Median of a squared standard normal.
_MEDIAN_SQUARE = 0.4549


@dataclass(frozen=True)
class Effect:
    """The common effect (n,) at validation numbers start, start + 1, ..., for one run.

    In nats a token; `covariance` (n, n) is its error, `runs` how many others it comes from.
    """

    start: int
    effect: Array
    covariance: Array
    runs: int


def residual(loss: Array, numbers: NDArray[np.int64]) -> Array:
    """Return losses (n,) around their own parabola in ln k, k the validation numbers (n,)."""
    basis = trend_basis(numbers)
    return loss - basis @ (basis.T @ loss)


def validation_numbers(run: Run) -> NDArray[np.int64]:
    """Return which validation of its training each point of a run's curve is, from 1.

    The last one, at the run's own last step, reads the batches that would have come next.
    """
    at = run.tokens / run.tokens_a_step / STEPS_PER_VALIDATION
    return np.ceil(at - 1e-3).astype(np.int64)


def common_effect(run: Run, others: list[Run]) -> Effect | None:
    """Estimate the common effect around the end of `run` from `others`, None if too few reach it.

    `others` are of its stream and objective; `run` itself among them is an error of the caller.
    """
    end = int(validation_numbers(run)[-1])
    half = int(np.clip(end // 3, *_HALF))
    curves = [(validation_numbers(other), other) for other in others]
    reach = sorted((int(k[-1]) for k, _ in curves), reverse=True)
    if len(reach) < LEAST_RUNS or reach[LEAST_RUNS - 1] < end:
        return None
    stop = min(end + half, reach[LEAST_RUNS - 1])
    numbers = np.arange(max(FIRST, stop - 2 * half), stop + 1)
    losses, size = [], []
    for k, other in curves:
        inside = (k >= numbers[0]) & (k <= stop)
        if inside.sum() >= LEAST_POINTS:
            row = np.full(len(numbers), np.nan)
            row[k[inside] - numbers[0]] = other.loss[inside]
            losses.append(row)
            size.append(np.log(other.n_params / run.n_params))
    if len(losses) < LEAST_RUNS:
        return None
    table = np.array(losses)
    if np.isfinite(table[:, numbers == end]).sum() < LEAST_RUNS:
        return None
    return _solve(numbers, table, np.array(size))


def trend_basis(numbers: NDArray[np.int64]) -> Array:
    """Return an orthonormal basis (n, 3) of the parabolas in ln k at validation numbers k (n,)."""
    x = np.log(numbers)
    return np.linalg.qr(np.vander(x - x.mean(), TREND_PARAMETERS))[0]


class _Window:
    """Losses (runs, n) in a window, NaN where a run has no point, and their parabolas."""

    def __init__(self, numbers: NDArray[np.int64], losses: Array) -> None:
        self.there = np.isfinite(losses)
        self.losses = np.where(self.there, losses, 0.0)
        # Most runs have a point at every number, so they share one basis.
        patterns, which = np.unique(self.there, axis=0, return_inverse=True)
        self.patterns, self.which = patterns, which.ravel()
        self.bases = np.zeros((len(patterns), len(numbers), TREND_PARAMETERS))
        for basis, seen in zip(self.bases, patterns, strict=True):
            basis[seen] = trend_basis(numbers[seen])

    def detrend(self, values: Array) -> Array:
        """Take every run's own parabola off values (runs, n), 0 where there is no point."""
        basis = self.bases[self.which]
        return values - (basis @ (values[:, None] @ basis).swapaxes(1, 2))[..., 0]

    def information(self, gain: Array) -> Array:
        """Return how well detrended losses tell the effect, (n, n), in units of their noise."""
        weights = np.bincount(self.which, gain**2, minlength=len(self.patterns))
        trends = np.hstack(list(np.sqrt(weights)[:, None, None] * self.bases))
        return np.diag(weights @ self.patterns) - trends @ trends.T

    def tame(self, clipped: Array, rest: Array, fitted: Array, sd: float) -> Array:
        """Return the losses less what they are beyond Huber's limit from trend and `fitted`.

        The trend is that of the losses tamed so far, `clipped`, which `rest` is without it.
        """
        residual = self.losses - clipped + rest - fitted
        limit = _CLIP * sd
        return self.losses - np.where(self.there, residual - residual.clip(-limit, limit), 0.0)

    def variance(self, residual: Array) -> float:
        """Return the variance of normal residuals (runs, n) of which some may be wild."""
        return max(float(np.median(residual[self.there] ** 2)) / _MEDIAN_SQUARE, 1e-12)


def _solve(numbers: NDArray[np.int64], losses: Array, size: Array) -> Effect:
    """Fit trends, gains and effect to losses (runs, n); `size` (runs,) is ln N_j - ln N."""
    mean = size.mean()
    size = size - mean
    window = _Window(numbers, losses)
    free = len(numbers) - TREND_PARAMETERS
    points = window.there.sum()
    dof = max(points - TREND_PARAMETERS * len(losses) - free, 1)
    clipped = window.losses
    for _ in range(_ROUNDS):
        rest = window.detrend(clipped)
        total = window.variance(rest) * len(numbers) / free
        clipped = window.tame(clipped, rest, np.zeros_like(rest), np.sqrt(total))
    noise, slope = 0.1 * total, 0.0
    for _ in range(_ROUNDS):
        rest, gain = window.detrend(clipped), 1 + slope * size
        ridge = noise / max(total - noise, 1e-3 * total)
        inverse = np.linalg.inv(window.information(gain) + ridge * np.eye(len(numbers)))
        effect = inverse @ (gain @ rest)
        shape = window.detrend(np.where(window.there, effect, 0.0))
        steep = size[:, None] * shape
        slope = float((steep * (rest - shape)).sum())
        slope /= float((steep**2).sum()) + noise / _SLOPE_SD**2
        fitted = (1 + slope * size)[:, None] * shape
        noise = window.variance(rest - fitted) * points / dof
        clipped = window.tame(clipped, rest, fitted, np.sqrt(noise))
    own = 1 - slope * mean
    return Effect(int(numbers[0]), own * effect, own**2 * noise * inverse, len(losses))
