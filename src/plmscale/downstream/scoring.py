"""How likely a model finds residues: nats by residue, and log-probabilities of all letters.

One rule for all models: the softmax runs over all tokens of the model, as in its training; begin
tokens are given, end tokens are not counted; the residue's own token is what is predicted. A letter
that the model has no token for is read as its X (or unknown) token and counted as that. Where a
protein is longer than the model's context, windows of the context that overlap by half are run as
proteins of their own.

Nats of a causal and of a masked model are not comparable: the latter sees both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plmscale.downstream.batches import by_length, centred, check_tokens
from plmscale.downstream.models.adapter import STANDARD, Adapter, Encoded
from plmscale.downstream.models.states import cut, inference
from plmscale.errors import PlmscaleError

_MASK_STREAM = 0x53434F5245
# Batches whose results wait on the device before they are fetched.
_IN_FLIGHT = 32


def residue_nats(
    adapter: Adapter,
    sequences: Sequence[str],
    *,
    masks: int = 0,
    seed: int = 0,
    reverse: bool = False,
    batch_tokens: int | None = None,
) -> list[np.ndarray]:
    """Return -log p of each residue in nats, float32 (length,) for each sequence.

    clm: given the residues before it. The nats of a token of several residues are spread evenly over
    them, so that sums are exact and single values are not; line breaks among the tokens are not
    counted. mlm: given all others, masked one at a time (Salazar et al. 2020, eq. 2), or with
    `masks` in that many disjoint random sets, each masked at once; the sets depend on (seed,
    length) alone. reverse: read the proteins backwards, for a model that was trained so too.

    A sequence that comes twice is run once. Raises PlmscaleError for a causal model without a begin
    token, a masked one without a mask, and where the model's numbers are none.
    """
    if masks < 0:
        raise PlmscaleError(f"masks {masks}: 0 to mask residues one at a time, or a number of sets")
    if reverse and not adapter.reversible:
        raise PlmscaleError(f"{adapter.info.name}: was not trained on proteins read backwards")
    budget = check_tokens(batch_tokens, adapter)
    unique = list(dict.fromkeys(sequences))
    with inference():
        if adapter.causal:
            found = _causal(adapter, unique, budget, reverse)
        else:
            found = _masked(adapter, unique, budget, masks, seed)
    for nats in found:
        if not np.isfinite(nats).all():
            raise PlmscaleError(
                f"{adapter.info.name}: the likelihood of a protein of {len(nats)} residues is no "
                "number; has the run diverged, or is its dtype too coarse for it (fp32)?"
            )
    by_sequence = dict(zip(unique, found))
    return [by_sequence[sequence] for sequence in sequences]


def marginals(
    adapter: Adapter,
    sequence: str,
    positions: Sequence[int],
    how: Literal["masked", "wt"] = "masked",
    *,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Return log p of the 20 STANDARD letters at `positions` (from 0), float32 (k, 20).

    Not renormalised: over all tokens of the model; differences of two letters do not depend on that.
    masked: that position masked, all others as they are, one pass a position, which all variants
    there share. wt: nothing masked, one pass. A causal model knows `wt` alone: the letter given those
    before it. A protein longer than the context: the window that has the position in its middle.
    """
    if bad := [p for p in positions if not 0 <= p < len(sequence)]:
        raise PlmscaleError(
            f"position {bad[0]} is not in a protein of {len(sequence)} residues (counted from 0)"
        )
    if how == "masked" and adapter.mask is None:
        raise PlmscaleError(
            f"{adapter.info.name}: a {adapter.info.kind} has no mask; use wt, or the likelihood of "
            "the whole sequence"
        )
    if not adapter.letterwise:
        raise PlmscaleError(
            f"{adapter.info.name}: its tokens are several residues each, so single positions have "
            "no probabilities; use the likelihood of the whole sequence"
        )
    letters = adapter.letter_tokens(STANDARD)
    budget = check_tokens(batch_tokens, adapter)
    context = 0 if adapter.fits(sequence) else adapter.info.context
    spans = [centred(len(sequence), context, p) for p in positions]
    out = np.empty((len(positions), len(STANDARD)), np.float32)
    # A row for each position, or for each window where nothing is masked.
    rows = {(span, p if how == "masked" else None): None for span, p in zip(spans, positions)}
    where = {row: number for number, row in enumerate(rows)}
    row_of = [where[span, p if how == "masked" else None] for span, p in zip(spans, positions)]
    order = list(rows)
    with inference():
        for batch in by_length([stop - start for (start, stop), _ in order], budget):
            found = {number: i for i, number in enumerate(batch)}
            mine = [k for k, number in enumerate(row_of) if number in found]
            encoded = adapter.encode([sequence[slice(*order[number][0])] for number in batch])
            row = torch.tensor([found[row_of[k]] for k in mine], device=adapter.device)
            at = _first(encoded)[row] + torch.tensor(
                [positions[k] - spans[k][0] for k in mine], device=adapter.device
            )
            if how == "masked":
                encoded.tokens[row, at] = adapter.mask
            if adapter.causal:
                _check_begin(adapter, encoded)
                at = at - 1
            logp = torch.log_softmax(adapter.logits(encoded)[row, at].float(), -1)
            out[mine] = logp[:, letters].cpu().numpy()
    return out


def _causal(adapter: Adapter, sequences: list[str], budget: int, reverse: bool) -> list[np.ndarray]:
    read = [s[::-1] for s in sequences] if reverse else sequences
    encode = adapter.encode_reversed if reverse else adapter.encode
    pieces, out = cut(adapter, read), [np.empty(len(s), np.float32) for s in read]
    waiting: list[tuple[list[int], Tensor]] = []

    def fetch() -> None:
        for batch, nats in waiting:
            lengths = [pieces[i][2] - pieces[i][1] for i in batch]
            parts = np.split(nats.cpu().numpy(), np.cumsum(lengths)[:-1])
            for i, part in zip(batch, parts, strict=True):
                number, start, _, first, last = pieces[i]
                out[number][first:last] = part[first - start : last - start]
        waiting.clear()

    for batch in by_length([stop - start for _, start, stop, _, _ in pieces], budget):
        texts = [read[pieces[i][0]][pieces[i][1] : pieces[i][2]] for i in batch]
        # The model's own `encode_reversed` turns them round.
        rows = encode([text[::-1] for text in texts] if reverse else texts)
        _check_begin(adapter, rows)
        waiting.append((batch, _next_nats(adapter, rows)))
        if len(waiting) == _IN_FLIGHT:
            fetch()
    fetch()
    return [nats[::-1].copy() for nats in out] if reverse else out


def _next_nats(adapter: Adapter, rows: Encoded) -> Tensor:
    """Return nats of all residues of the rows, one row after another, (n,) in fp32."""
    nats = torch.zeros(rows.tokens.shape, device=rows.tokens.device)
    nats[:, 1:] = _nats(adapter.logits(rows)[:, :-1], rows.tokens[:, 1:])
    if rows.places is not None:
        # How many residues share each token.
        ones = (rows.places >= 0).float()
        sharing = torch.zeros_like(nats).scatter_add_(1, rows.places.clamp(min=0), ones)
        nats = nats / sharing.clamp(min=1)
    return rows.of_residues(nats)


def _masked(
    adapter: Adapter, sequences: list[str], budget: int, masks: int, seed: int
) -> list[np.ndarray]:
    if adapter.mask is None:
        raise PlmscaleError(f"{adapter.info.name}: has no mask token, so no masked likelihood")
    pieces, out = cut(adapter, sequences), [np.empty(len(s), np.float32) for s in sequences]
    sets = {length: mask_sets(length, masks, seed) for length in {len(s) for s in sequences}}
    # One row for each piece and set that the piece answers for.
    owner: list[int] = []
    chosen: list[np.ndarray] = []
    for i, (number, start, _, first, last) in enumerate(pieces):
        members = sets[len(sequences[number])][first:last]
        for one in np.unique(members):
            owner.append(i)
            chosen.append(np.flatnonzero(members == one) + first - start)
    waiting: list[tuple[list[int], Tensor]] = []

    def fetch() -> None:
        for batch, nats in waiting:
            parts = np.split(nats.cpu().numpy(), np.cumsum([len(chosen[r]) for r in batch])[:-1])
            for r, part in zip(batch, parts, strict=True):
                number, start, *_ = pieces[owner[r]]
                out[number][chosen[r] + start] = part
        waiting.clear()

    for batch in by_length([pieces[i][2] - pieces[i][1] for i in owner], budget):
        waiting.append((batch, _masked_nats(adapter, sequences, pieces, owner, chosen, batch)))
        if len(waiting) == _IN_FLIGHT:
            fetch()
    fetch()
    return out


def _masked_nats(
    adapter: Adapter,
    sequences: list[str],
    pieces: list[tuple[int, int, int, int, int]],
    owner: list[int],
    chosen: list[np.ndarray],
    batch: list[int],
) -> Tensor:
    """Return nats of the masked residues of a batch's rows, one row after another, in fp32."""
    # Rows of one piece differ in what is masked alone: it is turned into tokens once.
    distinct = list(dict.fromkeys(owner[r] for r in batch))
    texts = [sequences[pieces[i][0]][pieces[i][1] : pieces[i][2]] for i in distinct]
    plain = adapter.encode(texts)
    where = {i: n for n, i in enumerate(distinct)}
    source = torch.tensor([where[owner[r]] for r in batch], device=adapter.device)
    counts = torch.tensor([len(chosen[r]) for r in batch], device=adapter.device)
    row = torch.repeat_interleave(torch.arange(len(batch), device=adapter.device), counts)
    inside = torch.from_numpy(np.concatenate([chosen[r] for r in batch])).to(adapter.device)
    at = _first(plain)[source][row] + inside
    tokens = plain.tokens[source]
    truth = tokens[row, at]
    tokens[row, at] = adapter.mask
    rows = Encoded(tokens, plain.attend[source], plain.residues[source], None, plain.padded)
    return _nats(adapter.logits(rows)[row, at], truth)


def mask_sets(length: int, masks: int, seed: int = 0) -> np.ndarray:
    """Return in which set each residue is masked, int64 (length,); one set each for `masks` 0.

    The sets of `plmscale score --masks`: of equal size, a function of (seed, length) alone, so that
    variants of one protein are masked alike.
    """
    if not masks or masks >= length:
        return np.arange(length)
    key = np.array([seed & (2**64 - 1), _MASK_STREAM], np.uint64)
    counter = np.array([0, 0, length, 0], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(length)
    sets = np.empty(length, np.int64)
    sets[np.argsort(words, kind="stable")] = np.arange(length) % masks
    return sets


def _first(rows: Encoded) -> Tensor:
    """Return the place of the first residue of each row, (b,); one letter is one token."""
    return rows.residues.int().argmax(1)


def _check_begin(adapter: Adapter, rows: Encoded) -> None:
    if bool(rows.residues[:, 0].any()):
        raise PlmscaleError(
            f"{adapter.info.name}: has no begin token, so the first residue has no likelihood"
        )


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p of targets (...) under logits (..., v), in fp32."""
    logp = torch.log_softmax(logits.float(), -1)
    return -logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
