"""A DeepSpeed engine for a recipe: precision, micro batches, optimizer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.model import Transformer, decay_groups

# Largest micro batch: 16 rows, as the memory estimate assumes, and what stays in a CPU's cache.
_MICRO_ROWS = 16
_MICRO_TOKENS_CPU = 8192


@dataclass(frozen=True)
class Plan:
    """How a batch of rows is laid over ranks and micro batches."""

    rank: int
    world: int
    micro_rows: int
    accumulation: int

    def samples(self, step: int, batch_rows: int) -> list[int]:
        """Return the global sample numbers of this rank at step `step` >= 1, in order."""
        first = (step - 1) * batch_rows
        per_micro = self.world * self.micro_rows
        return [
            first + micro * per_micro + self.rank * self.micro_rows + row
            for micro in range(self.accumulation)
            for row in range(self.micro_rows)
        ]


def plan_batch(batch_rows: int, context: int, rank: int, world: int, device: str) -> Plan:
    """Lay `batch_rows` over `world` ranks; the batch itself never depends on the ranks."""
    if batch_rows % world:
        raise PlmscaleError(
            f"batch_rows: {batch_rows} rows do not divide among {world} devices; "
            "use a number of devices that divides batch_rows"
        )
    local = batch_rows // world
    limit = _MICRO_ROWS
    if device == "cpu":
        limit = max(1, min(limit, _MICRO_TOKENS_CPU // context))
    micro = max(rows for rows in range(1, min(limit, local) + 1) if local % rows == 0)
    return Plan(rank, world, micro, local // micro)


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 natively (elsewhere bf16 is slower than fp32)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(asked: str, device: str) -> str:
    """Turn `auto` into bf16 where the hardware has it natively, else fp32."""
    if asked != "auto":
        return asked
    native = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bf16()
    return "bf16" if native else "fp32"


def start_distributed(device: str) -> None:
    """Join the process group of the launcher's environment (gloo on CPU, NCCL on GPU)."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    # Its shared-memory collectives would be compiled at first use, for a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="gloo" if device == "cpu" else "nccl",
        auto_mpi_discovery=False,
        verbose=False,
    )


def deepspeed_config(recipe: dict[str, Any], plan: Plan, precision: str) -> dict[str, Any]:
    """Return DeepSpeed's configuration for `recipe`."""
    stage = recipe["zero_stage"]
    if stage not in (1, 2, 3):
        raise PlmscaleError(
            f"zero_stage: {stage!r}; allowed: 1, 2, 3 (stage 0 with bf16 trains wrongly)"
        )
    return {
        "train_batch_size": recipe["batch_rows"],
        "train_micro_batch_size_per_gpu": plan.micro_rows,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": recipe["optimizer"]["grad_clip"],
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        # Both default to bf16, which would round sums over micro batches and ranks.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def build(
    recipe: dict[str, Any],
    plan: Plan,
    precision: str,
    device: str,
    weights: dict[str, Tensor] | None = None,
) -> Any:
    """Return a DeepSpeed engine around a fresh model, or one that starts from `weights`."""
    import deepspeed
    from deepspeed.runtime import bf16_optimizer

    model = Transformer(Architecture.from_dict(recipe["architecture"]))
    if weights is None:
        # On the CPU whatever the device: a seed means the same weights everywhere.
        model.initialize(recipe["seed"])
    else:
        model.load_state_dict(weights)
    model.to(device)
    settings = recipe["optimizer"]
    groups = decay_groups(model, settings["weight_decay"])
    optimizer = torch.optim.AdamW(
        groups, lr=0.0, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True
    )
    # It prints memory tables and collects garbage six times, a second a start.
    bf16_optimizer.see_memory_usage = lambda *_args, **_kwargs: None
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_config(recipe, plan, precision),
        dist_init_required=False,
    )
    return engine


def full_weights(engine: Any) -> dict[str, Tensor]:
    """Gather the fp32 weights by name on every rank (all ranks must call it)."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in engine.module.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        # A parameter whose optimizer keeps no fp32 copy is fp32 itself.
        weights[name] = (parameter if full is None else full).detach().float().cpu().clone()
    return weights
