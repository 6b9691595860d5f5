"""How a run lies on its devices: rows a micro batch, ZeRO stage, activation checkpointing.

None of it changes what is learned: a batch is the same rows, whoever computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from plmscale import memory
from plmscale.architecture import Architecture
from plmscale.training.data import NO_SAMPLE


@dataclass(frozen=True)
class Plan:
    """How a batch of rows is laid over ranks and micro batches."""

    rank: int
    world: int
    micro_rows: int
    accumulation: int
    zero_stage: int = 1
    checkpointing: bool = False

    def samples(self, step: int, batch_rows: int) -> list[int]:
        """Return the global sample numbers of this rank at step `step` >= 1, in order.

        Where the ranks' micro batches hold more rows than the batch, NO_SAMPLE fills the last.
        """
        first = (step - 1) * batch_rows
        per_micro = self.world * self.micro_rows
        places = [
            micro * per_micro + self.rank * self.micro_rows + row
            for micro in range(self.accumulation)
            for row in range(self.micro_rows)
        ]
        return [first + place if place < batch_rows else NO_SAMPLE for place in places]


def plan_batch(
    arch: Architecture,
    batch_rows: int,
    context: int,
    rank: int,
    world: int,
    *,
    device: str,
    precision: str,
    zero_stage: int = 0,
    micro_rows: int = 0,
    checkpointing: bool | None = None,
) -> Plan:
    """Lay `batch_rows` over `world` ranks; 0 and None are solved from the device's memory.

    Raises PlmscaleError where the model does not fit, and says on how many devices it would.
    """
    found = memory.choose(
        arch,
        context,
        batch_rows,
        world,
        device_bytes(device),
        device=device,
        precision=precision,
        zero_stage=zero_stage,
        micro_rows=micro_rows,
        checkpointing=checkpointing,
    )
    return Plan(
        rank, world, found.micro_rows, found.accumulation, found.zero_stage, found.checkpointing
    )


def device_bytes(device: str) -> float:
    """Return the memory of one device in bytes; a CPU's is not asked, Snakemake's mem_mb bounds it."""
    if device == "cuda":
        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return float("inf")
