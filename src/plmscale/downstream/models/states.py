"""Hidden states of many proteins: sorted by length, long ones in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from plmscale.downstream.batches import by_length, windows
from plmscale.downstream.models.adapter import Adapter
from plmscale.errors import PlmscaleError

# Windows: (number of the sequence, start, stop, first, last).
Piece = tuple[int, int, int, int, int]


@contextmanager
def inference() -> Iterator[None]:
    """No gradients; a GPU that is out of memory is an error that says what to change."""
    try:
        with torch.no_grad():
            yield
    except torch.cuda.OutOfMemoryError:
        raise PlmscaleError(
            "the GPU's memory is not enough for a batch; lower batch_tokens"
        ) from None


def cut(adapter: Adapter, sequences: Sequence[str]) -> list[Piece]:
    """Return the pieces in which the model can take the sequences, in order."""
    pieces: list[Piece] = []
    for number, sequence in enumerate(sequences):
        if not sequence:
            raise PlmscaleError(f"{adapter.info.name}: a sequence is empty; leave it out")
        context = 0 if adapter.fits(sequence) else adapter.info.context
        pieces += [(number, *part) for part in windows(len(sequence), context, adapter.causal)]
    return pieces


def residue_states(
    adapter: Adapter, sequences: Sequence[str], layer: int, batch_tokens: int
) -> list[np.ndarray]:
    """Return the states of each sequence's residues, float32 (length, d), in order.

    Where a token stands for several residues each has the token's state.
    """
    out: list[np.ndarray] = [np.empty((0, 0), np.float32)] * len(sequences)
    width = adapter.info.width
    for pieces, states, counts in _run(adapter, sequences, layer, batch_tokens):
        parts = np.split(states.cpu().numpy(), np.cumsum(counts)[:-1])
        for (number, start, _, first, last), part in zip(pieces, parts, strict=True):
            if not out[number].size:
                out[number] = np.empty((len(sequences[number]), width), np.float32)
            out[number][first:last] = part[first - start : last - start]
    _check_numbers(adapter, out)
    return out


def mean_states(
    adapter: Adapter, sequences: Sequence[str], layer: int, batch_tokens: int
) -> np.ndarray:
    """Return the mean over the residues of each sequence, float32 (n, d); sums in fp32.

    Begin and end tokens are run with the protein, but are not averaged.
    """
    sums = np.zeros((len(sequences), adapter.info.width))
    found = []
    for pieces, states, counts in _run(adapter, sequences, layer, batch_tokens):
        used = np.concatenate([
            (np.arange(count) >= first - start) & (np.arange(count) < last - start)
            for (_, start, _, first, last), count in zip(pieces, counts, strict=True)
        ])  # fmt: skip
        row = np.repeat(np.arange(len(counts)), counts)[used]
        where = torch.from_numpy(np.stack([row, np.flatnonzero(used)])).to(states.device)
        total = states.new_zeros(len(pieces), states.shape[1])
        total.index_add_(0, where[0], states[where[1]])
        found.append(([piece[0] for piece in pieces], total))
    # Only now wait for the device: until here batches were prepared while it computed.
    for numbers, total in found:
        np.add.at(sums, numbers, total.cpu().numpy().astype(np.float64))
    means = (sums / np.array([len(s) for s in sequences])[:, None]).astype(np.float32)
    _check_numbers(adapter, list(means))
    return means


def _run(
    adapter: Adapter, sequences: Sequence[str], layer: int, batch_tokens: int
) -> Iterator[tuple[list[Piece], Tensor, list[int]]]:
    """Yield pieces, the states of all their residues (n, d) in fp32, and how many each has."""
    pieces = cut(adapter, sequences)
    with inference():
        for batch in by_length([stop - start for _, start, stop, _, _ in pieces], batch_tokens):
            chosen = [pieces[i] for i in batch]
            rows = adapter.encode([sequences[n][start:stop] for n, start, stop, _, _ in chosen])
            states = rows.of_residues(adapter.hidden(rows, layer)).float()
            yield chosen, states, [stop - start for _, start, stop, _, _ in chosen]


def _check_numbers(adapter: Adapter, values: list[np.ndarray]) -> None:
    for number, value in enumerate(values):
        if not np.isfinite(value).all():
            raise PlmscaleError(
                f"{adapter.info.name}: the embedding of protein {number + 1} of {len(values)} is no "
                "number; has the run diverged, or is its dtype too coarse for it (fp32)?"
            )
