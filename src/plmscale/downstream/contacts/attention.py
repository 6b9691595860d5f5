"""Contacts from attention maps, without training the network (Rao et al. 2020, ICLR 2021).

Each head of each layer gives a map of the residues. A map is made symmetric, A + A', and corrected
by its average product (APC). A logistic regression with an L1 penalty then weighs all maps; it is
fitted on the pairs of 20 proteins.

A causal model's maps are lower-triangular: a residue looks back only. A + A' then holds the one
value that the pair has. Columns and rows of begin and end tokens are cut off first, as in the paper;
what a head sends there is lost, and rows no longer sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plmscale.downstream.contacts import sparse_logistic
from plmscale.downstream.contacts.pairs import Protein, known, labels, pair_index
from plmscale.downstream.models.adapter import Adapter
from plmscale.errors import PlmscaleError

# Entries of all maps of a batch. 2**27 in fp32 are 0.5 GB; several copies exist at a time.
_BATCH_ENTRIES = {"cpu": 2**25, "cuda": 2**29}


@dataclass(frozen=True)
class Readout:
    """A fitted regression: float64 weights (layers x heads,) and the intercept."""

    weights: np.ndarray
    intercept: float


def corrected(maps: Tensor) -> Tensor:
    """Return maps (n, L, L) made symmetric and corrected by their average product.

    APC (Dunn et al. 2008): from each entry what its row and column would give if they were
    independent, row sum times column sum over the sum of all. Afterwards rows sum to 0.
    """
    maps = maps + maps.transpose(-1, -2)
    rows = maps.sum(-1, keepdim=True)
    # A head that looks at nothing but a special token has an empty map: 0, not 0 / 0.
    total = rows.sum(-2, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return maps - rows / total * rows.transpose(-1, -2)


def fit(adapter: Adapter, train: Sequence[Protein], c: float) -> Readout:
    """Fit the regression on all resolved pairs of `train` that are at least 6 apart.

    c: inverse strength of the penalty, as in scikit-learn. PlmscaleError where the proteins have no
    contact at all, and for a model whose tokens are not residues.
    """
    parts, truths = [], []
    for protein, maps in _maps(adapter, train):
        mask = known(protein.resolved)
        i, j = (torch.from_numpy(part[mask]).to(maps.device) for part in pair_index(len(protein)))
        parts.append(corrected(maps)[:, i, j].T)
        truths.append(torch.from_numpy(labels(protein.contacts, len(protein))[mask]))
    x = torch.cat(parts)
    _refuse_nan(adapter, x)
    try:
        weights, intercept = sparse_logistic.fit(x, torch.cat(truths).to(x.device), c)
    except ValueError:
        raise PlmscaleError(
            f"contacts: the {len(train)} proteins that the regression is fitted on have no contact "
            "or nothing but contacts; take more of them (attention_proteins)"
        ) from None
    return Readout(weights, intercept)


def scores(
    adapter: Adapter, readout: Readout, proteins: Sequence[Protein]
) -> Iterator[tuple[Protein, np.ndarray]]:
    """Yield each protein and the log-odds float32 (n_pairs,) of its pairs, by length."""
    used = np.flatnonzero(readout.weights)
    weights = torch.from_numpy(readout.weights[used]).float()
    for protein, maps in _maps(adapter, proteins):
        at = torch.from_numpy(used).to(maps.device)
        mixed = torch.einsum("n,nij->ij", weights.to(maps.device), corrected(maps[at]))
        _refuse_nan(adapter, mixed)
        i, j = pair_index(len(protein))
        yield protein, mixed.cpu().numpy()[i, j] + np.float32(readout.intercept)


def _maps(adapter: Adapter, proteins: Sequence[Protein]) -> Iterator[tuple[Protein, Tensor]]:
    """Yield each protein and its maps of residues, float32 (layers x heads, L, L), by length."""
    if not adapter.letterwise:
        raise PlmscaleError(
            f"{adapter.info.name}: its tokens are several residues each, so it has no attention "
            "maps of residues; use the method probe or lora"
        )
    for batch in _batches(adapter, proteins):
        with torch.no_grad():
            rows = adapter.encode([protein.sequence for protein in batch])
            maps = adapter.attentions(rows)
        for row, protein in enumerate(batch):
            at = torch.nonzero(rows.residues[row])[:, 0]
            yield protein, maps[row][:, at[:, None], at].float()


def _batches(adapter: Adapter, proteins: Sequence[Protein]) -> Iterator[list[Protein]]:
    """Cut proteins, sorted by length, into batches whose maps fit into memory; at least one each."""
    n_maps = adapter.info.n_layers * adapter.info.n_heads
    most = _BATCH_ENTRIES["cuda" if adapter.device.type == "cuda" else "cpu"]
    batch: list[Protein] = []
    for protein in sorted(proteins, key=len):
        if batch and (len(batch) + 1) * n_maps * (len(protein) + 2) ** 2 > most:
            yield batch
            batch = []
        batch.append(protein)
    if batch:
        yield batch


def _refuse_nan(adapter: Adapter, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise PlmscaleError(
            f"{adapter.info.name}: its attention maps hold NaN or infinity; is the model sound? "
            "Try dtype fp32"
        )
