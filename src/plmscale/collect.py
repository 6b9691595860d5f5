"""Gather a study's runs into the runs table and one folder of curves."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, read_json
from plmscale.tables import write_runs


def row(run_dir: str | Path) -> dict[str, Any]:
    """Return one run's row of the runs table from its recipe and metrics.

    Raises PlmscaleError when the metrics belong to another recipe than the one beside them.
    """
    run_dir = Path(run_dir)
    recipe = read_json(run_dir / "recipe.json")
    metrics = read_json(run_dir / "metrics.json")
    if metrics["fingerprint"] != recipe["fingerprint"]:
        raise PlmscaleError(
            f"{run_dir}: metrics.json is of another recipe (fingerprint "
            f"{metrics['fingerprint'][:12]}, the recipe has {recipe['fingerprint'][:12]}); "
            "remove the folder and start again"
        )
    shape = recipe["architecture"]
    epochs = metrics.get("epochs") or {}
    return {
        "run_id": recipe["run_id"],
        "study": recipe["study"],
        "objective": recipe["objective"],
        "architecture": shape["name"],
        "n_layers": shape["n_layers"],
        "d_model": shape["d_model"],
        "n_params": recipe["n_params"],
        "tokens": metrics["tokens"],
        "flops_6nd": metrics["flops_6nd"],
        "flops": metrics["flops"],
        "budget": recipe["budget"],
        # Of the source that is repeated most: the number to look at for repetition.
        "epochs": max(epochs.values(), default=None),
        "corpus": recipe["corpus"]["name"],
        "mask_ratio": recipe["mask_ratio"],
        "parent": recipe["parent"]["run_id"] if recipe["parent"] else None,
        "seed": recipe["seed"],
        "loss": metrics["loss"],
        "loss_sd": metrics.get("loss_se"),
        "source": "plmscale",
        "status": metrics["status"],
    }


def write_table(run_dirs: Iterable[str | Path], runs_csv: str | Path) -> None:
    """Write `runs_csv` (and .parquet): a row a run, from recipe.json and metrics.json of each."""
    write_runs(pd.DataFrame([row(folder) for folder in run_dirs]), runs_csv)


def collect(run_dirs: Iterable[str | Path], runs_csv: str | Path, curves: str | Path) -> None:
    """Write `runs_csv` (and .parquet), and copy every curve to `curves`/<run_id>.csv."""
    folders = [Path(folder) for folder in run_dirs]
    write_table(folders, runs_csv)
    curves = Path(curves)
    curves.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        copy = atomic_write(curves / f"{folder.name}.csv", "wb")
        with (folder / "curve.csv").open("rb") as source, copy as target:
            shutil.copyfileobj(source, target)
