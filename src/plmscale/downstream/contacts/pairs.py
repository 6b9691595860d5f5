"""Proteins and their residue pairs as contact prediction sees them.

All scores of a protein stand in one order: the pairs i < j with j - i >= 6, row by row. Pairs that
are nearer in the chain are in contact in every structure and are never foretold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from plmscale.downstream.base import Example
from plmscale.errors import PlmscaleError

MIN_SEPARATION = 6


@dataclass(frozen=True)
class Protein:
    """One protein, cropped to what is looked at.

    sequence: L letters. contacts: int64 (k, 2), 0-based, i < j < L. resolved: bool (L,), False
    where the structure has no coordinates. uncropped: letters before cropping.
    """

    id: str
    split: str
    group: str
    sequence: str
    contacts: np.ndarray
    resolved: np.ndarray
    uncropped: int

    def __len__(self) -> int:
        return len(self.sequence)


@lru_cache(maxsize=64)
def pair_index(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return i and j, each int64 (n_pairs(length),), of the pairs of a protein; read-only."""
    i, j = np.triu_indices(length, MIN_SEPARATION)
    i.flags.writeable = j.flags.writeable = False
    return i, j


def n_pairs(length: int) -> int:
    """Return the number of pairs i < j < length with j - i >= 6."""
    rows = max(0, length - MIN_SEPARATION)
    return rows * (rows + 1) // 2


def labels(contacts: np.ndarray, length: int) -> np.ndarray:
    """Return bool (n_pairs,), True for a contact; contacts (k, 2) nearer than 6 are left out."""
    found = np.zeros(n_pairs(length), bool)
    i, j = contacts[:, 0], contacts[:, 1]
    i, j = (part[j - i >= MIN_SEPARATION] for part in (i, j))
    # Row i begins after the rows before it, which have length - 6, length - 7, ... pairs.
    found[i * (length - MIN_SEPARATION) - i * (i - 1) // 2 + j - i - MIN_SEPARATION] = True
    return found


def known(resolved: np.ndarray) -> np.ndarray:
    """Return bool (n_pairs,), True where both residues (of `resolved`, (L,)) have coordinates."""
    i, j = pair_index(len(resolved))
    return resolved[i] & resolved[j]


def proteins(examples: Sequence[Example], lost: Sequence[int]) -> list[Protein]:
    """Return examples as proteins without their last `lost` residues.

    Contacts that leave the crop are dropped. PlmscaleError for contacts or a mask that do not fit the
    sequence.
    """
    return [_protein(example, cut) for example, cut in zip(examples, lost, strict=True)]


def _protein(example: Example, cut: int) -> Protein:
    full = len(example.sequence)
    length = full - cut
    contacts = np.asarray(example.target, np.int64).reshape(-1, 2)
    resolved = np.asarray(example.extra.get("resolved", np.ones(full, bool)), bool)
    if len(resolved) != full:
        raise PlmscaleError(
            f"contacts: {example.id}: a mask of {len(resolved)} residues for a sequence of {full}; "
            "make the data again"
        )
    wrong = (contacts[:, 0] < 0) | (contacts[:, 0] >= contacts[:, 1]) | (contacts[:, 1] >= full)
    if wrong.any():
        raise PlmscaleError(
            f"contacts: {example.id}: contact {contacts[wrong][0].tolist()} is not a pair i < j of "
            f"a sequence of {full} residues, counted from 0; make the data again"
        )
    return Protein(
        id=example.id,
        split=example.split,
        group=example.group,
        sequence=example.sequence[:length],
        contacts=contacts[contacts[:, 1] < length],
        resolved=resolved[:length],
        uncropped=full,
    )


def with_structure(found: Sequence[Protein]) -> list[Protein]:
    """Return the proteins that have at least one pair of resolved residues: what can be learnt of."""
    return [protein for protein in found if known(protein.resolved).any()]
