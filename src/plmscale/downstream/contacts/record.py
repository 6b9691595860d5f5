"""Scores of pairs as the table that is kept, and back.

One row a protein and number of training proteins. `prediction`: the log-odds of its pairs in the
order of `pair_index`, float16: near the top, which alone matters, its steps are 0.002 at most.
`target`: i0, j0, i1, j1, ... of all contacts, masked and near ones too. `resolved`: a flag a
residue. `uncropped`: letters the protein has in the data; it was cropped to len(resolved).
`train_size`: how many proteins were learnt from. From this all definitions of P@L/k follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plmscale.downstream.base import Predictions
from plmscale.downstream.contacts.pairs import Protein, n_pairs, pair_index
from plmscale.errors import PlmscaleError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("target", pa.list_(pa.int32())),
        ("prediction", pa.list_(pa.float16())),
        ("resolved", pa.list_(pa.bool_())),
        ("uncropped", pa.int32()),
        ("train_size", pa.int32()),
    ]
)
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Record:
    """One row: scores float16 (n_pairs,), contacts int64 (k, 2), resolved bool (L,)."""

    id: str
    split: str
    group: str
    train_size: int
    uncropped: int
    scores: np.ndarray
    contacts: np.ndarray
    resolved: np.ndarray


def table(scored: Iterable[tuple[Protein, np.ndarray]], train_size: int) -> pa.Table:
    """Return the table of proteins with their scores (n_pairs,).

    PlmscaleError for scores that are no numbers, with the first protein at fault.
    """
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for protein, scores in scored:
        if not np.isfinite(scores).all():
            raise PlmscaleError(
                f"contacts: {protein.id}: scores hold NaN or infinity; is the model sound? Try "
                "dtype fp32"
            )
        columns["id"].append(protein.id)
        columns["split"].append(protein.split)
        columns["group"].append(protein.group)
        columns["target"].append(protein.contacts.astype(np.int32).ravel())
        columns["prediction"].append(np.clip(scores, -_LARGEST, _LARGEST).astype(np.float16))
        columns["resolved"].append(protein.resolved)
        columns["uncropped"].append(protein.uncropped)
        columns["train_size"].append(train_size)
    return pa.table(columns, schema=SCHEMA)


def records(predictions: Predictions) -> Iterator[Record]:
    """Yield the rows; PlmscaleError for predictions of another task or another form."""
    table = predictions.table
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise PlmscaleError(
            f"contacts: the predictions lack the column {missing[0]}; make them again"
        )
    for batch in table.select(SCHEMA.names).to_batches():
        for row in range(batch.num_rows):
            cell = {name: batch.column(name)[row] for name in SCHEMA.names}
            resolved = _array(cell["resolved"], bool)
            scores = _array(cell["prediction"], np.float16)
            if len(scores) != n_pairs(len(resolved)):
                raise PlmscaleError(
                    f"contacts: {cell['id']}: {len(scores)} scores, expected "
                    f"{n_pairs(len(resolved))} of {len(resolved)} residues; make them again"
                )
            yield Record(
                id=cell["id"].as_py(),
                split=cell["split"].as_py(),
                group=cell["group"].as_py(),
                train_size=cell["train_size"].as_py(),
                uncropped=cell["uncropped"].as_py(),
                scores=scores,
                contacts=_array(cell["target"], np.int64).reshape(-1, 2),
                resolved=resolved,
            )


def lengths(predictions: Predictions) -> dict[str, int]:
    """Return residues by id of each protein, after cropping."""
    table = predictions.table
    sizes = pc.list_value_length(table["resolved"]).to_pylist()
    return dict(zip(table["id"].to_pylist(), sizes, strict=True))


def cropped(predictions: Predictions, most: Mapping[str, int]) -> Predictions:
    """Return the predictions with each protein cropped to its first most[id] residues.

    That is what would have been predicted of the crop only where a pair's score does not depend on
    what lies behind it, as a baseline's.
    """
    if all(length <= most.get(name, length) for name, length in lengths(predictions).items()):
        return predictions
    rows: dict[str, list] = {name: [] for name in SCHEMA.names}
    for record in records(predictions):
        full = len(record.resolved)
        length = min(full, most.get(record.id, full))
        i, j = pair_index(full)
        values = {
            **vars(record),
            "target": record.contacts[record.contacts[:, 1] < length].astype(np.int32).ravel(),
            "prediction": record.scores[(i < length) & (j < length)],
            "resolved": record.resolved[:length],
        }
        for name in SCHEMA.names:
            rows[name].append(values[name])
    return Predictions(pa.table(rows, schema=SCHEMA), predictions.about)


def _array(cell: pa.ListScalar, dtype: type) -> np.ndarray:
    return cell.values.to_numpy(zero_copy_only=False).astype(dtype)
