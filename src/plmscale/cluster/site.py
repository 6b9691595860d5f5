"""What a cluster's nodes are like, as the profile says it, and what a run asks of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from plmscale import resources
from plmscale.cluster import notes
from plmscale.errors import PlmscaleError, suggest
from plmscale.laws.advice.hardware import Gpu, gpus
from plmscale.planning.machine import Machine, Wishes, machine
from plmscale.planning.rates import ASSUMED, Rates
from plmscale.planning.sizing import Sized, Sizer
from plmscale.settings import Study

# Each time that memory was short, the next attempt asks for so much more.
_MORE = 1.5
# Estimates of time are for a fresh run on an undisturbed machine.
_SLACK, _START_MINUTES = 1.5, 15
# Members of a pack, so that its list fits a command line.
_MOST_MEMBERS = 32
_PREFIX = "node_"


@dataclass(frozen=True)
class Site:
    """The `node_...` entries of a profile's default-resources; profiles/slurm explains each."""

    node_gpus: int
    node_gpu: str = ""
    node_gpu_gflops: int = 0
    node_gpu_gb: int = 0
    node_cpus: int = 8
    node_mem_mb: int = 64000
    node_most: int = 1
    node_gpu_partition: str = ""
    node_gres: str = "gpu"
    node_walltime: int = 1440
    node_run_hours: int = 24
    node_packs: int = 1
    node_pack_hours: int = 6
    node_task_mem_mb: int = 8000
    node_signal_seconds: int = 300
    node_fetch_here: int = 1

    def __post_init__(self) -> None:
        for name in ("node_cpus", "node_mem_mb", "node_most", "node_walltime", "node_run_hours"):
            if getattr(self, name) < 1:
                raise PlmscaleError(f"profile: {name}: {getattr(self, name)} is not at least 1")
        if self.node_gpus < 0:
            raise PlmscaleError(f"profile: node_gpus: {self.node_gpus} is negative")
        if self.node_signal_seconds > 30 * self.node_walltime:
            raise PlmscaleError(
                f"profile: node_signal_seconds: {self.node_signal_seconds} is more than half of "
                f"node_walltime, {self.node_walltime} minutes"
            )

    @cached_property
    def machine(self) -> Machine:
        """The GPUs that one run may have at most."""
        most = self.node_gpus * self.node_most
        if not self.node_gpu_gflops:
            try:
                return machine(self.node_gpu, most, self.node_gpus)
            except PlmscaleError:
                raise PlmscaleError(
                    f"profile: node_gpu: {self.node_gpu!r} is unknown{suggest(self.node_gpu, gpus())}"
                    " (for another one give node_gpu_gflops and node_gpu_gb)"
                ) from None
        peak, memory = self.node_gpu_gflops * 1e9, (self.node_gpu_gb or 80) * 1e9
        gpu = Gpu(self.node_gpu, peak, peak, memory, "bf16", "profile")
        return Machine(gpu, most, self.node_gpus)


def read_site(entries: Mapping[str, Any]) -> Site | None:
    """Return the site that default-resources describe; None where they describe none.

    Raises PlmscaleError for an entry that is unknown or of the wrong kind.
    """
    known = {f.name: type(f.default) for f in fields(Site)} | {"node_gpus": int}
    asked = {k: v for k, v in entries.items() if k.startswith(_PREFIX)}
    if not asked:
        return None
    values: dict[str, Any] = {}
    for name, value in asked.items():
        if name not in known:
            raise PlmscaleError(f"profile: {name}: unknown entry{suggest(name, known)}")
        try:
            values[name] = known[name](str(value).strip("'\""))
        except ValueError:
            raise PlmscaleError(f"profile: {name}: {value!r} is not {_kind(known[name])}") from None
    if "node_gpus" not in values:
        raise PlmscaleError("profile: node_gpus is missing (0: nodes without GPUs)")
    return Site(**values)


def _kind(kind: type) -> str:
    return "a whole number" if kind is int else "a number"


@dataclass(frozen=True)
class Need:
    """What one job asks for: memory is that of a node, time in minutes.

    tasks: ranks in all; cpus: cores of each; gpus: of a node, 0 for none. slots: runs that share
    the GPU. hours: what the run is expected to take, all its jobs together.
    """

    nodes: int
    tasks: int
    cpus: int
    gpus: int
    mem_mb: int
    runtime: int
    slots: int
    hours: float


class Allocator:
    """Turns recipes into needs on the nodes of a site."""

    def __init__(self, study: Study, site: Site) -> None:
        self.study, self.site = study, site
        self._sized: dict[str, Sized] = {}

    @cached_property
    def _sizer(self) -> Sizer:
        # A study asks for 1 device where it asks for nothing.
        devices = self.study.execution.devices
        wishes = Wishes(self.site.node_run_hours, devices=devices if devices > 1 else 0)
        # Assumed rates, not those that finished runs show: the job itself works these numbers out
        # again on its node, and must come to the same.
        rates = Rates(ASSUMED, "assumed", {})
        return Sizer(self.site.machine, wishes, rates, self.study.execution)

    def sized(self, recipe: Mapping[str, Any]) -> Sized:
        """Return GPUs and hours of a run, as `plmscale plan` counts them."""
        key = recipe["fingerprint"]
        if key not in self._sized:
            self._sized[key] = self._sizer(recipe)
        return self._sized[key]

    def need(self, recipe: Mapping[str, Any], checkpoint_dir: Path) -> Need:
        """Return what the next job of a run asks for; more where memory was short before.

        Raises PlmscaleError for a run that fits no number of these GPUs.
        """
        noted, site = notes.read(checkpoint_dir), self.site
        if not site.node_gpus:
            return self._without_gpus(recipe, noted["host_memory"])
        sized = self.sized(recipe)
        gpus = sized.gpus
        for _ in range(noted["device_memory"]):
            gpus = min(2 * gpus, max(gpus, site.machine.gpus))
        nodes = _nodes(gpus, site)
        here = gpus // nodes
        n = recipe["n_params"]
        # A rank copies its share of weights and moments for a checkpoint; rank 0 gathers the
        # weights to write them, and reads a parent's.
        mem = here * site.node_task_mem_mb + (1.2 * 12 * n * here / gpus + 8 * n) / 1e6
        cpus = max(1, site.node_cpus // site.node_gpus)
        return Need(
            nodes,
            gpus,
            cpus,
            here,
            self._memory(mem, noted["host_memory"]),
            self._minutes(sized.hours * sized.gpus / gpus),
            1,
            sized.hours,
        )

    def pack(self, recipes: list[Mapping[str, Any]], checkpoint_dir: Path) -> Need:
        """Return what a pack of small runs asks for: one GPU, and memory for those side by side."""
        site, noted = self.site, notes.read(checkpoint_dir)
        sized = [self.sized(recipe) for recipe in recipes]
        slots = min(min(s.slots for s in sized), len(recipes))
        hours = max(sum(s.hours for s in sized) / slots, max(s.hours for s in sized))
        largest = max(recipe["n_params"] for recipe in recipes)
        mem = slots * (site.node_task_mem_mb + 22 * largest / 1e6)
        cpus = max(1, site.node_cpus // site.node_gpus)
        return Need(
            1,
            1,
            cpus,
            1,
            self._memory(mem, noted["host_memory"]),
            self._minutes(hours),
            slots,
            hours,
        )

    def _without_gpus(self, recipe: Mapping[str, Any], short: int) -> Need:
        execution = self.study.execution
        threads = resources.threads(recipe, execution.threads)
        hours = recipe["flops"] / (threads * resources.CORE_FLOPS) / 3600
        mem = resources.memory_mb(recipe) * execution.devices
        return Need(
            1,
            execution.devices,
            threads,
            0,
            self._memory(mem, short),
            self._minutes(hours),
            1,
            hours,
        )

    def _memory(self, mem_mb: float, short: int) -> int:
        return min(self.site.node_mem_mb, math.ceil(mem_mb * _MORE**short))

    def _minutes(self, hours: float) -> int:
        return min(self.site.node_walltime, math.ceil(60 * hours * _SLACK) + _START_MINUTES)


def _nodes(gpus: int, site: Site) -> int:
    """Return the fewest nodes that share `gpus` evenly."""
    for nodes in range(math.ceil(gpus / site.node_gpus), site.node_most + 1):
        if gpus % nodes == 0:
            return nodes
    raise PlmscaleError(
        f"{gpus} GPUs a run do not lie evenly on at most {site.node_most} nodes of "
        f"{site.node_gpus}; change execution.devices, or node_most in the profile"
    )


def most_members(recipes: list[Mapping[str, Any]], allocator: Allocator) -> int:
    """Return how many of `recipes`, from the first on, one pack should take."""
    limit, hours = allocator.site.node_pack_hours, 0.0
    for count, recipe in enumerate(recipes):
        sized = allocator.sized(recipe)
        hours += sized.hours / sized.slots
        if count >= _MOST_MEMBERS or (hours > limit and count >= sized.slots):
            return count
    return len(recipes)
