"""ProGen2 as the CodeGen class of transformers, without the Python files that come with it.

Both are the same network (Nijkamp et al. 2023, ProGen2; Nijkamp et al. 2022, CodeGen): parallel
attention and MLP, rotary embeddings on part of a head, an output head with bias. They differ in how
the rows of the fused projection are ordered: both cut them into groups of heads and store query,
value and key group by group, ProGen2 in 8 groups, CodeGen in 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from plmscale.downstream.models.fetch import Place, weight_files
from plmscale.errors import PlmscaleError

MODEL_TYPE = "progen"
_GROUPS, _CODEGEN_GROUPS = 8, 4
# A token that the head has no row for is never predicted.
_NEVER = -1e4


def codegen_config(place: Place) -> Any:
    """Return the CodeGenConfig of a ProGen2 folder; PlmscaleError where a key is missing."""
    from transformers import CodeGenConfig

    config = place.config
    try:
        shape = {key: config[key] for key in ("n_layer", "n_head", "n_positions", "rotary_dim")}
        shape["n_embd"] = config["embed_dim"] if "embed_dim" in config else config["n_embd"]
    except KeyError as error:
        raise PlmscaleError(f"{place.label}: config.json has no {error}; is it ProGen2?") from None
    if shape["n_head"] % _GROUPS:
        raise PlmscaleError(
            f"{place.label}: {shape['n_head']} heads do not split into {_GROUPS} groups, as those of "
            "ProGen2 do"
        )
    sizes = [config.get(key, 0) for key in ("vocab_size", "vocab_size_emb", "vocab_size_lm_head")]
    if not max(sizes):
        raise PlmscaleError(f"{place.label}: config.json tells no size of the vocabulary")
    return CodeGenConfig(
        **shape,
        n_ctx=shape["n_positions"],
        vocab_size=max(sizes),
        n_inner=config.get("n_inner"),
        activation_function=config.get("activation_function", "gelu_new"),
        layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        initializer_range=config.get("initializer_range", 0.02),
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=config.get("eos_token_id"),
        attn_implementation="eager",
    )


def load(place: Place, config: Any) -> Any:
    """Return CodeGenForCausalLM in fp32 with ProGen2's weights."""
    from transformers import CodeGenForCausalLM

    model = CodeGenForCausalLM(config)
    weights: dict[str, Tensor] = {}
    for path in weight_files(place):
        weights |= _read(path, place.label)
    converted = {name: _convert(name, t.float(), config) for name, t in weights.items()}
    # Buffers that some exports carry: the causal mask, which the class makes itself.
    buffers = (".attn.bias", ".attn.masked_bias", ".attn.scale_attn")
    converted = {name: t for name, t in converted.items() if not name.endswith(buffers)}
    try:
        model.load_state_dict(converted)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise PlmscaleError(f"{place.label}: weights are not those of ProGen2 ({reason})") from None
    return model


def _read(path: Path, label: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PlmscaleError(
            f"{label}: {path.name} is not readable ({error}); fetch it again"
        ) from None


def _convert(name: str, tensor: Tensor, config: Any) -> Tensor:
    if name.endswith("attn.qkv_proj.weight"):
        return regrouped(tensor, _GROUPS, _CODEGEN_GROUPS)
    if name.endswith(("wte.weight", "lm_head.weight", "lm_head.bias")):
        lacking = config.vocab_size - len(tensor)
        value = _NEVER if name.endswith("bias") else 0.0
        return torch.cat([tensor, tensor.new_full((lacking, *tensor.shape[1:]), value)])
    return tensor


def regrouped(weight: Tensor, before: int, after: int) -> Tensor:
    """Reorder the rows (3 d, d) of a fused projection from `before` groups of heads to `after`.

    A group holds the rows of its heads' queries, then of their values, then of their keys.
    """
    width = weight.shape[1]
    parts = weight.reshape(before, 3, width // before, width).transpose(0, 1)
    return parts.reshape(3, after, width // after, width).transpose(0, 1).reshape(weight.shape)
