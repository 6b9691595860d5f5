"""Log-likelihood and perplexity of proteins under a trained model.

The softmax runs over all `vocab_size` tokens of the model, as in training: letters and special
tokens. All sums are over nats of single tokens in fp32, added in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plmscale.corpus.alphabet import MASK
from plmscale.errors import PlmscaleError
from plmscale.inference.batches import Layout, batches, groups, lay_out
from plmscale.inference.forward import inference, logits_of, to_device
from plmscale.inference.models import Loaded
from plmscale.inference.records import Record

_MASK_STREAM = 0x53434F5245
# About how many batches a group of records takes, and at most how many tokens it holds.
_GROUP_BATCHES, _GROUP_TOKENS = 32, 1 << 18
_TYPICAL_LENGTH = 256


@dataclass(frozen=True)
class Score:
    """nll: nats of the `tokens` tokens that were predicted, summed. method: how (docs)."""

    id: str
    length: int
    tokens: int
    nll: float
    method: str
    windowed: bool

    @property
    def perplexity(self) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(self.nll / self.tokens))


@dataclass(frozen=True)
class Scoring:
    """masks: 0 masks each residue alone (exact), K masks K sets of residues, one set at a time.
    eos: whether a CLM's EOS counts as a predicted token. window: tokens of a row for proteins that
    are longer, 0 for none. seed: of the sets."""

    batch_tokens: int
    masks: int = 0
    eos: bool = True
    window: int = 0
    seed: int = 0


def score(loaded: Loaded, records: Iterable[Record], how: Scoring) -> Iterator[Score]:
    """Yield the score of each record, in order.

    As CLM: -log p of each residue given those before (and of EOS), Bengio et al. 2003. As MLM:
    -log p of each residue given all others, masked one at a time (Salazar et al. 2020, eq. 2), or
    in `masks` disjoint random sets, each masked at once: then a residue does not see the others of
    its set. The sets depend on (seed, length) alone, so variants of a protein share them.
    """
    passes = 1 if loaded.causal else how.masks or _TYPICAL_LENGTH
    size = min(max(_GROUP_BATCHES * how.batch_tokens // passes, 1), _GROUP_TOKENS)
    for group in groups(records, size):
        layout = lay_out(group, how.window, loaded.causal, last_token=not loaded.causal)
        with inference():
            nll = (_causal if loaded.causal else _masked)(loaded, layout, how)
        yield from _scores(loaded, group, layout, nll, how)


def _scores(
    loaded: Loaded, group: list[Record], layout: Layout, nll: np.ndarray, how: Scoring
) -> Iterator[Score]:
    windowed = layout.windowed
    eos = loaded.causal and how.eos
    for i, record in enumerate(group):
        first, count = layout.begins[i] + 1, len(record) + eos
        total = float(nll[first : first + count].sum(dtype=np.float64))
        if not np.isfinite(total):
            raise PlmscaleError(
                f"record {record.number} ({record.id}): the model's likelihood is no number; has "
                f"the run diverged, or is {loaded.dtype} too coarse for it (--dtype fp32)?"
            )
        if loaded.causal:
            method = "clm" if eos else "clm-without-eos"
        else:
            exact = not how.masks or how.masks >= len(record)
            method = "mlm-exact" if exact else f"mlm-masks{how.masks}"
        if windowed[i]:
            method += f"-window{how.window}"
        yield Score(record.id, len(record), count, total, method, bool(windowed[i]))


def _causal(loaded: Loaded, layout: Layout, how: Scoring) -> np.ndarray:
    """Return nats by place in the layout, float32; those of BOS are 0."""
    out = np.zeros(len(layout.tokens), np.float32)
    found = []
    for batch in batches(layout, np.arange(len(layout.pieces)), how.batch_tokens):
        tokens = to_device(loaded, batch.tokens)
        targets = to_device(loaded, layout.tokens[batch.places + 1])
        nats = _nats(logits_of(loaded, tokens, batch.padded), targets)
        found.append((batch.places[batch.used] + 1, batch.used, nats))
    # Only now wait for the device: until here batches were prepared while it computed.
    for places, used, nats in found:
        out[places] = nats.cpu().numpy()[used]
    return out


def _masked(loaded: Loaded, layout: Layout, how: Scoring) -> np.ndarray:
    """Return nats by place in the layout, float32; those of BOS and EOS are 0."""
    out = np.zeros(len(layout.tokens), np.float32)
    sets = _sets(layout, how)
    items, chosen = _masked_items(layout, sets)
    found = []
    for batch in batches(layout, items, how.batch_tokens):
        mask = batch.used & (sets[batch.places] == chosen[batch.numbers][:, None])
        tokens = to_device(loaded, np.where(mask, np.uint8(MASK), batch.tokens))
        rows, columns = np.nonzero(mask)
        logits = logits_of(loaded, tokens, batch.padded)
        at = (torch.from_numpy(rows), torch.from_numpy(columns))
        picked = logits[tuple(index.to(loaded.device) for index in at)]
        places = batch.places[mask]
        found.append((places, _nats(picked, to_device(loaded, layout.tokens[places]))))
    for places, nats in found:
        out[places] = nats.cpu().numpy()
    return out


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p of targets (...) under logits (..., vocab), in fp32."""
    logp = torch.log_softmax(logits.float(), -1)
    return -logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _sets(layout: Layout, how: Scoring) -> np.ndarray:
    """Return in which set each token is masked, int64 by place; -1 for BOS and EOS."""
    sets = np.full(len(layout.tokens), -1)
    for begin, length in zip(layout.begins.tolist(), layout.lengths.tolist()):
        if how.masks and how.masks < length:
            key = np.array([how.seed & (2**64 - 1), _MASK_STREAM], np.uint64)
            counter = np.array([0, 0, length, 0], np.uint64)
            words = np.random.Philox(key=key, counter=counter).random_raw(length)
            sets[begin + 1 + np.argsort(words, kind="stable")] = np.arange(length) % how.masks
        else:
            sets[begin + 1 : begin + 1 + length] = np.arange(length)
    return sets


def _masked_items(layout: Layout, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (piece, set) of each row, int64 (rows,) each: all sets that a piece uses."""
    items, chosen = [], []
    for number, (_, _, first, last) in enumerate(layout.pieces.tolist()):
        found = np.unique(sets[first:last])
        found = found[found >= 0]
        items.append(np.full(len(found), number))
        chosen.append(found)
    return np.concatenate(items), np.concatenate(chosen)
