"""What a figure reads: tables and JSON files of a study, each of which may not be there yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.paper.points import read_points
from plmscale.tables import RUNS_COLUMNS, read_runs


@dataclass
class Inputs:
    """Everything a figure may use. Missing files are empty tables and empty dicts."""

    runs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=RUNS_COLUMNS))
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    laws: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, pd.DataFrame] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    holdout: dict[str, Any] = field(default_factory=dict)
    sensitivity: dict[str, Any] = field(default_factory=dict)
    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Points of a published IsoFLOP figure: objective (CLM, MLM), budget_flops, n_params,
    final_validation_loss."""
    downstream: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Tables of the downstream evaluation by name: metrics, gains, failures."""
    scaling: dict[str, Any] = field(default_factory=dict)
    """Content of scaling.json (plmscale.downstream.scaling)."""
    evaluation: Path | None = None
    """Folder that holds `predictions`, for what only these tell."""


def load(
    runs: str | Path | None = None,
    curves: str | Path | None = None,
    laws: str | Path | None = None,
    findings: str | Path | None = None,
    corpus_stats: str | Path | None = None,
    metrics: str | Path | None = None,
    holdout: str | Path | None = None,
    sensitivity: str | Path | None = None,
    points: str | Path | None = None,
    epochs: str | Path | None = None,
    downstream: str | Path | None = None,
    evaluation: str | Path | None = None,
) -> Inputs:
    """Read what was given. A path that was named but is missing is an error that names it."""
    table = read_runs(runs) if runs else Inputs().runs
    stats = load_stats(corpus_stats) if corpus_stats else {}
    if epochs:
        stats["epochs"] = _read_csv(Path(epochs))
    return Inputs(
        runs=table,
        curves=load_curves(curves, table["run_id"]) if curves else {},
        laws=read_json(laws) if laws else {},
        findings=read_json(findings) if findings else {},
        stats=stats,
        metrics=load_metrics(metrics, set(table["run_id"])) if metrics else [],
        holdout=read_json(holdout) if holdout else {},
        sensitivity=read_json(sensitivity) if sensitivity else {},
        points=read_points(points) if points else pd.DataFrame(),
        downstream=read_downstream(downstream) if downstream else {},
        scaling=read_json(Path(downstream) / "scaling.json") if downstream else {},
        evaluation=Path(evaluation) if evaluation else None,
    )


def read_downstream(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read metrics, gains and failures of plmscale.downstream.collect; "" for unknown text."""
    # It brings pyarrow and scipy along, which other figures do not need.
    from plmscale.downstream.scaling import read_tables

    return read_tables(folder)


def load_curves(folder: str | Path, run_ids: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Read the curves of `run_ids` from `folder`/<run_id>.csv or `folder`/<run_id>/curve.csv.

    A run without a curve is left out: one that failed at its start has none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PlmscaleError(f"{folder}: no such folder of learning curves")
    found = {}
    for run_id in run_ids:
        for path in (folder / f"{run_id}.csv", folder / run_id / "curve.csv"):
            if path.is_file():
                found[run_id] = _read_csv(path)
                break
    return found


def load_stats(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the CSV files of a corpus's stats folder (also found when given the corpus itself)."""
    folder = Path(folder)
    if (folder / "stats").is_dir():
        folder = folder / "stats"
    if not folder.is_dir():
        raise PlmscaleError(f"{folder}: no such folder of corpus statistics")
    return {path.stem: _read_csv(path) for path in sorted(folder.glob("*.csv"))}


def load_metrics(folder: str | Path, run_ids: set[str]) -> list[dict[str, Any]]:
    """Read `folder`/<run_id>/metrics.json of `run_ids`, in order of run_id."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PlmscaleError(f"{folder}: no such folder of runs")
    paths = (folder / run_id / "metrics.json" for run_id in sorted(run_ids))
    return [read_json(path) for path in paths if path.is_file()]


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise PlmscaleError(f"{path}: cannot be read as a table ({error})") from None


def done(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that ended well and have a loss."""
    if runs.empty:
        return runs
    status = runs["status"] if "status" in runs else pd.Series("done", index=runs.index)
    return runs[status.isin(["done", ""]) & np.isfinite(pd.to_numeric(runs["loss"]))]


def main_corpus(runs: pd.DataFrame) -> str:
    """Return the corpus most budgeted runs were trained on: the one the laws are about."""
    known = runs[runs["budget"].notna()] if "budget" in runs else runs
    names = (known if len(known) else runs)["corpus"].value_counts()
    return str(names.index[0]) if len(names) else ""


def isoflop_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the IsoFLOP grid: with a budget, on the main corpus, without a parent.

    Runs with another mask ratio than most of their objective are left out, too. A budget with fewer than three sizes is no profile: such runs belong to a side study.
    """
    if runs.empty:
        return runs
    chosen = runs["budget"].notna() & (runs["corpus"] == main_corpus(runs))
    grid = runs[chosen & (runs["parent"].fillna("") == "")]
    ratio = pd.to_numeric(grid["mask_ratio"]).fillna(-1.0)
    usual = ratio.groupby(grid["objective"]).transform(lambda values: values.mode().iloc[0])
    grid = grid[ratio == usual]
    sizes = grid.groupby(["objective", "budget"])["n_params"].transform("nunique")
    return grid[sizes >= 3] if (sizes >= 3).any() else grid


def valid_curve(curve: pd.DataFrame | None, points: int | None = 250) -> pd.DataFrame:
    """Return the validation part of a curve, thinned evenly in log tokens to about `points` rows.

    Thinning keeps a figure of hundreds of long curves at a size a browser opens; what is left out
    is closer together than a pixel. None keeps all rows.
    """
    if curve is None or curve.empty:
        return pd.DataFrame(columns=["step", "tokens", "flops_6nd", "split", "loss"])
    rows = curve[(curve["split"] == "valid") & np.isfinite(curve["loss"]) & (curve["tokens"] > 0)]
    rows = rows.sort_values("tokens")
    if points is None or len(rows) <= points:
        return rows
    wanted = np.geomspace(rows["tokens"].iloc[0], rows["tokens"].iloc[-1], points)
    nearest = np.searchsorted(rows["tokens"].to_numpy(), wanted).clip(0, len(rows) - 1)
    return rows.iloc[np.unique(nearest)]


def train_curve(curve: pd.DataFrame | None) -> pd.DataFrame:
    """Return the points of the training loss, in order of tokens."""
    if curve is None or curve.empty:
        return pd.DataFrame(columns=["step", "tokens", "flops_6nd", "split", "loss"])
    rows = curve[(curve["split"] == "train") & np.isfinite(curve["loss"]) & (curve["tokens"] > 0)]
    return rows.sort_values("tokens")


def binned_curve(rows: pd.DataFrame, bins: int = 100, log: bool = False) -> pd.DataFrame:
    """Return means over `bins` equal parts of the tokens (or of their logarithm).

    Single validations jitter and single batches scatter: means show the curve, in fewer points.
    A curve of no more than `bins` points is returned as it is.
    """
    if len(rows) <= bins:
        return rows
    x = np.log(rows["tokens"]) if log else rows["tokens"]
    start = x.min() if log else 0.0
    part = ((x - start) / (x.max() - start) * bins).clip(upper=bins - 1).astype(int)
    return rows.groupby(part)[["tokens", "flops_6nd", "loss"]].mean().reset_index(drop=True)
