"""Low-rank adapters (LoRA, Hu et al. 2021) in a protein model, trained together with a readout.

The recipe is one for all tasks: the readout starts at the probe's solution (so that what is added to
the probe is the adapters' doing; Kumar et al. 2022 call it LP-FT), the adapters where they change
nothing. AdamW, a cosine down to 0 after a short warm-up, batches drawn without replacement, gradients
clipped at norm 1. The loss of the validation proteins is measured before the first step and every so
many; the best state is kept, and training ends early when it was not bettered for some measurements.
The network stays in eval mode, without dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from plmscale.downstream.batches import by_length, default_tokens
from plmscale.downstream.models.adapter import Adapter
from plmscale.downstream.probe import Readout
from plmscale.errors import PlmscaleError

_WARM_UP = 0.1
_WEIGHT_DECAY = 0.01
# Training keeps every layer's activations: fewer tokens at a time than for embedding.
_TRAINING_TOKENS = 8192


@dataclass(frozen=True)
class Item:
    """A protein to learn from. weight: what it counts in a mean, above 0 (residues, or 1)."""

    sequence: str
    target: Any
    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How adapters and readout are trained; see plmscale.downstream.supervised.Options."""

    steps: int
    batch: int
    every: int
    patience: int
    lora_rate: float
    head_rate: float
    lora_rank: int
    lora_alpha: float
    layer: int = -1
    batch_tokens: int | None = None


@dataclass(frozen=True)
class Outcome:
    """steps: made; best: the one kept, 0 for the start; start_loss, valid_loss: at 0 and at best."""

    steps: int
    best: int
    start_loss: float
    valid_loss: float

    def note(self) -> str:
        """Return in words how training went."""
        return (
            f"lora: best at step {self.best} of {self.steps}, validation {self.valid_loss:.5g} "
            f"(at the start, the probe: {self.start_loss:.5g})"
        )


# Takes the head's outputs of proteins and the proteins; returns the loss of each, a sum over what
# its weight counts, (b,).
Loss = Callable[[list[Tensor], Sequence[Item]], Tensor]


class LinearHead(nn.Module):
    """A readout of states, of each residue or (pool) of the mean over a protein's residues."""

    def __init__(self, readout: Readout, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        for name in ("centre", "scale"):
            self.register_buffer(name, torch.tensor(getattr(readout, name), dtype=torch.float32))
        self.weight = nn.Parameter(torch.tensor(readout.weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(readout.bias, dtype=torch.float32))

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """[(L, d)] -> [(L, k)], or with pool [(k,)], in fp32."""
        lengths = [len(each) for each in states]
        if self.pool:
            # Padded, because sums by index are not repeatable on a GPU.
            sums = pad_sequence([each.float() for each in states], batch_first=True).sum(1)
            flat = sums / torch.tensor(lengths, device=sums.device)[:, None]
        else:
            flat = torch.cat([each.float() for each in states])
        scores = (flat - self.centre) / self.scale @ self.weight + self.bias
        return list(scores.unbind(0)) if self.pool else list(scores.split(lengths))


@contextmanager
def adapted(adapter: Adapter, rank: int, alpha: float, seed: int) -> Iterator[list[nn.Parameter]]:
    """Give the network low-rank adapters and yield their parameters; all else is fixed meanwhile.

    They start where they change nothing. Afterwards the network is what it was. PlmscaleError for a
    model without layers to adapt.
    """
    from peft import LoraConfig, get_peft_model

    module = adapter.module
    if not adapter.lora_targets:
        raise PlmscaleError(
            f"{adapter.info.name}: has no attention projections that LoRA could adapt; use the probe"
        )
    trainable = {name: p.requires_grad for name, p in module.named_parameters()}
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(adapter.lora_targets))
    # peft draws from the global generator.
    with torch.random.fork_rng(devices=[adapter.device] if adapter.device.type == "cuda" else []):
        torch.manual_seed(seed)
        wrapped = get_peft_model(module, config).eval()
    try:
        yield [p for p in wrapped.parameters() if p.requires_grad]
    finally:
        wrapped.unload()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(trainable[name])


def tune(
    adapter: Adapter,
    head: nn.Module,
    loss: Loss,
    items: Sequence[Item],
    valid: Sequence[Item],
    test: Sequence[str],
    recipe: Recipe,
    seed: int,
    notes: list[str],
) -> list[np.ndarray]:
    """Train adapters and head; return the head's outputs of `test` and leave the network as it was.

    How training went is added to `notes`. Arguments and errors as of `fit` and `adapted`.
    """
    head = head.to(adapter.device)
    with adapted(adapter, recipe.lora_rank, recipe.lora_alpha, seed) as adapters:
        outcome = fit(adapter, adapters, head, loss, items, valid, recipe, seed)
        notes.append(outcome.note())
        return outputs(adapter, head, test, recipe.layer, recipe.batch_tokens)


def fit(
    adapter: Adapter,
    adapters: Sequence[nn.Parameter],
    head: nn.Module,
    loss: Loss,
    items: Sequence[Item],
    valid: Sequence[Item],
    recipe: Recipe,
    seed: int,
) -> Outcome:
    """Train adapters and head in place, and leave them at the best state met.

    To be called within `adapted`. head: takes and returns a list of tensors, one a protein. For a
    seed deterministic on one machine. PlmscaleError where the loss is no number, where there is
    nothing to learn from or to validate on, and where the GPU's memory is not enough.
    """
    if not items or not valid:
        raise PlmscaleError("lora: no proteins to train on, or none to validate on")
    tokens = recipe.batch_tokens or min(_TRAINING_TOKENS, default_tokens(adapter))
    own = list(head.parameters())
    groups = [
        {"params": list(adapters), "lr": recipe.lora_rate},
        {"params": own, "lr": recipe.head_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: _rate(at, recipe.steps))
    parameters = [*adapters, *own]
    order = _drawn(items, recipe.batch, np.random.default_rng([seed, 4]))
    start = best = measure(adapter, head, loss, valid, recipe.layer, tokens)
    step = best_step = 0
    kept = _copy(parameters)
    for step in range(1, recipe.steps + 1):
        optimizer.zero_grad(set_to_none=True)
        batch = next(order)
        whole = sum(item.weight for item in batch)
        for part in _parts(batch, tokens):
            with _memory():
                each = loss(head(_states(adapter, part, recipe.layer)), part)
                (each.sum() / whole).backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % recipe.every == 0 or step == recipe.steps:
            reached = measure(adapter, head, loss, valid, recipe.layer, tokens)
            if reached < best:
                best, best_step, kept = reached, step, _copy(parameters)
            elif step - best_step >= recipe.patience * recipe.every:
                break
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return Outcome(step, best_step, start, best)


def measure(
    adapter: Adapter, head: nn.Module, loss: Loss, items: Sequence[Item], layer: int, tokens: int
) -> float:
    """Return the mean loss over all that the weights count; PlmscaleError where it is no number."""
    total = 0.0
    with torch.no_grad(), _memory():
        for part in _parts(items, tokens):
            total += float(loss(head(_states(adapter, part, layer)), part).sum())
    if not math.isfinite(total):
        raise PlmscaleError(
            f"{adapter.info.name}: the loss of LoRA is no number; try dtype fp32 or a lower lora_rate"
        )
    return total / sum(item.weight for item in items)


def outputs(
    adapter: Adapter,
    head: nn.Module,
    sequences: Sequence[str],
    layer: int = -1,
    batch_tokens: int | None = None,
) -> list[np.ndarray]:
    """Return what the head makes of each sequence, in order: float32 (k,) or (L, k)."""
    found: list[np.ndarray] = [np.empty(0)] * len(sequences)
    with torch.no_grad(), _memory():
        for numbers in by_length(list(sequences), batch_tokens or default_tokens(adapter)):
            part = [Item(sequences[number], None) for number in numbers]
            for number, made in zip(numbers, head(_states(adapter, part, layer)), strict=True):
                found[number] = made.cpu().numpy()
    return found


def _states(adapter: Adapter, items: Sequence[Item], layer: int) -> list[Tensor]:
    """Return the states of each protein's residues, [(L, d)], with gradients where enabled."""
    rows = adapter.encode([item.sequence for item in items])
    flat = rows.of_residues(adapter.hidden(rows, layer))
    return list(flat.split([len(item.sequence) for item in items]))


def _parts(items: Sequence[Item], tokens: int) -> Iterator[list[Item]]:
    for numbers in by_length([item.sequence for item in items], tokens):
        yield [items[number] for number in numbers]


def _drawn(items: Sequence[Item], batch: int, rng: np.random.Generator) -> Iterator[list[Item]]:
    """Yield batches for ever: each protein once, in random order, then again in another."""
    waiting: list[int] = []
    while True:
        while len(waiting) < min(batch, len(items)):
            waiting.extend(rng.permutation(len(items)).tolist())
        yield [items[number] for number in waiting[:batch]]
        del waiting[:batch]


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rates at a step, counted from 0."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _copy(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@contextmanager
def _memory() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise PlmscaleError(
            "the GPU's memory is not enough for LoRA; lower batch_tokens (or max_length)"
        ) from None
