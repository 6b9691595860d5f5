"""Protein language models trained with plmscale: one pre-norm stack, causal or not.

`paper`: LayerNorm with bias, GeGLU (exact GELU), biased linears. `modern`: RMSNorm, SwiGLU, no
biases. Both: rotary embeddings of the pairs (i, i + half) of a head, a final norm, no dropout.
"""
# ruff: noqa: ANN001, ANN201, RUF012

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MaskedLMOutput,
)

from .configuration_plmscale import PlmscaleConfig


def rotary_tables(positions, head_size, base, like):
    """Return cos and sin (rows, 1, s, head_size / 2) of positions (rows, s), like `like`.

    Angles are computed in float64, on the CPU because some devices have none.
    """
    half = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    angle = positions.cpu().double()[:, None, :, None] * base**-half
    return angle.cos().to(like), angle.sin().to(like)


def rotate(x, cos, sin):
    """Turn the pairs (x_i, x_{i + half}) of x (rows, heads, s, head_size)."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def visible(attention_mask, causal, queries, keys, device):
    """Return None or (rows or 1, 1, queries, keys), True where a token may look.

    attention_mask: None or (rows, keys), 0 at padding. Queries are the last of the keys.
    """
    if attention_mask is None and (not causal or queries == 1):
        return None
    allowed = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
    if causal:
        allowed = allowed.tril(keys - queries)
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, :keys].bool()
        # Padding sees itself: a softmax over nothing would be NaN.
        itself = torch.eye(keys, dtype=torch.bool, device=device)[keys - queries :]
        allowed = allowed | itself
    return allowed


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        d, f, bias = config.hidden_size, config.intermediate_size, config.preset == "paper"
        norm = nn.LayerNorm if config.preset == "paper" else nn.RMSNorm
        self.layer, self.n_heads = layer, config.num_attention_heads
        self.activation = functional.gelu if config.preset == "paper" else functional.silu
        self.attention_norm = norm(d, eps=config.norm_eps)
        self.qkv = nn.Linear(d, 3 * d, bias=bias)
        self.attention_out = nn.Linear(d, d, bias=bias)
        self.mlp_norm = norm(d, eps=config.norm_eps)
        self.gate_up = nn.Linear(d, 2 * f, bias=bias)
        self.mlp_out = nn.Linear(f, d, bias=bias)

    def forward(self, x, cos, sin, allowed, cache):
        rows, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(rows, length, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(rows, length, width))
        gate, value = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.mlp_out(self.activation(gate) * value)


class PlmscalePreTrainedModel(PreTrainedModel):
    config_class = PlmscaleConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _supports_sdpa = True


class PlmscaleModel(PlmscalePreTrainedModel):
    def __init__(self, config, causal=None):
        super().__init__(config)
        self.causal = config.causal if causal is None else causal
        norm = nn.LayerNorm if config.preset == "paper" else nn.RMSNorm
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, n) for n in range(config.num_hidden_layers))
        self.final_norm = norm(config.hidden_size, eps=config.norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embedding

    def set_input_embeddings(self, value):
        self.embedding = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=False,
        output_hidden_states=False,
        **kwargs,
    ):
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and self.causal and past_key_values is None:
            past_key_values = DynamicCache()
        cache = past_key_values if self.causal else None
        seen = cache.get_seq_length() if cache is not None else 0
        queries = x.shape[1]
        if position_ids is None:
            position_ids = torch.arange(seen, seen + queries).unsqueeze(0)
        head_size = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotary_tables(position_ids, head_size, self.config.rotary_base, x)
        allowed = visible(attention_mask, self.causal, queries, seen + queries, x.device)
        states = [x]
        for block in self.blocks:
            x = block(x, cos, sin, allowed, cache)
            states.append(x)
        x = states[-1] = self.final_norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=cache,
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class _WithHead(PlmscalePreTrainedModel):
    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}
    causal = False

    def __init__(self, config):
        super().__init__(config)
        self.model = PlmscaleModel(config, causal=self.causal)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embedding

    def set_input_embeddings(self, value):
        self.model.embedding = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def _loss(self, logits, labels, kwargs):
        if labels is None:
            return None
        known = {k: v for k, v in kwargs.items() if k == "num_items_in_batch"}
        return self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **known)


class PlmscaleForCausalLM(_WithHead, GenerationMixin):
    causal = True

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        kwargs.pop("return_dict", None)
        out = self.model(input_ids, attention_mask, **kwargs)
        logits = self.lm_head(out.last_hidden_state)
        return CausalLMOutputWithPast(
            loss=self._loss(logits, labels, kwargs),
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )


class PlmscaleForMaskedLM(_WithHead):
    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        kwargs.pop("return_dict", None)
        out = self.model(input_ids, attention_mask, **kwargs)
        logits = self.lm_head(out.last_hidden_state)
        return MaskedLMOutput(
            loss=self._loss(logits, labels, kwargs), logits=logits, hidden_states=out.hidden_states
        )
