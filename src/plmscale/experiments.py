"""The kinds of experiments a grid is made of: what each key means, may be, and is by default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from plmscale.fields import Objective, Part, Positive, Slug, Strict


class Experiment(Strict, ABC):
    """What all kinds share. Every list of values is a sweep: each is combined with each."""

    objectives: list[Objective] = Field(
        ["clm", "mlm"],
        min_length=1,
        description="clm, mlm, or mixed: some rows the one way, some the other.",
    )
    corpus: Slug = Field("mix", description="One of corpus.mixes.")
    seeds: list[int] = Field(
        [], description="Seeds to repeat every run with; default: training.seed."
    )
    mask_ratios: list[Part] = Field(
        [], description="Mask ratios to train MLM with in turn; default: training.mask_ratio."
    )
    clm_shares: list[Part] = Field(
        [], description="mixed: shares of CLM rows in turn; default: training.clm_share."
    )
    training: dict[str, Any] = Field(
        {}, description="Keys of `training` that differ in this experiment."
    )

    @model_validator(mode="after")
    def _sweeps_have_their_objective(self) -> Experiment:
        trained = set(self.all_objectives())
        if self.mask_ratios and trained == {"clm"} and not isinstance(self, TransferExperiment):
            raise ValueError(
                "mask_ratios: nothing is masked in CLM; objectives must hold mlm or mixed"
            )
        if self.clm_shares and "mixed" not in trained:
            raise ValueError("clm_shares: only mixed runs have a share; objectives must hold mixed")
        return self

    def all_objectives(self) -> list[Objective]:
        """Return the objectives that runs end with, in order."""
        return list(dict.fromkeys(self.objectives))

    @abstractmethod
    def all_sizes(self) -> list[str]:
        """Return the names of all sizes asked for."""

    def all_mixes(self) -> list[str]:
        """Return the names of all mixes asked for."""
        return [self.corpus]


class _SizesAtBudgets(Experiment):
    budgets: list[Positive]
    sizes: list[str]
    sizes_by_budget: dict[float, list[str]]

    @model_validator(mode="after")
    def _each_budget_has_sizes(self) -> _SizesAtBudgets:
        if odd := set(self.sizes_by_budget) - set(self.budgets):
            raise ValueError(f"sizes_by_budget: {min(odd):g} is not among the budgets")
        if bare := [budget for budget in self.budgets if not self.sizes_at(budget)]:
            raise ValueError(f"sizes: none for budget {bare[0]:g}; give sizes or sizes_by_budget")
        return self

    def sizes_at(self, budget: float) -> list[str]:
        """Return the sizes to train at one budget."""
        return self.sizes_by_budget.get(budget, self.sizes)

    def all_sizes(self) -> list[str]:
        return [*self.sizes, *(size for group in self.sizes_by_budget.values() for size in group)]


class IsoflopExperiment(_SizesAtBudgets):
    kind: Literal["isoflop"] = Field(description="Every size at every budget.")
    budgets: list[Positive] = Field(min_length=1, description="Training FLOPs (6 N D).")
    sizes: list[str] = Field(
        [], description="Names from `sizes` or of the paper (`plmscale sizes`)."
    )
    sizes_by_budget: dict[float, list[str]] = Field(
        {}, description="Other sizes for some of the budgets."
    )


class RunsEntry(Strict):
    """Some runs of an explicit list: each size, for each amount of training."""

    sizes: list[str] = Field(min_length=1, description="Sizes to train.")
    objectives: list[Objective] = Field([], description="Default: those of the experiment.")
    corpus: Slug | None = Field(None, description="Default: that of the experiment.")
    budgets: list[Positive] = Field([], description="Training FLOPs (6 N D).")
    tokens: list[Positive] = Field([], description="Tokens to train on.")
    epochs: list[Positive] = Field(
        [],
        description="Passes over the sources of the mix, by their published sequences and residues.",
    )

    @model_validator(mode="after")
    def _has_an_amount(self) -> RunsEntry:
        if not (self.budgets or self.tokens or self.epochs):
            raise ValueError("give budgets, tokens or epochs: how long the runs are")
        return self


class RunsExperiment(Experiment):
    kind: Literal["runs"] = Field(description="Runs that are listed one by one.")
    runs: list[RunsEntry] = Field(
        min_length=1, description="Each with sizes and one or more of budgets, tokens, epochs."
    )

    def all_objectives(self) -> list[Objective]:
        asked = [o for entry in self.runs for o in entry.objectives or self.objectives]
        return list(dict.fromkeys(asked))

    def all_sizes(self) -> list[str]:
        return [size for entry in self.runs for size in entry.sizes]

    def all_mixes(self) -> list[str]:
        return [self.corpus, *(entry.corpus for entry in self.runs if entry.corpus)]


class RepetitionExperiment(Experiment):
    kind: Literal["repetition"] = Field(description="The same tokens from several corpora.")
    corpora: list[Slug] = Field(
        min_length=1, description="Corpora (from corpus.mixes) to train on in turn."
    )
    sizes: list[str] = Field(min_length=1, description="Sizes to train.")
    tokens: Positive | None = Field(None, description="Tokens of each run; or give epochs.")
    epochs: list[Positive] = Field(
        [], description="In place of tokens: so many passes over the first of the corpora."
    )

    @model_validator(mode="after")
    def _has_one_amount(self) -> RepetitionExperiment:
        if (self.tokens is None) == (not self.epochs):
            raise ValueError("give either tokens or epochs: how long the runs are")
        return self

    def all_sizes(self) -> list[str]:
        return self.sizes

    def all_mixes(self) -> list[str]:
        return self.corpora


class TransferPair(Strict):
    """One child and its parent, each with its own compute."""

    size: str = Field(description="Size of both.")
    parent_budget: Positive = Field(description="FLOPs of the pre-training.")
    budget: Positive = Field(description="FLOPs of the training that follows.")


class TransferExperiment(_SizesAtBudgets):
    kind: Literal["transfer"] = Field(
        description="Pre-train with one objective, go on with the other; a twin from scratch gets the same total compute."
    )
    objectives: list[Literal["clm", "mlm"]] = Field(
        ["mlm"], min_length=1, description="Objective trained last."
    )
    sizes: list[str] = Field([], description="Sizes to train.")
    budgets: list[Positive] = Field([], description="Total FLOPs of parent and child together.")
    sizes_by_budget: dict[float, list[str]] = Field(
        {}, description="Other sizes for some of the budgets."
    )
    share: Part = Field(0.2, description="Share of the total that the parent gets.")
    shares: list[Part] = Field([], description="In place of share: several in turn.")
    pairs: list[TransferPair] = Field(
        [],
        description="Children and parents that are listed one by one: size, parent_budget, budget.",
    )
    twins: list[Literal["total", "child"]] = Field(
        ["total"],
        description="Runs from scratch beside each child: total, with the compute of parent and "
        "child; child, with the child's alone.",
    )

    @model_validator(mode="after")
    def _has_runs(self) -> TransferExperiment:
        if not (self.budgets or self.pairs):
            raise ValueError("give budgets with sizes, or pairs: what is trained")
        if self.sizes and not self.budgets:
            raise ValueError(
                "sizes: without budgets nothing is trained at them; pairs have their own"
            )
        return self

    def all_sizes(self) -> list[str]:
        return [*super().all_sizes(), *(pair.size for pair in self.pairs)]


AnyExperiment = Annotated[
    IsoflopExperiment | RunsExperiment | RepetitionExperiment | TransferExperiment,
    Field(discriminator="kind"),
]
KINDS: tuple[str, ...] = tuple(
    get_args(kind.model_fields["kind"].annotation)[0]
    for kind in (IsoflopExperiment, RunsExperiment, RepetitionExperiment, TransferExperiment)
)
