"""A made-up study with every side study of the paper, and the laws fitted to it for real.

What the figures are given here is what plmscale.laws writes, so a change of its form shows.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from figures_example import SIZES, runs_and_curves, true_loss

from plmscale.figures.data import Inputs
from plmscale.laws.fit import fit_laws
from plmscale.laws.holdout import holdout
from plmscale.laws.sections import add_sections

UNIQUE = 1_200_000
RATIOS = (0.05, 0.15, 0.3, 0.6)


@cache
def tables() -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return runs and curves: the grid, and transfer, repetition and mask ratio at several sizes."""
    table, curves = runs_and_curves()
    grid = table["budget"].notna()
    curves = {name: curves[name] for name in table.loc[grid, "run_id"]}
    rng = np.random.default_rng(5)
    rows = table[grid].assign(epochs=0.5).to_dict("records")
    model = rows[0]

    def add(run_id, objective, size, tokens, change, **more):
        """Add a run whose loss is the law's plus `change(tokens seen)`, with 240 points."""
        n = SIZES[size]
        at = np.arange(1, 241) * tokens / 240
        valid = true_loss(objective, n, at) + change(at) + 0.001 * rng.standard_normal(240)
        parts = [(at, "valid", valid), (at, "train", valid - 0.002 * at / UNIQUE)]
        curves[run_id] = pd.concat(
            pd.DataFrame({"step": np.arange(240), "tokens": x, "flops_6nd": 6 * n * x,
                          "split": split, "loss": y})
            for x, split, y in parts
        )  # fmt: skip
        rows.append(
            model | {"run_id": run_id, "objective": objective, "architecture": size,
                     "n_params": n, "tokens": tokens, "flops_6nd": 6 * n * tokens,
                     "flops": 7 * n * tokens, "budget": np.nan, "epochs": tokens / 20e6,
                     "mask_ratio": 0.15 if objective == "mlm" else np.nan,
                     "loss": float(valid[-12:].mean()), "loss_sd": 0.0005} | more
        )  # fmt: skip

    for source, target in (("clm", "mlm"), ("mlm", "clm")):
        for i, size in enumerate(("2x32", "2x48", "3x64", "4x96")):
            tokens, name = 4_000_000 * (i + 1), f"{target}-{size}"
            add(f"{source}-{size}-parent", source, size, tokens // (3 + i), lambda d: 0 * d)
            add(f"{name}-scratch", target, size, tokens, lambda d: 0 * d)
            add(f"{name}-child", target, size, tokens,
                lambda d, far=tokens: -0.006 * np.exp(-d / far),
                parent=f"{source}-{size}-parent")  # fmt: skip
    for objective in ("clm", "mlm"):
        for size in ("3x64", "4x96"):
            name, tokens = f"{objective}-{size}", 12 * UNIQUE
            add(f"{name}-fresh", objective, size, tokens, lambda d: 0 * d)
            over = objective == "mlm" and size == "4x96"
            for corpus, scale in (("curated", 1.0), ("curated-shuffled", 0.8)):
                if corpus == "curated" or over:
                    add(f"{name}-{corpus}", objective, size, tokens,
                        lambda d, s=scale, o=over: s * _cost(d / UNIQUE, o), corpus=corpus,
                        epochs=12.0)  # fmt: skip
    for size in ("2x48", "3x64"):
        for ratio in RATIOS:
            add(f"mlm-{size}-mask{ratio}", "mlm", size, 6_000_000,
                lambda d, r=ratio: (r - 0.15) * 0.4 + 0 * d, mask_ratio=ratio)  # fmt: skip
    return pd.DataFrame(rows), curves


def _cost(epochs: np.ndarray, over: bool) -> np.ndarray:
    extra = 0.0008 * np.maximum(epochs - 1, 0)
    return extra + (0.012 * np.maximum(epochs - 6, 0) ** 1.2 if over else 0.0)


@cache
def fitted() -> Inputs:
    """Return what all figures read, with laws from the code that writes them for users."""
    runs, curves = tables()
    laws = add_sections(fit_laws(runs, curves=curves, n_boot=30), runs, curves=curves)
    points = pd.DataFrame(
        {"objective": ["clm", "mlm"], "budget": 1e11, "n_params": [4e3, 5e4],
         "loss": [3.1, 3.2]}
    )  # fmt: skip
    few = ["isoflop_joint", "isoflop_parabola", "isoflop_raw_loglog"]
    return Inputs(
        runs=runs, curves=curves, laws=laws, points=points, sensitivity=_sensitivity(laws),
        holdout=holdout(runs, up_to=1e12, methods=few, n_boot=20),
    )  # fmt: skip


def _sensitivity(laws: dict) -> dict:
    """Return a file like that of plmscale.laws.sensitivity, whose many fits would take long."""
    rows = [
        {"objective": objective, "table": table, "flops": flops, "budgets": budgets,
         "method": method, "a": entry["N_opt"]["a"] + shift, "ci95": entry["ci95"]["a"]}
        for objective, entries in laws["laws"].items()
        for method, entry in entries.items()
        if "N_opt" in entry
        for table, flops, budgets, shift in (
            ("as given", "flops_6nd", "all", 0.0), ("as given", "flops", "all", 0.01),
            ("last point alone", "flops_6nd", "all", -0.02),
            ("as given", "flops_6nd", "without 1e11", 0.04),
        )
    ]  # fmt: skip
    effects = {
        "choices": {"method": {"sd": 0.05}, "table": {"sd": 0.01}, "flops": {"sd": 0.004}},
        "data_sd": 0.03,
    }
    base = {"table": "as given", "flops": "flops_6nd", "budgets": "all"}
    return {"base": base, "rows": rows, "effects": dict.fromkeys(("clm", "mlm"), effects)}
