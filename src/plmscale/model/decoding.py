"""Decoding with a cache of keys and values: what `Transformer.forward(causal=True)` computes,
token by token, without running over the prefix again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plmscale.model.transformer import Block, Transformer

_SMALLEST = 64


class Decoder:
    """Rows of causal decoding. Each row stands at its own position; its cache slot is its position.

    Memory: 2 * n_layers * rows * d_model numbers a position; the cache doubles when it is full.
    """

    def __init__(self, model: Transformer, rows: int) -> None:
        self.model, self.rows, self.slots = model, rows, 0
        self._cache: list[tuple[Tensor, Tensor]] = []
        self._cos = self._sin = model.embedding.weight

    def feed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return logits (rows, s, vocab) behind `tokens` (rows, s) at `positions` (rows, s).

        Both int64, positions on the CPU or where the model is. A token sees all slots of its row
        up to its own position, so every position below must have been fed, before or in this call;
        feeding a position again replaces what stood there.
        """
        used = int(positions.max()) + 1
        self._grow(used)
        positions = positions.to(tokens.device)
        slots = torch.arange(used, device=tokens.device)
        seen = (slots <= positions[:, :, None]).unsqueeze(1)
        turn = (self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1))
        x = functional.embedding(tokens, self.model.embedding.weight)
        for block, cache in zip(self.model.blocks, self._cache, strict=True):
            x = self._block(block, x, cache, positions, seen, turn)
        weight = self.model.embedding if self.model.head is None else self.model.head
        logits = functional.linear(self.model.final_norm(x), weight.weight)
        return logits * getattr(self.model.arch, "logit_scale", 1.0)

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` only, int64 (k,), in that order."""
        self.rows = len(rows)
        self._cache = [
            (k[rows.to(k.device)].contiguous(), v[rows.to(v.device)].contiguous())
            for k, v in self._cache
        ]

    def _block(
        self,
        block: Block,
        x: Tensor,
        cache: tuple[Tensor, Tensor],
        positions: Tensor,
        seen: Tensor,
        turn: tuple[Tensor, Tensor],
    ) -> Tensor:
        """(rows, s, d) -> (rows, s, d), with the keys and values of x written into `cache`."""
        rows, length, width = x.shape
        heads, used = block.n_heads, seen.shape[-1]
        qkv = block.qkv(block.attention_norm(x)).view(rows, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        row = torch.arange(rows, device=x.device)[:, None]
        # Advanced indices around a slice: the indexed axes come first, (rows, s, heads, size).
        cache[0][row, :, positions] = _rotate(k, *turn).transpose(1, 2)
        cache[1][row, :, positions] = v.transpose(1, 2)
        keys, values = (part[:, :, :used] for part in cache)
        mixed = functional.scaled_dot_product_attention(
            _rotate(q, *turn), keys, values, attn_mask=seen
        )
        x = x + block.attention_out(mixed.transpose(1, 2).reshape(rows, length, width))
        gate, value = block.gate_up(block.mlp_norm(x)).chunk(2, -1)
        activated = functional.gelu(gate) if block.gelu else functional.silu(gate)
        return x + block.mlp_out(activated * value)

    def _grow(self, used: int) -> None:
        """Make room for `used` slots in each row."""
        if used <= self.slots:
            return
        arch, like = self.model.arch, self.model.embedding.weight
        size = arch.d_model // arch.n_heads
        slots = max(_SMALLEST, used, 2 * self.slots)
        empty = like.new_zeros(self.rows, arch.n_heads, slots - self.slots, size)
        if self._cache:
            self._cache = [
                (torch.cat([k, empty], 2), torch.cat([v, empty], 2)) for k, v in self._cache
            ]
        else:
            self._cache = [(empty.clone(), empty.clone()) for _ in range(arch.n_layers)]
        self.slots = slots
        self._cos, self._sin = _tables(slots, size, arch.rope_theta, like)


def _tables(length: int, size: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (length, size / 2) of Su et al. 2021, eq. 15, by way of float64."""
    rates = theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), rates)
    return angle.cos().to(like), angle.sin().to(like)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + half}) of (rows, heads, s, size)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
