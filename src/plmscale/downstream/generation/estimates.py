"""Numbers of one set of proteins, and of two, with 95 % intervals; free of torch and of files.

Means and distances: bootstrap over proteins. A distance between two samples is too large by chance,
and a bootstrap's by chance twice, so its interval is the basic one, 2 v - quantiles, which takes that
off; and from a divergence, which chance makes several times what it is, the mean excess is taken off,
too. Shares of proteins: Wilson's score interval, because a bootstrap of none or of all has no width.
Expected clusters: jackknife, because a protein drawn twice would be in one cluster with itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Array = NDArray[np.float64]
_Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """again: the number in each bootstrap sample, or None and then `ci95` and `se` are of their own.
    basic: whether the interval is the basic one. n: proteins."""

    value: float
    n: int
    again: Array | None = None
    basic: bool = False
    own_se: float | None = None
    own_ci95: tuple[float, float] | None = None

    @property
    def se(self) -> float | None:
        return self.own_se if self.again is None else float(self.again.std(ddof=1))

    @property
    def ci95(self) -> tuple[float, float] | None:
        return (
            self.own_ci95 if self.again is None else _interval(self.value, self.again, self.basic)
        )


def draws(n: int, replicates: int, seed: int) -> Array:
    """Return how often each of n proteins is drawn in each bootstrap sample, (replicates, n)."""
    rng = np.random.default_rng(seed)
    if n == 0:
        return np.zeros((replicates, 0))
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)


def ratio(part: Array, whole: Array, drawn: Array) -> Estimate:
    """Return sum(part) / sum(whole) over proteins; NaN where the whole is 0."""
    value = _divided(part.sum(), whole.sum())
    return _bootstrapped(value, len(part), _divided(drawn @ part, drawn @ whole))


def share(flags: NDArray[np.bool_]) -> Estimate:
    """Return the share of proteins that are flagged, with Wilson's interval (Wilson 1927)."""
    n = len(flags)
    if n == 0:
        return Estimate(math.nan, 0)
    p, z2 = float(flags.mean()), _Z**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Rounding must not put the share outside of its interval.
    ends = (min(max(0.0, middle - half), p), max(min(1.0, middle + half), p))
    return Estimate(p, n, own_se=math.sqrt(p * (1 - p) / n), own_ci95=ends)


def kolmogorov_smirnov(first: Array, second: Array, drawn: Array, other: Array) -> Estimate:
    """Return the largest distance between the distribution functions of two samples of numbers."""
    if not len(first) or not len(second):
        return Estimate(math.nan, len(first))
    support = np.unique(np.concatenate([first, second]))
    below = [(sample[:, None] <= support).astype(float) for sample in (first, second)]
    value = np.abs(below[0].mean(0) - below[1].mean(0)).max()
    again = np.abs(drawn @ below[0] / len(first) - other @ below[1] / len(second)).max(1)
    return _bootstrapped(float(value), len(first), again, basic=True)


def jensen_shannon(first: Array, second: Array, drawn: Array, other: Array) -> Estimate:
    """Return the Jensen-Shannon divergence in nats of the frequencies of two sets, less chance.

    first (n, k), second (m, k): counts of k kinds in each protein. 0 to ln 2; below 0 by as much as
    chance was overestimated.
    """
    value = divergence(first, second)
    found = _bootstrapped(value, len(first), _divergence(drawn @ first, other @ second), basic=True)
    if found.again is None:
        return replace(found, value=math.nan)
    excess = float(found.again.mean()) - value
    # Both move: the interval, 2 v - quantiles, stays where it is about the uncorrected value.
    return replace(found, value=value - excess, again=found.again - 2 * excess)


def divergence(first: Array, second: Array) -> float:
    """Return the Jensen-Shannon divergence of two sets as it is; arguments as `jensen_shannon`."""
    return float(_divergence(first.sum(0), second.sum(0)))


def expected_clusters(sizes: NDArray[np.int64], drawn: int) -> Estimate:
    """Return how many clusters `drawn` proteins fall into on average (rarefaction, Hurlbert 1971).

    sizes: proteins of each cluster. Drawn without replacement. NaN where there are fewer; no interval
    where there are no more.
    """
    total = int(sizes.sum())
    if total < drawn or drawn < 1:
        return Estimate(math.nan, total)
    value = _rarefied(sizes, drawn)
    if total == drawn:
        return Estimate(value, total)
    # Proteins of clusters of one size leave the same behind.
    left, weight = [], []
    for size, clusters in zip(*np.unique(sizes, return_counts=True)):
        without = sizes.copy()
        without[np.flatnonzero(sizes == size)[0]] -= 1
        left.append(_rarefied(without, drawn))
        weight.append(size * clusters)
    spread = np.average((np.array(left) - np.average(left, weights=weight)) ** 2, weights=weight)
    se = math.sqrt((total - 1) * spread)
    return Estimate(value, total, own_se=se, own_ci95=(value - _Z * se, value + _Z * se))


def minus(first: Estimate, second: Estimate) -> Estimate:
    """Return the difference of two numbers of one kind.

    Bootstrapped ones sample by sample, so what both share (the reference) is drawn alike. Else from
    the ends of both intervals (Newcombe 1998, method 10).
    """
    value = first.value - second.value
    if first.again is not None and second.again is not None:
        return _bootstrapped(value, first.n, first.again - second.again, first.basic)
    if first.ci95 is None or second.ci95 is None:
        return Estimate(value, first.n)
    (low, high), (other_low, other_high) = first.ci95, second.ci95
    ends = (
        value - math.hypot(first.value - low, other_high - second.value),
        value + math.hypot(high - first.value, second.value - other_low),
    )
    se = math.hypot(first.se or 0.0, second.se or 0.0)
    return Estimate(value, first.n, own_se=se, own_ci95=ends)


def _bootstrapped(value: float, n: int, again: Array, basic: bool = False) -> Estimate:
    """An interval wants two proteins, and numbers from all but a few samples."""
    there = np.isfinite(again)
    if n < 2 or not math.isfinite(value) or there.mean() < 0.95:
        return Estimate(value, n)
    # A sample without a number stands for none: the pairing of two numbers must not slip.
    return Estimate(value, n, np.where(there, again, value), basic)


def _interval(value: float, again: Array, basic: bool) -> tuple[float, float]:
    low, high = np.quantile(again, (0.025, 0.975)).tolist()
    return (2 * value - high, 2 * value - low) if basic else (low, high)


def _divided(part: Array, whole: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole == 0, np.nan, np.asarray(part, float) / whole)[()]


def _divergence(first: Array, second: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        p, q = (sums / sums.sum(-1, keepdims=True) for sums in (first, second))
        middle = (p + q) / 2
        terms = [np.where(x > 0, x * np.log(x / middle), 0).sum(-1) for x in (p, q)]
    empty = (first.sum(-1) == 0) | (second.sum(-1) == 0)
    return np.where(empty, np.nan, (terms[0] + terms[1]) / 2)


def _rarefied(sizes: NDArray[np.int64], drawn: int) -> float:
    """Sum over clusters of one minus the chance that none of its proteins is drawn."""
    total = sizes.sum()
    # ln C(total - size, drawn) - ln C(total, drawn); impossible where too few are outside.
    outside = total - sizes
    possible = outside >= drawn
    logs = (
        gammaln(outside + 1.0) - gammaln(np.where(possible, outside - drawn, 0) + 1.0)
        - gammaln(total + 1.0) + gammaln(total - drawn + 1.0)
    )  # fmt: skip
    return float((1 - np.where(possible, np.exp(logs), 0))[sizes > 0].sum())
