"""The runs table: one row a trained model, the only thing laws and figures read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write

RUNS_COLUMNS = [
    "run_id",
    "study",
    "objective",
    "architecture",
    "n_layers",
    "d_model",
    "n_params",
    "tokens",
    "flops_6nd",
    "flops",
    "budget",
    "epochs",
    "corpus",
    "mask_ratio",
    "parent",
    "seed",
    "loss",
    "loss_sd",
    "source",
    "status",
]
CURVE_COLUMNS = ["step", "tokens", "flops_6nd", "split", "loss"]
_TEXT = {"run_id", "study", "objective", "architecture", "corpus", "parent", "source", "status"}


def write_runs(runs: pd.DataFrame, path: str | Path) -> None:
    """Write a runs table as CSV (and Parquet beside it), columns in contract order.

    Floats are written with all digits that matter (shortest exact form), unknowns are empty.
    """
    table = runs.reindex(columns=RUNS_COLUMNS)
    path = Path(path)
    with atomic_write(path) as handle:
        table.to_csv(handle, index=False, lineterminator="\n")
    typed = table.copy()
    for column in typed.columns:
        if column in _TEXT:
            typed[column] = typed[column].astype("string")
        else:
            typed[column] = pd.to_numeric(typed[column])
    with atomic_write(path.with_suffix(".parquet"), "wb") as handle:
        typed.to_parquet(handle, index=False)


def read_runs(path: str | Path) -> pd.DataFrame:
    """Read a runs table (CSV or Parquet). Text columns are strings with "" for unknown.

    Raises PlmscaleError when the file is missing, empty or not a table.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            runs = pd.read_parquet(path)
        else:
            runs = pd.read_csv(path, float_precision="round_trip")
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise PlmscaleError(f"{path}: cannot be read as a table ({error})") from None
    if runs.empty:
        raise PlmscaleError(f"{path}: the table has no rows")
    for column in _TEXT & set(runs.columns):
        runs[column] = runs[column].astype(object).where(runs[column].notna(), "").astype(str)
    return runs
