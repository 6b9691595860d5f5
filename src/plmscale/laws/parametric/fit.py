"""L(N, D) = E + A / N^alpha + B / D^beta with intervals and a look at what the data identify.

Hoffmann et al. 2022, approach 3: the sum over runs of Huber(delta = 1e-3) of ln L_fit - ln L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise, choose_noise, seed_noise
from plmscale.laws.parametric.descent import descend
from plmscale.laws.parametric.hoffmann import (
    HIGH,
    LOW,
    NAMES,
    decrement,
    grid_starts,
    log_prediction,
)
from plmscale.laws.parametric.landscape import (
    CONVERGED,
    Data,
    Profile,
    optima,
    profiles,
    rejection_rise,
)

Array = NDArray[np.float64]

MIN_RUNS = 7


@dataclass(frozen=True)
class ParametricFit:
    """Estimate and replicates; `theta` columns are log A, log B, log E, alpha, beta.

    `theta` is (5,), `replicates` (replicates, 5); log E is -inf where the floor is zero.
    `flops_per` is k in C = k N D (6 unless attention is counted). `profiles` are empty where
    nothing tells the noise of a loss. `optima` are as landscape.optima gives them, with `theta`
    like here.
    """

    theta: Array
    replicates: Array
    objective: float
    converged: bool
    at_bounds: tuple[str, ...]
    noise: Noise
    flops_per: float
    profiles: dict[str, Profile]
    optima: list[dict[str, Any]]


def fit_parametric(runs: pd.DataFrame, n_boot: int, rng: np.random.Generator) -> ParametricFit:
    """Fit the selected rows of one objective (columns n_params, tokens, c, loss, loss_sd)."""
    log_n = np.log(runs["n_params"].to_numpy(dtype=float))
    log_d = np.log(runs["tokens"].to_numpy(dtype=float))
    loss = runs["loss"].to_numpy(dtype=float)
    data = centred(log_n, log_d, np.log(loss))
    theta, value = best_fit(data)

    prediction = log_prediction(theta[None], data.u, data.v)[0]
    squares = float(((prediction - data.log_loss) ** 2).sum())
    seeds = seed_noise(runs)
    relative = None if seeds is None else Noise(seeds.sd / loss.mean(), seeds.dof, seeds.source)
    loss_sd = runs["loss_sd"].to_numpy(dtype=float) / loss
    noise = choose_noise(relative, squares, len(loss) - 5, loss_sd)
    replicates, found = np.empty((0, 5)), {}
    if noise.known:
        # Below a tenth of a permille it is rounding, and a cut of zero divides nothing.
        cut = rejection_rise(max(noise.sd, 1e-7), len(loss))
        found = profiles(theta, value, data, cut)
        if n_boot:
            log_losses = prediction + noise.draw(rng, n_boot, len(loss))
            replicates = refit(theta, log_losses, data)
    others = optima(theta, value, data)
    return ParametricFit(
        theta=uncentred(theta[None], data.centre)[0],
        replicates=uncentred(replicates, data.centre),
        objective=value,
        converged=decrement(theta, data.u, data.v, data.log_loss) < CONVERGED,
        at_bounds=_at_bounds(theta),
        noise=noise,
        flops_per=float(np.median(runs["c"].to_numpy(dtype=float) / np.exp(log_n + log_d))),
        profiles=found,
        optima=[o | {"theta": uncentred(o["theta"][None], data.centre)[0]} for o in others],
    )


def centred(log_n: Array, log_d: Array, log_loss: Array) -> Data:
    """Measure N and D from their geometric means."""
    centre = (float(log_n.mean()), float(log_d.mean()))
    return Data(log_n - centre[0], log_d - centre[1], log_loss, centre)


def uncentred(theta: Array, centre: tuple[float, float]) -> Array:
    """Turn log A, log B, E of centred N and D (sets, 5) into log A, log B, log E of N and D."""
    moved = theta.copy()
    moved[:, 0] += theta[:, 3] * centre[0]
    moved[:, 1] += theta[:, 4] * centre[1]
    with np.errstate(divide="ignore"):
        moved[:, 2] = np.log(theta[:, 2])
    return moved


def best_fit(data: Data) -> tuple[Array, float]:
    """Find the global optimum: (log A, log B, E, alpha, beta) of centred N and D, objective.

    The exponents are searched on a grid with the rest solved exactly; the best cells are refined.
    """
    starts = grid_starts(data.u, data.v, np.exp(data.log_loss)[None], steps=24, keep=5)[0]
    ends, values = descend(starts, data.u, data.v, data.log_loss)
    end = ends[[int(np.argmin(values))]]
    # Points on the edge of Huber's delta can hold a descent up; a fresh one goes on.
    for _ in range(3):
        end, value = descend(end, data.u, data.v, data.log_loss, tolerance=1e-13)
    return end[0], float(value[0])


def refit(theta: Array, log_losses: Array, data: Data) -> Array:
    """Fit every row of `log_losses` (replicates, points); returns parameters (replicates, 5).

    Each replicate starts from its own coarse search and from the estimate `theta`; the lower end
    counts.
    """
    starts = grid_starts(data.u, data.v, np.exp(log_losses), steps=10)[:, 0]
    found, value = descend(starts, data.u, data.v, log_losses, tolerance=1e-7)
    near = np.tile(theta, (len(log_losses), 1))
    near, near_value = descend(near, data.u, data.v, log_losses, tolerance=1e-7)
    return np.where((near_value < value)[:, None], near, found)


def optimum(theta: Array, flops_per: float) -> dict[str, Array]:
    """Return the compute-optimal laws of parameter sets (sets, 5), each entry (sets,).

    With C = k N D the minimum of L at fixed C is N = G (C/k)^a, D = (C/k)^b / G,
    G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta), b = 1 - a
    (Hoffmann et al. 2022, eq. 4), and there L = E + K C^-c with c = alpha beta / (alpha + beta).
    """
    log_a, log_b, _, alpha, beta = theta.T
    total = alpha + beta
    a, b, c = beta / total, alpha / total, alpha * beta / total
    log_g = (np.log(alpha / beta) + log_a - log_b) / total
    log_k = np.log(flops_per)
    log_na, log_db = log_g - a * log_k, -log_g - b * log_k
    log_excess = np.logaddexp(log_a - alpha * log_na, log_b - beta * log_db)
    return {"log_A": log_na, "a": a, "log_B": log_db, "b": b, "log_K": log_excess, "c": c}


def _at_bounds(theta: Array) -> tuple[str, ...]:
    tolerance = 1e-6
    return tuple(
        name
        for name, value, low, high in zip(NAMES, theta, LOW, HIGH, strict=True)
        if value <= low + tolerance or value >= high - tolerance
    )
