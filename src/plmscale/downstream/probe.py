"""Linear readouts of features that stay as they are: ridge, and multinomial logistic regression.

Features are standardised by the training rows, the strength of the penalty is chosen on the
validation rows. Ridge needs only sums over rows, so that any number of residues passes through once,
in blocks, and all strengths follow from one eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plmscale.errors import PlmscaleError

Array = NDArray[np.float64]
# Rows of features (dense, or sparse of scipy) and of targets.
Block = tuple[Any, Array]

# Strengths to choose from: of the summed squared error, on features of unit variance.
RIDGE_PENALTIES = tuple(10.0**power for power in range(-2, 7))
# Of the summed cross-entropy; scikit-learn's C is one over them.
LOGISTIC_PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
_MAX_ITERATIONS = 300
# The gradient's largest entry, per row, at which a logistic fit ends.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Readout:
    """scores = (x - centre) / scale @ weight + bias.

    centre, scale: (d,); weight: (d, k); bias: (k,). penalty: the strength that was chosen;
    valid_loss: what it was chosen by (mean squared error, or nats), NaN where there was no choice.
    """

    centre: Array
    scale: Array
    weight: Array
    bias: Array
    penalty: float
    valid_loss: float = float("nan")

    def __call__(self, x: Any) -> Array:
        """(n, d), dense or sparse -> (n, k)."""
        slope = self.weight / self.scale[:, None]
        return x @ slope + (self.bias - self.centre @ slope)


class Moments:
    """Sums over rows from which ridge regressions follow, whatever the number of rows.

    Dense features are summed relative to the first block's mean: states of a network may have means
    a hundred times their spread, which would leave few digits of a variance.
    """

    def __init__(self) -> None:
        self.n = 0
        self._shift: Array | None = None

    def add(self, x: Any, y: Array) -> None:
        """Take in rows x (n, d), dense or sparse, with targets y (n, k)."""
        if self._shift is None:
            d, k = x.shape[1], y.shape[1]
            self._shift = np.zeros(d) if _is_sparse(x) else np.mean(x, axis=0, dtype=np.float64)
            self._x, self._xx = np.zeros(d), np.zeros((d, d))
            self._y, self._xy = np.zeros(k), np.zeros((d, k))
        if not _is_sparse(x):
            x = np.asarray(x, np.float64) - self._shift
        gram = x.T @ x
        self.n += x.shape[0]
        self._x += np.asarray(x.sum(axis=0)).ravel()
        self._xx += gram.toarray() if _is_sparse(gram) else gram
        self._y += y.sum(axis=0)
        self._xy += x.T @ y

    def path(self, penalties: Sequence[float], standardise: bool = True) -> Iterator[Readout]:
        """Yield the ridge regression of each strength; the intercept is not penalised."""
        if self._shift is None:
            raise ValueError("no rows")
        x, y = self._x / self.n, self._y / self.n
        gram = self._xx - self.n * np.outer(x, x)
        variance = np.diag(gram) / self.n
        # Columns that are constant in training tell nothing: one-hot features are full of them.
        used = np.flatnonzero(_varies(variance, x + self._shift))
        scale = np.ones(len(x))
        if standardise:
            scale[used] = np.sqrt(variance[used])
        gram = gram[np.ix_(used, used)] / np.outer(scale[used], scale[used])
        cross = (self._xy - self.n * np.outer(x, y))[used] / scale[used, None]
        values, vectors = np.linalg.eigh(gram)
        turned = vectors.T @ cross
        for penalty in penalties:
            weight = np.zeros((len(x), len(y)))
            weight[used] = vectors @ (turned / (values.clip(0) + penalty)[:, None])
            yield Readout(x + self._shift, scale, weight, y, penalty)


def ridge(
    train: Iterable[Block],
    valid: Iterable[Block],
    penalties: Sequence[float] = RIDGE_PENALTIES,
    standardise: bool = True,
) -> Readout:
    """Return the ridge regression with the smallest mean squared error on the validation rows.

    train, valid: blocks of rows, features (n, d) with targets (n, k); passed through once. Raises
    PlmscaleError for features that are no numbers.
    """
    sums = Moments()
    for x, y in train:
        _check(x)
        sums.add(x, y)
    readouts = list(sums.path(penalties, standardise))
    error, n = np.zeros(len(readouts)), 0
    for x, y in valid:
        _check(x)
        n += len(y)
        error += [float(((readout(x) - y) ** 2).sum()) for readout in readouts]
    error /= max(1, n) * len(readouts[0].bias)
    best = int(np.argmin(error))
    return replace(readouts[best], valid_loss=float(error[best]) if n else float("nan"))


def logistic(
    x: ArrayLike,
    y: ArrayLike,
    valid_x: ArrayLike,
    valid_y: ArrayLike,
    penalties: Sequence[float] = LOGISTIC_PENALTIES,
) -> tuple[Readout, list[str]]:
    """Return the multinomial logistic regression with the smallest loss in validation, and notes.

    x: (n, d); y: int (n,), classes 0 to k - 1, each there at least once; valid_y likewise. The
    scores are log-probabilities up to a constant of each row. Strengths are gone through from
    strong to weak, each from the solution before, until one is worse than the one before it.
    """
    from sklearn.linear_model import LogisticRegression

    x, valid_x = (np.asarray(part, np.float64) for part in (x, valid_x))
    y, valid_y = np.asarray(y), np.asarray(valid_y)
    _check(x)
    _check(valid_x)
    if len(np.unique(y)) < 2:
        raise PlmscaleError("a logistic regression needs examples of two classes at least")
    centre, variance = x.mean(axis=0), x.var(axis=0)
    scale = np.where(_varies(variance, centre), np.sqrt(variance), np.inf)
    x, valid_x = (x - centre) / scale, (valid_x - centre) / scale
    model = LogisticRegression(tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True)
    best: Readout | None = None
    notes = []
    for penalty in sorted(penalties, reverse=True):
        ended = _fit(model.set_params(C=1 / penalty), x, y)
        weight, bias = _both_classes(model)
        loss = _nats(valid_x @ weight + bias, valid_y)
        if best is not None and not loss < best.valid_loss:
            break
        best = Readout(centre, scale, weight, bias, penalty, loss)
        notes = [] if ended else [f"logistic: not converged after {_MAX_ITERATIONS} iterations"]
    assert best is not None
    return best, notes


def _fit(model: Any, x: Array, y: np.ndarray) -> bool:
    """Fit, and return whether it converged; a model of scikit-learn says it in a warning."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    return int(np.max(model.n_iter_)) < _MAX_ITERATIONS


def _both_classes(model: Any) -> tuple[Array, Array]:
    """Return weight (d, k) and bias (k,); for two classes scikit-learn keeps the difference."""
    weight, bias = model.coef_.T.copy(), model.intercept_.copy()
    if weight.shape[1] == 1:
        weight, bias = np.hstack([0 * weight, weight]), np.concatenate([0 * bias, bias])
    return weight, bias


def _nats(scores: Array, y: np.ndarray) -> float:
    """Return the mean cross-entropy; infinity of no rows, so that the strongest penalty stays."""
    if not len(y):
        return float("inf")
    top = scores.max(axis=1, keepdims=True)
    norm = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float((norm - scores[np.arange(len(y)), y]).mean())


def _varies(variance: Array, centre: Array) -> NDArray[np.bool_]:
    """Return which columns vary by more than the rounding of single precision."""
    return variance > (1e-6 * centre) ** 2


def _is_sparse(x: Any) -> bool:
    return hasattr(x, "toarray")


def _check(x: Any) -> None:
    if not _is_sparse(x) and not np.isfinite(x).all():
        raise PlmscaleError(
            "embeddings hold NaN or infinity; has the run diverged, or is its dtype too coarse (fp32)?"
        )
