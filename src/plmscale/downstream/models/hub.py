"""Models of Hugging Face's transformers, from a folder or the hub.

Layers are those of `hidden_states`, but the last is always what the output head reads. Attention is
computed by the fast kernels; only `attentions` runs with plain products, which keep the maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plmscale.downstream.base import ModelInfo
from plmscale.downstream.models.adapter import Adapter, Encoded
from plmscale.downstream.models.fetch import Place, find, shape_digest, weights_digest
from plmscale.downstream.models.letters import Letters
from plmscale.downstream.models.network import Network, drawn, network, quiet
from plmscale.downstream.models.tokens import Speech, speech
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Attention's projections, by the names that the families give them.
_PROJECTIONS = (
    "query", "key", "value", "attention.output.dense", "q_proj", "k_proj", "v_proj", "o_proj",
    "qkv_proj", "out_proj", "c_attn", "attn.c_proj", "qkv", "attention_out", "query_key_value",
    "self_attention.dense", "Wqkv", "attn.Wo",
)  # fmt: skip
# Tables of angles: rounded to bf16 they would turn a late position by radians.
_PRECISE = ("inv_freq", "embed_positions")


@dataclass(frozen=True)
class _Source:
    """What a model and its twins share."""

    place: Place
    net: Network
    talk: Speech
    device: torch.device
    dtype: str


def open_hub(
    where: str | Path,
    name: str | None = None,
    use: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    twin_seed: int | None = None,
    *,
    download: bool = False,
    remote_code: bool = False,
) -> Adapter:
    """Open a model; arguments as of `plmscale.downstream.models.open`. A twin reads no weights."""
    place = find(where, download, remote_code)
    net = network(place, use, remote_code)
    with quiet(place):
        talk = speech(place, net.config, net.kind == "clm", net.remote)
    target = _device(device)
    if dtype == "auto":
        dtype = "bf16" if target.type == "cuda" else "fp32"
    source = _Source(place, net, talk, target, dtype)
    name = name or place.name
    if twin_seed is not None:
        return _twin(source, name, twin_seed)
    with quiet(place):
        module = net.load()
    return HubAdapter(source, module, name, {"weights": weights_digest(place)}, twin=False)


class HubAdapter(Adapter):
    """A masked or causal language model of transformers."""

    def __init__(
        self, source: _Source, module: Any, name: str, weights: dict[str, Any], twin: bool
    ) -> None:
        net, talk = source.net, source.talk
        self._source, self._code = source, talk.code
        self.device, self.dtype = source.device, _DTYPES[source.dtype]
        self.module = _cast(module, self.dtype).to(self.device).eval()
        self.letterwise = isinstance(talk.code, Letters)
        self.letters = dict(talk.code.tokens) if isinstance(talk.code, Letters) else {}
        self.begin, self.end = talk.code.begin, talk.code.end
        self.mask, self.reversible = talk.mask, talk.reversible
        self.lora_targets = _projections(self.module)
        self.vocab_size = int(_head(self.module)[1])
        how = {"format": "transformers", "use": net.kind, "dtype": source.dtype}
        self.info = ModelInfo(
            name=name,
            kind=net.kind,
            origin=source.place.origin,
            n_params=_non_embedding(self.module),
            context=talk.context,
            width=_size(source, "hidden_size", "d_model", "n_embd"),
            n_layers=_size(source, "num_hidden_layers", "num_layers", "n_layer"),
            n_heads=_size(source, "num_attention_heads", "num_heads", "n_head"),
            digest=fingerprint({**how, **weights}),
            twin=twin,
        )

    def encode(self, sequences: Sequence[str]) -> Encoded:
        return self._checked(self._code.encode(sequences, self.device))

    def encode_reversed(self, sequences: Sequence[str]) -> Encoded:
        if not self.reversible or not isinstance(self._code, Letters):
            return super().encode_reversed(sequences)
        backwards = [sequence[::-1] for sequence in sequences]
        return self._checked(self._code.backwards().encode(backwards, self.device))

    def decode(self, tokens: Sequence[int]) -> str:
        if isinstance(self._code, Letters):
            return super().decode(tokens)
        return self._code.text([int(token) for token in tokens])

    def hidden(self, rows: Encoded, layer: int = -1) -> Tensor:
        number = self.layer_number(layer)
        if number == self.info.n_layers:
            return self._batch_first(self._last(rows))
        found = self._run(self._stack, rows, output_hidden_states=True).hidden_states
        if not isinstance(found, tuple | list) or len(found) <= number:
            raise PlmscaleError(f"{self.info.name}: gives no states of layer {number}, only of -1")
        return self._batch_first(found[number])

    def _last(self, rows: Encoded) -> Tensor:
        if self._stack is not self.module:
            return self._run(self._stack, rows).last_hidden_state
        with _read_by(_head(self.module)[0]) as seen:
            self._run(self.module, rows)
        return seen[0]

    @property
    def _stack(self) -> Any:
        """The network without its head. A class of the model's own may do without one."""
        return self.module if self._source.net.remote else self.module.base_model

    def logits(self, rows: Encoded) -> Tensor:
        return self._run(self.module, rows).logits

    def attentions(self, rows: Encoded) -> Tensor:
        if not self.letterwise:
            raise PlmscaleError(
                f"{self.info.name}: its tokens are several residues each, so its attention maps are "
                "not of residues"
            )
        with self._plain_attention():
            maps = self._run(self.module, rows, output_attentions=True).attentions
        if not maps or any(part is None for part in maps):
            raise PlmscaleError(f"{self.info.name}: does not give attention maps")
        return torch.cat([part.float() for part in maps], 1)

    def twin(self, seed: int) -> Adapter:
        return _twin(self._source, self.info.name, seed)

    def fits(self, sequence: str) -> bool:
        if isinstance(self._code, Letters):
            return super().fits(sequence)
        return not self._source.talk.limit or self._code.count(sequence) <= self._source.talk.limit

    def _run(self, module: Any, rows: Encoded, **more: Any) -> Any:
        """Run the network; padding stands at the end, so only an encoder has to be told of it."""
        if self.causal:
            more["use_cache"] = False
        elif rows.padded:
            more["attention_mask"] = rows.attend.long()
        return module(input_ids=rows.tokens, return_dict=True, **more)

    def _checked(self, rows: Encoded) -> Encoded:
        limit, length = self._source.talk.limit, rows.tokens.shape[1]
        if limit and length > limit:
            raise PlmscaleError(
                f"{self.info.name}: {length} tokens in a row, its table of positions has {limit}; "
                "cut the protein into windows"
            )
        return rows

    def _batch_first(self, states: Tensor) -> Tensor:
        """ProteinGLM's states are (s, b, d)."""
        time_first = "glm" in str(self._source.net.config.model_type).lower()
        return states.transpose(0, 1) if time_first else states

    @contextmanager
    def _plain_attention(self) -> Iterator[None]:
        before = getattr(self.module.config, "_attn_implementation", None)
        if before in (None, "eager") or self._source.net.remote:
            yield
            return
        self.module.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.module.set_attn_implementation(before)


def _twin(source: _Source, name: str, seed: int) -> Adapter:
    with quiet(source.place), drawn(seed):
        module = source.net.make()
    weights = {"twin": seed, "shape": shape_digest(source.place)}
    return HubAdapter(source, module, f"{name}-twin{seed}", weights, twin=True)


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise PlmscaleError("device cuda: torch sees no GPU here; take cpu")
    return torch.device(device)


def _cast(module: Any, dtype: torch.dtype) -> Any:
    """Make weights `dtype`, but not the tables of `_PRECISE`."""
    kept = {name: buffer for name, buffer in module.named_buffers() if name.endswith(_PRECISE)}
    module = module.to(dtype)
    for name, buffer in kept.items():
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, buffer)
    return module


def _projections(module: nn.Module) -> tuple[str, ...]:
    names = [f".{name}" for name, m in module.named_modules() if hasattr(m, "weight")]
    return tuple(p for p in _PROJECTIONS if any(name.endswith(f".{p}") for name in names))


def _size(source: _Source, *names: str) -> int:
    """Return a number of the config under the first of `names` that it has."""
    for name in names:
        if value := getattr(source.net.config, name, None):
            return int(value)
    raise PlmscaleError(f"{source.place.label}: its config tells no {names[0]}")


def _head(module: Any) -> tuple[nn.Module, int]:
    """Return the module that reads the last states, and how many tokens it tells apart."""
    table = module.get_output_embeddings()
    stack = getattr(module, "transformer", None)
    head = getattr(module, "lm_head", None) or getattr(stack, "output_layer", None) or table
    if head is None:
        raise PlmscaleError(f"{type(module).__name__}: an output head is not found in this class")
    table = head if table is None else table
    return head, table.weight.shape[0]


@contextmanager
def _read_by(head: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what is put into the output head."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _non_embedding(module: Any) -> int:
    """Count N, the parameters without those that grow with the alphabet or the length.

    Left out: embedding tables (tokens, positions), the output matrix and its bias, tied or not, as
    for our own models; and ESM's head for contacts, which no language model needs.
    """
    head, vocabulary = _head(module)
    output = module.get_output_embeddings() or head
    left_out = {id(p) for p in output.parameters()}
    left_out |= {id(p) for p in head.parameters() if p.ndim == 1 and len(p) == vocabulary}
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) or name.endswith("contact_head"):
            left_out |= {id(p) for p in part.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in left_out)
