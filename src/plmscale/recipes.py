"""Recipes: all that decides the outcome of one run, and the name that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from plmscale.architecture import Architecture
from plmscale.corpus.mixing import recipe_mix, tokens_per_epoch
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint
from plmscale.settings import Study, TrainingConfig

# Raise when the training code changes what a recipe yields: every run then is a new run.
RECIPE_SCHEMA = 2
# Names of runs mention mask ratio and share of CLM where they are not these.
_USUAL_MASK_RATIO = 0.15
_USUAL_CLM_SHARE = 0.5


class Shared:
    """What many recipes of a study have in common, worked out once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.corpus_key = study.corpus.key()
        self.validation = study.validation.model_dump()
        self._shapes: dict[str, Architecture] = {}
        self._mixes: dict[str, dict[str, Any]] = {}

    def shape(self, size: str) -> Architecture:
        """Return the architecture behind a size's name."""
        if size not in self._shapes:
            self._shapes[size] = self.study.architecture(size)
        return self._shapes[size]

    def mix(self, name: str) -> dict[str, Any]:
        """Return what a recipe says about the shares of a mix."""
        if name not in self._mixes:
            corpus = self.study.corpus
            self._mixes[name] = recipe_mix(corpus.mixes[name], corpus.mixes["mix"], corpus.trained)
        return self._mixes[name]

    def epoch_tokens(self, mix: str, where: str) -> int:
        """Return the tokens of one pass over the sources of a mix, by their published numbers.

        Residues and two marks (begin, end) a sequence; cleaning, duplicates and held-out sequences
        are not taken off, so that the study alone decides. Raises PlmscaleError that names a
        source without numbers; `where` is the key that asks.
        """
        corpus = self.study.corpus
        asked = corpus.mixes[mix]
        if asked.weights == "residues":
            names = asked.sources or corpus.trained
        else:
            names = [name for name, weight in asked.weights.items() if weight > 0]
        total = 0
        for name in names:
            source = corpus.sources[name]
            if not (source.sequences and source.residues):
                raise PlmscaleError(
                    f"{where}: epochs need sequences and residues of corpus.sources.{name}; give "
                    "them as its release states them, or give tokens in place of epochs"
                )
            part = {"sequences": source.sequences, "residues": source.residues}
            total += tokens_per_epoch(part)
        return total


@dataclass(frozen=True)
class Builder:
    """Makes the recipes of one experiment, objective and seed."""

    shared: Shared
    training: TrainingConfig
    experiment: str
    objective: str
    seed: int

    def for_objective(self, objective: str) -> Builder:
        """Return the same builder for another objective."""
        return replace(self, objective=objective)

    def __call__(
        self,
        size: str,
        corpus: str,
        *,
        budget: float | None = None,
        tokens: float | None = None,
        label: float | None = None,
        note: str = "",
        parent: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the recipe of `size` trained for `budget` FLOPs (6 N D) or `tokens`.

        `label` stands in the name in place of the budget, `note` after it. Raises PlmscaleError
        when that is not enough for one step.
        """
        study, training = self.shared.study, self.training
        shape = self.shared.shape(size)
        n, context = shape.n_params, study.model.context
        wanted = tokens if tokens is not None else budget / (6 * n)
        rows = batch_rows(training, n, wanted, context)
        steps = round(wanted / (rows * context))
        if steps < 1:
            least = 6 * n * rows * context
            asked = (
                f"{tokens:,.0f} tokens" if budget is None else f"a budget of {number(budget)} FLOPs"
            )
            raise PlmscaleError(
                f"grid.{self.experiment}: {size} ({n:,} parameters) cannot make one step of "
                f"{rows} x {context} tokens within {asked}; it needs at least "
                f"{least:.3g} FLOPs: raise the budget, or lower training.batch_rows, or drop the size"
            )
        seen = steps * rows * context
        recipe: dict[str, Any] = {
            "schema": RECIPE_SCHEMA,
            "objective": self.objective,
            "architecture": {k: v for k, v in shape.to_dict().items() if k != "name"},
            "n_params": n,
            "corpus": {"key": self.shared.corpus_key, **self.shared.mix(corpus)},
            "context": context,
            "packing": study.model.packing,
            "mask_ratio": None if self.objective == "clm" else training.mask_ratio,
            **({"clm_share": training.clm_share} if self.objective == "mixed" else {}),
            "batch_rows": rows,
            "steps": steps,
            "tokens": seen,
            "budget": budget,
            "flops_6nd": float(6 * n * seen),
            "flops": shape.flops_per_token(context) * seen,
            "optimizer": {
                "name": "adamw",
                "lr": interpolate_lr(training.lr, n),
                "betas": list(training.betas),
                "eps": training.eps,
                "weight_decay": training.weight_decay,
                "grad_clip": training.grad_clip,
                "nonfinite_limit": training.nonfinite_limit,
                "spike_factor": training.spike_factor,
            },
            "schedule": _schedule(training, after_parent=parent is not None),
            "precision": training.precision,
            "seed": self.seed,
            "data_seed": training.data_seed,
            "validation": dict(self.shared.validation),
            "parent": parent and {"run_id": parent["run_id"], "fingerprint": parent["fingerprint"]},
        }
        digest = fingerprint({k: v for k, v in recipe.items() if k != "budget"})
        recipe["architecture"]["name"] = size
        recipe["corpus"]["name"] = corpus
        shown = label or budget
        amount = number(shown) if shown is not None else f"{si(seen)}tok"
        after = f"-after-{parent['objective']}" if parent else ""
        what = f"{self.objective}{after}-{size}{_unusual(recipe)}"
        recipe["run_id"] = f"{what}-{amount}{note}-{corpus}-{digest[:6]}"
        recipe["fingerprint"] = digest
        recipe["study"] = study.study
        recipe["experiment"] = self.experiment
        return recipe


def _unusual(recipe: Mapping[str, Any]) -> str:
    """Return what a name says of mask ratio and share of CLM, in percent: -m40, -c20."""
    mask, share = recipe["mask_ratio"], recipe.get("clm_share")
    masked = "" if mask in (None, _USUAL_MASK_RATIO) else f"-m{100 * mask:.4g}"
    shared = "" if share in (None, _USUAL_CLM_SHARE) else f"-c{100 * share:.4g}"
    return masked + shared


def _schedule(training: TrainingConfig, after_parent: bool) -> dict[str, Any]:
    if training.schedule == "wsd":
        return {
            "name": "wsd",
            "warmup_steps": training.warmup_steps,
            "decay_fraction": training.decay_fraction,
            "decay": training.decay,
            "final_fraction": training.final_fraction,
        }
    return {
        "name": "cosine",
        "warmup_fraction": training.transfer_warmup_fraction
        if after_parent
        else training.warmup_fraction,
        "final_fraction": training.final_fraction,
    }


def batch_rows(training: TrainingConfig, n: float, tokens: float, context: int) -> int:
    """Return the rows a step of a model of `n` parameters trained for `tokens`."""
    rows = step_value(training.batch_rows, n)
    while rows > 1 and tokens < training.min_steps * rows * context:
        rows = (rows + 1) // 2
    return rows


def number(value: float) -> str:
    """Return a short name for a budget: 3e11, 1.5e+12 -> 1.5e12."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def si(value: float) -> str:
    """Return a count with a unit prefix: 1228800 -> 1.23M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def step_value(table: Mapping[float, int], n: float) -> int:
    """Return the entry of `table` with the largest key not above `n`."""
    return table[max(key for key in table if key <= n)]


def interpolate_lr(table: Mapping[float, float], n: float) -> float:
    """Return the peak learning rate at size `n`: linear in log-log, constant beyond the ends.

    Rounded to four digits, so that a recipe does not depend on the last bit of a logarithm.
    """
    points = sorted(table.items())
    if n <= points[0][0]:
        return points[0][1]
    for (n0, lr0), (n1, lr1) in pairwise(points):
        if n <= n1:
            t = math.log(n / n0) / math.log(n1 / n0)
            return float(f"{math.exp(math.log(lr0) * (1 - t) + math.log(lr1) * t):.4g}")
    return points[-1][1]
