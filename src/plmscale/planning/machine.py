"""The GPUs a plan is made for, and what people wish of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plmscale.errors import PlmscaleError
from plmscale.laws.advice.hardware import Gpu, find_gpu

PER_NODE = 8


@dataclass(frozen=True)
class Machine:
    """`gpus` equal GPUs in nodes of `per_node`; the last (or only) node may have fewer."""

    gpu: Gpu
    gpus: int
    per_node: int

    @property
    def node(self) -> int:
        """GPUs of a full node."""
        return min(self.per_node, self.gpus)

    @property
    def nodes(self) -> list[int]:
        """GPUs of each node."""
        full, rest = divmod(self.gpus, self.per_node)
        return [self.per_node] * full + [rest] * bool(rest)

    @property
    def has_bf16(self) -> bool:
        return self.gpu.format.startswith("bf16")

    def peak(self, precision: str) -> float:
        """Return one GPU's peak in FLOP/s in bf16 or fp32."""
        return self.gpu.peak_flops if precision == "bf16" else self.gpu.fp32_flops


@dataclass(frozen=True)
class Wishes:
    """What a plan is asked for beside the machine.

    max_hours: how long a run may last before it is given more GPUs.
    walltime: longest job in hours that a queue allows, or None.
    price: of a GPU-hour, or None; `currency` names it.
    devices: GPUs of every run, 0: by size.
    packing: small runs share a GPU.
    corpus_hours: from now until the corpus is there.
    """

    max_hours: float = 24.0
    walltime: float | None = None
    price: float | None = None
    currency: str = ""
    devices: int = 0
    packing: bool = True
    corpus_hours: float = 0.0

    def __post_init__(self) -> None:
        _positive("--max-hours", self.max_hours)
        if self.walltime is not None:
            _positive("--walltime", self.walltime)
        for name, value in (("--price", self.price), ("--corpus-hours", self.corpus_hours)):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise PlmscaleError(f"{name} {value:g} is not a number of at least 0")
        if self.devices < 0:
            raise PlmscaleError(f"--devices {self.devices} is not a positive number")


def machine(name: str, gpus: int, per_node: int = PER_NODE) -> Machine:
    """Return `gpus` GPUs called `name`; PlmscaleError for an unknown one or a number below 1."""
    for option, value in (("--gpus", gpus), ("--gpus-per-node", per_node)):
        if value < 1:
            raise PlmscaleError(f"{option} {value} is not a positive number")
    return Machine(find_gpu(name), gpus, per_node)


def _positive(option: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise PlmscaleError(f"{option} {value:g} is not a positive number")
