"""A class of each residue from a model: by ridge on its states, or with LoRA.

Long proteins are read in windows, alike by both: a window is run as a protein of its own, and what the
model says of its middle counts (plmscale.downstream.batches.windows).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plmscale.downstream.batches import windows
from plmscale.downstream.models.adapter import Adapter
from plmscale.downstream.probe import Block, Readout, ridge
from plmscale.downstream.statistics import Array
from plmscale.downstream.store import Store
from plmscale.downstream.supervised import Options
from plmscale.errors import PlmscaleError

# A protein and the class of each residue, int (L,), negative where it is not to be looked at.
Labelled = tuple[str, np.ndarray]

# Rows of states that are taken together.
_BLOCK = 1 << 14
# Factors that scores are tried with to become log-probabilities.
_FACTORS = np.geomspace(0.5, 64, 29)


@dataclass(frozen=True)
class Reading:
    """A model and how many residues of a protein it reads at once, 0 for all that it takes."""

    model: Adapter
    max_length: int

    def windows(self, sequence: str) -> list[tuple[int, int, int, int]]:
        """Return [(start, stop, first, last)]: what is run, and what of it counts."""
        width = self.max_length
        if not self.model.fits(sequence):
            width = min(limit for limit in (width, self.model.info.context) if limit)
        return windows(len(sequence), width, self.model.causal)

    def pieces(self, proteins: Sequence[Labelled]) -> list[Labelled]:
        """Return each window's sequence and labels, those outside of what counts negative."""
        found = []
        for sequence, labels in proteins:
            for start, stop, first, last in self.windows(sequence):
                own = np.full(stop - start, -1)
                own[first - start : last - start] = labels[first:last]
                found.append((sequence[start:stop], own))
        return found

    def joined(self, proteins: Sequence[Labelled], scores: Sequence[Array]) -> list[Array]:
        """Put scores (length, k) of all windows, in order, together to one array a protein."""
        found, at = [], 0
        for sequence, _ in proteins:
            parts = []
            for start, _, first, last in self.windows(sequence):
                parts.append(scores[at][first - start : last - start])
                at += 1
            found.append(np.concatenate(parts))
        return found


def scores(
    read: Reading,
    method: str,
    train: Sequence[Labelled],
    valid: Sequence[Labelled],
    test: Sequence[Labelled],
    classes: int,
    seed: int,
    options: Options,
    store: Store | None,
    notes: list[str],
) -> list[Array]:
    """Return a score of each class and residue of the test proteins, (L, classes) each.

    method: `probe` or `lora`; what was chosen and how training went is added to `notes`.
    PlmscaleError for embeddings that are no numbers and for training proteins without a label.
    """
    store = store or Store()
    pieces = [read.pieces(part) for part in (train, valid, test)]
    if not any((labels >= 0).any() for _, labels in pieces[0]):
        raise PlmscaleError("no training protein has a labelled residue; is the data whole?")

    def blocks(part: Sequence[Labelled]) -> Iterator[Block]:
        states = store.residues(read.model, [sequence for sequence, _ in part], options.layer)
        waiting: list[Block] = []
        rows = 0
        for (_, labels), values in zip(part, states, strict=True):
            kept = labels >= 0
            waiting.append((np.asarray(values, np.float32)[kept], np.eye(classes)[labels[kept]]))
            rows += len(labels)
            if rows >= _BLOCK:
                yield _stacked(waiting)
                waiting, rows = [], 0
        if waiting:
            yield _stacked(waiting)

    readout = ridge(blocks(pieces[0]), blocks(pieces[1]))
    notes.append(f"probe: ridge, penalty {readout.penalty:g} (by squared error in validation)")
    if method == "probe":
        states = store.residues(read.model, [sequence for sequence, _ in pieces[2]], options.layer)
        found = [readout(np.asarray(values, np.float32)) for values in states]
    else:
        start = _as_logits(readout, blocks(pieces[1]))
        found = _lora(read.model, start, pieces, seed, options, notes)
    return read.joined(test, found)


def _stacked(blocks: Sequence[Block]) -> Block:
    return np.concatenate([x for x, _ in blocks]), np.concatenate([y for _, y in blocks])


def _as_logits(readout: Readout, valid: Iterator[Block]) -> Readout:
    """Return the readout times the factor at which its scores are the best log-probabilities."""
    nats = np.zeros(len(_FACTORS))
    for x, y in valid:
        made = readout(x)
        for index, factor in enumerate(_FACTORS):
            logits = factor * made
            top = logits.max(axis=1, keepdims=True)
            norm = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
            nats[index] += float((norm - (logits * y).sum(axis=1)).sum())
    factor = _FACTORS[int(nats.argmin())]
    return replace(readout, weight=factor * readout.weight, bias=factor * readout.bias)


def _lora(
    model: Adapter,
    readout: Readout,
    pieces: Sequence[Sequence[Labelled]],
    seed: int,
    options: Options,
    notes: list[str],
) -> list[Any]:
    import torch

    from plmscale.downstream import lora

    def items(part: Sequence[Labelled]) -> list[lora.Item]:
        counted = [(sequence, labels, int((labels >= 0).sum())) for sequence, labels in part]
        return [lora.Item(sequence, labels, n) for sequence, labels, n in counted if n]

    def loss(made: list[torch.Tensor], of: Sequence[lora.Item]) -> torch.Tensor:
        labels = torch.from_numpy(np.concatenate([item.target for item in of]))
        each = torch.nn.functional.cross_entropy(
            torch.cat(made), labels.to(made[0].device), ignore_index=-1, reduction="none"
        )
        return torch.stack([part.sum() for part in each.split([len(m) for m in made])])

    train, valid, test = pieces
    return lora.tune(
        model, lora.LinearHead(readout, pool=False), loss, items(train), items(valid),
        [sequence for sequence, _ in test], options.recipe(), seed, notes,
    )  # fmt: skip
