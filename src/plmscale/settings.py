"""The typed settings of a study: what every key means, may be, and is by default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.corpus.config import CorpusConfig
from plmscale.downstream.settings import DownstreamConfig
from plmscale.errors import suggest
from plmscale.experiments import AnyExperiment, Experiment
from plmscale.fields import Positive, Slug, Strict
from plmscale.paper.fetch import URL
from plmscale.training_settings import (
    ExecutionConfig,
    ModelConfig,
    SizeConfig,
    TrainingConfig,
    ValidationConfig,
)

Method = Literal[
    "isoflop_raw_loglog", "isoflop_raw_linear", "isoflop_parabola", "isoflop_spline",
    "isoflop_joint", "envelope", "parametric", "loss_n", "loss_d", "loss_c",
]  # fmt: skip


class LawsConfig(Strict):
    methods: list[Method] = Field(
        list(get_args(Method)), min_length=1, description="Estimators to run side by side."
    )
    flops: Literal["flops_6nd", "flops"] = Field(
        "flops_6nd",
        description="Compute as 6 N D (the paper) or exact, with attention and output head.",
    )
    bootstrap: int = Field(
        1000, ge=0, description="Bootstrap replicates behind each 95 % interval."
    )
    seed: int = Field(0, ge=0, description="Seed of the bootstrap.")
    fit_up_to: Positive | None = Field(
        None,
        description="Test of foresight: laws are also fitted to budgets up to this one alone and "
        "asked for the larger ones. Default: all budgets but the largest.",
    )


def _as_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class LogsConfig(Strict):
    """Logs that others released, in place of a corpus and a grid of our own."""

    path: str = Field(
        "", description="A folder that holds the logs already; empty: they are downloaded."
    )
    url: str = Field(URL, description="Archive to download, pinned to a commit.")
    checksums: str = Field(
        "resources/cheng2024-logs.sha256",
        description="SHA-256 of every file that is taken from the archive, relative to the checkout.",
    )
    points_url: str = Field(
        "https://raw.githubusercontent.com/cxysteven/ScalingProteinLM/"
        "c6ca843c2074a3119305f88420e4829e6ac0f0d4/analysis/results/isoflop_points.csv",
        description="The points of the paper's main figure, as its authors entered them by hand; "
        "a file isoflop_points.csv beside the folder of the logs goes before it.",
    )
    points_sha256: str = Field(
        "2c3ab029e2beeae3c8bf8b2639d7baf0c84604834443bfc6b7e28dfde6cc1882",
        description="SHA-256 of what points_url gives.",
    )
    last: int = Field(
        5, ge=1, description="A run's loss is the mean of so many last validation points."
    )
    jitter: Literal["remove", "keep"] = Field(
        "remove",
        description="remove: what runs that were validated on the same batches share in their "
        "jitter is taken off their final losses; keep: losses as logged.",
    )


Logs = Annotated[LogsConfig, BeforeValidator(_as_path)]


class Study(Strict):
    """A whole study. Everything the workflow does follows from one of these."""

    study: Slug = Field(description="Name; results go to <results>/<study>/.")
    description: str = Field("", description="A sentence for the report.")
    results: str = Field("results", description="Folder of all results.")
    logs: Logs | None = Field(
        None,
        description="Logs of finished runs to read in place of training: then neither corpus nor "
        "grid. A text is the path of their folder.",
    )
    corpus: CorpusConfig | None = Field(
        None, description="Sources, cleaning, split, shards and mixes."
    )
    model: ModelConfig = Field(ModelConfig(), description="What all models of the study share.")
    sizes: dict[Slug, SizeConfig] = Field(
        {}, description="Shapes of the study's own, beside the paper's."
    )
    training: TrainingConfig = Field(TrainingConfig(), description="How every model is trained.")
    validation: ValidationConfig = Field(
        ValidationConfig(), description="How every model is measured."
    )
    grid: dict[Slug, AnyExperiment] = Field(
        {}, description="Experiments; a run that two of them ask for is trained once."
    )
    laws: LawsConfig = Field(LawsConfig(), description="What is fitted.")
    downstream: DownstreamConfig | None = Field(
        None,
        description="What models are good for: tasks, and which models are put through them "
        "(docs/downstream.md); null: nothing.",
    )
    execution: ExecutionConfig = Field(
        ExecutionConfig(), description="How it is run; changes nothing in the results."
    )
    subsets: dict[Slug, dict[str, Any]] = Field(
        {}, description="Named selections: column: value or list of values."
    )

    @model_validator(mode="after")
    def _runs_have_one_origin(self) -> Study:
        own = [name for name in ("corpus", "grid") if getattr(self, name)]
        if self.logs and own:
            raise ValueError(f"logs: runs come from released logs, so {own[0]} must be absent")
        if self.logs and self.downstream:
            raise ValueError("downstream: runs that are read from logs have no weights to evaluate")
        if not self.logs and len(own) < 2:
            missing = "grid" if "corpus" in own else "corpus"
            raise ValueError(
                f"{missing}: this key is required (or logs, to read finished runs; or overlays, the "
                "file of the study that this one changes)"
            )
        return self

    @model_validator(mode="after")
    def _names_resolve(self) -> Study:
        for name, experiment in self.grid.items():
            where = f"grid.{name}"
            mixes = list(self.corpus.mixes)
            for mix in experiment.all_mixes():
                if mix not in mixes:
                    raise ValueError(
                        f"{where}: corpus {mix!r} is not in corpus.mixes{suggest(mix, mixes)}"
                    )
            for size in experiment.all_sizes():
                if size not in self.sizes and size not in PAPER_SIZES:
                    known = [*self.sizes, *PAPER_SIZES]
                    raise ValueError(f"{where}: size {size!r} is unknown{suggest(size, known)}")
            self.training_of(experiment, where)
        if len(self.laws.methods) != len(set(self.laws.methods)):
            raise ValueError("laws.methods: a method is named twice")
        return self

    def training_of(self, experiment: Experiment, where: str = "grid") -> TrainingConfig:
        """Return the training settings of one experiment: the study's, with its own on top."""
        if unknown := set(experiment.training) - set(TrainingConfig.model_fields):
            key = min(unknown)
            raise ValueError(
                f"{where}.training.{key}: unknown key{suggest(key, list(TrainingConfig.model_fields))}"
            )
        return TrainingConfig.model_validate({**self.training.model_dump(), **experiment.training})

    def architecture(self, size: str) -> Architecture:
        """Return the shape behind a size's name, the study's own before the paper's."""
        shared = self.model.model_dump(exclude={"context", "packing"})
        if size in self.sizes:
            own = self.sizes[size]
            heads = own.n_heads or max(1, own.d_model // 64)
            return Architecture(
                size, own.n_layers, own.d_model, heads, own.d_ff or 8 * own.d_model // 3, **shared
            )
        paper = PAPER_SIZES[size].to_dict()
        return Architecture(**{**paper, **shared})

    @property
    def folder(self) -> Path:
        return Path(self.results) / self.study
