"""What the supervised tasks share: which examples, how much of a protein, what is told of a result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from plmscale.downstream.base import BASELINE, Data, Example, Task
from plmscale.errors import PlmscaleError, suggest
from plmscale.fields import Positive, Strict

if TYPE_CHECKING:
    from plmscale.downstream.lora import Recipe
    from plmscale.downstream.models.adapter import Adapter

# Which test examples a smaller set has must not depend on the seed: all seeds share one test set.
_TEST_SEED = 0
_RATES = {"lora_rate": 1e-3, "head_rate": 1e-3}


class Options(Strict):
    """Options of a supervised task; None takes a default by the data's source (small, full).

    max_train, max_valid, max_test: at most so many examples, drawn (of the test set per group, and
    alike for all seeds); 0 for all. max_length: residues of a protein that are looked at, 0 for all
    that the model takes; further ones are cut off at the end. layer: whose states are read, -1 the
    last. steps, batch, every, patience: a LoRA run ends after so many steps of so many proteins, or
    when `patience` validations, one each `every` steps, were no better. lora_rate, head_rate: peak
    learning rates. lora_rank, lora_alpha: of the adapters. batch_tokens: residues that go through the
    network at a time, None by device. replicates: bootstrap draws.
    """

    max_train: int | None = Field(None, ge=0)
    max_valid: int | None = Field(None, ge=0)
    max_test: int | None = Field(None, ge=0)
    max_length: int = Field(1024, ge=0)
    layer: int = -1
    steps: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1)
    every: int | None = Field(None, ge=1)
    patience: int = Field(5, ge=1)
    lora_rate: Positive | None = None
    head_rate: Positive | None = None
    lora_rank: int = Field(8, ge=1)
    lora_alpha: Positive = 16
    batch_tokens: int | None = Field(None, ge=1)
    replicates: int = Field(1000, ge=2)

    # By source: what None stands for; the learning rates, where a task has no others.
    SIZED: ClassVar[dict[str, dict[str, float]]] = {}

    def sized(self, source: str) -> Self:
        """Return the options with every None replaced that depends on the data's source."""
        defaults = {**_RATES, **self.SIZED["small" if source == "small" else "full"]}
        chosen = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        return self.model_copy(update=chosen)

    def recipe(self) -> Recipe:
        """Return the recipe of LoRA; of sized options."""
        from plmscale.downstream.lora import Recipe

        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})


@dataclass(frozen=True)
class Parts:
    """Examples of each split, in the order of the data."""

    train: list[Example]
    valid: list[Example]
    test: list[Example]


def parts(data: Data, options: Options, seed: int) -> Parts:
    """Return the examples that are used; `options` must be sized."""
    return Parts(
        _drawn(data.split("train"), options.max_train, [seed, 1]),
        _drawn(data.split("valid"), options.max_valid, [seed, 2]),
        _drawn_by_group(data.split("test"), options.max_test),
    )


def crop(
    model: Adapter | None, examples: Sequence[Example], max_length: int
) -> tuple[list[Example], list[int]]:
    """Cut what is beyond `max_length` or the model's context off the end of the sequences.

    Returns the examples and how many residues each has lost. What the model takes at once because its
    tokens hold several residues stays whole.
    """
    kept, lost = [], []
    for example in examples:
        sequence = example.sequence[:max_length] if max_length else example.sequence
        if model is not None and not model.fits(sequence):
            sequence = sequence[: model.info.context]
        lost.append(len(example.sequence) - len(sequence))
        kept.append(replace(example, sequence=sequence) if lost[-1] else example)
    return kept, lost


def cropped_note(split: str, lost: Sequence[int]) -> list[str]:
    """Return in words how many proteins were cut, nothing where none was."""
    n = sum(cut > 0 for cut in lost)
    if not n:
        return []
    return [
        f"{split}: {n} of {len(lost)} proteins are longer than what is read; their ends are cut off"
    ]


def check_method(task: Task, method: str, model: Adapter | None) -> None:
    """Raise PlmscaleError for a method that the task does not have, or that lacks its model."""
    known = [*task.methods, *(BASELINE + name for name in task.baselines)]
    if method not in known:
        raise PlmscaleError(f"{task.name}: no method {method!r}{suggest(method, known)}")
    if model is None and not method.startswith(BASELINE):
        raise PlmscaleError(f"{task.name}: {method} needs a model; give one, or take a baseline")


def about(
    task: Task,
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    started: float,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return what predictions say of themselves (Predictions.about); started: time.monotonic()."""
    packages = ["numpy", "scikit-learn"] + (["torch", "peft"] if model is not None else [])
    return {
        "task": task.name,
        "method": method,
        "seed": seed,
        "model": model.info.to_dict() if model is not None else None,
        "data": {"source": data.source, "sha256": data.sha256, "dropped": dict(data.dropped)},
        "options": options.model_dump(mode="json"),
        "versions": {name: _version(name) for name in packages},
        "seconds": time.monotonic() - started,
        "notes": [*data.notes, *notes],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _drawn(examples: list[Example], most: int | None, seed: Sequence[int]) -> list[Example]:
    """Return at most `most` examples in their order; a smaller number takes a part of a larger's."""
    if not most or len(examples) <= most:
        return examples
    order = np.random.default_rng(list(seed)).permutation(len(examples))
    return [examples[place] for place in np.sort(order[:most])]


def _drawn_by_group(examples: list[Example], most: int | None) -> list[Example]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    kept = [e for group in groups.values() for e in _drawn(group, most, [_TEST_SEED, 3])]
    there = {(example.group, example.id) for example in kept}
    return [example for example in examples if (example.group, example.id) in there]
