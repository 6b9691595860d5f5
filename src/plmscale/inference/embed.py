"""Hidden states of a trained model as embeddings of proteins or of their residues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plmscale.errors import PlmscaleError
from plmscale.inference.batches import Batch, Layout, batches, groups, lay_out
from plmscale.inference.forward import inference, segments, to_device
from plmscale.inference.models import Loaded
from plmscale.inference.records import Record
from plmscale.model import Transformer

_GROUP_BATCHES = 32
_GROUP_BYTES = 128 << 20


@dataclass(frozen=True)
class Embedding:
    """values: float32, (d,) the mean over residues, or (length, d) with `per_residue`."""

    id: str
    length: int
    values: np.ndarray
    windowed: bool


@dataclass(frozen=True)
class Embedder:
    """layer: as of `check_layer`. window: tokens of a row for longer proteins, 0 for none."""

    batch_tokens: int
    per_residue: bool = False
    layer: int = -1
    window: int = 0


def check_layer(layer: int, n_layers: int) -> int:
    """Return which states `layer` means, 0 to n_layers; PlmscaleError where there is none.

    0 are the token embeddings, i the residual stream after block i, and n_layers (or -1, counted
    from the end) what comes out of the final norm: the numbering of `hidden_states` in Hugging
    Face's transformers.
    """
    if not -n_layers - 1 <= layer <= n_layers:
        raise PlmscaleError(
            f"--layer {layer}: the model has layers 0 (token embeddings) to {n_layers} (final "
            f"norm), or -1 to {-n_layers - 1} from the end"
        )
    return layer % (n_layers + 1)


def embed(loaded: Loaded, records: Iterable[Record], how: Embedder) -> Iterator[Embedding]:
    """Yield the embedding of each record, in order; BOS and EOS are run with it, not averaged.

    The mean is taken in fp32 over the model's dtype, sums of windows in float64.
    """
    width = loaded.model.arch.d_model
    layer = check_layer(how.layer, loaded.model.arch.n_layers)
    tokens = _GROUP_BATCHES * how.batch_tokens
    if how.per_residue:
        tokens = min(tokens, max(1, _GROUP_BYTES // (4 * width)))
    collect = _residues if how.per_residue else _means
    for group in groups(records, min(tokens, 1 << 18)):
        # A causal model's residues do not see the EOS.
        layout = lay_out(group, how.window, loaded.causal, last_token=not loaded.causal)
        with inference():
            values = collect(loaded, layout, layer, how.batch_tokens)
        windowed = layout.windowed
        for i, record in enumerate(group):
            if not np.isfinite(values[i]).all():
                raise PlmscaleError(
                    f"record {record.number} ({record.id}): the embedding is no number; has the run "
                    f"diverged, or is {loaded.dtype} too coarse for it (--dtype fp32)?"
                )
            yield Embedding(record.id, len(record), values[i], bool(windowed[i]))


def _states(
    loaded: Loaded, layout: Layout, layer: int, batch_tokens: int
) -> Iterator[tuple[Batch, np.ndarray, Tensor]]:
    """Yield batches, which of their tokens are residues to use, and their states (rows, s, d)."""
    last = layout.begins + layout.lengths
    for batch in batches(layout, np.arange(len(layout.pieces)), batch_tokens):
        owner = layout.owners[batch.numbers][:, None]
        wanted = (batch.places > layout.begins[owner]) & (batch.places <= last[owner])
        tokens = to_device(loaded, batch.tokens)
        mask = segments(loaded, tokens, batch.padded)
        with _captured(loaded.model, layer) as seen:
            final = loaded.model.hidden(tokens, causal=loaded.causal, segments=mask)
        yield batch, wanted & batch.used, (seen[0] if seen else final).float()


@contextmanager
def _captured(model: Transformer, layer: int) -> Iterator[list[Tensor]]:
    """Collect what goes into block `layer`; nothing for the layer behind the last block."""
    seen: list[Tensor] = []
    if layer == len(model.blocks):
        yield seen
        return
    hook = model.blocks[layer].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _means(loaded: Loaded, layout: Layout, layer: int, batch_tokens: int) -> np.ndarray:
    """Return the mean over the residues of each record, float32 (records, d)."""
    width = loaded.model.arch.d_model
    sums = np.zeros((len(layout.begins), width))
    found = []
    for batch, wanted, states in _states(loaded, layout, layer, batch_tokens):
        weights = torch.from_numpy(wanted).to(loaded.device, torch.float32)
        found.append((layout.owners[batch.numbers], torch.einsum("rs,rsd->rd", weights, states)))
    for owners, part in found:
        np.add.at(sums, owners, part.cpu().numpy().astype(np.float64))
    return (sums / layout.lengths[:, None]).astype(np.float32)


def _residues(loaded: Loaded, layout: Layout, layer: int, batch_tokens: int) -> list[np.ndarray]:
    """Return the states of the residues of each record, float32 (length, d)."""
    out = np.empty((len(layout.tokens), loaded.model.arch.d_model), np.float32)
    for batch, wanted, states in _states(loaded, layout, layer, batch_tokens):
        out[batch.places[wanted]] = states.cpu().numpy()[wanted]
    first = layout.begins + 1
    return [out[a : a + n] for a, n in zip(first.tolist(), layout.lengths.tolist())]
