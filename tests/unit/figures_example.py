"""A made-up study, small enough to write in a second, for the tests of figures and report.

Losses follow a known law with noise. Numbers look like those of the demo.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from plmscale.tables import RUNS_COLUMNS, write_runs

BUDGETS = (1e11, 3e11, 1e12, 3e12)
SIZES = {"1x16": 3_300, "2x32": 13_152, "2x48": 37_000, "3x64": 98_000, "4x96": 300_000}
SIZES["6x128"] = 1_000_000
TRUE = {"clm": (2.80, 0.9, 0.33, 900.0, 0.60), "mlm": (2.78, 1.3, 0.36, 2500.0, 0.66)}
RESIDUES = {"curated": 1_200_000, "diverse": 5_800_000}


def true_loss(objective: str, n, d):
    e, a, alpha, b, beta = TRUE[objective]
    return e + a / n**alpha + b / d**beta


def runs_and_curves(seed: int = 1) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return a runs table with its curves: IsoFLOP grid, repetition, transfer, one diverged."""
    rng = np.random.default_rng(seed)
    rows, curves = [], {}

    def add(run_id, objective, size, tokens, bump=0.0, budget=np.nan, **more):
        n = SIZES[size]
        noise = rng.normal(0, 0.0015)
        row = dict.fromkeys(RUNS_COLUMNS) | {
            "run_id": run_id, "study": "demo", "objective": objective, "architecture": size,
            "n_layers": int(size.split("x")[0]), "d_model": int(size.split("x")[1]),
            "n_params": n, "tokens": tokens, "flops_6nd": 6 * n * tokens,
            "flops": 7 * n * tokens, "budget": budget, "epochs": tokens / 7e6, "corpus": "mix",
            "mask_ratio": 0.15 if objective == "mlm" else np.nan, "parent": "", "seed": 1,
            "loss": true_loss(objective, n, tokens) + bump + noise, "loss_sd": 0.004,
            "source": "plmscale", "status": "done",
        } | more  # fmt: skip
        rows.append(row)
        at = np.geomspace(tokens / 30, tokens, 12)
        loss = true_loss(objective, n, at) + bump * at / tokens + noise
        loss = loss + 0.12 * (1 - at / tokens)
        curves[run_id] = pd.DataFrame(
            {
                "step": np.arange(1, 13) * 10,
                "tokens": at.astype(int),
                "flops_6nd": 6 * n * at,
                "split": "valid",
                "loss": loss,
            }
        )

    for objective in ("clm", "mlm"):
        for budget in BUDGETS:
            for size, n in SIZES.items():
                add(
                    f"{objective}-{size}-{budget:.0e}", objective, size, int(budget / 6 / n),
                    budget=budget,
                )  # fmt: skip
        for corpus, bump in (("mix", 0.0), ("curated", 0.03)):
            epochs = 12e6 / (RESIDUES["curated"] if corpus == "curated" else 7e6)
            add(
                f"{objective}-rep-{corpus}", objective, "3x64", 12_000_000, bump,
                corpus=corpus, epochs=epochs,
            )  # fmt: skip
    add("clm-parent", "clm", "3x64", 2_000_000)
    add("mlm-child", "mlm", "3x64", 4_000_000, bump=-0.012, parent="clm-parent")
    add("mlm-scratch", "mlm", "3x64", 6_000_000)
    table = pd.DataFrame(rows)
    bad = table["run_id"] == "mlm-6x128-1e+11"
    table.loc[bad, ["loss", "loss_sd"]] = np.nan
    table.loc[bad, "status"] = "diverged"
    return table, curves
