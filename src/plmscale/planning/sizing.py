"""How many GPUs a run takes, how it lies on them, and how long it lasts there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from plmscale import memory
from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.memory import Layout
from plmscale.memory.layout import ENOUGH_TOKENS, SWITCH
from plmscale.planning.machine import Machine, Wishes
from plmscale.planning.packing import packed_share, slots
from plmscale.planning.rates import Rates
from plmscale.schedule import evaluation_steps
from plmscale.settings import ExecutionConfig

# Tokens of a step that each GPU must have for itself. Within a node: what keeps it busy. Across
# nodes the sum of gradients must not outlast the backward pass: fp32 gradients move 8 bytes a
# parameter, a token takes 6 FLOPs a parameter, so at 0.48 x 989e12 FLOP/s and 50e9 bytes a second
# and GPU (400 Gbit/s) it takes 8 x 0.48 x 989e12 / (6 x 50e9) = 12,700 tokens to hide it.
NODE_TOKENS = ENOUGH_TOKENS
CLUSTER_TOKENS = 16384
# From the start of a job to its first step: imports, compilation, checkpoint, corpus. Assumed.
START_HOURS = 180 / 3600
AGAIN = 4 / 3
"""Checkpointing computes every forward pass, a third of the work, twice."""


@dataclass(frozen=True)
class Sized:
    """A run on its GPUs: `gpus` whole ones, or the `slots`-th part of one.

    share: of the peak that its GPUs reach, all runs on them together. hours: alone, from start to
    end, all jobs of it. gpu_hours: what it takes of the GPUs. jobs: of the longest walltime each.
    """

    gpus: int
    slots: int
    layout: Layout
    precision: str
    share: float
    hours: float
    jobs: int

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus / self.slots

    @property
    def place(self) -> str:
        """Return the GPUs for people: 16, or 1/4 where four runs share one."""
        return str(self.gpus) if self.slots == 1 else f"1/{self.slots}"


class Sizer:
    """Finds GPUs for runs; equal sizes are laid out once."""

    def __init__(
        self, machine: Machine, wishes: Wishes, rates: Rates, execution: ExecutionConfig
    ) -> None:
        self.machine, self.wishes, self.rates = machine, wishes, rates
        self.execution = execution
        self._layouts: dict[tuple[Any, ...], Layout | PlmscaleError] = {}

    def __call__(self, recipe: Mapping[str, Any], left: float = 1.0) -> Sized:
        """Return the fewest GPUs, a power of two, on which the run lasts at most `max_hours`.

        Small runs share a GPU if that is short enough. Within a node any power of two (and the
        whole node), beyond it whole nodes, as long as each GPU has tokens enough in a step. Where
        nothing is short enough: the fastest that there is. `left` is the share still to train.

        Raises PlmscaleError that names the run where it fits no number of these GPUs.
        """
        precision = self._precision(recipe)
        if self.wishes.devices:
            layout = self._lay_out(recipe, self.wishes.devices, precision)
            if isinstance(layout, PlmscaleError):
                raise PlmscaleError(f"{recipe['run_id']}: {layout}")
            return self._sized(recipe, self.wishes.devices, 1, layout, precision, left)
        best: Sized | None = None
        problem: PlmscaleError | None = None
        for gpus, parts in self._candidates(recipe):
            if best is not None and gpus > 1 and not self._busy(recipe, gpus):
                break
            layout = self._lay_out(recipe, gpus, precision)
            if isinstance(layout, PlmscaleError):
                problem = layout
                continue
            parts = min(parts, slots(recipe["n_params"], layout.memory.total, self._bytes))
            sized = self._sized(recipe, gpus, parts, layout, precision, left)
            if best is None or sized.hours < best.hours:
                best = sized
            if sized.hours <= self.wishes.max_hours:
                return sized
        if best is None:
            raise PlmscaleError(f"{recipe['run_id']}: {problem}")
        return best

    @property
    def _bytes(self) -> float:
        return self.machine.gpu.memory_bytes

    def _candidates(self, recipe: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
        """Yield GPUs and runs a GPU, from the least of a GPU to all GPUs."""
        parts = slots(recipe["n_params"]) if self.wishes.packing else 1
        while parts > 1:
            yield 1, parts
            parts //= 2
        node = self.machine.node
        gpus = 1
        while gpus < node:
            yield gpus, 1
            gpus *= 2
        gpus = node
        while gpus <= self.machine.gpus:
            yield gpus, 1
            gpus *= 2

    def _busy(self, recipe: Mapping[str, Any], gpus: int) -> bool:
        tokens = recipe["batch_rows"] * recipe["context"] / gpus
        return tokens >= (NODE_TOKENS if gpus <= self.machine.node else CLUSTER_TOKENS)

    def _precision(self, recipe: Mapping[str, Any]) -> str:
        asked = recipe["precision"]
        if asked == "bf16" and not self.machine.has_bf16:
            raise PlmscaleError(
                f"{recipe['run_id']}: training.precision is bf16, which {self.machine.gpu.name} "
                "does not compute in; set it to auto or fp32, or name another GPU"
            )
        if asked == "auto":
            return "bf16" if self.machine.has_bf16 else "fp32"
        return asked

    def _lay_out(
        self, recipe: Mapping[str, Any], gpus: int, precision: str
    ) -> Layout | PlmscaleError:
        architecture = tuple(recipe["architecture"].items())
        key = (architecture, recipe["context"], recipe["batch_rows"], precision, gpus)
        if key not in self._layouts:
            execution = self.execution
            try:
                self._layouts[key] = memory.choose(
                    Architecture.from_dict(recipe["architecture"]),
                    recipe["context"],
                    recipe["batch_rows"],
                    gpus,
                    self._bytes,
                    device="cuda",
                    precision=precision,
                    zero_stage=execution.zero_stage,
                    micro_rows=execution.micro_rows,
                    checkpointing=SWITCH[execution.activation_checkpointing],
                )
            except PlmscaleError as error:
                self._layouts[key] = error
        return self._layouts[key]

    def _sized(
        self,
        recipe: Mapping[str, Any],
        gpus: int,
        parts: int,
        layout: Layout,
        precision: str,
        left: float,
    ) -> Sized:
        share = self.rates.share(recipe["n_params"])
        if parts > 1:
            share = packed_share(share, parts)
        rate = self.machine.peak(precision) * share * 3600 * gpus / parts
        train = recipe["flops"] * left * (AGAIN if layout.checkpointing else 1.0)
        computing = (train + validation_flops(recipe) * left) / rate
        jobs = chained_jobs(computing, self.wishes.walltime)
        hours = computing + jobs * START_HOURS
        return Sized(gpus, parts, layout, precision, share, hours, jobs)


def validation_flops(recipe: Mapping[str, Any]) -> float:
    """Return the FLOPs of all validations of a run: forward passes, a third of training's.

    All but the last take `curve_rows` rows; a mixed run is judged by both objectives.
    """
    asked = recipe["validation"]
    times = len(evaluation_steps(recipe["steps"], asked["evaluations"]))
    rows = (times - 1) * min(asked["curve_rows"], asked["rows"]) + asked["rows"]
    rows *= 2 if recipe["objective"] == "mixed" else 1
    per_token = recipe["flops"] / recipe["tokens"]
    return rows * recipe["context"] * per_token / 3


def chained_jobs(hours: float, walltime: float | None) -> int:
    """Return how many jobs of at most `walltime` hours compute for `hours`, each after its start."""
    if walltime is None:
        return 1
    useful = walltime - START_HOURS
    if useful <= 0:
        raise PlmscaleError(
            f"--walltime {walltime:g}: a job needs {START_HOURS:.2g} hours to its first step"
        )
    # A run that fills its jobs exactly must not get another one for the last bit of a float.
    return max(1, math.ceil(hours / useful - 1e-9))
