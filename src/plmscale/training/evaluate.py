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

OBJECTIVES = ("clm", "mlm")


def row_losses(
    model: nn.Module, packing: str, causal: bool | Tensor, inputs: Tensor, targets: Tensor
) -> Tensor:
    """Return the summed nats of each row (rows,) float32; inputs, targets (rows, s) int64.

    `causal` may be given for each row, (rows,) bool. The cross entropy is computed in fp32 whatever
    the model's precision.
    """
    segments = segments_of(inputs) if packing == "within" else None
    logits = model(inputs, causal=causal, segments=segments)
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape).sum(1)


@dataclass(frozen=True)
class Validation:
    """Validation rows of one step: source, objective, targets and summed nats of each."""

    sources: list[str]
    tokens: np.ndarray
    nll: np.ndarray
    objectives: list[str]
    # Weight of each objective in the loss; one of weight 1 but for `mixed`.
    weights: dict[str, float]

    @property
    def loss(self) -> float:
        """Nats a predicted token, over all rows; for `mixed` the weighted mean of both objectives."""
        return sum(w * self.of_objective(name) for name, w in self.weights.items())

    @property
    def standard_error(self) -> float:
        """Standard error of `loss` over rows, as of a ratio (Cochran 1977, eq. 2.39 and 6.13)."""
        variance = 0.0
        for name, weight in self.weights.items():
            mine = self._mine(name)
            rows = int(mine.sum())
            if rows < 2:
                return float("nan")
            tokens = self.tokens[mine]
            residual = self.nll[mine] - self.of_objective(name) * tokens
            spread = np.sqrt(rows / (rows - 1) * np.square(residual).sum()) / tokens.sum()
            variance += (weight * spread) ** 2
        return float(np.sqrt(variance))

    def _mine(self, objective: str) -> np.ndarray:
        return np.array(self.objectives) == objective

    def of_objective(self, objective: str) -> float:
        """Nats a predicted token over the rows of one objective."""
        mine = self._mine(objective)
        return float(self.nll[mine].sum() / max(1, self.tokens[mine].sum()))

    def first(self, rows: int) -> Validation:
        """The same for the first `rows` rows of each objective only."""
        keep = np.zeros(len(self.tokens), bool)
        for name in self.weights:
            keep[np.flatnonzero(self._mine(name))[:rows]] = True
        chosen = np.flatnonzero(keep)
        return Validation(
            [self.sources[i] for i in chosen],
            self.tokens[keep],
            self.nll[keep],
            [self.objectives[i] for i in chosen],
            self.weights,
        )

    def by_source(self) -> dict[str, float]:
        """Nats a predicted token of each source."""
        names = np.array(self.sources)
        return {
            name: float(self.nll[names == name].sum() / max(1, self.tokens[names == name].sum()))
            for name in sorted(set(self.sources))
        }

    def by_objective(self) -> dict[str, float]:
        """Nats a predicted token of each objective."""
        return {name: self.of_objective(name) for name in self.weights}


def objective_weights(recipe: dict[str, Any]) -> dict[str, float]:
    """Return what each objective weighs in a run's loss: its share of the training rows."""
    if recipe["objective"] != "mixed":
        return {recipe["objective"]: 1.0}
    return {"clm": recipe["clm_share"], "mlm": 1.0 - recipe["clm_share"]}


class Validator:
    """The fixed rows and masks on which every run of equal settings is judged.

    A `mixed` run is judged on both: as every CLM run is, and as every MLM run is.
    """

    def __init__(self, recipe: dict[str, Any], samples: Samples, device: str, micro: int) -> None:
        count = recipe["validation"]["rows"]
        numbers, seed = list(range(count)), recipe["validation"]["seed"]
        rows = samples.batch(numbers)
        self.weights = objective_weights(recipe)
        self.sources = [samples.mixture.locate(row)[0] for row in numbers]
        self._packing, self._device, self._micro = recipe["packing"], device, micro
        self._sets: dict[str, tuple[Tensor, Tensor, np.ndarray]] = {}
        for name in self.weights:
            inputs, targets = examples({**recipe, "objective": name}, rows, numbers, seed)
            tokens = (targets != IGNORED).sum(1)
            self._sets[name] = torch.from_numpy(inputs), torch.from_numpy(targets), tokens

    def run(self, model: nn.Module, rank: int, world: int, rows: int | None = None) -> Validation:
        """Validate `model` on the first `rows` rows (all by default), shared among the ranks.

        Every rank gets the whole result, and every rank calls the model equally often, as ZeRO-3
        needs.
        """
        rows = len(self.sources) if rows is None else rows
        sums = {name: self._sums(model, name, rank, world, rows) for name in self._sets}
        return Validation(
            self.sources[:rows] * len(sums),
            np.concatenate([self._sets[name][2][:rows] for name in sums]),
            np.concatenate([values.cpu().numpy() for values in sums.values()]),
            [name for name in sums for _ in range(rows)],
            self.weights,
        )

    def _sums(self, model: nn.Module, name: str, rank: int, world: int, rows: int) -> Tensor:
        all_inputs, all_targets, _ = self._sets[name]
        sums = torch.zeros(rows, dtype=torch.float64, device=self._device)
        model.eval()
        with torch.no_grad():
            for first in range(0, rows, world * self._micro):
                begin = first + rank * self._micro
                part = slice(begin, min(rows, begin + self._micro))
                # A rank without rows of its own looks at the first ones and counts nothing.
                seen = part if begin < rows else slice(0, min(rows, self._micro))
                inputs = self._whole(all_inputs[seen]).to(self._device, torch.int64)
                targets = self._whole(all_targets[seen]).to(self._device)
                values = row_losses(model, self._packing, name == "clm", inputs, targets)
                if begin < rows:
                    sums[part] = values[: part.stop - part.start].double()
        model.train()
        if world > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _whole(self, rows: Tensor) -> Tensor:
        """On a GPU fill up a last, partial batch with its own first row: a new shape would be
        compiled anew, for longer than validation takes."""
        missing = self._micro - len(rows) if self._device == "cuda" else 0
        return torch.cat([rows, rows[:1].expand(missing, -1)]) if missing > 0 else rows
