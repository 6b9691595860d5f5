"""Attention's operations with backward passes written by hand, for CPUs.

For narrow models the number of operations, not their arithmetic, decides the speed on a CPU. On a
GPU a compiler does the same from plain operations (plmscale.model.attention).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write into `out` the pairs (x_i, x_{i + half}) of `x` turned by the tables' angles."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)


class SplitAndRotate(torch.autograd.Function):
    """(rows, s, 3, heads, size) -> q, k (rotated) and v, each (rows, heads, s, size).

    One pass instead of six small operations and three copies.
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
