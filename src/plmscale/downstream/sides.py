"""Side results of predictions: what takes a search or a structure, kept in files of its own.

    METHOD-sSEED.parquet              predictions
    METHOD-sSEED.NAME.parquet         a row a protein that is known of, `id` first

A side result's `about` says in `of` what it was made of, and in `key` by what, too: other predictions,
programs or options make it again, and it never makes predictions again. `not_run` in it names what
could not be done on the machine, each with its reason. A machine that can do less leaves what there
is. What failed though its tools were there is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, canonical_json, fingerprint

_META = b"plmscale"


def file_of(predictions: str | Path, name: str) -> Path:
    """Return the file of the side result `name` of a file of predictions."""
    path = Path(predictions)
    return path.with_name(f"{path.stem}.{name}.parquet")


def write(predictions: str | Path, name: str, rows: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Write a side result, atomically. `about` has `key` and `not_run` (reasons by name)."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    meta = {_META: canonical_json(dict(about)).encode()}
    with atomic_write(file_of(predictions, name), "wb") as handle:
        pq.write_table(table.replace_schema_metadata(meta), handle, compression="zstd")


def about(predictions: str | Path, name: str) -> dict[str, Any]:
    """Return what a side result says of itself; empty where there is none that can be read."""
    path = file_of(predictions, name)
    try:
        return json.loads((pq.read_schema(path).metadata or {})[_META])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}


def read(predictions: str | Path | None, name: str) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Return (rows, about) of a side result; None and an empty one where it was never made.

    Raises PlmscaleError for a file that is there and broken.
    """
    if predictions is None or not (path := file_of(predictions, name)).exists():
        return None, {}
    if not (told := about(predictions, name)):
        raise PlmscaleError(
            f"{path}: not a side result of plmscale; remove it to have it made again"
        )
    try:
        return pq.read_table(path).to_pandas(), told
    except (OSError, pa.ArrowException) as error:
        raise PlmscaleError(
            f"{path}: cannot be read ({type(error).__name__}); remove it to have it made again"
        ) from None


def settled(about: Mapping[str, Any], of: str, not_run: Mapping[str, str]) -> bool:
    """Whether a side result of the same has more than one without `not_run` would have."""
    return about.get("of") == of and set(about["not_run"]) < set(not_run)


def key_of(key: str, failed: Mapping[str, str]) -> str:
    """Return the key to write: none that is asked for where something failed that should not."""
    return f"failed {fingerprint(dict(failed))}" if failed else key


def state(predictions: str | Path) -> dict[str, str]:
    """Return the key of each side result of a file of predictions, by name.

    Metrics that were kept are as old as this.
    """
    path = Path(predictions)
    names = [p.name.removeprefix(f"{path.stem}.").removesuffix(".parquet")
             for p in path.parent.glob(f"{path.stem}.*.parquet")]  # fmt: skip
    return {name: str(about(path, name).get("key", "")) for name in sorted(names)}
