"""How a run is laid over its devices so that it fits: ZeRO stage, micro batch, checkpointing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.memory.predict import Memory, predict
from plmscale.memory.states import Device, Precision

# Share of a device that may be planned: the rest is for the CUDA context and NCCL (about 1 GB)
# and for the allocator's fragmentation.
USABLE = 0.92
# Largest micro batch in rows.
MICRO_ROWS = 16
# Tokens of a micro batch that keep a GPU busy: below it checkpointing is worth its third of work.
ENOUGH_TOKENS = 2048
# Tokens of a micro batch on a CPU: what stays in its cache.
MICRO_TOKENS_CPU = 8192
_MOST_DEVICES = 1 << 16
# What a setting says; `auto` leaves it to `choose`.
SWITCH: dict[str, bool | None] = {"auto": None, "on": True, "off": False}


@dataclass(frozen=True)
class Layout:
    """How a batch lies on each device.

    A device computes `accumulation` micro batches of `micro_rows` rows; the last ones may be
    partly padding where the batch does not divide.
    """

    zero_stage: int
    micro_rows: int
    accumulation: int
    checkpointing: bool
    memory: Memory

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "memory": self.memory.to_dict()}


def choose(
    arch: Architecture,
    context: int,
    batch_rows: int,
    world: int,
    device_bytes: float,
    *,
    device: Device,
    precision: Precision,
    zero_stage: int = 0,
    micro_rows: int = 0,
    checkpointing: bool | None = None,
) -> Layout:
    """Lay `batch_rows` rows of `context` tokens over `world` devices of `device_bytes` each.

    What is given is kept; 0 and None are solved: the lowest ZeRO stage that fits (a higher one
    communicates more), without checkpointing where a micro batch of ENOUGH_TOKENS fits, then the
    largest micro batch, then as even as possible. Only if no stage holds that many tokens, fewer
    are taken. On a CPU the micro batch is what its cache holds, whatever the memory.

    In bf16, rows of 1,024 tokens, 512 a batch (1,024 above 1 B parameters), on GPUs of 80e9 bytes,
    it chooses (stage, micro rows x micro batches, c: checkpointing, memory planned):

        size    1 GPU                8 GPUs               16 GPUs              32 GPUs
        85M     1, 16 x 32, 9 GB     1, 16 x 4, 8 GB      1, 16 x 2, 8 GB      1, 16 x 1, 8 GB
        470M    1, 16 x 32, 31 GB    1, 16 x 4, 26 GB     1, 16 x 2, 26 GB     1, 16 x 1, 26 GB
        1.2B    1, 16 x 64, 58 GB    1, 16 x 8, 45 GB     1, 16 x 4, 44 GB     1, 16 x 2, 44 GB
        2.8B    1, 5 x 205, 72 GB    1, 12 x 11, 72 GB    1, 11 x 6, 65 GB     1, 11 x 3, 64 GB
        6B      needs 112 GB         1, 4 x 32, 73 GB     1, 4 x 16, 68 GB     1, 5 x 7, 72 GB
        7B      needs 132 GB         1, 2 x 64, 68 GB     1, 3 x 22, 70 GB     1, 4 x 8, 74 GB
        10B     needs 194 GB         2, 3 x 43, 71 GB     2, 4 x 16, 69 GB     1, 6 x 6 c, 73 GB

    Raises PlmscaleError where nothing fits, with the bytes needed and the least number of devices
    that would hold it.
    """
    if min(context, batch_rows, world) < 1 or device_bytes <= 0:
        raise PlmscaleError(
            f"context {context}, batch_rows {batch_rows}, devices {world} and their memory must be "
            "positive"
        )
    local = math.ceil(batch_rows / world)
    stages = (zero_stage,) if zero_stage else (1, 2, 3)
    options = (False, True) if checkpointing is None else (checkpointing,)

    def memory(stage: int, rows: int, kept: bool, devices: int = world) -> Memory:
        return predict(
            arch, context, rows, devices, stage, kept, device=device, precision=precision
        )

    def layout(stage: int, rows: int, kept: bool) -> Layout:
        accumulation = math.ceil(local / rows)
        # Equally full micro batches; a given number of rows stays.
        rows = micro_rows or math.ceil(local / accumulation)
        return Layout(stage, rows, accumulation, kept, memory(stage, rows, kept))

    rows = micro_rows or min(local, _limit(context, device))
    budget = USABLE * device_bytes
    if device == "cpu" and not micro_rows:
        rows = max(n for n in range(1, rows + 1) if local % n == 0)
    shrinks = device != "cpu" and not micro_rows
    enough = min(rows, math.ceil(ENOUGH_TOKENS / context)) if shrinks else rows
    for least in dict.fromkeys((enough, 1 if shrinks else rows)):
        for stage in stages:
            for kept in options:
                for n in range(rows, least - 1, -1):
                    if memory(stage, n, kept).total <= budget:
                        return layout(stage, n, kept)

    least = 1 if shrinks else rows

    def needed(devices: int) -> int:
        return min(memory(s, least, k, devices).total for s in stages for k in options)

    raise PlmscaleError(
        f"{arch.name} ({arch.n_params:.3g} parameters, {context} tokens a row): needs "
        f"{needed(world) / 1e9:.1f} GB on each of {world} device(s), {budget / 1e9:.1f} GB of "
        f"{device_bytes / 1e9:.1f} GB may be planned; {_fits_on(needed, world, budget)}"
    )


def _limit(context: int, device: Device) -> int:
    return max(1, min(MICRO_ROWS, MICRO_TOKENS_CPU // context)) if device == "cpu" else MICRO_ROWS


def _fits_on(needed: Any, world: int, budget: float) -> str:
    """Say on how many devices, at least, `needed(devices)` bytes are within `budget`."""
    over, fits = world, world * 2
    while needed(fits) > budget:
        if fits >= _MOST_DEVICES:
            return "no number of such devices holds it: use ones with more memory, or shorter rows"
        over, fits = fits, fits * 2
    while fits - over > 1:
        middle = (over + fits) // 2
        over, fits = (middle, fits) if needed(middle) > budget else (over, middle)
    return f"use at least {fits} such devices, or ones with more memory"
