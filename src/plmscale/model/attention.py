"""Attention of a packed batch: which token may see which, and the kernels that compute it.

Rotary embeddings are relative: a score depends on the distance of two tokens alone. So plain row
positions serve packed proteins too, and restarting them at each protein would change nothing
where attention stays inside a protein.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from plmscale.model import flex
from plmscale.model.handwritten import EagerAttention, SplitAndRotate

Kernel = Literal["eager", "sdpa", "flex"]

# The eager kernel keeps the s x s probabilities of each layer; beyond this row length memory
# would outweigh its speed.
_EAGER_CONTEXT = 1024


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of one forward pass share.

    causal: whether a token sees only itself and what is before it; (rows,) bool for each row.
    bias: None or (rows, s, s) in the model's dtype, 0 where a token may look, -inf elsewhere.
    cos, sin: (s, head_size / 2) rotary tables in the model's dtype.
    kernel: `eager`, plain matrix products; `sdpa`, PyTorch's fused attention; `flex`, its
        flex_attention, which skips what is masked.
    block_mask: the mask of `flex`, else None.
    plain: compute with differentiable PyTorch operations, which a compiler or a GPU does best,
        instead of the hand-written backward passes, which are faster on a CPU.
    """

    causal: bool | Tensor
    bias: Tensor | None
    cos: Tensor
    sin: Tensor
    kernel: Kernel
    block_mask: Any = None
    plain: bool = False


def rotary_tables(
    length: int, head_size: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (length, head_size / 2), of Su et al. 2021 (RoFormer), eq. 15.

    The angles are computed in float64: in float32 a late position would be off by 1e-4.
    """
    half = torch.arange(0, head_size, 2, device=device, dtype=torch.float64) / head_size
    angle = torch.outer(torch.arange(length, device=device, dtype=torch.float64), theta**-half)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def plan_attention(
    segments: Tensor | None,
    causal: bool | Tensor,
    cos: Tensor,
    sin: Tensor,
    rows: int,
    *,
    kernel: Kernel | None = None,
    plain: bool = False,
) -> AttentionPlan:
    """Turn protein numbers (rows, s) into a plan; None lets tokens look across proteins.

    `causal` is one bool, or (rows,) bool. `kernel` None takes what is fastest for the device and
    the row length. Nothing here waits for the device.
    """
    length, head_size = cos.shape[0], 2 * cos.shape[1]
    masked = segments is not None or isinstance(causal, Tensor)
    if kernel is None:
        kernel = choose_kernel(cos.device, length, head_size, masked, plain)
    plain = plain or cos.device.type != "cpu"
    if kernel == "flex":
        blocks = flex.block_mask(segments, causal, rows, length, cos.device)
        return AttentionPlan(causal, None, cos, sin, kernel, blocks, plain)
    bias = None
    if masked or (kernel == "eager" and causal):
        bias = _bias(segments, causal, length, rows, cos)
    return AttentionPlan(causal, bias, cos, sin, kernel, None, plain)


def choose_kernel(
    device: torch.device, length: int, head_size: int, masked: bool, plain: bool
) -> Kernel:
    """Return the fastest kernel for rows of `length` tokens; arguments as of an AttentionPlan."""
    if device.type == "cpu":
        # Measured (rows of 256 to 1024): plain products are 1.0-2.5 times as fast as the fused
        # kernel forward and backward.
        return "eager" if length <= _EAGER_CONTEXT and not plain else "sdpa"
    # Without a mask the fused kernels are the fastest; with one they fall back to slow ones.
    return "flex" if masked and flex.fits(head_size) else "sdpa"


def _bias(
    segments: Tensor | None, causal: bool | Tensor, length: int, rows: int, like: Tensor
) -> Tensor:
    """Return the bias of a plan in which something is hidden; see AttentionPlan."""
    hidden = None
    if segments is not None:
        # 16 bits: comparing s x s numbers is memory-bound.
        short = segments.to(torch.int16)
        hidden = short[:, :, None] != short[:, None, :]
    if isinstance(causal, Tensor) or causal:
        later = torch.ones(1, length, length, dtype=torch.bool, device=like.device).triu(1)
        if isinstance(causal, Tensor):
            later = later & causal[:, None, None]
        hidden = later if hidden is None else hidden.logical_or_(later)
    bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(hidden, -math.inf).expand(rows, -1, -1)


def split_and_rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What SplitAndRotate computes, in differentiable operations for a compiler to fuse."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return _turned(q, cos, sin), _turned(k, cos, sin), v


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attend(qkv: Tensor, plan: AttentionPlan) -> Tensor:
    """(rows, s, 3, heads, size) -> (rows, s, heads * size) under the plan's mask.

    Scores are divided by the square root of the head size.
    """
    rows, length, _, heads, size = qkv.shape
    if plan.plain:
        q, k, v = split_and_rotate(qkv, plan.cos, plan.sin)
    else:
        q, k, v = SplitAndRotate.apply(qkv, plan.cos, plan.sin)
    if plan.kernel == "eager":
        bias = plan.bias
        if bias is not None and heads > 1:
            bias = bias.repeat_interleave(heads, 0)
        mixed = EagerAttention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), bias)
        mixed = mixed.view(rows, heads, length, size)
    elif plan.kernel == "flex":
        mixed = flex.attention(q, k, v, plan.block_mask)
    else:
        mask = None if plan.bias is None else plan.bias.unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and bool(plan.causal)
        )
    return mixed.transpose(1, 2).reshape(rows, length, heads * size)
