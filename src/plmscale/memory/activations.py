"""Bytes of a micro batch: what autograd keeps of each layer, and what is alive around it.

Counted tensor by tensor from model/{transformer,attention,gated}.py, in the spirit of Korthikanti
et al. 2022, section 4.1 (their 34 s b h + 5 a s^2 b is another network's sum). With d = d_model,
f = d_ff, H heads, rows of s tokens, in values of the model's type a token and layer:

    CPU         norm inputs 2 d, norm outputs 2 d, q k v 3 d, attention's output d, gate and value
                2 f, a contiguous gate f, its activation f, the product f; with the eager kernel
                the H s probabilities, with the fused one its output d and H sums in fp32. RMSNorm
                is not one operation there: it keeps its normed input too, both in fp32.
    GPU         norms and norm outputs 4 d, the product's q k v 3 d, turned q and k 2 d, output d and
                its copy d, gate and value 2 f, activation f, product f, H sums in fp32

Compiled blocks compute the activation f again and keep the rest, (11 d + 3 f) / (11 d + 4 f) = 0.88
at f = 8 d / 3 (measured with torch 2.13's inductor: 0.88 to 0.95); predictions are of uncompiled
ones, the upper figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from plmscale.architecture import Architecture
from plmscale.memory.states import Device, Precision

# Rows above this length use the fused kernel on CPUs, too (model/attention.py, _EAGER_CONTEXT).
EAGER_CONTEXT = 1024


@dataclass(frozen=True)
class MicroBatch:
    """Bytes per device of a micro batch.

    activations: kept by autograd from forward to backward: blocks and the final norm.
    logits: log-probabilities in fp32, their gradient and what it is made of.
    peak: the most of activations, logits and temporaries that is alive at any one moment.
    """

    activations: int
    logits: int
    peak: int


@dataclass(frozen=True)
class _Token:
    """Bytes a token.

    attention, mlp: what the halves of a block keep for their backward pass.
    attention_forward, attention_backward, mlp_backward: temporaries beside that.
    final: kept by the final norm, the head and the loss's indices.
    mask: of all blocks together; kept_mask: whether autograd keeps it (it is alive again wherever
        a block is computed again).
    own_input: of `attention`, what a checkpoint of the block's input already holds.
    """

    attention: float
    mlp: float
    attention_forward: float
    attention_backward: float
    mlp_backward: float
    final: float
    mask: float
    kept_mask: bool
    own_input: float


def micro_batch(
    arch: Architecture,
    context: int,
    rows: int,
    checkpointing: bool,
    precision: Precision,
    device: Device,
) -> MicroBatch:
    """Return the bytes of `rows` rows of `context` packed tokens."""
    size = 2 if precision == "bf16" else 4
    token = _cpu(arch, context, size) if device == "cpu" else _gpu(arch, size)
    block = token.attention + token.mlp
    layers, vocab = arch.n_layers, arch.vocab_size
    if checkpointing:
        # Each block's input and the mask; one block at a time is computed again.
        kept = layers * size * arch.d_model + token.mask
        others = kept - token.own_input
    else:
        kept = layers * block + token.mask * token.kept_mask
        others = kept - block
    activations = kept + token.final
    # Kept: fp32 log-probabilities. Then two fp32 gradients, and one in the logits' type.
    logits = vocab * (12 + (size if size != 4 else 0))
    # A mask that autograd does not keep is alive until the forward pass ends.
    forward_mask = 0 if checkpointing or token.kept_mask else token.mask
    moments = (
        activations + logits,
        others + token.attention + token.attention_forward + forward_mask,
        others + token.attention + token.attention_backward,
        others + block + token.mlp_backward,
    )
    tokens = rows * context
    return MicroBatch(
        round(tokens * activations), round(tokens * logits), round(tokens * max(moments))
    )


def _cpu(arch: Architecture, context: int, size: int) -> _Token:
    d, f, heads = arch.d_model, arch.d_ff, arch.n_heads
    if arch.preset == "paper":
        norm = size * (d + 2)
    else:
        # Input and normed input in fp32, and the inverse root.
        norm = 4 * (2 * d + 1)
    eager = context <= EAGER_CONTEXT
    scores = size * heads * context
    # The normed input, q k v, and what the output projection reads.
    attention = norm + size * 5 * d
    if eager:
        attention += scores
        # Masks of all heads and scores, beside the probabilities; the product q k v is alive.
        forward = 2 * scores + size * 3 * d
        # Gradients of probabilities and scores, of the output and of v; the residual stream's.
        backward = 2 * scores + size * 3 * d
    else:
        # The kernel's output; with one head it is what the projection reads.
        attention += (size * d if heads > 1 else 0) + 4 * heads
        forward = size * 3 * d
        backward = size * 8 * d
    return _Token(
        attention=attention,
        mlp=norm + size * (d + 5 * f),
        attention_forward=forward,
        attention_backward=backward,
        mlp_backward=size * (d + 5 * f),
        final=norm + size * d + 16,
        mask=size * context,
        kept_mask=not eager,
        # RMSNorm in bf16 keeps an fp32 copy instead.
        own_input=0 if arch.preset == "modern" and size == 2 else size * d,
    )


def _gpu(arch: Architecture, size: int) -> _Token:
    d, f, heads = arch.d_model, arch.d_ff, arch.n_heads
    # Input, and fp32 mean and inverse deviation (RMSNorm: inverse root alone).
    norm = size * d + (8 if arch.preset == "paper" else 4)
    return _Token(
        attention=norm + size * 8 * d + 4 * heads,
        mlp=norm + size * (d + 4 * f),
        attention_forward=size * 4 * d,
        attention_backward=size * 8 * d,
        mlp_backward=size * (d + 6 * f),
        final=norm + size * d + 16,
        mask=0,
        kept_mask=False,
        own_input=size * d,
    )
