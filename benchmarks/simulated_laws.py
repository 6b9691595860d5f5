"""Runs tables whose law is known: the demo's, the paper's, and profiles no estimator assumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

Array = np.ndarray


@dataclass(frozen=True)
class Law:
    """`rise(u, c)` is the loss above the optimum at u = ln N - ln N_opt, c = ln C - ln `middle`.

    N_opt = `best` (C / middle)^a, and the optimum's loss is floor + k (C / middle)^-c.
    """

    objective: str
    rise: Callable[[Array, float], Array]
    a: float
    middle: float
    best: float
    level: tuple[float, float, float]

    def optimum(self, flops: float) -> float:
        """Return ln N_opt."""
        return float(np.log(self.best) + self.a * np.log(flops / self.middle))


@dataclass(frozen=True)
class Design:
    """Which runs are made: `sizes` (least, most) models a budget, a factor `ratio` apart."""

    budgets: tuple[float, ...]
    sizes: tuple[int, int]
    noise: float
    ratio: float = 2.0
    outliers: float = 0.0

    @property
    def name(self) -> str:
        low, high = self.sizes
        return f"{len(self.budgets)}x{low if low == high else f'{low}-{high}'}"


def two_sided(k: float, alpha: float, beta: float, g: float) -> Callable[[Array, float], Array]:
    """Profile of E + A / N^alpha + B / D^beta with curvature k exp(-g c) at the minimum."""

    def rise(u: Array, c: float) -> Array:
        sides = np.expm1(-alpha * u) / alpha + np.expm1(beta * u) / beta
        return k * np.exp(-g * c) * sides / (alpha + beta)

    return rise


def chinchilla(objective: str, alpha: float, beta: float, middle: float, best: float,
               k: float, floor: float) -> Law:  # fmt: skip
    """Return L = E + A / N^alpha + B / D^beta itself; k is the curvature at `middle`."""
    g = alpha * beta / (alpha + beta)
    t = k / (alpha + beta)
    rise = two_sided(k, alpha, beta, g)
    return Law(objective, rise, beta / (alpha + beta), middle, best,
               (floor, t / alpha + t / beta, g))  # fmt: skip


def changing(u: Array, c: float) -> Array:
    """Steeper and more lopsided with C: right exponent 0.2 at 1e18 FLOPs, 0.7 at 1e21."""
    alpha, beta = 0.35, float(np.exp(np.log(0.37) + 0.18 * c))
    return two_sided(0.06, alpha, beta, -0.2)(u, c)


def straight_wings(u: Array, c: float) -> Array:
    """A parabola near the minimum, straight further out, sooner on the left."""
    width = np.where(u < 0, 0.7, 2.0)
    return 0.08 * np.exp(0.1 * c) * width**2 * (np.sqrt(1 + (u / width) ** 2) - 1)


def lopsided(u: Array, c: float) -> Array:
    """The joint fit's own family: straight on the left, exponential on the right."""
    return 0.065 * np.exp(0.08 * c) * (np.expm1(0.45 * u) - 0.45 * u) / 0.45**2


_PAPER = (2.0, 0.45, 0.055)
LAWS = {
    "clm": chinchilla("clm", 0.37, 0.49, 3e11, 4e4, 0.07, 2.6),
    "mlm": chinchilla("mlm", 0.45, 0.22, 3e11, 4e4, 0.07, 2.5),
    "paper": chinchilla("clm", 0.30, 0.48, 3.16e19, 1.9e8, 0.07, 2.0),
    "lopsided": Law("clm", lopsided, 0.62, 3.16e19, 1.9e8, _PAPER),
    "changing": Law("mlm", changing, 0.76, 3.16e19, 0.9e8, _PAPER),
    "straight wings": Law("mlm", straight_wings, 0.70, 3.16e19, 0.9e8, _PAPER),
}

PAPER_BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21)
SMALL = [
    Design((1e11, 3e11, 1e12), (5, 5), 0.002),
    Design((1e11, 3e11, 1e12), (7, 7), 0.005),
    Design((1e11, 3e11, 1e12, 3e12), (6, 6), 0.003),
    Design((1e11, 3e11, 1e12, 3e12), (7, 7), 0.005),
]
PAPER = Design(PAPER_BUDGETS, (6, 14), 0.006, ratio=1.35)
WITH_OUTLIERS = Design(PAPER_BUDGETS, (6, 14), 0.004, ratio=1.35, outliers=0.1)


def simulate(law: Law, design: Design, rng: np.random.Generator) -> pd.DataFrame:
    """Draw a runs table; sizes need not be centred on the optimum."""
    floor, k, decay = law.level
    rows = []
    for budget in design.budgets:
        best, c = law.optimum(budget), float(np.log(budget / law.middle))
        shift = rng.uniform(-0.7, 0.7)
        count = int(rng.integers(design.sizes[0], design.sizes[1] + 1))
        u = np.log(design.ratio) * (np.arange(count) - (count - 1) / 2) + shift
        n = np.exp(best + u).astype(int)
        error = rng.normal(0, design.noise, count)
        wrong = rng.random(count) < design.outliers
        error = error + wrong * rng.normal(0, 5 * design.noise, count)
        loss = floor + k * np.exp(-decay * c) + law.rise(np.log(n) - best, c) + error
        rows.append(
            pd.DataFrame({"objective": law.objective, "n_params": n, "tokens": budget / 6 / n,
                          "flops": budget, "budget": budget, "loss": loss})
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)
