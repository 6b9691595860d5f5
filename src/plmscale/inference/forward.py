"""A batch through the model, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from plmscale.corpus.alphabet import PAD
from plmscale.errors import PlmscaleError
from plmscale.inference.models import Loaded


def to_device(loaded: Loaded, tokens: np.ndarray) -> Tensor:
    """Return uint8 tokens as int64 on the model's device."""
    return torch.from_numpy(tokens).to(loaded.device).long()


def segments(loaded: Loaded, tokens: Tensor, padded: bool) -> Tensor | None:
    """Return what keeps padding out of attention; None where nothing has to be kept out.

    Padding stands at the end, so a causal model does not see it anyway.
    """
    return (tokens != PAD).long() if padded and not loaded.causal else None


def logits_of(loaded: Loaded, tokens: Tensor, padded: bool) -> Tensor:
    """Return logits (rows, s, vocab) of tokens (rows, s), of which PAD at the end is ignored."""
    mask = segments(loaded, tokens, padded)
    return loaded.model(tokens, causal=loaded.causal, segments=mask)


@contextmanager
def inference() -> Iterator[None]:
    """No gradients; a GPU that is out of memory is an error that says what to change."""
    try:
        with torch.no_grad():
            yield
    except torch.cuda.OutOfMemoryError:
        raise PlmscaleError(
            "the GPU's memory is not enough for a batch; lower --batch-tokens (or --batch)"
        ) from None
