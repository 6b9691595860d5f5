"""Which proteins, or pieces of long ones, run together.

Sorted by length, so that little of a batch is padding; that decides the speed and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plmscale.downstream.models.adapter import Adapter
from plmscale.errors import PlmscaleError
from plmscale.inference.batches import windows as _windows

# Tokens that stand around the residues of a row, at most.
_ENDS = 3
# On a CPU a batch should stay in its caches: measured, 2,048 is at most 5 % off the best for models of
# width 32 to 256, 8,192 up to 40 %.
_TOKENS = {"cpu": 2048, "cuda": 65536}
# Bytes of one batch's logits, for models with many tokens.
_LOGITS = {"cpu": 1 << 28, "cuda": 1 << 31}


def default_tokens(adapter: Adapter) -> int:
    """Return how many tokens a batch has at most, by the device and the width of the logits."""
    device = "cpu" if adapter.device.type == "cpu" else "cuda"
    width = 4 * max(1, adapter.vocab_size)
    return max(1, min(_TOKENS[device], _LOGITS[device] // width))


def check_tokens(batch_tokens: int | None, adapter: Adapter) -> int:
    """Return `batch_tokens`, or the default for None; PlmscaleError for less than 1."""
    if batch_tokens is None:
        return default_tokens(adapter)
    if batch_tokens < 1:
        raise PlmscaleError(f"batch_tokens {batch_tokens}: at least 1")
    return batch_tokens


def by_length(sequences: Sequence[str] | Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of the sequences (or of their lengths) that run together, each once.

    The longest come first, so that what does not fit into memory fails at once. A batch has at most
    `batch_tokens` tokens with its padding, or one row. Equal lengths stay in their order.
    """
    lengths = [item if isinstance(item, int) else len(item) for item in sequences]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        rows = max(1, batch_tokens // (lengths[order[at]] + _ENDS))
        yield order[at : at + rows]
        at += rows


def windows(length: int, context: int, causal: bool) -> list[tuple[int, int, int, int]]:
    """Cut a protein of `length` residues for a model that takes `context` of them (0: any).

    Returns [(start, stop, first, last)]: residues [start, stop) are run as a protein of their own,
    with begin and end tokens, and what the model says of [first, last) is used, each residue once.
    Neighbours overlap by half. A causal model's window is used from where the one before ends, so
    with half a window of what precedes; an encoder's up to the middle of the overlap.
    """
    return _windows(length, context, causal)


def centred(length: int, context: int, position: int) -> tuple[int, int]:
    """Return the window [start, stop) of `context` residues (0: all) with `position` in its middle.

    Near an end of the protein it is the first or the last window (Notin et al. 2023, ProteinGym).
    """
    if not context or length <= context:
        return 0, length
    start = min(max(0, position - context // 2), length - context)
    return start, start + context
