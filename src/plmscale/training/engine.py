"""A DeepSpeed engine for a recipe: process group, precision, optimizer, weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.memory.states import REDUCE_BUCKET
from plmscale.model import Transformer, decay_groups
from plmscale.model.parametrization import draw
from plmscale.training.layout import Plan
from plmscale.training.state import Reader, fill


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
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device == "cuda"
        else cpu_has_bf16()
    )
    return "bf16" if native else "fp32"


def start_distributed(device: str) -> None:
    """Join the process group of the launcher's environment (gloo on CPU, NCCL on GPU)."""
    # Not a default: a launcher that took this for a machine without GPUs has said `cpu`.
    os.environ["DS_ACCELERATOR"] = device
    import deepspeed

    # Its shared-memory collectives would be compiled at first use, for a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    try:
        deepspeed.init_distributed(
            dist_backend="gloo" if device == "cpu" else "nccl",
            auto_mpi_discovery=False,
            verbose=False,
        )
    except torch.distributed.DistNetworkError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise PlmscaleError(
            f"the ranks cannot meet at {address} ({reason}); set MASTER_PORT to a free port"
        ) from None


def deepspeed_config(recipe: dict[str, Any], plan: Plan, precision: str) -> dict[str, Any]:
    """Return DeepSpeed's configuration for `recipe`."""
    if plan.zero_stage not in (1, 2, 3):
        raise PlmscaleError(
            f"zero_stage: {plan.zero_stage!r}; allowed: 1, 2, 3 (stage 0 with bf16 trains wrongly)"
        )
    return {
        "train_batch_size": plan.micro_rows * plan.accumulation * plan.world,
        "train_micro_batch_size_per_gpu": plan.micro_rows,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": recipe["optimizer"]["grad_clip"],
        "zero_optimization": {"stage": plan.zero_stage, "reduce_bucket_size": REDUCE_BUCKET},
        "zero_allow_untested_optimizer": True,
        "bf16": {
            "enabled": precision == "bf16",
            # The guard looks at the gradients, without waiting for the device.
            "check_grad_overflow": False,
            # Each bf16 gradient goes into the fp32 sum as soon as it is there, and is let go.
            "immediate_grad_update": True,
        },
        # Both default to bf16, which would round sums over micro batches and ranks.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
        # It waits for the device before and after every micro batch.
        "timers": {"throughput": {"enabled": False}},
        "wall_clock_breakdown": False,
    }


class Drawn:
    """The weights that a seed stands for, drawn on the CPU: the same on every device.

    One parameter at a time, in the model's order, as `Transformer.initialize` does, so that no rank
    ever holds all of a large model.
    """

    def __init__(self, arch: Architecture, seed: int) -> None:
        with torch.device("meta"):
            model = Transformer(arch)
        self._arch = arch
        self._left = [(name, p.shape) for name, p in model.named_parameters()]
        self._generator = torch.Generator().manual_seed(seed)
        self._name, self._values = "", torch.empty(0)

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Return a stretch of parameter `name`; names must be asked for in the model's order."""
        while self._name != name:
            self._name, shape = self._left.pop(0)
            self._values = draw(self._arch, self._name, torch.empty(shape), self._generator)
        return self._values.reshape(-1)[start : start + numel]


def build(
    recipe: dict[str, Any],
    plan: Plan,
    precision: str,
    device: str,
    weights: Reader | None = None,
    compiled: bool = False,
) -> Any:
    """Return a DeepSpeed engine around a fresh model, or one that starts from `weights`.

    The model comes to life on its device in the precision it computes in; its fp32 weights are then
    set stretch by stretch, so that no rank ever holds more of them than it owns.
    """
    import deepspeed
    from deepspeed.runtime import bf16_optimizer

    arch = Architecture.from_dict(recipe["architecture"])
    with torch.device("meta"):
        model = Transformer(arch)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32).to_empty(device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.checkpointing = plan.checkpointing
    if compiled:
        model.compile_blocks()
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
    fill(engine, weights or Drawn(arch, recipe["seed"]).read, 0.0)
    return engine


def set_rate(engine: Any, rate: float) -> None:
    """Set the learning rate; groups may have a factor of their own (muP)."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
