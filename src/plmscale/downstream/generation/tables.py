"""The proteins of a file of predictions with all that side results know of them, by set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from plmscale.corpus.alphabet import FIRST_RESIDUE, STANDARD, encode
from plmscale.downstream import sides
from plmscale.downstream.base import Predictions
from plmscale.downstream.generation import searches, structures
from plmscale.downstream.generation.proteins import REFERENCE
from plmscale.errors import PlmscaleError

COLUMNS = ("id", "split", "group", "sequence", "prediction", "terminated", "max_length")
# Which part of which side result a metric rests on.
PARTS = {
    "low_complexity": (searches.NAME, ("low_complexity",)),
    "low_complexity_proteins": (searches.NAME, ("low_complexity",)),
    "copied": (searches.NAME, ("copied", "train")),
    "nearest_identity": (searches.NAME, ("train",)),
    "nearest_held_out": (searches.NAME, ("held_out",)),
    "clusters_50": (searches.NAME, ("clusters",)),
    "plddt": (structures.NAME, ("plddt",)),
    "plddt_70": (structures.NAME, ("plddt",)),
    "tm_to_pdb": (structures.NAME, ("tm",)),
    "confident_and_novel": (structures.NAME, ("plddt", "tm")),
}
_NOT_MADE = {
    searches.NAME: "the searches of these predictions have not been made",
    structures.NAME: "no structures of these predictions have been made",
}


@dataclass(frozen=True)
class Table:
    """sets: rows by (split, group), the reference apart. missing: reason by metric that has none.
    about: of the predictions, and of each side result by its name."""

    sets: Mapping[tuple[str, str], pd.DataFrame]
    reference: pd.DataFrame
    missing: Mapping[str, str]
    about: Mapping[str, Any]
    told: Mapping[str, Mapping[str, Any]]

    @property
    def max_length(self) -> int:
        return int(self.reference["max_length"].iloc[0])


def read(predictions: Predictions) -> Table:
    """Return the table; side results lie next to the file that `predictions` was read from."""
    lacking = [name for name in COLUMNS if name not in predictions.table.column_names]
    if lacking:
        raise PlmscaleError(
            f"generation: the predictions lack the column {lacking[0]}; make them again"
        )
    rows = predictions.table.select(COLUMNS).to_pandas()
    rows["length"] = rows["sequence"].str.len().astype(float)
    told = {}
    absent: dict[tuple[str, str], str] = {}
    for name, reason in _NOT_MADE.items():
        found, told[name] = sides.read(predictions.path, name)
        if found is None:
            told[name] = {"not_run": {"": reason}}
        else:
            rows = rows.merge(found, on="id", how="left", validate="1:1")
        absent |= {(name, part): why for part, why in told[name]["not_run"].items()}
    missing = {}
    for metric, (name, parts) in PARTS.items():
        reasons = [absent[name, part] for part in ("", *parts) if (name, part) in absent]
        if reasons:
            missing[metric] = reasons[0]
    sets: dict = dict(iter(rows.groupby(["split", "group"], sort=False)))
    reference = sets.pop((REFERENCE, REFERENCE), None)
    if reference is None:
        raise PlmscaleError("generation: the predictions have no reference; make them again")
    return Table(sets, reference, missing, predictions.about, told)


def residue_counts(rows: pd.DataFrame) -> np.ndarray:
    """Return how often each of the 20 residues occurs in each protein, float64 (n, 20)."""
    return _counts(rows, 1)


def dipeptide_counts(rows: pd.DataFrame) -> np.ndarray:
    """Return how often each pair of neighbours occurs in each protein, float64 (n, 400)."""
    return _counts(rows, 2)


def _counts(rows: pd.DataFrame, size: int) -> np.ndarray:
    kinds = len(STANDARD) ** size
    counts = np.zeros((len(rows), kinds))
    for i, text in enumerate(rows["sequence"]):
        tokens = encode(text).astype(np.int64) - FIRST_RESIDUE
        word = np.zeros(max(0, len(tokens) - size + 1), np.int64)
        whole = np.ones(len(word), bool)
        for shift in range(size if len(word) else 0):
            part = tokens[shift : shift + len(word)]
            # Letters other than the 20 are in no word.
            whole &= (part >= 0) & (part < len(STANDARD))
            word = word * len(STANDARD) + part
        counts[i] = np.bincount(word[whole], minlength=kinds)
    return counts
