"""Bias and coverage of every law method on simulated tables whose law is known.

    python benchmarks/law_coverage.py [--tables 200] [--boot 400] [--only paper]

Small tables look like the demo's: 3 or 4 budgets, 5 to 7 sizes a factor 2 apart that need not be
centred on the optimum. Paper-like ones have its seven budgets, 6 to 14 sizes a budget and 0.006
nats of noise; some of their profiles have a shape that no method assumes (simulated_laws.py).
Prints, for the exponent a, for N_opt in the middle and for N_opt at ten times the largest budget,
how often the 95 % interval holds the truth. Beyond that: the bias and the median width.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from simulated_laws import LAWS, PAPER, SMALL, WITH_OUTLIERS, Design, Law, simulate

from plmscale.laws.bootstrap import interval
from plmscale.laws.estimators import fit_objective
from plmscale.laws.isoflop.methods import ISOFLOP_METHODS
from plmscale.laws.table.select import select
from plmscale.textable import table

METHODS = (*ISOFLOP_METHODS, "isoflop_joint", "parametric")
# A law of `simulated_laws.LAWS` and the runs that sample it.
CASES = [
    *((name, design) for name in ("clm", "mlm") for design in SMALL),
    *((name, PAPER) for name in ("paper", "lopsided", "changing", "straight wings")),
    ("lopsided", WITH_OUTLIERS),
]


def measure(
    name: str, design: Design, tables: int, boot: int, methods: tuple[str, ...] = METHODS
) -> list[dict]:
    """Fit `tables` simulated tables; return one row per method."""
    law = LAWS[name]
    far = 10 * design.budgets[-1]
    rng = np.random.default_rng(11)
    kept: dict[str, list] = {method: [] for method in methods}
    for seed in range(tables):
        runs = select(simulate(law, design, rng)).runs
        found = fit_objective(law.objective, runs, {}, methods, boot, seed)
        for method in methods:
            kept[method].append(_judge(found[method], law, far))
    rows = []
    for method, values in kept.items():
        array = np.array(values)
        good = array[~np.isnan(array[:, 0])]
        rows.append(
            {
                "law": name,
                "table": design.name,
                "noise": f"{design.noise:g}" + (" + outliers" if design.outliers else ""),
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


def _judge(entry: dict, law: Law, far: float) -> list[float]:
    """Return the error of a, the width of its interval, and whether each interval holds."""
    if entry["N_opt"]["a"] is None:
        return [np.nan] * 5
    low, high = _open(entry["ci95"]["a"])
    replicates = np.array(entry["bootstrap"]["rows"])[:, :2]
    holds = [float(low <= law.a <= high)]
    for flops in (law.middle, far):
        low_n, high_n = _open(interval(replicates @ [1.0, np.log(flops)]))
        holds.append(float(low_n <= law.optimum(flops) <= high_n))
    return [entry["N_opt"]["a"] - law.a, high - low, *holds]


def _open(ends: list[float | None]) -> list[float]:
    return [np.inf * sign if end is None else end for end, sign in zip(ends, (-1, 1), strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--boot", type=int, default=400)
    parser.add_argument("--only", help="a law of simulated_laws.py")
    args = parser.parse_args()
    start = time.perf_counter()
    rows = [
        row
        for name, design in CASES
        if args.only in (None, name)
        for row in measure(name, design, args.tables, args.boot)
    ]
    print(table(rows, list(rows[0])))
    print(f"\n{args.tables} tables each, {args.boot} replicates, "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
