"""Bias and coverage of every law method on simulated tables whose law is known.

    python benchmarks/law_coverage.py [--tables 200] [--boot 400]

Tables look like the demo's: 3 or 4 budgets, 5 to 7 sizes a factor 2 apart that need not be
centred on the optimum, Gaussian noise in the loss, and the curvature of the paper's profiles.
Prints, for the exponent a, for N_opt in the middle and for N_opt at ten times the largest budget,
how often the 95 % interval holds the truth. Beyond that: the bias and the median width.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from plmscale.laws.bootstrap import interval
from plmscale.laws.fit import METHODS, fit_laws
from plmscale.textable import table

# E, alpha, beta, N_opt at 3e11 FLOPs, and t = alpha A / N^alpha = beta B / D^beta there. The
# curvature of a profile is t (alpha + beta): 0.07 nats per squared e-fold, as in the paper.
LAWS = {"clm": (2.6, 0.37, 0.49, 4e4, 0.08), "mlm": (2.5, 0.45, 0.22, 4e4, 0.10)}
MIDDLE = 3e11
CASES = [
    # budgets, sizes, noise
    ((1e11, 3e11, 1e12), 5, 0.002),
    ((1e11, 3e11, 1e12), 7, 0.005),
    ((1e11, 3e11, 1e12, 3e12), 6, 0.003),
    ((1e11, 3e11, 1e12, 3e12), 7, 0.005),
]


def coefficients(name: str) -> tuple[float, float, float, float, float]:
    """Return E, A, B, alpha, beta of a named law."""
    floor, alpha, beta, n, t = LAWS[name]
    d = MIDDLE / 6 / n
    return floor, t / alpha * n**alpha, t / beta * d**beta, alpha, beta


def simulate(
    name: str, budgets: tuple[float, ...], sizes: int, noise: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw a runs table from the law `name`."""
    floor, a, b, alpha, beta = coefficients(name)
    rows = []
    for budget in budgets:
        best = LAWS[name][3] * (budget / MIDDLE) ** (beta / (alpha + beta))
        shift = rng.uniform(-0.7, 0.7)
        for k in range(sizes):
            n = int(best * 2 ** (k - (sizes - 1) / 2 + shift))
            d = budget / 6 / n
            loss = floor + a / n**alpha + b / d**beta + rng.normal(0, noise)
            rows.append({"objective": name, "n_params": n, "tokens": d, "flops": budget,
                         "budget": budget, "loss": loss})  # fmt: skip
    return pd.DataFrame(rows)


def measure(name: str, case: tuple, tables: int, boot: int) -> list[dict]:
    """Fit `tables` simulated tables; return one row per method."""
    budgets, sizes, noise = case
    _, alpha, beta, middle, _ = LAWS[name]
    truth = beta / (alpha + beta)
    far = 10 * budgets[-1]
    rng = np.random.default_rng(11)
    kept: dict[str, list] = {method: [] for method in METHODS}
    for seed in range(tables):
        found = fit_laws(simulate(name, *case, rng), n_boot=boot, seed=seed)["laws"][name]
        for method, entry in found.items():
            if entry["N_opt"]["a"] is None:
                kept[method].append([np.nan] * 5)
                continue
            low, high = (
                np.inf * sign if end is None else end
                for end, sign in zip(entry["ci95"]["a"], (-1, 1))
            )
            replicates = np.array(entry["bootstrap"]["rows"])[:, :2]
            holds = [float(low <= truth <= high)]
            for flops in (MIDDLE, far):
                ends = interval(replicates @ [1.0, np.log(flops)])
                want = np.log(middle) + truth * np.log(flops / MIDDLE)
                holds.append(float(ends[0] <= want <= ends[1]))
            kept[method].append([entry["N_opt"]["a"] - truth, high - low, *holds])
    rows = []
    for method, values in kept.items():
        array = np.array(values)
        good = array[~np.isnan(array[:, 0])]
        rows.append(
            {
                "law": name,
                "table": f"{len(budgets)}x{sizes}",
                "noise": noise,
                "method": method,
                "bias": round(float(np.median(good[:, 0])), 3),
                "sd": round(float(good[:, 0].std()), 3),
                "width": round(float(np.median(good[:, 1])), 3),
                "covers_a": f"{good[:, 2].mean():.0%}",
                "covers_N": f"{good[:, 3].mean():.0%}",
                "covers_10x": f"{good[:, 4].mean():.0%}",
                "no_law": len(array) - len(good),
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--boot", type=int, default=400)
    args = parser.parse_args()
    start = time.perf_counter()
    rows = [
        row
        for name in LAWS
        for case in CASES
        for row in measure(name, case, args.tables, args.boot)
    ]
    print(table(rows, list(rows[0])))
    print(f"\n{args.tables} tables each, {args.boot} replicates, "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
