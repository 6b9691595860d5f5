"""The grid: a study expanded into runs, each with the recipe that decides its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

from plmscale.errors import PlmscaleError, suggest
from plmscale.experiments import (
    Experiment,
    IsoflopExperiment,
    RepetitionExperiment,
    RunsExperiment,
    TransferExperiment,
)
from plmscale.files import fingerprint
from plmscale.recipes import (
    RECIPE_SCHEMA,
    Builder,
    Shared,
    interpolate_lr,
    number,
    si,
    step_value,
)
from plmscale.schedule import decay_start, trunk_of
from plmscale.selection import matching, parse_select
from plmscale.settings import Study

__all__ = [
    "RECIPE_SCHEMA", "Run", "chosen_runs", "expand", "interpolate_lr", "number", "parse_select",
    "select", "si", "step_value",
]  # fmt: skip

Recipe = dict[str, Any]


@dataclass
class Run:
    """One model to train. `experiments` are all that ask for it."""

    recipe: Recipe
    experiments: list[str] = field(default_factory=list)
    # A run with the same beginning (schedule wsd) to go on from: a saving, not part of the recipe.
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
            "n_layers": r["architecture"]["n_layers"],
            "d_model": r["architecture"]["d_model"],
            "n_params": r["n_params"],
            "budget": r["budget"],
            "tokens": r["tokens"],
            "steps": r["steps"],
            "batch_rows": r["batch_rows"],
            "lr": r["optimizer"]["lr"],
            "schedule": r["schedule"]["name"],
            "corpus": r["corpus"]["name"],
            "mask_ratio": r["mask_ratio"],
            "clm_share": r.get("clm_share"),
            "parent": self.parent or "",
            "seed": r["seed"],
            "flops_6nd": r["flops_6nd"],
            "flops": r["flops"],
        }


def expand(study: Study) -> list[Run]:
    """Return every run of the study once, parents before children.

    A name follows from what its experiment asks for alone, so that adding another changes none.
    Raises PlmscaleError when a run cannot make a single step of its budget.
    """
    runs: dict[str, Run] = {}
    if not study.grid:
        # A study of released logs has neither corpus nor grid.
        return []
    shared = Shared(study)
    for name, experiment in study.grid.items():
        for recipe in _recipes(shared, name, experiment):
            run = runs.setdefault(recipe["run_id"], Run(recipe))
            if run.recipe["fingerprint"] != recipe["fingerprint"]:
                raise PlmscaleError(
                    f"{recipe['run_id']}: two different recipes share this name; "
                    "change a seed or a size's name to tell them apart"
                )
            if name not in run.experiments:
                run.experiments.append(name)
                run.recipe["experiment"] = ",".join(sorted(run.experiments))
    _share_trunks(runs)
    return list(runs.values())


def _share_trunks(runs: dict[str, Run]) -> None:
    """Let each `wsd` run go on from the one of equal beginning that leaves it latest before itself."""
    families: dict[str, list[Run]] = {}
    for run in runs.values():
        if run.recipe["schedule"]["name"] == "wsd":
            families.setdefault(fingerprint(trunk_of(run.recipe)), []).append(run)
    for members in families.values():
        # By where they leave the trunk, not by length: with another share of decay a run of equal
        # length leaves it later, and what it keeps is of no use to the other.
        members.sort(key=lambda run: (_leaves_trunk(run), run.recipe["steps"], run.run_id))
        for before, after in pairwise(members):
            if _leaves_trunk(before):
                after.trunk = before.run_id


def _leaves_trunk(run: Run) -> int:
    return decay_start(run.recipe["steps"], run.recipe["schedule"])


def _recipes(shared: Shared, name: str, experiment: Experiment) -> Iterator[Recipe]:
    """Yield the recipes of one experiment, a parent right before its children."""
    training = shared.study.training_of(experiment)
    seeds = experiment.seeds or [training.seed]
    for objective in experiment.all_objectives():
        for seed, sweep in product(seeds, _sweeps(experiment, objective)):
            own = training.model_copy(update=sweep) if sweep else training
            build = Builder(shared, own, name, objective, seed)
            if isinstance(experiment, IsoflopExperiment):
                yield from _isoflop(build, experiment)
            elif isinstance(experiment, RunsExperiment):
                yield from _listed(build, experiment)
            elif isinstance(experiment, RepetitionExperiment):
                yield from _repetition(build, experiment)
            elif isinstance(experiment, TransferExperiment):
                yield from _transfer(build, experiment)


def _sweeps(experiment: Experiment, objective: str) -> list[dict[str, float]]:
    """Return the settings of `training` that an experiment's lists put in turn."""
    # A CLM run has no masks, but the MLM run that a transfer begins with has.
    masks = objective != "clm" or isinstance(experiment, TransferExperiment)
    lists = {
        "mask_ratio": experiment.mask_ratios if masks else [],
        "clm_share": experiment.clm_shares if objective == "mixed" else [],
    }
    lists = {key: values for key, values in lists.items() if values}
    return [dict(zip(lists, values)) for values in product(*lists.values())]


def _isoflop(build: Builder, experiment: IsoflopExperiment) -> Iterator[Recipe]:
    for budget in experiment.budgets:
        for size in experiment.sizes_at(budget):
            yield build(size, experiment.corpus, budget=budget)


def _listed(build: Builder, experiment: RunsExperiment) -> Iterator[Recipe]:
    for place, entry in enumerate(experiment.runs):
        if build.objective not in (entry.objectives or experiment.objectives):
            continue
        corpus = entry.corpus or experiment.corpus
        where = f"grid.{build.experiment}.runs.{place}"
        for size in entry.sizes:
            for budget in entry.budgets:
                yield build(size, corpus, budget=budget)
            for tokens in [*entry.tokens, *_passes(build, corpus, entry.epochs, where)]:
                yield build(size, corpus, tokens=tokens)


def _repetition(build: Builder, experiment: RepetitionExperiment) -> Iterator[Recipe]:
    first = experiment.corpora[0]
    given = [] if experiment.tokens is None else [experiment.tokens]
    passes = _passes(build, first, experiment.epochs, f"grid.{build.experiment}")
    for tokens in [*given, *passes]:
        for corpus, size in product(experiment.corpora, experiment.sizes):
            yield build(size, corpus, tokens=tokens)


def _passes(build: Builder, mix: str, epochs: Iterable[float], where: str) -> list[float]:
    return [count * build.shared.epoch_tokens(mix, where) for count in epochs]


def _transfer(build: Builder, experiment: TransferExperiment) -> Iterator[Recipe]:
    other = build.for_objective("mlm" if build.objective == "clm" else "clm")
    corpus = experiment.corpus

    def twins(total: float, alone: float, size: str) -> Iterator[Recipe]:
        for twin in experiment.twins:
            yield build(size, corpus, budget=total if twin == "total" else alone)

    for budget in experiment.budgets:
        for size, share in product(
            experiment.sizes_at(budget), experiment.shares or [experiment.share]
        ):
            parent = other(size, corpus, budget=budget * share)
            yield parent
            # What rounding to whole steps gave or took from the parent, the child evens out.
            rest = budget - parent["flops_6nd"]
            note = f"-p{100 * share:.4g}" if experiment.shares else ""
            yield build(size, corpus, budget=rest, label=budget, note=note, parent=parent)
            yield from twins(budget, rest, size)
    for pair in experiment.pairs:
        parent = other(pair.size, corpus, budget=pair.parent_budget)
        yield parent
        note = f"-p{number(pair.parent_budget)}"
        yield build(pair.size, corpus, budget=pair.budget, note=note, parent=parent)
        yield from twins(pair.parent_budget + pair.budget, pair.budget, pair.size)


def select(runs: list[Run], chosen: Mapping[str, Any]) -> list[Run]:
    """Return the runs that fit (plmscale.selection.matching), in grid order.

    Raises PlmscaleError for an unknown column or a value no run has, with suggestions.
    """
    if not chosen:
        return runs
    return [runs[i] for i in matching([run.row() for run in runs], chosen)]


def chosen_runs(
    study: Study, subset: str = "", selection: str = "", runs: list[Run] | None = None
) -> list[Run]:
    """Return the runs of a named subset and a filter (both may be empty).

    `runs`: all of the study's (`expand`), where they are known already. Raises PlmscaleError for a
    subset the study does not name.
    """
    runs = expand(study) if runs is None else runs
    if subset:
        if subset not in study.subsets:
            known = ", ".join(study.subsets) or "none are defined"
            hint = suggest(subset, study.subsets) if study.subsets else ""
            hint = hint if hint.startswith("; did") else ""
            raise PlmscaleError(f"subset: {subset!r} is unknown{hint}; subsets: {known}")
        runs = select(runs, study.subsets[subset])
    return select(runs, parse_select(selection))
