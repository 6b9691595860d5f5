"""The loss of fresh runs from scratch as a smooth surface over ln N and ln D.

Transfer and repetition both ask how many fresh tokens a loss is worth. A run's own curve cannot
say: its last points have a small learning rate, so it drops where a run with more tokens would
not. The ends of whole runs can. The surface is a quadratic,

    L(N, D) = c0 + c1 n + c2 d + c3 n^2 + c4 n d + c5 d^2,    n, d = ln N, ln D from their means,

which unlike E + A / N^alpha + B / D^beta lets the worth of a token grow with the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise

Array = NDArray[np.float64]

_TERMS = 6
# Twice the terms leave the noise as many degrees of freedom as there are coefficients.
MIN_RUNS = 2 * _TERMS
_HUBER = 1.345


@dataclass(frozen=True)
class Surface:
    """A fitted surface and its replicates: `coefficients` is (1 + replicates, 6), estimate first.

    `noise` is the spread of whole runs around it; `log_n` and `log_d` are the runs' ln N and ln D.
    """

    coefficients: Array
    noise: Noise
    log_n: Array
    log_d: Array

    def value(self, n_params: float, tokens: float) -> Array:
        """Return the loss in nats a token at one N and D, (1 + replicates,)."""
        return self.coefficients @ self._terms(np.log(n_params), np.log(tokens))

    def slope(self, n_params: float, tokens: float) -> Array:
        """Return dL / d ln D at one N and D, (1 + replicates,); negative where tokens help."""
        n, d = self._centred(np.log(n_params), np.log(tokens))
        c = self.coefficients
        return c[:, 2] + c[:, 4] * n + 2 * c[:, 5] * d

    def worth(self, n_params: float, tokens: float, drop: Array) -> Array:
        """Return ln(D'/D) such that L(N, D') = L(N, D) - drop.

        `drop` is (1 + replicates, ...) in nats, negative for a loss that is higher; the result has
        its shape. Infinite where the surface ends before it gets there, NaN where it does not
        fall with D.
        """
        drop = np.asarray(drop, dtype=float)
        shape = (-1,) + (1,) * (drop.ndim - 1)
        slope = self.slope(n_params, tokens).reshape(shape)
        bend = self.coefficients[:, 5].reshape(shape)
        inside = slope**2 - 4 * bend * drop
        # The form of the root that stays exact as the bend goes to zero.
        step = 2 * drop / (-slope + np.sqrt(np.maximum(inside, 0.0)))
        step = np.where(inside >= 0, step, np.where(drop > 0, np.inf, -np.inf))
        return np.where(slope < 0, step, np.nan)

    def _centred(self, log_n: Array | float, log_d: Array | float) -> tuple[Array, Array]:
        return np.asarray(log_n) - self.log_n.mean(), np.asarray(log_d) - self.log_d.mean()

    def _terms(self, log_n: Array | float, log_d: Array | float) -> Array:
        n, d = self._centred(log_n, log_d)
        return np.stack([np.ones_like(n * d), n, d, n * n, n * d, d * d])


def fit_surface(rows: pd.DataFrame, n_boot: int, rng: np.random.Generator) -> Surface | None:
    """Fit the surface to the ends of runs (n_params, tokens, loss in nats a token).

    Huber weights keep single odd runs from tilting it. Replicates are refits to losses of whole
    runs drawn around the surface. None for fewer than 12 runs, three sizes or three token counts.
    """
    log_n = np.log(rows["n_params"].to_numpy(dtype=float))
    log_d = np.log(rows["tokens"].to_numpy(dtype=float))
    loss = rows["loss"].to_numpy(dtype=float)
    few = min(len(np.unique(log_n.round(3))), len(np.unique(log_d.round(3)))) < 3
    if len(rows) < MIN_RUNS or few:
        return None
    blank = Surface(np.zeros((1, _TERMS)), Noise(float("nan"), float("nan"), ""), log_n, log_d)
    terms = blank._terms(log_n, log_d).T
    weight = np.ones(len(rows))
    for _ in range(50):
        estimate, _, rank, _ = np.linalg.lstsq(
            terms * np.sqrt(weight)[:, None], loss * np.sqrt(weight), rcond=None
        )
        if rank < _TERMS:
            return None
        residual = loss - terms @ estimate
        # 1.4826 MAD is the sd of a normal, blind to the few odd runs that the weights are for.
        scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-9)
        weight = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residual), 1e-12))
    dof = len(rows) - _TERMS
    sd = float(np.sqrt((weight * residual**2).sum() / dof))
    noise = Noise(sd, float(dof), "spread of runs around the surface of fresh runs")
    hat = np.linalg.pinv(terms * np.sqrt(weight)[:, None]) * np.sqrt(weight)
    spread = noise.draw(rng, n_boot, len(rows)) @ hat.T
    return Surface(np.vstack([estimate, estimate + spread]), noise, log_n, log_d)
