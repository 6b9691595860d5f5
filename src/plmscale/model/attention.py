"""Attention of a packed batch: which token may see which, and the kernels that compute it.

Rotary embeddings are relative: a score depends on the distance of two tokens alone. So plain row
positions serve packed proteins too, and restarting them at each protein would change nothing
where attention stays inside a protein.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# The eager kernel keeps the s x s probabilities of each layer; beyond this row length memory
# would outweigh its speed.
_EAGER_CONTEXT = 1024


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of one forward pass share.

    causal: whether a token sees only itself and what is before it.
    bias: None or (rows, s, s) in the model's dtype, 0 where a token may look, -inf elsewhere.
    cos, sin: (s, head_size / 2) rotary tables in the model's dtype.
    eager: compute with plain matrix products instead of PyTorch's fused attention.
    """

    causal: bool
    bias: Tensor | None
    cos: Tensor
    sin: Tensor
    eager: bool


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
    segments: Tensor | None, causal: bool, cos: Tensor, sin: Tensor, rows: int
) -> AttentionPlan:
    """Turn protein numbers (rows, s) into a plan; None lets tokens look across proteins."""
    length, device, dtype = cos.shape[0], cos.device, cos.dtype
    # Measured on CPU (rows of 256 to 1024): plain products are 1.0-2.5 times as fast as the
    # fused kernel forward and backward. On a GPU the fused kernels win.
    eager = device.type == "cpu" and length <= _EAGER_CONTEXT
    if segments is None and not (causal and eager):
        return AttentionPlan(causal, None, cos, sin, eager)
    hidden = torch.ones(1, length, length, dtype=torch.bool, device=device)
    if segments is not None:
        # 16 bits: comparing s x s numbers is memory-bound.
        short = segments.to(torch.int16)
        hidden = short[:, :, None] != short[:, None, :]
    if causal:
        later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        hidden = later.unsqueeze(0) if segments is None else hidden.logical_or_(later)
    bias = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -math.inf)
    return AttentionPlan(causal, bias.expand(rows, -1, -1), cos, sin, eager)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write into `out` the pairs (x_i, x_{i + half}) of `x` turned by the tables' angles."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)


class SplitAndRotate(torch.autograd.Function):
    """(rows, s, 3, heads, size) -> q, k (rotated) and v, each (rows, heads, s, size).

    One pass instead of six small operations and three copies: for narrow models the number of
    operations, not their arithmetic, decides the speed.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        moved = qkv.permute(2, 0, 3, 1, 4)
        out = torch.empty(moved.shape, dtype=qkv.dtype, device=qkv.device)
        _rotate(moved[:2], cos, sin, out[:2])
        out[2].copy_(moved[2])
        return out[0], out[1], out[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        rows, heads, length, size = grads[0].shape
        out = torch.empty(
            rows, length, 3, heads, size, dtype=grads[0].dtype, device=grads[0].device
        )
        moved = out.permute(2, 0, 3, 1, 4)
        _rotate(grads[0], cos, -sin, moved[0])
        _rotate(grads[1], cos, -sin, moved[1])
        moved[2].copy_(grads[2])
        return out, None, None


class EagerAttention(torch.autograd.Function):
    """softmax(scale q k^T + bias) v over (batch, s, size), keeping only the probabilities."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        scale = q.shape[-1] ** -0.5
        if bias is None:
            scores = torch.bmm(q * scale, k.transpose(1, 2))
        else:
            scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale)
        probabilities = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, probabilities)
        return torch.bmm(probabilities, v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, p = ctx.saved_tensors
        (grad,) = grads
        scale = q.shape[-1] ** -0.5
        grad_v = torch.bmm(p.transpose(1, 2), grad)
        grad_p = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
        grad_q = torch.bmm(grad_scores, k).mul_(scale)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q).mul_(scale)
        return grad_q, grad_k, grad_v, None


def attend(qkv: Tensor, plan: AttentionPlan) -> Tensor:
    """(rows, s, 3, heads, size) -> (rows, s, heads * size) under the plan's mask."""
    rows, length, _, heads, size = qkv.shape
    q, k, v = SplitAndRotate.apply(qkv, plan.cos, plan.sin)
    if plan.eager:
        bias = plan.bias
        if bias is not None and heads > 1:
            bias = bias.repeat_interleave(heads, 0)
        mixed = EagerAttention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), bias)
        mixed = mixed.view(rows, heads, length, size)
    else:
        mask = None if plan.bias is None else plan.bias.unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=plan.causal and mask is None
        )
    return mixed.transpose(1, 2).reshape(rows, length, heads * size)
