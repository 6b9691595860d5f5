"""The typed settings of a study: what every key means, may be, and is by default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.corpus.config import CorpusConfig
from plmscale.errors import suggest
from plmscale.paper.fetch import URL

Objective = Literal["clm", "mlm", "mixed"]


def _slug(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise ValueError("may hold only letters, digits, '_', '.' and '-'")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Unknown keys are errors: a typo must not pass as a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Strict):
    preset: Literal["paper", "modern"] = Field(
        "paper",
        description="paper: LayerNorm with bias, GeGLU, biased linears (Cheng et al. 2024); "
        "modern: RMSNorm, SwiGLU, no biases.",
    )
    context: int = Field(
        1024, ge=16, description="Tokens in a row; several proteins are packed into one."
    )
    packing: Literal["within", "across"] = Field(
        "within",
        description="within: attention and CLM targets stay inside each protein of a row; "
        "across: a row is one text.",
    )
    vocab_size: int = Field(
        128, ge=32, description="Rows of the embedding; 29 are used, the rest pads."
    )
    tie_embeddings: bool = Field(True, description="Input and output embedding share one matrix.")
    rope_theta: Positive = Field(10000.0, description="Base of the rotary position embedding.")
    init_std: Positive = Field(0.02, description="Standard deviation of initial weights.")
    norm_eps: Positive = Field(1e-5, description="Epsilon of the norms.")
    mup_base_width: int = Field(
        0,
        ge=0,
        description="Width for which lr and init_std are meant: other widths scale them by muP (Yang "
        "et al. 2022), so that one learning rate serves all sizes. 0: standard parametrization.",
    )


class SizeConfig(Strict):
    n_layers: int = Field(ge=1, description="Transformer blocks.")
    d_model: int = Field(ge=2, description="Width.")
    n_heads: int | None = Field(
        None, ge=1, description="Attention heads; default: heads of 64 (at least one)."
    )
    d_ff: int | None = Field(
        None, ge=1, description="Width inside the MLP; default: floor(8 d / 3)."
    )


class TrainingConfig(Strict):
    batch_rows: dict[float, int] = Field(
        {0: 512, 1e9: 1024},
        description="Rows a step, by size: the entry with the largest N not above the model's "
        "counts. Independent of the number of devices.",
    )
    min_steps: int = Field(
        0, ge=0, description="Rows a step are halved until a run makes at least so many steps: a budget of few "
        "tokens is better spent on many small steps.",
    )  # fmt: skip
    lr: dict[float, float] = Field(
        {13.2e6: 1e-3, 25e6: 6e-4, 49e6: 6e-4, 85e6: 5.5e-4, 130e6: 5.5e-4, 200e6: 5e-4, 230e6: 5e-4,
         470e6: 4e-4, 880e6: 3.5e-4, 1.2e9: 3e-4},
        description="Peak learning rate by size N: straight lines in log-log between the points, "
        "constant beyond the ends. The default are the paper's points.",
    )  # fmt: skip
    betas: tuple[Share, Share] = Field((0.9, 0.95), description="AdamW's betas.")
    eps: Positive = Field(1e-8, description="AdamW's epsilon.")
    weight_decay: float = Field(
        0.1, ge=0, description="On matrices; norms, biases and embeddings have none."
    )
    grad_clip: Positive = Field(1.0, description="Largest global gradient norm.")
    warmup_fraction: Share = Field(
        0.025, description="Share of the steps in which the rate rises linearly."
    )
    transfer_warmup_fraction: Share = Field(
        0.05, description="The same for a run that starts from another's weights."
    )
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine",
        description="cosine: as in the paper; wsd: warm up, stay, decay at the end: runs of one size "
        "and seed then share their beginning, which is computed once.",
    )
    final_fraction: Share = Field(
        0.1, description="The decay ends at this share of the peak, at the last step."
    )
    warmup_steps: int = Field(
        100, ge=0, description="wsd: steps of the linear rise, whatever the length of the run."
    )
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="wsd: share of the run in which the rate decays."
    )
    decay: Literal["sqrt", "linear"] = Field(
        "sqrt", description="wsd: shape of the decay, 1 - sqrt(progress) or 1 - progress."
    )
    mask_ratio: Share = Field(
        0.15, description="MLM: share of residues chosen; 80 % masked, 10 % random, 10 % kept."
    )
    clm_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="mixed: share of the rows that are trained as CLM, the rest as MLM."
    )
    nonfinite_limit: int = Field(
        10,
        ge=1,
        description="A step whose gradients are not finite is not taken; so many in a row end the run "
        "as diverged.",
    )
    spike_factor: float = Field(
        0.0,
        ge=0,
        description="A step whose gradient norm is over so many times its running mean is not taken "
        "either; 0: such steps are taken.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where processor or GPU computes in it, else fp32."
    )
    seed: int = Field(1, ge=0, description="Initial weights.")
    data_seed: int = Field(
        2024, ge=0, description="Order of the data and masks: the same for every size."
    )

    @model_validator(mode="after")
    def _tables_are_usable(self) -> TrainingConfig:
        if not self.batch_rows or min(self.batch_rows) > 0 or min(self.batch_rows.values()) < 1:
            raise ValueError("batch_rows must start at N = 0 and hold numbers of at least 1")
        if not self.lr or min(self.lr) <= 0 or min(self.lr.values()) <= 0:
            raise ValueError("lr must hold at least one point N: rate, both above 0")
        return self


class ValidationConfig(Strict):
    rows: int = Field(
        3072,
        ge=1,
        description="Rows of the fixed validation set; the same, with the same masks, for every run.",
    )
    evaluations: int = Field(
        20, ge=1, description="Validations a run, the last one after its last step."
    )
    curve_rows: int = Field(256, ge=1, description="Rows used for all validations but the last.")
    seed: int = Field(7, ge=0, description="Which rows, and which positions are masked.")


class ExecutionConfig(Strict):
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads a run; 0: one below 10 M parameters, else two or more by size.",
    )
    devices: int = Field(1, ge=1, description="Processes (GPUs) a run.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="DeepSpeed's ZeRO stage; 0: the lowest that fits the devices' memory."
    )
    micro_rows: int = Field(
        0, ge=0, description="Rows of one forward pass on a device; 0: by memory, up to 16."
    )
    activation_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="Recompute activations in the backward pass; auto: where memory asks."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Compile the model's blocks; auto: on GPUs, for runs over 1e17 FLOPs."
    )
    checkpoint_seconds: Positive = Field(
        60.0, description="Least time between two checkpoints of a run."
    )
    keep_checkpoints: bool = Field(
        False, description="Keep the optimizer's state of finished runs."
    )
    fork_server: Literal["auto", "never"] = Field(
        "auto",
        description="auto: CPU runs are forked from one process that has imported torch already.",
    )


class _Experiment(Strict):
    objectives: list[Objective] = Field(
        ["clm", "mlm"],
        min_length=1,
        description="clm, mlm, or mixed: some rows the one way, some the other.",
    )
    corpus: Slug = Field("mix", description="One of corpus.mixes.")
    seeds: list[int] = Field(
        [], description="Seeds to repeat every run with; default: training.seed."
    )
    training: dict[str, Any] = Field(
        {}, description="Keys of `training` that differ in this experiment."
    )


class IsoflopExperiment(_Experiment):
    kind: Literal["isoflop"] = Field(description="Every size at every budget.")
    budgets: list[Positive] = Field(min_length=1, description="Training FLOPs (6 N D).")
    sizes: list[str] = Field(
        min_length=1, description="Names from `sizes` or of the paper (`plmscale sizes`)."
    )
    sizes_by_budget: dict[float, list[str]] = Field(
        {}, description="Other sizes for some of the budgets."
    )


class RepetitionExperiment(_Experiment):
    kind: Literal["repetition"] = Field(description="The same tokens from several corpora.")
    corpora: list[Slug] = Field(
        min_length=1, description="Corpora (from corpus.mixes) to train on in turn."
    )
    sizes: list[str] = Field(min_length=1, description="Sizes to train.")
    tokens: Positive = Field(description="Tokens of each run.")


class TransferExperiment(_Experiment):
    kind: Literal["transfer"] = Field(
        description="Pre-train with one objective, go on with the other; a twin from scratch gets the same total compute."
    )
    objectives: list[Literal["clm", "mlm"]] = Field(
        ["mlm"], min_length=1, description="Objective trained last."
    )
    sizes: list[str] = Field(min_length=1, description="Sizes to train.")
    budgets: list[Positive] = Field(
        min_length=1, description="Total FLOPs of parent and child together."
    )
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of the total that the parent gets."
    )


Experiment = Annotated[
    IsoflopExperiment | RepetitionExperiment | TransferExperiment, Field(discriminator="kind")
]


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
    grid: dict[Slug, Experiment] = Field(
        {}, description="Experiments; a run that two of them ask for is trained once."
    )
    laws: LawsConfig = Field(LawsConfig(), description="What is fitted.")
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
        if not self.logs and len(own) < 2:
            missing = "grid" if "corpus" in own else "corpus"
            raise ValueError(f"{missing}: this key is required (or logs, to read finished runs)")
        return self

    @model_validator(mode="after")
    def _names_resolve(self) -> Study:
        for name, experiment in self.grid.items():
            where = f"grid.{name}"
            mixes = list(self.corpus.mixes)
            asked = getattr(experiment, "corpora", None) or [experiment.corpus]
            for mix in asked:
                if mix not in mixes:
                    raise ValueError(
                        f"{where}: corpus {mix!r} is not in corpus.mixes; allowed: {', '.join(mixes)}"
                    )
            sizes = [*experiment.sizes]
            if isinstance(experiment, IsoflopExperiment):
                sizes += [s for group in experiment.sizes_by_budget.values() for s in group]
                if odd := set(experiment.sizes_by_budget) - set(experiment.budgets):
                    raise ValueError(
                        f"{where}.sizes_by_budget: {min(odd):g} is not among the budgets"
                    )
            for size in sizes:
                if size not in self.sizes and size not in PAPER_SIZES:
                    known = [*self.sizes, *PAPER_SIZES]
                    raise ValueError(f"{where}: size {size!r} is unknown{suggest(size, known)}")
            self.training_of(experiment, where)
        if len(self.laws.methods) != len(set(self.laws.methods)):
            raise ValueError("laws.methods: a method is named twice")
        return self

    def training_of(self, experiment: _Experiment, where: str = "grid") -> TrainingConfig:
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
