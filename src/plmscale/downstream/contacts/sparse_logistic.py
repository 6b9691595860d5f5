"""Logistic regression with an L1 penalty, for many rows and up to some thousand columns.

Minimises  C * sum of the rows' cross-entropies + |w|_1  over the weights w and a free intercept:
scikit-learn's `LogisticRegression(l1_ratio=1, solver="liblinear")`, but for the intercept, which
liblinear penalises too. That solver copies the matrix in float64 on the processor; here it stays
where it is and is read in slices, so that 20 proteins and the 660 maps of a large model need little
more than the matrix itself.

Proximal Newton (Lee, Sun and Saunders 2014): a quadratic model of the smooth part, minimised with
the penalty by coordinate descent, then a line search.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ROWS = 65_536  # of a slice
_NEWTON_STEPS = 100
_SWEEPS = 200


def fit(x: Tensor, y: Tensor, c: float, tolerance: float = 1e-6) -> tuple[np.ndarray, float]:
    """Return the weights float64 (columns,) and the intercept for x (rows, columns), y bool (rows,).

    Stops when no condition of the optimum is missed by more than `tolerance` times c times the
    number of rows. ValueError unless y holds both classes.
    """
    positives = int(y.sum())
    if not 0 < positives < len(y):
        raise ValueError("both classes are needed")
    y = y.double()
    # The intercept is the last parameter.
    w = np.zeros(x.shape[1] + 1)
    w[-1] = np.log(positives / (len(y) - positives))
    penalty = np.append(np.ones(x.shape[1]), 0.0)
    margin = torch.full_like(y, w[-1])
    for _ in range(_NEWTON_STEPS):
        gradient, hessian = _derivatives(x, y, margin, c)
        if _violation(w, gradient, penalty) <= tolerance * c * len(y):
            break
        step = _proximal_step(w, gradient, hessian, penalty)
        along = (x @ torch.from_numpy(step[:-1]).to(x)).double() + step[-1]
        value = c * _cross_entropy(margin, y) + np.abs(penalty * w).sum()
        # The decrease that the model promises to first order: always negative.
        promised = gradient @ step + (np.abs(penalty * (w + step)) - np.abs(penalty * w)).sum()
        size = 1.0
        while size > 1e-10:
            new = w + size * step
            reached = c * _cross_entropy(margin + size * along, y) + np.abs(penalty * new).sum()
            if reached <= value + 1e-4 * size * promised:
                break
            size /= 2
        else:  # rounding is all that is left
            break
        w, margin = new, margin + size * along
    return w[:-1], float(w[-1])


def _cross_entropy(margin: Tensor, y: Tensor) -> float:
    """Return the summed cross-entropy of log-odds `margin` (rows,)."""
    return float((torch.nn.functional.softplus(margin) - y * margin).sum())


def _derivatives(x: Tensor, y: Tensor, margin: Tensor, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient (p,) and Hessian (p, p) of c times the cross-entropy, intercept last.

    Slices are multiplied in the dtype of x and added up in float64: neither need be exact for the
    steps to go down, and the line search measures the objective itself.
    """
    p = torch.sigmoid(margin)
    off, weight = p - y, p * (1 - p)
    columns = x.shape[1]
    gradient = y.new_zeros(columns + 1)
    hessian = y.new_zeros(columns + 1, columns + 1)
    for start in range(0, len(y), _ROWS):
        at = slice(start, start + _ROWS)
        rows = x[at]
        weighted = rows * weight[at, None].to(x)
        gradient[:-1] += off[at].to(x) @ rows
        hessian[:-1, :-1] += rows.T @ weighted
        hessian[:-1, -1] += weighted.sum(0)
    gradient[-1], hessian[-1, -1] = off.sum(), weight.sum()
    hessian[-1, :-1] = hessian[:-1, -1]
    return c * gradient.cpu().numpy(), c * hessian.cpu().numpy()


def _violation(w: np.ndarray, gradient: np.ndarray, penalty: np.ndarray) -> float:
    """Return by how much the worst condition of the optimum is missed."""
    moved = np.abs(gradient + penalty * np.sign(w))
    still = np.maximum(np.abs(gradient) - penalty, 0)
    return float(np.where((w == 0) & (penalty > 0), still, moved).max())


def _proximal_step(
    w: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    """Return the step d that minimises gradient d + d H d / 2 + |penalty (w + d)|_1, (p,)."""
    # A column that is 0, or the sum of others, leaves no curvature: a trace of it keeps d finite.
    curved = hessian.copy()
    curved[np.diag_indices_from(curved)] += 1e-10 * np.trace(hessian) / len(w) + 1e-12
    diagonal = np.diag(curved)
    d, slope = np.zeros_like(w), gradient.copy()  # slope: gradient + curved @ d
    for _ in range(_SWEEPS):
        largest = 0.0
        for k in range(len(w)):
            at = w[k] + d[k] - slope[k] / diagonal[k]
            new = np.sign(at) * max(abs(at) - penalty[k] / diagonal[k], 0.0) - w[k]
            change = new - d[k]
            if change:
                d[k] = new
                slope += change * curved[k]
                largest = max(largest, diagonal[k] * change * change)
        if largest <= 1e-12 * max(1.0, float(-(gradient @ d))):
            break
    return d
