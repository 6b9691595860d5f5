"""The grid: a study expanded into runs, each with the recipe that decides its outcome."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from plmscale.corpus.mixing import recipe_mix
from plmscale.errors import PlmscaleError, suggest
from plmscale.files import fingerprint
from plmscale.schedule import trunk_of
from plmscale.settings import IsoflopExperiment, RepetitionExperiment, Study, TrainingConfig

# Raise when the training code changes what a recipe yields: every run then is a new run.
RECIPE_SCHEMA = 2
_LABELS = ("run_id", "study", "experiment", "fingerprint")


@dataclass
class Run:
    """One model to train. `experiments` are all that ask for it."""

    recipe: dict[str, Any]
    experiments: list[str] = field(default_factory=list)
    # The next shorter run with the same beginning (schedule wsd): a saving, not part of the recipe.
    trunk: str | None = None

    @property
    def run_id(self) -> str:
        return self.recipe["run_id"]

    @property
    def parent(self) -> str | None:
        return self.recipe["parent"]["run_id"] if self.recipe["parent"] else None

    def row(self) -> dict[str, Any]:
        """Return what can be filtered on and what `plmscale runs` shows."""
        r = self.recipe
        return {
            "run_id": r["run_id"],
            "experiment": ",".join(self.experiments),
            "objective": r["objective"],
            "architecture": r["architecture"]["name"],
            "n_params": r["n_params"],
            "budget": r["budget"],
            "tokens": r["tokens"],
            "steps": r["steps"],
            "batch_rows": r["batch_rows"],
            "lr": r["optimizer"]["lr"],
            "corpus": r["corpus"]["name"],
            "mask_ratio": r["mask_ratio"],
            "parent": self.parent or "",
            "seed": r["seed"],
            "flops_6nd": r["flops_6nd"],
            "flops": r["flops"],
        }


def expand(study: Study) -> list[Run]:
    """Return every run of the study once, parents before children.

    Raises PlmscaleError when a run cannot make a single step of its budget.
    """
    runs: dict[str, Run] = {}

    def add(recipe: dict[str, Any], experiment: str) -> dict[str, Any]:
        run = runs.setdefault(recipe["run_id"], Run(recipe))
        if run.recipe["fingerprint"] != recipe["fingerprint"]:
            raise PlmscaleError(
                f"{recipe['run_id']}: two different recipes share this name; "
                "change a seed or a size's name to tell them apart"
            )
        if experiment not in run.experiments:
            run.experiments.append(experiment)
            run.recipe["experiment"] = ",".join(sorted(run.experiments))
        return run.recipe

    for name, experiment in study.grid.items():
        training = study.training_of(experiment)
        seeds = experiment.seeds or [training.seed]
        for objective in experiment.objectives:
            for seed in seeds:
                build = _Builder(study, training, name, objective, seed)
                for recipe in _recipes(build, experiment):
                    add(recipe, name)
    _share_trunks(runs)
    return list(runs.values())


def _share_trunks(runs: dict[str, Run]) -> None:
    """Let each `wsd` run go on from the longest shorter one that has the same beginning."""
    families: dict[str, list[Run]] = {}
    for run in runs.values():
        if run.recipe["schedule"]["name"] == "wsd":
            families.setdefault(fingerprint(trunk_of(run.recipe)), []).append(run)
    for members in families.values():
        members.sort(key=lambda run: (run.recipe["steps"], run.run_id))
        for shorter, longer in pairwise(members):
            longer.trunk = shorter.run_id


def _recipes(build: _Builder, experiment: Any) -> Iterable[dict[str, Any]]:
    if isinstance(experiment, IsoflopExperiment):
        for budget in experiment.budgets:
            for size in experiment.sizes_by_budget.get(budget, experiment.sizes):
                yield build(size, experiment.corpus, budget=budget)
    elif isinstance(experiment, RepetitionExperiment):
        for corpus in experiment.corpora:
            for size in experiment.sizes:
                yield build(size, corpus, tokens=experiment.tokens)
    else:
        other = build.for_objective("mlm" if build.objective == "clm" else "clm")
        for budget in experiment.budgets:
            for size in experiment.sizes:
                share = experiment.share
                parent = other(size, experiment.corpus, budget=budget * share)
                yield parent
                # What rounding to whole steps gave or took from the parent, the child evens out.
                rest = budget - parent["flops_6nd"]
                yield build(size, experiment.corpus, budget=rest, label=budget, parent=parent)
                yield build(size, experiment.corpus, budget=budget)


@dataclass
class _Builder:
    study: Study
    training: TrainingConfig
    experiment: str
    objective: str
    seed: int

    def for_objective(self, objective: str) -> _Builder:
        return _Builder(self.study, self.training, self.experiment, objective, self.seed)

    def __call__(
        self,
        size: str,
        corpus: str,
        *,
        budget: float | None = None,
        tokens: float | None = None,
        label: float | None = None,
        parent: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        study, training = self.study, self.training
        shape = study.architecture(size)
        n = shape.n_params
        context = study.model.context
        rows = step_value(training.batch_rows, n)
        wanted = tokens if tokens is not None else budget / (6 * n)
        while rows > 1 and wanted < training.min_steps * rows * context:
            rows = (rows + 1) // 2
        steps = round(wanted / (rows * context))
        if steps < 1:
            least = 6 * n * rows * context
            raise PlmscaleError(
                f"grid.{self.experiment}: {size} ({n:,} parameters) cannot make one step of "
                f"{rows} x {context} tokens within {_asked(budget, tokens)}; it needs at least "
                f"{least:.3g} FLOPs: raise the budget, or lower training.batch_rows, or drop the size"
            )
        seen = steps * rows * context
        mixes = study.corpus.mixes
        recipe: dict[str, Any] = {
            "schema": RECIPE_SCHEMA,
            "objective": self.objective,
            "architecture": {k: v for k, v in shape.to_dict().items() if k != "name"},
            "n_params": n,
            "corpus": {
                "key": study.corpus.key(),
                **recipe_mix(mixes[corpus], mixes["mix"], study.corpus.trained),
            },
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
            "validation": study.validation.model_dump(),
            "parent": parent and {"run_id": parent["run_id"], "fingerprint": parent["fingerprint"]},
        }
        digest = fingerprint({k: v for k, v in recipe.items() if k != "budget"})
        recipe["architecture"]["name"] = size
        recipe["corpus"]["name"] = corpus
        shown = label or budget
        amount = number(shown) if shown is not None else f"{si(seen)}tok"
        after = f"-after-{parent['objective']}" if parent else ""
        recipe["run_id"] = f"{self.objective}{after}-{size}-{amount}-{corpus}-{digest[:6]}"
        recipe["fingerprint"] = digest
        recipe["study"] = study.study
        recipe["experiment"] = self.experiment
        return recipe


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


def _asked(budget: float | None, tokens: float | None) -> str:
    return f"a budget of {number(budget)} FLOPs" if budget is not None else f"{tokens:,.0f} tokens"


def number(value: float) -> str:
    """Return a short name for a budget: 3e11, 1.5e+12 -> 1.5e12."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def si(value: float) -> str:
    """Return a count with a unit prefix: 1228800 -> 1.2M."""
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


def parse_select(text: str) -> dict[str, list[str]]:
    """Parse `key:value,key:value` (also `=`); a key given twice means either value.

    Raises PlmscaleError for a part without a colon.
    """
    chosen: dict[str, list[str]] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, sign, value = part.replace("=", ":", 1).partition(":")
        if not sign or not key.strip() or not value.strip():
            raise PlmscaleError(f"select: {part!r} is not KEY:VALUE (for example objective:mlm)")
        chosen.setdefault(key.strip(), []).append(value.strip())
    return chosen


def select(runs: list[Run], chosen: Mapping[str, Any]) -> list[Run]:
    """Return the runs whose columns have one of the values asked for, in grid order.

    Raises PlmscaleError for an unknown column or a value no run has, with suggestions.
    """
    for key, values in chosen.items():
        columns = list(runs[0].row())
        if key not in columns:
            raise PlmscaleError(f"select: runs have no column {key!r}{suggest(key, columns)}")
        values = values if isinstance(values, list) else [values]
        present = {v for run in runs for v in _values(run.row()[key], key)}
        for value in values:
            if not any(_same(value, other) for other in present):
                hint = suggest(value, sorted(map(str, present)))
                raise PlmscaleError(f"select: no run has {key} {value!r}{hint}")
        runs = [
            run
            for run in runs
            if any(_same(v, own) for v in values for own in _values(run.row()[key], key))
        ]
        if not runs:
            raise PlmscaleError(f"select: no run fits all of {dict(chosen)}")
    return runs


def _values(value: Any, key: str) -> list[Any]:
    return str(value).split(",") if key == "experiment" else [value]


def _same(asked: Any, own: Any) -> bool:
    if own is None:
        return str(asked).lower() in ("none", "null", "")
    if isinstance(own, int | float):
        try:
            return math.isclose(float(asked), own, rel_tol=1e-9)
        except ValueError:
            return False
    return str(asked) == str(own)


def chosen_runs(study: Study, subset: str = "", selection: str = "") -> list[Run]:
    """Return the runs of a named subset and a filter (both may be empty).

    Raises PlmscaleError for a subset the study does not name.
    """
    runs = expand(study)
    if subset:
        if subset not in study.subsets:
            known = ", ".join(study.subsets) or "none are defined"
            raise PlmscaleError(f"subset: {subset!r} is unknown; subsets: {known}")
        runs = select(runs, study.subsets[subset])
    return select(runs, parse_select(selection))
