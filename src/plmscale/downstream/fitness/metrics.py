"""How well scores order the variants of one assay: what ProteinGym reports beside Spearman's
correlation, and an interval for that one.

All take measured values and predictions, float (n,), higher is fitter. NaN where a number is not
defined: a constant predictor has no order.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

_Z95 = 1.959963984540054


def spearman_interval(value: float, n: int) -> tuple[float, tuple[float, float]] | None:
    """Return (standard error, 95 % interval) of a Spearman correlation of n pairs.

    Bonett and Wright 2000: Fisher's z has variance (1 + value^2 / 2) / (n - 3). None where n < 4
    or the value is no number or at its bound.
    """
    if n < 4 or not abs(value) < 1:
        return None
    error = math.sqrt((1 + value**2 / 2) / (n - 3))
    z = math.atanh(value)
    low, high = math.tanh(z - _Z95 * error), math.tanh(z + _Z95 * error)
    return (1 - value**2) * error, (low, high)


def auc(label: np.ndarray, predicted: np.ndarray) -> float:
    """Return the area under the ROC curve of labels 0 and 1; ties count one half."""
    positive = label.astype(bool)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg or not np.isfinite(predicted).all():
        return math.nan
    ranks = stats.rankdata(predicted)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def mcc(label: np.ndarray, predicted: np.ndarray) -> float:
    """Return Matthews' correlation of the labels with `predicted` above its median."""
    if not np.isfinite(predicted).all():
        return math.nan
    positive, called = label.astype(bool), predicted > np.median(predicted)
    tp, tn = int((positive & called).sum()), int((~positive & ~called).sum())
    fp, fn = int((~positive & called).sum()), int((positive & ~called).sum())
    # Python's integers: the product of four counts of an assay leaves 64 bits.
    norm = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / norm if norm else math.nan


def ndcg(measured: np.ndarray, predicted: np.ndarray, share: float = 0.1) -> float:
    """Return the normalised discounted cumulative gain among the first `share` of the predictions.

    Gains are measured values scaled to 0..1 over the assay; rank r is divided by log2(r + 1); the
    norm is that of the best order. Ties in the prediction count with the mean gain of their group,
    so that the order of the file decides nothing.
    """
    n = len(measured)
    top = math.floor(n * share)
    if not top or not (np.isfinite(measured).all() and np.isfinite(predicted).all()):
        return math.nan
    width = measured.max() - measured.min()
    if not width or predicted.max() == predicted.min():
        return math.nan
    gain = (measured - measured.min()) / width
    _, group = np.unique(-predicted, return_inverse=True)
    mean = np.bincount(group, gain) / np.bincount(group)
    ordered = mean[np.sort(group)]
    discount = 1 / np.log2(np.arange(top) + 2)
    return float(ordered[:top] @ discount / (np.sort(gain)[::-1][:top] @ discount))


def top_recall(measured: np.ndarray, predicted: np.ndarray, share: float = 0.1) -> float:
    """Return how much of the best `share` of the variants is in the best `share` predicted.

    Both are what lies at or above the quantile 1 - share. NaN for a constant predictor, of which
    that would be all.
    """
    if not len(measured) or not (np.isfinite(measured).all() and np.isfinite(predicted).all()):
        return math.nan
    if predicted.max() == predicted.min():
        return math.nan
    best = measured >= np.quantile(measured, 1 - share)
    called = predicted >= np.quantile(predicted, 1 - share)
    return float((best & called).sum() / best.sum())
