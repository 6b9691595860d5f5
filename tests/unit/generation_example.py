"""Models whose next token does not depend on what came before, and a corpus to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import heldout_example as example
import numpy as np
import torch
from inference_fixtures import save_run, small_model

from plmscale.corpus.alphabet import EOS, STANDARD, encode
from plmscale.downstream import models

END = "end"


def run(folder: Path, logits: Mapping[str, float] | None = None, context: int = 64) -> Any:
    """A run; with `logits` of letters and END (0 for others) they are all it knows."""
    model = small_model()
    if logits is not None:
        with torch.no_grad():
            model.final_norm.weight.zero_()
            model.final_norm.bias.zero_()
            model.final_norm.bias[0] = 1
            head = (model.embedding if model.head is None else model.head).weight
            head[:, 0] = 0
            for name, value in logits.items():
                head[EOS if name == END else int(encode(name)[0]), 0] = value
    return models.open(save_run(folder, model, "clm", context))


def corpus(folder: Path, held_out: int = 40, residues: tuple[int, int] = (25, 60)) -> Path:
    """A corpus of random proteins; of the held-out ones 8 are nearly training ones, 12 relatives."""
    rng = np.random.default_rng(5)

    def some(count: int) -> list[str]:
        return [example.protein(rng, int(n)) for n in rng.integers(*residues, count)]

    train = some(60)
    near = [example.mutated(text, 1, rng) for text in train[:8]]
    near += [example.mutated(text, len(text) // 4, rng) for text in train[8:20]]
    parts = {"train": train, "valid": near + some(held_out - len(near)), "test": []}
    return example.write_corpus(folder, {"one": parts, "two": {"train": some(5)}})


def letters(value: float = 0.0) -> dict[str, float]:
    """The same logit for each of the 20 residues."""
    return dict.fromkeys(STANDARD, value)
