"""Which class of transformers computes what our model computes, and its weights under that class.

All three classes are pre-norm stacks with RMSNorm, rotary embeddings and a gated MLP. `modern`
is such a stack. `paper` has LayerNorm with a bias and is rewritten into one (Ashkboos et al. 2024,
SliceGPT, section 3.1): what is added to the residual stream is centred over the model dimension.
The stream then has mean 0, so that LayerNorm's subtraction does nothing and RMSNorm is left; a
norm's bias goes through the linear layer behind it and becomes part of that layer's bias. The
output head is such a layer too: it keeps the embedding as it was, while the input takes a centred
copy, and it needs a bias. EuroBERT has one for an encoder. Among decoders ERNIE 4.5 has one; its
layers are dense before the first mixture of experts, which we place behind the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.corpus.alphabet import BOS, EOS, MASK, PAD

Weights = dict[str, Tensor]
Named = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Target:
    """A class of transformers, and how our model becomes one of it.

    auto_class: the name in transformers under which users load it.
    rewritten: whether LayerNorm was rewritten as RMSNorm.
    interleaved: whether its rotary embedding turns the pairs (2 i, 2 i + 1), not (i, i + half).
    remote_code: whether the class comes as Python files in the folder.
    """

    class_name: str
    auto_class: str
    model_type: str
    rewritten: bool = False
    interleaved: bool = False
    remote_code: bool = False


_STOCK = {
    ("modern", "clm"): Target("LlamaForCausalLM", "AutoModelForCausalLM", "llama"),
    ("modern", "mlm"): Target("EuroBertForMaskedLM", "AutoModelForMaskedLM", "eurobert"),
    ("paper", "clm"): Target(
        "Ernie4_5_MoeForCausalLM",
        "AutoModelForCausalLM",
        "ernie4_5_moe",
        rewritten=True,
        interleaved=True,
    ),
    ("paper", "mlm"): Target(
        "EuroBertForMaskedLM", "AutoModelForMaskedLM", "eurobert", rewritten=True
    ),
}
_REMOTE = {
    "clm": Target("PlmscaleForCausalLM", "AutoModelForCausalLM", "plmscale", remote_code=True),
    "mlm": Target("PlmscaleForMaskedLM", "AutoModelForMaskedLM", "plmscale", remote_code=True),
}


def choose_target(preset: str, objective: str, remote_code: bool = False) -> Target:
    """Return the class for a preset (paper, modern) and an objective (clm, mlm)."""
    return _REMOTE[objective] if remote_code else _STOCK[preset, objective]


def hf_config(target: Target, arch: Architecture, context: int, dtype: str) -> dict[str, Any]:
    """Return config.json for a model trained on rows of `context` tokens; `dtype` as torch says."""
    config: dict[str, Any] = {
        "architectures": [target.class_name],
        "model_type": target.model_type,
        "dtype": dtype,
        "vocab_size": arch.vocab_size,
        "hidden_size": arch.d_model,
        "intermediate_size": arch.d_ff,
        "num_hidden_layers": arch.n_layers,
        "num_attention_heads": arch.n_heads,
        "max_position_embeddings": context,
        "initializer_range": arch.init_std,
        "tie_word_embeddings": arch.tie_embeddings and not target.rewritten,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    if target.remote_code:
        return {
            **config,
            "preset": arch.preset,
            "causal": target.auto_class == "AutoModelForCausalLM",
            "norm_eps": arch.norm_eps,
            "rotary_base": arch.rope_theta,
            "auto_map": {
                "AutoConfig": "configuration_plmscale.PlmscaleConfig",
                "AutoModel": "modeling_plmscale.PlmscaleModel",
                "AutoModelForCausalLM": "modeling_plmscale.PlmscaleForCausalLM",
                "AutoModelForMaskedLM": "modeling_plmscale.PlmscaleForMaskedLM",
            },
        }
    config |= {
        "num_key_value_heads": arch.n_heads,
        "hidden_act": "gelu" if arch.preset == "paper" else "silu",
        "rms_norm_eps": arch.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": arch.rope_theta},
        # Read by transformers 4, which does not know the line above.
        "rope_theta": arch.rope_theta,
    }
    if target.model_type == "ernie4_5_moe":
        # No layer is a mixture: the first would be the one behind the last.
        experts = {"moe_num_experts": 1, "moe_k": 1, "moe_num_shared_experts": 0}
        start = {"moe_layer_start_index": arch.n_layers, "moe_layer_end_index": arch.n_layers}
        return {**config, **experts, **start, "use_bias": arch.preset == "paper"}
    biased = arch.preset == "paper"
    config |= {
        "attention_bias": biased,
        "mlp_bias": biased,
        "head_dim": arch.d_model // arch.n_heads,
    }
    if target.model_type == "eurobert":
        config["mask_token_id"] = MASK
    return config


def hf_tensors(target: Target, weights: Weights, arch: Architecture) -> Named:
    """Yield name and tensor, one after another, as the target names and shapes them.

    Rewritten tensors are float64, which the writer rounds once; the others are as they came.
    """
    if target.remote_code:
        yield from _same(weights)
        return
    head = weights.get("head.weight", weights["embedding.weight"])
    embedding = weights["embedding.weight"]
    yield "model.embed_tokens.weight", _centred(embedding, 1) if target.rewritten else embedding
    for layer in range(arch.n_layers):
        block = {
            name: weights[full]
            for full in weights
            if (name := full.removeprefix(f"blocks.{layer}.")) != full
        }
        for name, tensor in _block(target, block, arch):
            yield f"model.layers.{layer}.{name}", tensor
    yield "model.norm.weight", weights["final_norm.weight"]
    if target.rewritten:
        yield "lm_head.weight", head
        yield "lm_head.bias", head.double() @ weights["final_norm.bias"].double()
    elif "head.weight" in weights:
        yield "lm_head.weight", head


def _same(weights: Weights) -> Named:
    """Our own names, below the prefix that tells the stack from its head."""
    for name, tensor in weights.items():
        yield ("lm_head.weight" if name == "head.weight" else f"model.{name}"), tensor


def _block(target: Target, block: Weights, arch: Architecture) -> Named:
    """One layer. Queries, keys and values are one matrix of ours, and so are gate and value."""
    yield "input_layernorm.weight", block["attention_norm.weight"]
    yield "post_attention_layernorm.weight", block["mlp_norm.weight"]
    for kind in ("weight", "bias") if arch.preset == "paper" else ("weight",):
        qkv = _after_norm(block, "attention_norm", "qkv", kind, target.rewritten)
        query, key, value = qkv.chunk(3, 0)
        if target.interleaved:
            query, key = _interleaved(query, arch.n_heads), _interleaved(key, arch.n_heads)
        yield f"self_attn.q_proj.{kind}", query
        yield f"self_attn.k_proj.{kind}", key
        yield f"self_attn.v_proj.{kind}", value
        gate, up = _after_norm(block, "mlp_norm", "gate_up", kind, target.rewritten).chunk(2, 0)
        yield f"mlp.gate_proj.{kind}", gate
        yield f"mlp.up_proj.{kind}", up
        for ours, theirs in (("attention_out", "self_attn.o_proj"), ("mlp_out", "mlp.down_proj")):
            tensor = block[f"{ours}.{kind}"]
            yield f"{theirs}.{kind}", _centred(tensor, 0) if target.rewritten else tensor


def _after_norm(block: Weights, norm: str, linear: str, kind: str, rewritten: bool) -> Tensor:
    """Weight or bias of the linear layer behind `norm`, with the norm's bias gone through it."""
    tensor = block[f"{linear}.{kind}"]
    if not rewritten or kind == "weight":
        return tensor
    return tensor.double() + block[f"{linear}.weight"].double() @ block[f"{norm}.bias"].double()


def _centred(tensor: Tensor, dim: int) -> Tensor:
    """Subtract the mean over `dim`, the model dimension, in float64."""
    tensor = tensor.double()
    return tensor - tensor.mean(dim, keepdim=True)


def _interleaved(rows: Tensor, n_heads: int) -> Tensor:
    """Reorder the output rows (d, ...) of each head: i and i + half become 2 i and 2 i + 1.

    Scores do not change where queries and keys are reordered alike.
    """
    halves = rows.reshape(n_heads, 2, -1, *rows.shape[1:])
    return torch.stack((halves[:, 0], halves[:, 1]), 2).reshape(rows.shape)
