"""The one transformer of plmscale: CLM and MLM share it, `causal` is an argument of the call."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from plmscale.architecture import Architecture
from plmscale.corpus.alphabet import BOS
from plmscale.model.attention import AttentionPlan, Kernel, attend, plan_attention, rotary_tables
from plmscale.model.gated import Gated, gated
from plmscale.model.parametrization import draw


def segments_of(tokens: Tensor) -> Tensor:
    """Number the proteins of packed rows (rows, s): each BOS starts the next one.

    A row's leading piece without BOS (the rest of a protein cut by the row's edge) is number 0.
    """
    return (tokens == BOS).cumsum(1)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        d, f, bias = arch.d_model, arch.d_ff, arch.preset == "paper"
        self.n_heads = arch.n_heads
        self.gelu = arch.preset == "paper"
        self.attention_norm = _norm(arch)
        self.qkv = nn.Linear(d, 3 * d, bias=bias)
        self.attention_out = nn.Linear(d, d, bias=bias)
        self.mlp_norm = _norm(arch)
        self.gate_up = nn.Linear(d, 2 * f, bias=bias)
        self.mlp_out = nn.Linear(f, d, bias=bias)

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        """(rows, s, d) -> (rows, s, d)."""
        rows, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x))
        qkv = qkv.view(rows, length, 3, self.n_heads, width // self.n_heads)
        x = x + self.attention_out(attend(qkv, plan))
        inner = self.gate_up(self.mlp_norm(x))
        inner = gated(inner, self.gelu) if plan.plain else Gated.apply(inner, self.gelu)
        return x + self.mlp_out(inner)


class Transformer(nn.Module):
    """Decoder or encoder stack over one-byte tokens, by `Architecture`.

    `paper`: LayerNorm with bias, GeGLU (exact GELU), biased linears; `modern`: RMSNorm, SwiGLU,
    no biases. Both: RoPE, pre-norm, a final norm, no dropout. How weights start and, under muP,
    what the logits are multiplied by: plmscale.model.parametrization.

    checkpointing: keep only each block's input for the backward pass and compute the rest again,
        for a third more time; the same numbers.
    kernel: the attention kernel, None for the fastest (plmscale.model.attention).
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.embedding = nn.Embedding(arch.vocab_size, arch.d_model)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.n_layers))
        self.final_norm = _norm(arch)
        self.head = None
        if not arch.tie_embeddings:
            self.head = nn.Linear(arch.d_model, arch.vocab_size, bias=False)
        self.checkpointing = False
        self.kernel: Kernel | None = None
        self._compiled = False
        self._tables: tuple[Tensor, Tensor] | None = None

    def initialize(self, seed: int) -> None:
        """Draw all weights anew from `seed`, on whatever device they are, in a fixed order."""
        generator = torch.Generator(device=self.embedding.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            draw(self.arch, name, parameter, generator)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Let torch.compile make one kernel sequence of a block, used by all; for GPUs.

        In place: parameters keep their names. Call it before the first forward pass, which
        compiles, once for each shape of a batch, with and without gradient.
        """
        self._compiled = True
        for block in self.blocks:
            block.compile(backend=backend, dynamic=False)

    def forward(
        self, tokens: Tensor, *, causal: bool | Tensor, segments: Tensor | None = None
    ) -> Tensor:
        """Return logits (rows, s, vocab) in the weights' dtype for tokens (rows, s).

        `segments` (rows, s) numbers the proteins of each row: attention stays inside a number.
        None lets it cross. With `causal` a token sees nothing after itself; a bool tensor (rows,)
        says so of each row.
        """
        x = self.hidden(tokens, causal=causal, segments=segments)
        weight = self.embedding.weight if self.head is None else self.head.weight
        logits = functional.linear(x, weight)
        scale = self.arch.logit_scale
        return logits if scale == 1 else logits * scale

    def hidden(
        self, tokens: Tensor, *, causal: bool | Tensor, segments: Tensor | None = None
    ) -> Tensor:
        """Return the final, normed hidden states (rows, s, d); arguments as in `forward`."""
        x = functional.embedding(tokens, self.embedding.weight)
        cos, sin = self._rotary(tokens.shape[1], x)
        plan = plan_attention(
            segments, causal, cos, sin, tokens.shape[0], kernel=self.kernel, plain=self._compiled
        )
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            if again:
                # Nothing in a block is random, so no generator need be set back.
                x = checkpoint(block, x, plan, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, plan)
        return self.final_norm(x)

    def _rotary(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        cached = self._tables
        if (
            cached is None
            or cached[0].shape[0] != length
            or cached[0].dtype != like.dtype
            or cached[0].device != like.device
        ):
            size = self.arch.d_model // self.arch.n_heads
            cached = rotary_tables(length, size, self.arch.rope_theta, like.device, like.dtype)
            self._tables = cached
        return cached


def _norm(arch: Architecture) -> nn.Module:
    kind = nn.LayerNorm if arch.preset == "paper" else nn.RMSNorm
    return kind(arch.d_model, eps=arch.norm_eps)
