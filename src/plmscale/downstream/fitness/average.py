"""ProteinGym's averages over assays, and how sure they are.

A number of each assay -> mean of each (protein, selection type) -> mean of each selection type ->
mean of the five types: neither a protein assayed often nor a type with many assays outweighs the
others. A number that is not defined for one assay (a constant predictor) leaves the averages it
would enter undefined: leaving the assay out would flatter the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TYPES = ("Activity", "Binding", "Expression", "OrganismalFitness", "Stability")
REPLICATES = 10_000
_BLOCK = 1_000


@dataclass(frozen=True)
class Assay:
    """What the averages need of an assay: protein (UniProt id), selection type, its number."""

    name: str
    protein: str
    selection: str
    value: float


@dataclass(frozen=True)
class Mean:
    """An average with its bootstrap; se and ci95 are None where a type has a single protein."""

    value: float
    assays: int
    proteins: int
    se: float | None
    ci95: tuple[float, float] | None
    types: tuple[str, ...]


def averages(
    assays: Sequence[Assay], seed: int = 0, replicates: int = REPLICATES
) -> dict[str, Mean]:
    """Return the average of each selection type, and of these as `average`.

    The bootstrap draws proteins with replacement within each type. On differences of two models,
    assay by assay, it is paired; with the best model as the second its `se` is what ProteinGym
    publishes.
    """
    proteins = _by_type(assays)
    out: dict[str, Mean] = {}
    drawn = []
    for number, (selection, values) in enumerate(proteins.items()):
        rng = np.random.default_rng([seed, number])
        samples = _resampled(values, rng, replicates)
        drawn.append(samples)
        count = sum(assay.selection == selection for assay in assays)
        out[selection] = _mean(values.mean(), samples, count, len(values), (selection,))
    if proteins:
        total = float(np.mean([values.mean() for values in proteins.values()]))
        known = [samples for samples in drawn if samples is not None]
        samples = np.mean(known, axis=0) if len(known) == len(drawn) else None
        count = sum(map(len, proteins.values()))
        out["average"] = _mean(total, samples, len(assays), count, tuple(proteins))
    return out


def _by_type(assays: Sequence[Assay]) -> dict[str, np.ndarray]:
    """Return the mean of each protein, float64 (proteins,), by selection type, in order."""
    values: dict[str, dict[str, list[float]]] = {}
    for assay in sorted(assays, key=lambda a: (a.selection, a.protein, a.name)):
        values.setdefault(assay.selection, {}).setdefault(assay.protein, []).append(assay.value)
    return {
        selection: np.array([np.mean(found) for found in by_protein.values()])
        for selection, by_protein in values.items()
    }


def _resampled(values: np.ndarray, rng: np.random.Generator, replicates: int) -> np.ndarray | None:
    """Return means of resampled proteins, float64 (replicates,); None for a single protein."""
    if len(values) < 2:
        return None
    blocks = []
    for start in range(0, replicates, _BLOCK):
        rows = min(_BLOCK, replicates - start)
        blocks.append(values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1))
    return np.concatenate(blocks)


def _mean(
    value: float, samples: np.ndarray | None, assays: int, proteins: int, types: tuple[str, ...]
) -> Mean:
    value = float(value)
    if samples is None or not np.isfinite(value):
        return Mean(value, assays, proteins, None, None, types)
    low, high = np.quantile(samples, (0.025, 0.975)).tolist()
    return Mean(value, assays, proteins, float(samples.std(ddof=1)), (low, high), types)
