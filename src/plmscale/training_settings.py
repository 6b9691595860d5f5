"""Settings of models and their training: what every key means, may be, and is by default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from plmscale.fields import Positive, Share, Strict


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
