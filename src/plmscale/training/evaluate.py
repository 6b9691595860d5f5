"""Loss of a model in nats a token: over a training micro batch and over the validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plmscale.model import segments_of
from plmscale.training.data import Samples
from plmscale.training.objectives import IGNORED, examples


def row_losses(model: nn.Module, recipe: dict[str, Any], inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the summed nats of each row (rows,) float32; inputs, targets (rows, s) int64.

    The cross entropy is computed in fp32 whatever the model's precision.
    """
    segments = segments_of(inputs) if recipe["packing"] == "within" else None
    logits = model(inputs, causal=recipe["objective"] == "clm", segments=segments)
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape).sum(1)


@dataclass(frozen=True)
class Validation:
    """Validation rows of one step: source, targets and summed nats of each."""

    sources: list[str]
    tokens: np.ndarray
    nll: np.ndarray

    @property
    def loss(self) -> float:
        """Nats a predicted token, over all rows."""
        return float(self.nll.sum() / max(1, self.tokens.sum()))

    @property
    def standard_error(self) -> float:
        """Standard error of `loss` over rows, as of a ratio (Cochran 1977, eq. 2.39 and 6.13)."""
        rows = len(self.nll)
        if rows < 2:
            return float("nan")
        residual = self.nll - self.loss * self.tokens
        return float(np.sqrt(rows / (rows - 1) * np.square(residual).sum()) / self.tokens.sum())

    def first(self, rows: int) -> Validation:
        """The same for the first `rows` rows only."""
        return Validation(self.sources[:rows], self.tokens[:rows], self.nll[:rows])

    def by_source(self) -> dict[str, float]:
        """Nats a predicted token of each source."""
        names = np.array(self.sources)
        return {
            name: float(self.nll[names == name].sum() / max(1, self.tokens[names == name].sum()))
            for name in sorted(set(self.sources))
        }


class Validator:
    """The fixed rows and masks on which every run of equal settings is judged."""

    def __init__(self, recipe: dict[str, Any], samples: Samples, device: str, micro: int) -> None:
        rows = range(recipe["validation"]["rows"])
        seed = recipe["validation"]["seed"]
        inputs, targets = examples(recipe, samples.batch(list(rows)), list(rows), seed)
        self.sources = [samples.mixture.locate(row)[0] for row in rows]
        self.tokens = (targets != IGNORED).sum(1)
        self._recipe, self._device, self._micro = recipe, device, micro
        self._inputs, self._targets = torch.from_numpy(inputs), torch.from_numpy(targets)

    def run(self, model: nn.Module, rank: int, world: int, rows: int | None = None) -> Validation:
        """Validate `model` on the first `rows` rows (all by default), shared among the ranks.

        Every rank gets the whole result.
        """
        rows = len(self.tokens) if rows is None else rows
        sums = torch.zeros(rows, dtype=torch.float64, device=self._device)
        model.eval()
        with torch.no_grad():
            for first in range(rank * self._micro, rows, world * self._micro):
                part = slice(first, min(rows, first + self._micro))
                inputs = self._inputs[part].to(self._device, torch.int64)
                targets = self._targets[part].to(self._device)
                sums[part] = row_losses(model, self._recipe, inputs, targets).double()
        model.train()
        if world > 1:
            torch.distributed.all_reduce(sums)
        return Validation(self.sources[:rows], self.tokens[:rows], sums.cpu().numpy())
