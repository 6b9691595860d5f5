"""Whether one number of many models follows another: rank correlation and a law, with intervals.

Models are few, and a bootstrap over few points is too sure of itself: five points in order are in
order in every replicate. So a trend also has to pass a permutation test, and a law has to foretell
models that were left out of its fit better than a constant does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from plmscale.downstream.statistics import spearman

Array = NDArray[np.float64]
MIN_MODELS = 5
"""With four models even perfect order has a permutation p of 0.083."""

LEVEL = 0.05
_EXACT = 7
_PERMUTATIONS = 5000
# Models that a shape needs, and shapes in the order in which the simpler one is preferred.
_SHAPES = {"linear": 5, "saturating": 7, "logistic": 8}
_CURVATURES = np.geomspace(0.1, 6.0, 24)
_WIDTHS = np.geomspace(0.04, 1.0, 12)
_MIDDLES = np.linspace(-0.25, 1.25, 25)


@dataclass(frozen=True)
class Trend:
    """Spearman's correlation over `n` models; p is of the permutation test, two-sided."""

    rho: float
    ci95: tuple[float, float] | None
    p: float | None
    n: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero and chance alone rarely gives such an order."""
        apart = self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)
        return apart and self.p is not None and self.p <= LEVEL


@dataclass(frozen=True)
class Law:
    """y = a + b g(u), with u = (x - x0) / width running from 0 to 1 over the models.

    shape, g: linear, u; saturating, 1 - exp(-c u); logistic, 1 / (1 + exp(-(u - middle) / c)).
    error, constant: root mean squared error on models left out, of the law and of a constant.
    skill: 1 - error^2 / constant^2, with its interval over models.
    """

    shape: str
    a: float
    b: float
    x0: float
    width: float
    c: float
    middle: float
    error: float
    constant: float
    skill: float
    skill_ci95: tuple[float, float]

    def at(self, x: ArrayLike) -> Array:
        """Return the law's values at `x`."""
        u = (np.asarray(x, float) - self.x0) / self.width
        return self.a + self.b * _basis(self.shape, u, np.array([[self.c, self.middle]]))[0]


def trend(
    x: ArrayLike, y: ArrayLike, se: ArrayLike | None = None, replicates: int = 2000, seed: int = 0
) -> Trend:
    """Return the rank correlation of y with x over models, (n,) each.

    The interval is a bootstrap over models in which each value of y also moves by its own standard
    error (NaN: none known). Observed values have that noise already, so it errs to the side of zero.
    Fewer than MIN_MODELS give neither interval nor p, and a constant column a rho of NaN.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n, rho = len(x), spearman(x, y)
    if n < MIN_MODELS or not math.isfinite(rho):
        return Trend(rho, None, None, n)
    noise = np.zeros(n) if se is None else np.nan_to_num(np.asarray(se, float))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n, (replicates, n))
    again = _correlations(x[drawn], y[drawn] + noise[drawn] * rng.standard_normal(drawn.shape))
    there = again[np.isfinite(again)]
    ci95 = None
    if len(there) >= 0.95 * replicates:
        low, high = np.quantile(there, [0.025, 0.975]).tolist()
        # Noise pulls replicates towards zero, at times past a value near one.
        ci95 = (min(low, rho), max(high, rho))
    return Trend(rho, ci95, _permutation(x, y, rho, rng), n)


def law(x: ArrayLike, y: ArrayLike, replicates: int = 2000, seed: int = 0) -> Law | None:
    """Return the law of y in x, (n,) each, or None where no shape does better than a constant.

    Each shape foretells each model from all others. Of those whose error is within two standard
    errors of the least, the simplest is taken; it is a law where the interval of its skill over
    models is above zero.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n, width = len(x), float(np.ptp(x)) if len(x) else 0.0
    if n < MIN_MODELS or width == 0 or np.ptp(y) == 0:
        return None
    x0 = float(x.min())
    u = (x - x0) / width
    constant = (y - (y.sum() - y) / (n - 1)) ** 2
    errors = {
        shape: _left_out(_basis(shape, u, _grid(shape)), y)
        for shape, least in _SHAPES.items()
        if n >= least
    }
    best = min(errors.values(), key=lambda squares: squares.mean())
    shape, squares = next(
        (name, own)
        for name, own in errors.items()
        if (own - best).mean() <= 2 * (own - best).std(ddof=1) / math.sqrt(n)
    )
    drawn = np.random.default_rng(seed).integers(0, n, (replicates, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        skills = 1 - squares[drawn].mean(1) / constant[drawn].mean(1)
    low, high = np.nanquantile(skills, [0.025, 0.975]).tolist()
    if not low > 0:
        return None
    grid = _grid(shape)
    a, b, rest = _fit(_basis(shape, u, grid), y)
    k = int(rest.argmin())
    skill = 1 - squares.mean() / constant.mean()
    return Law(
        shape, float(a[k]), float(b[k]), x0, width, *map(float, grid[k]),
        math.sqrt(squares.mean()), math.sqrt(constant.mean()), float(skill), (low, high),
    )  # fmt: skip


def _correlations(x: Array, y: Array) -> Array:
    """Return Spearman's correlation of each row, (rows,)."""
    a, b = (rankdata(values, axis=1) for values in (x, y))
    a -= a.mean(1, keepdims=True)
    b -= b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def _permutation(x: Array, y: Array, rho: float, rng: np.random.Generator) -> float:
    """Return how often an order by chance correlates as much, of either sign."""
    n = len(x)
    ranks, other = rankdata(x), rankdata(y)
    if n <= _EXACT:
        orders = np.array(list(permutations(range(n))))
    else:
        orders = rng.permuted(np.tile(np.arange(n), (_PERMUTATIONS, 1)), axis=1)
    again = (
        (ranks - ranks.mean()) @ (other - other.mean())[orders].T / (n * ranks.std() * other.std())
    )
    extreme = int((np.abs(again) >= abs(rho) - 1e-9).sum())
    return extreme / len(orders) if n <= _EXACT else (extreme + 1) / (len(orders) + 1)


def _grid(shape: str) -> Array:
    """Return the curvatures and middles that are tried, (k, 2)."""
    if shape == "linear":
        return np.array([[1.0, 0.0]])
    if shape == "saturating":
        return np.array([[c, 0.0] for c in _CURVATURES])
    return np.array([[c, middle] for c in _WIDTHS for middle in _MIDDLES])


def _basis(shape: str, u: Array, grid: Array) -> Array:
    """Return g(u) for each row of the grid, (k, n)."""
    c, middle = grid[:, :1], grid[:, 1:]
    if shape == "linear":
        return np.tile(u, (len(grid), 1))
    if shape == "saturating":
        return -np.expm1(-c * u)
    return 0.5 * (1 + np.tanh((u - middle) / (2 * c)))


def _fit(g: Array, y: Array) -> tuple[Array, Array, Array]:
    """Return a, b and the sum of squares that is left, (k,) each, of y = a + b g."""
    centred = g - g.mean(1, keepdims=True)
    spread = np.maximum((centred**2).sum(1), 1e-12)
    b = centred @ (y - y.mean()) / spread
    return y.mean() - b * g.mean(1), b, ((y - y.mean()) ** 2).sum() - b**2 * spread


def _left_out(g: Array, y: Array) -> Array:
    """Return the squared error at each model of the fit to all others, (n,)."""
    errors = np.empty(len(y))
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        a, b, rest = _fit(g[:, kept], y[kept])
        k = rest.argmin()
        errors[i] = (y[i] - a[k] - b[k] * g[k, i]) ** 2
    return errors
