"""PyTorch's flex_attention for packed rows: blocks of scores that are masked are never computed.

It is imported where it is used: with it comes much of PyTorch's compiler.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_MODULE = "torch.nn.attention.flex_attention"
# Narrower heads do not fill a tile of the GPU's matrix units, and its kernels refuse them.
_SMALLEST_HEAD = 16


def fits(head_size: int) -> bool:
    """Return whether this PyTorch has flex_attention, and for heads of this size."""
    return head_size >= _SMALLEST_HEAD and _there()


@functools.cache
def _there() -> bool:
    return importlib.util.find_spec(_MODULE) is not None


def block_mask(
    segments: Tensor | None,
    causal: bool | Tensor,
    rows: int,
    length: int,
    device: torch.device,
) -> Any:
    """Return the BlockMask for protein numbers (rows, s) and one causality, or one a row (rows,).

    Its shape depends on `rows` and `length` alone, so that nothing is compiled anew.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    make = create_block_mask if device.type == "cpu" else _compiled(create_block_mask)
    return make(_sees(segments, causal), rows, None, length, length, device=device)


def _sees(segments: Tensor | None, causal: bool | Tensor) -> Callable[..., Tensor]:
    """Return the function of (row, head, query, key): may the query's token see the key's?"""

    def inside(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return segments[row, query] == segments[row, key]

    def before(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    def before_if(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) | ~causal[row]

    def anywhere(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= 0

    order = before_if if isinstance(causal, Tensor) else before if causal else anywhere
    if segments is None:
        return order

    def both(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return inside(row, head, query, key) & order(row, head, query, key)

    return both


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    """(rows, heads, s, size) each -> the same, under a mask of `block_mask`."""
    from torch.nn.attention.flex_attention import flex_attention

    # Buffers of their own: of views into a larger one, as v is, torch 2.13's compiler for CPUs reads
    # the wrong part, silently.
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    # Inside a compiled block it is compiled with it; a CPU is for tests.
    if q.device.type == "cpu" or torch.compiler.is_compiling():
        return flex_attention(q, k, v, block_mask=mask)
    return _compiled(flex_attention)(q, k, v, block_mask=mask)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
