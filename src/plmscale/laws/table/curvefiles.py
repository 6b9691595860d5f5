"""Learning curves by run: a folder of <run_id>.csv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.laws.table.units import to_nats
from plmscale.tables import CURVE_COLUMNS

_REQUIRED = ("tokens", "split", "loss")


def read_curves(
    folder: str | Path, run_ids: Iterable[str], loss_unit: str = "nats"
) -> dict[str, pd.DataFrame]:
    """Read the curves of `run_ids` (columns CURVE_COLUMNS, loss in nats a token).

    A run without a file has no curve. `flops_6nd` and `step` may be missing (NaN then).

    Raises PlmscaleError for a missing folder and a file that is no curve.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PlmscaleError(f"{folder}: no such folder of learning curves")
    paths = {name: folder / f"{name}.csv" for name in run_ids}
    return {name: _read(path, loss_unit) for name, path in paths.items() if path.is_file()}


def _read(path: Path, loss_unit: str) -> pd.DataFrame:
    try:
        curve = pd.read_csv(path, float_precision="round_trip")
    except (ValueError, OSError) as error:
        raise PlmscaleError(f"{path}: cannot be read as a table ({error})") from None
    if missing := [name for name in _REQUIRED if name not in curve]:
        raise PlmscaleError(
            f"{path}: missing column {', '.join(missing)}; a curve has {', '.join(CURVE_COLUMNS)}"
        )
    curve = curve.reindex(columns=CURVE_COLUMNS)
    for name in set(CURVE_COLUMNS) - {"split"}:
        if not pd.api.types.is_numeric_dtype(curve[name]):
            raise PlmscaleError(f"{path}: column {name} holds text where a number is meant")
    return to_nats(curve, loss_unit, str(path))
