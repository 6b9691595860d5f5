"""A made-up study, small enough to write in a second, for the tests of figures and report.

Losses follow a known law with noise. Numbers look like those of the demo.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from plmscale.tables import RUNS_COLUMNS, write_runs

BUDGETS = (1e11, 3e11, 1e12, 3e12)
SIZES = {"1x16": 3_300, "2x32": 13_152, "2x48": 37_000, "3x64": 98_000, "4x96": 300_000}
SIZES["6x128"] = 1_000_000
TRUE = {"clm": (2.78, 1.0, 0.30, 3.7, 0.30), "mlm": (2.80, 0.9, 0.28, 8.0, 0.38)}
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
        noise = rng.normal(0, 0.001)
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
        loss = loss + 0.02 * (1 - at / tokens)
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


def laws_json(table: pd.DataFrame, seed: int = 2) -> dict:
    """Return a laws.json of the shape the laws package writes, from quick fits to `table`."""
    rng = np.random.default_rng(seed)
    laws = {}
    for objective in ("clm", "mlm"):
        good = table[(table["objective"] == objective) & (table["status"] == "done")]
        good = good[good["budget"].notna()]
        points, resampled = [], []
        for budget, rows in good.groupby("budget"):
            x, y = np.log(rows["n_params"].to_numpy(float)), rows["loss"].to_numpy(float)
            k2, k1, k0 = np.polyfit(x, y, 2)
            draws = []
            for _ in range(200):
                c2, c1, _ = np.polyfit(x, y + rng.normal(0, 0.001, len(y)), 2)
                draws.append(-c1 / 2 / c2)
            resampled.append(draws)
            vertex = -k1 / 2 / k2
            low, high = np.exp(np.quantile(draws, [0.025, 0.975]))
            points.append(
                {
                    "budget": budget, "N_opt": float(np.exp(vertex)),
                    "D_opt": float(budget / 6 / np.exp(vertex)),
                    "loss": float(k0 - k1**2 / 4 / k2), "curvature": float(2 * k2),
                    "at_edge": False, "n_sizes": len(rows),
                    "N_opt_ci95": [float(low), float(high)],
                }
            )  # fmt: skip
        if objective == "mlm":
            points[0]["at_edge"] = True
        draws = np.array(resampled).T
        edge = [f"{objective}: 2 of 4 minima lie at the edge of the sizes"]
        laws[objective] = {
            "isoflop_parabola": _power(points, draws),
            "isoflop_raw_loglog": _power(points, draws, 0.06, edge),
            "isoflop_raw_linear": _power(points, draws, -0.09),
            "parametric": _power(points, draws, 0.03)
            | dict(zip(("E", "A", "alpha", "B", "beta"), TRUE[objective]))
            | {"objective": 1e-6},
        }  # fmt: skip
    laws["mlm"]["parametric"]["warnings"] = ["beta is hardly identified: from 0.2 to 2"]
    laws["clm"]["isoflop_parabola"]["warnings"] = ["budget 1e+11: the minimum is <shallow>"]
    excluded = [
        {"run_id": r.run_id, "objective": r.objective, "status": r.status,
         "why": f"status is {r.status}"}
        for r in table[table["status"] != "done"].itertuples()
    ]  # fmt: skip
    return {
        "schema": 1, "laws": laws, "excluded": excluded, "warnings": ["seeds were not repeated"],
        "provenance": {"runs_sha256": "ab" * 32},
    }  # fmt: skip


def _power(points: list, log_n: np.ndarray, shift: float = 0.0, warnings: list | None = None):
    log_c = np.log([p["budget"] for p in points])
    a, k = np.polyfit(log_c, [np.log(p["N_opt"]) for p in points], 1)
    a, k = a + shift, k - shift * log_c.mean()
    rows = []
    for draw in log_n:
        slope, start = np.polyfit(log_c, draw, 1)
        slope, start = slope + shift, start - shift * log_c.mean()
        rows.append([start, slope, -np.log(6) - start, 1 - slope])
    low, high = np.quantile(rows, [0.025, 0.975], axis=0).tolist()
    return {
        "N_opt": {"A": float(np.exp(k)), "a": float(a)},
        "D_opt": {"B": float(np.exp(-k) / 6), "b": float(1 - a)},
        "ci95": {
            "N_opt": {"A": [math.exp(low[0]), math.exp(high[0])], "a": [low[1], high[1]]},
            "D_opt": {"B": [math.exp(low[2]), math.exp(high[2])], "b": [low[3], high[3]]},
        },
        "points": points, "n_runs": 24, "warnings": warnings or [],
        "bootstrap": {"columns": ["log_A", "a", "log_B", "b"], "rows": np.array(rows).tolist()},
    }  # fmt: skip


def findings_json() -> dict:
    basis = "paired by validation row; seed noise unknown and not included"
    return {
        "schema": 1,
        "repetition": [
            {"runs": [f"{o}-rep-curated", f"{o}-rep-mix"], "difference": d, "ci95": ci,
             "basis": basis, "objective": o, "n_params": 98_000, "tokens": 12e6,
             "epochs": [10.0, 1.7], "corpora": ["curated", "mix"], "verdict": v, "text": ""}
            for o, d, ci, v in (
                ("clm", 0.031, [0.022, 0.040], "higher"),
                ("mlm", 0.006, [-0.004, 0.016], "not resolved"),
            )
        ],
        "transfer": [
            {"runs": ["mlm-child", "mlm-scratch"], "difference": -0.011, "ci95": [-0.019, -0.003],
             "basis": basis, "objective": "mlm", "from": "clm", "parent": "clm-parent",
             "n_params": 98_000, "total_flops": 3.5e12, "pretraining_share": 0.33,
             "verdict": "lower", "text": ""}
        ],
        "warnings": ["mlm-other: its parent clm-other is not among the finished runs"],
    }  # fmt: skip


def write_study(folder: Path, seed: int = 1) -> dict[str, Path]:
    """Write everything figures and report read; return the paths by option name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    table, curves = runs_and_curves(seed)
    write_runs(table, folder / "runs.csv")
    (folder / "curves").mkdir(exist_ok=True)
    for run_id, curve in curves.items():
        curve.to_csv(folder / "curves" / f"{run_id}.csv", index=False)
    for name, content in (("laws", laws_json(table)), ("findings", findings_json())):
        (folder / f"{name}.json").write_text(json.dumps(content))
    for row in table.itertuples():
        _metrics(folder / "runs" / row.run_id, row, rng)
    stats = folder / "corpus" / "stats"
    stats.mkdir(parents=True, exist_ok=True)
    lengths, residues = [], []
    for source, (mean, count) in {"curated": (330, 3000), "diverse": (420, 15000)}.items():
        drawn = rng.gamma(2.2, mean / 2.2, count).clip(30, 2048).astype(int)
        values, counts = np.unique(drawn, return_counts=True)
        lengths += [
            {"source": source, "split": "train", "length": v, "sequences": c}
            for v, c in zip(values, counts)
        ]  # fmt: skip
        weights = rng.dirichlet(np.linspace(3, 30, 20))
        letters = zip("WCHMYQFNPITKDRVESGAL", weights)
        residues += [
            {"source": source, "split": "train", "residue": r, "count": int(w * 1e6)}
            for r, w in letters
        ]
        residues.append({"source": source, "split": "train", "residue": "X", "count": 120})
    pd.DataFrame(lengths).to_csv(stats / "lengths.csv", index=False)
    pd.DataFrame(residues).to_csv(stats / "residues.csv", index=False)
    (folder / "corpus" / "manifest.json").write_text(json.dumps(_manifest()))
    (folder / "study.yaml").write_text("study: demo\ndescription: A made-up study for tests.\n")
    return {
        "runs": folder / "runs.csv", "curves": folder / "curves", "laws": folder / "laws.json",
        "findings": folder / "findings.json", "corpus_stats": stats, "metrics": folder / "runs",
        "corpus": folder / "corpus", "study": folder / "study.yaml",
    }  # fmt: skip


def _metrics(folder: Path, row, rng) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train = row.flops_6nd / 4e10 * rng.uniform(0.9, 1.3)
    valid, startup = 0.12 * train + 0.5, rng.uniform(0.3, 0.8)
    metrics = {
        "schema": 1, "run_id": row.run_id, "fingerprint": "f" * 64, "status": row.status,
        "status_detail": "loss is nan at step 12" if row.status == "diverged" else "",
        "loss": None if np.isnan(row.loss) else row.loss, "loss_se": 0.004,
        "n_params": row.n_params, "tokens": row.tokens, "flops_6nd": row.flops_6nd,
        "flops": row.flops, "steps": 100,
        "precision": "bf16", "train_seconds": train, "valid_seconds": valid,
        "startup_seconds": startup, "wall_seconds": train + valid + startup + 0.3,
        "tokens_per_second": row.tokens / train, "peak_memory_bytes": 5e8, "threads": 1,
        "devices": 1, "resumed": 0, "versions": {"torch": "2.9.0", "deepspeed": "0.19.0"},
        "git": {"commit": "0123456789abcdef", "dirty": False}, "corpus_sha256": "cd" * 32,
        "recipe_sha256": "ef" * 32, "weights_sha256": "01" * 32, "hardware": "A CPU, 2 cores",
        "epochs": {"curated": 0.4, "diverse": 0.2},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _manifest() -> dict:
    def source(weight, residues):
        part = {"sequences": residues // 350, "residues": residues, "shards": []}
        return {
            "weight": weight, "source_sha256": "aa" * 32, "train": part,
            "provenance": {"licence": "CC BY 4.0", "citation": "UniProt", "release": "2020_01"},
            "valid": part | {"sequences": residues // 7000, "residues": residues // 20},
        }  # fmt: skip

    return {
        "schema": 1, "key": "k" * 64, "content_sha256": "9f" * 32,
        "sources": {"curated": source(0.3, 1_200_000), "diverse": source(0.7, 5_800_000)},
        "split": {"min_seq_id": 0.5, "coverage": 0.8, "max_identity_found": 0.49, "violations": 0},
        "tools": {"seqkit": "2.3.0", "mmseqs": "14-7e284"},
    }  # fmt: skip
