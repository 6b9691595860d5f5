"""Statistics of per-example values, with bootstrap intervals; free of torch.

A statistic is a function of arrays that have one row an example. The bootstrap draws rows with
replacement. Those defined here can be computed from how often each row was drawn, without copying
and sorting again, so that thousands of replicates of a large test set take seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., float]
# Takes how often each row counts, (n,), and returns the statistic; NaN where it is undefined.
Counted = Callable[[Array], float]

# A percentile interval wants most replicates to be defined.
_DEFINED = 0.95


@dataclass(frozen=True)
class Difference:
    """A statistic of one predictor minus that of another on the same examples."""

    value: float
    se: float | None
    ci95: tuple[float, float] | None

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero; False where there is none."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation, ties with mean ranks.

    NaN where it is undefined: for fewer than two rows, a constant column, or a NaN among the values.
    """
    return _whole(_spearman, first, second)


def mean(values: ArrayLike) -> float:
    """Return the mean of a column; NaN of none."""
    return _whole(_mean, values)


def ratio(part: ArrayLike, whole: ArrayLike) -> float:
    """Return the sum of one column over that of another: a mean over what clusters hold."""
    return _whole(_ratio, part, whole)


def macro_f1(target: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean of F1 over the classes that occur as target or as prediction.

    Classes are integers; a negative prediction is none and no class. A class without a right
    prediction counts 0.
    """
    return _whole(_macro_f1, target, prediction)


def macro_f1_of_targets(target: ArrayLike, prediction: ArrayLike) -> float:
    """Return `macro_f1` over the classes that occur as target only."""
    return _whole(_macro_f1_of_targets, target, prediction)


def f1_of_counts(hits: ArrayLike, there: ArrayLike, told: ArrayLike) -> float:
    """Return the mean over classes of F1, from counts of each row (n, classes).

    hits: rightly told; there: of the class; told: told to be. A class that is neither is left out.
    """
    return _whole(_f1_of_counts, hits, there, told)


def bootstrap(
    *values: ArrayLike, statistic: Statistic, replicates: int = 1000, seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """Return standard error and 95 % percentile interval of statistic(*values).

    values: arrays with one row an example, drawn together. None, None where there are fewer than two
    rows, or where more than one replicate in twenty is undefined.
    """
    columns = _columns(values)
    again = _again(columns, statistic, replicates, seed)
    return _spread(again, statistic(*columns) if statistic in _BIASED else None)


def paired_difference(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    statistic: Statistic,
    replicates: int = 1000,
    seed: int = 0,
) -> Difference:
    """Return statistic(*first) - statistic(*second) with a paired interval.

    Row i of both is about the same example, and each replicate draws the same rows of both. So what
    makes a test set easy or hard for both predictors cancels.
    """
    one, two = _columns(first), _columns(second)
    if len(one[0]) != len(two[0]):
        raise ValueError(
            f"{len(one[0])} rows against {len(two[0])}; a pair needs the same examples"
        )
    value = statistic(*one) - statistic(*two)
    again = _again(one, statistic, replicates, seed) - _again(two, statistic, replicates, seed)
    se, ci95 = _spread(again, value if statistic in _BIASED else None)
    return Difference(value, se, ci95)


def _whole(prepare: Callable[..., Counted], *values: ArrayLike) -> float:
    columns = _columns(values)
    return prepare(*columns)(np.ones(len(columns[0])))


def _columns(values: Sequence[ArrayLike]) -> list[np.ndarray]:
    columns = [np.asarray(value) for value in values]
    if not columns or any(len(column) != len(columns[0]) for column in columns):
        raise ValueError(f"columns of {[len(column) for column in columns]} rows, expected equal")
    return columns


def _again(columns: list[np.ndarray], statistic: Statistic, replicates: int, seed: int) -> Array:
    """Return the statistic of each replicate, (replicates,)."""
    n = len(columns[0])
    if n < 2:
        return np.full(replicates, np.nan)
    if statistic in _PREPARE:
        counted = _PREPARE[statistic](*columns)
        return np.array([counted(counts) for counts in _draws(n, replicates, seed)])

    def copied(counts: Array) -> float:
        rows = np.repeat(np.arange(n), counts.astype(np.int64))
        return statistic(*(column[rows] for column in columns))

    return np.array([copied(counts) for counts in _draws(n, replicates, seed)])


def _draws(n: int, replicates: int, seed: int) -> Iterator[Array]:
    """Yield how often each of `n` rows is drawn; the same for each statistic and predictor."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(rng.integers(0, n, n), minlength=n).astype(float)


def _spread(again: Array, value: float | None) -> tuple[float | None, tuple[float, float] | None]:
    """Return standard deviation and interval of replicates, moved to have their mean at `value`."""
    there = again[np.isfinite(again)]
    if len(there) < 2 or len(there) < _DEFINED * len(again):
        return None, None
    ends = np.quantile(there, [0.025, 0.975])
    if value is not None:
        ends = (ends + value - there.mean()).clip(-1, 1)
    return float(there.std(ddof=1)), (float(ends[0]), float(ends[1]))


def _spearman(first: np.ndarray, second: np.ndarray) -> Counted:
    """Ranks of a resample follow from one sort: equal values share the mean of their places."""
    if len(first) < 2 or np.isnan(first).any() or np.isnan(second).any():
        return lambda counts: math.nan
    tied = [np.unique(column, return_inverse=True)[1] for column in (first, second)]

    def counted(counts: Array) -> float:
        total = counts.sum()
        ranks = []
        for group in tied:
            size = np.bincount(group, counts)
            # Middle of the group's places, less the mean of all places.
            ranks.append((np.cumsum(size) - 0.5 * size - 0.5 * total)[group])
        a, b = ranks
        variance = (counts @ (a * a)) * (counts @ (b * b))
        return float(counts @ (a * b) / math.sqrt(variance)) if variance > 0 else math.nan

    return counted


def _mean(values: np.ndarray) -> Counted:
    return _ratio(values, np.ones(len(values)))


def _ratio(part: np.ndarray, whole: np.ndarray) -> Counted:
    part, whole = part.astype(float), whole.astype(float)

    def counted(counts: Array) -> float:
        bottom = float(counts @ whole)
        return float(counts @ part) / bottom if bottom else math.nan

    return counted


def _macro_f1(target: np.ndarray, prediction: np.ndarray) -> Counted:
    return _f1(target, prediction, of_targets=False)


def _macro_f1_of_targets(target: np.ndarray, prediction: np.ndarray) -> Counted:
    return _f1(target, prediction, of_targets=True)


def _f1(target: np.ndarray, prediction: np.ndarray, of_targets: bool) -> Counted:
    made = prediction >= 0
    classes = np.unique(np.concatenate([target, prediction[made]]))
    wanted = np.searchsorted(classes, target)
    given = np.searchsorted(classes, prediction[made])
    right = target == prediction

    def sums(counts: Array) -> tuple[Array, Array, Array]:
        there = np.bincount(wanted, counts, len(classes))
        told = np.bincount(given, counts[made], len(classes))
        hits = np.bincount(wanted[right], counts[right], len(classes))
        return hits, there, told

    return _mean_f1(sums, np.ones(len(target)), of_targets)


def _f1_of_counts(hits: np.ndarray, there: np.ndarray, told: np.ndarray) -> Counted:
    columns = [column.astype(float) for column in (hits, there, told)]

    def sums(counts: Array) -> tuple[Array, Array, Array]:
        right, true, said = (counts @ column for column in columns)
        return right, true, said

    return _mean_f1(sums, np.ones(len(hits)), of_targets=False)


def _mean_f1(
    sums: Callable[[Array], tuple[Array, Array, Array]], all_rows: Array, of_targets: bool
) -> Counted:
    """Return the mean of F1 over the classes of all rows.

    A class that a replicate does not draw keeps its F1 of all rows. If it were left out, the mean of
    many small classes, most of them at 0, would rise with each class that is missed.
    """
    hits, there, told = sums(all_rows)
    used = there > 0 if of_targets else there + told > 0
    usual = hits[used] / (there + told)[used]

    def counted(counts: Array) -> float:
        hits, there, told = (column[used] for column in sums(counts))
        whole = there + told
        drawn = there > 0 if of_targets else whole > 0
        part = np.divide(hits, whole, out=usual.copy(), where=drawn)
        return float(2 * part.mean()) if len(part) else math.nan

    return counted


# Replicates of F1 of classes with an example or two are off its value on average: such a class draws
# its right one alone, or its wrong one. Their intervals are moved back.
_BIASED = (macro_f1, macro_f1_of_targets)
_PREPARE: dict[Statistic, Callable[..., Counted]] = {
    spearman: _spearman,
    mean: _mean,
    ratio: _ratio,
    macro_f1: _macro_f1,
    macro_f1_of_targets: _macro_f1_of_targets,
    f1_of_counts: _f1_of_counts,
}
