"""Runs of plmscale as models of downstream tasks.

Rows are <bos>, residues, <eos>. J, and any sign outside the alphabet, is read as X. A run that was
trained on both objectives (`mixed`) is one model for each use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plmscale.corpus.alphabet import BOS, EOS, FIRST_RESIDUE, LETTERS, MASK, PAD
from plmscale.downstream.base import ModelInfo
from plmscale.downstream.models.adapter import Adapter, Encoded
from plmscale.downstream.models.letters import Letters
from plmscale.files import fingerprint, read_json, sha256_file
from plmscale.inference.models import Loaded, open_model
from plmscale.model import Transformer
from plmscale.model.attention import rotary_tables, split_and_rotate
from plmscale.model.loading import WEIGHTS

_TOKENS = {letter: FIRST_RESIDUE + number for number, letter in enumerate(LETTERS)}
_LETTERS = Letters(_TOKENS, _TOKENS["X"], (BOS,), (EOS,), PAD)


def open_run(
    folder: str | Path,
    name: str | None = None,
    use: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    twin_seed: int | None = None,
) -> Adapter:
    """Open a finished run; arguments as of `plmscale.downstream.models.open`."""
    loaded = open_model(folder, device, dtype, use)
    arch = loaded.model.arch
    weights = sha256_file(Path(folder) / WEIGHTS)
    corpus, sources = _corpus(Path(folder))
    info = ModelInfo(
        name=name or loaded.run_id,
        kind=loaded.use,
        origin="run",
        n_params=arch.n_params,
        context=loaded.context - len(_LETTERS.begin) - len(_LETTERS.end),
        width=arch.d_model,
        n_layers=arch.n_layers,
        n_heads=arch.n_heads,
        digest=_digest(loaded, {"weights": weights}),
        corpus=corpus,
        sources=sources,
    )
    adapter = RunAdapter(loaded, info)
    return adapter if twin_seed is None else adapter.twin(twin_seed)


class RunAdapter(Adapter):
    """A run of plmscale, used as what `info.kind` says.

    loaded: the run as the inference commands take it, for generation.
    """

    letters = _TOKENS
    mask = MASK
    begin, end = _LETTERS.begin, _LETTERS.end
    lora_targets = ("qkv", "attention_out")

    def __init__(self, loaded: Loaded, info: ModelInfo) -> None:
        self.info, self.module = info, loaded.model
        self.device, self.dtype = loaded.device, loaded.model.embedding.weight.dtype
        self.vocab_size = loaded.model.arch.vocab_size
        self.loaded = loaded
        if info.kind == "clm":
            self.mask = None

    def encode(self, sequences: Sequence[str]) -> Encoded:
        return _LETTERS.encode(sequences, self.device)

    def hidden(self, rows: Encoded, layer: int = -1) -> Tensor:
        number, blocks = self.layer_number(layer), self.module.blocks
        if number == len(blocks):
            return self.module.hidden(rows.tokens, **self._how(rows))
        with _kept([blocks[number]], nn.Module.register_forward_pre_hook) as seen:
            self.module.hidden(rows.tokens, **self._how(rows))
        return seen[0]

    def logits(self, rows: Encoded) -> Tensor:
        return self.module(rows.tokens, **self._how(rows))

    def attentions(self, rows: Encoded) -> Tensor:
        """In fp32. Computed from what each layer's qkv gives, as the kernels do it."""
        arch, length = self.module.arch, rows.tokens.shape[1]
        size = arch.d_model // arch.n_heads
        with _kept([b.qkv for b in self.module.blocks], nn.Module.register_forward_hook) as seen:
            self.module.hidden(rows.tokens, **self._how(rows))
        cos, sin = rotary_tables(length, size, arch.rope_theta, self.device, self.dtype)
        hidden = self._hidden_pairs(rows)
        maps = []
        for qkv in seen:
            q, k, _ = split_and_rotate(qkv.unflatten(-1, (3, arch.n_heads, size)), cos, sin)
            scores = (q.float() @ k.float().transpose(-1, -2)) * size**-0.5
            maps.append(scores.masked_fill(hidden, -math.inf).softmax(-1))
        return torch.cat(maps, 1)

    def twin(self, seed: int) -> Adapter:
        model = Transformer(self.module.arch)
        model.initialize(seed)
        loaded = replace(self.loaded, model=model.to(self.device, self.dtype).eval())
        digest = _digest(loaded, {"twin": seed})
        name = f"{self.info.name}-twin{seed}"
        return RunAdapter(loaded, replace(self.info, name=name, digest=digest, twin=True))

    def _how(self, rows: Encoded) -> dict[str, Any]:
        """Padding stands at the end, so only an encoder has to be told not to look at it."""
        # The hand-written kernel of CPUs is for training: forward alone the fused one is 1.0 to 2.5
        # times as fast, the more so with padding.
        training = torch.is_grad_enabled() and self.device.type == "cpu"
        self.module.kernel = None if training else "sdpa"
        apart = rows.padded and not self.causal
        return {"causal": self.causal, "segments": rows.attend.long() if apart else None}

    def _hidden_pairs(self, rows: Encoded) -> Tensor:
        """Return bool (b or 1, 1, s, s), True where a token (row) does not see another (column)."""
        length = rows.tokens.shape[1]
        if self.causal:
            return torch.ones(1, 1, length, length, dtype=torch.bool, device=self.device).triu(1)
        return (rows.attend[:, :, None] != rows.attend[:, None, :])[:, None]


def _corpus(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return key and sources of the corpus that the run's recipe names; empty without a recipe."""
    path = folder / "recipe.json"
    corpus = read_json(path).get("corpus", {}) if path.is_file() else {}
    return str(corpus.get("key", "")), tuple(sorted(corpus.get("mix", {})))


def _digest(loaded: Loaded, weights: dict[str, Any]) -> str:
    """Fingerprint of all that decides a model's numbers; the name of its shape is not among it."""
    shape = {key: value for key, value in loaded.model.arch.to_dict().items() if key != "name"}
    how = {"use": loaded.use, "dtype": loaded.dtype, "context": loaded.context}
    return fingerprint({"format": "plmscale", "architecture": shape, **how, **weights})


@contextmanager
def _kept(modules: list[nn.Module], register: Any) -> Iterator[list[Tensor]]:
    """Collect the first input (pre-hook) or the output (hook) of modules, one after another."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], *output: Tensor) -> None:
        seen.append(output[0] if output else inputs[0])

    with ExitStack() as stack:
        for module in modules:
            stack.callback(register(module, keep).remove)
        yield seen
