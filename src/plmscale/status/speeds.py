"""Time left and time spent: from speeds that were measured, by size, else from a stated assumption."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.grid import Run
from plmscale.laws.advice.hardware import find_gpu
from plmscale.planning import packing
from plmscale.planning import rates as planning
from plmscale.schedule import decay_start
from plmscale.settings import Study
from plmscale.status.rows import ENDED


@dataclass(frozen=True)
class Plan:
    """What the plan expects of a GPU: its share of the peak by size, and how many runs share it."""

    gpu: str
    peak_flops: float
    share: Callable[[float], float]
    sharers: Callable[[float], int]

    def device_speed(self, n_params: float, flops_per_token: float) -> float:
        """Return tokens a second of one GPU, all runs that share it together."""
        return self.peak_flops * self.share(n_params) / flops_per_token


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of a run on one device, by size.

    `measured`: medians over finished and running runs, by n_params; `plan`: what is assumed where
    nothing was measured, None where no GPU is known.
    """

    measured: Mapping[float, float] = field(default_factory=dict)
    plan: Plan | None = None

    def of(self, n_params: float, flops_per_token: float) -> float | None:
        """Return tokens a second at a size, or None where they were neither measured nor assumed.

        Between measured sizes a straight line in log-log; beyond them the nearest one's FLOP/s.
        """
        known = sorted(self.measured.items())
        if not known:
            if self.plan is None:
                return None
            device = self.plan.device_speed(n_params, flops_per_token)
            return device / self.plan.sharers(n_params)
        if n_params <= known[0][0]:
            return known[0][1] * known[0][0] / n_params
        for (n0, v0), (n1, v1) in pairwise(known):
            if n_params <= n1:
                t = math.log(n_params / n0) / math.log(n1 / n0)
                return math.exp(math.log(v0) * (1 - t) + math.log(v1) * t)
        return known[-1][1] * known[-1][0] / n_params

    def sharers(self, n_params: float) -> int:
        """Return how many runs of a size share a device that have not said so themselves."""
        return self.plan.sharers(n_params) if self.plan and not self.measured else 1


def plan_on(study: Study, gpu: str) -> Plan:
    """Return what the plan expects of GPUs of this name; PlmscaleError where it is unknown."""
    found = find_gpu(gpu)
    rates = planning.rates(study, found.name)

    def share(n_params: float) -> float:
        return packing.packed_share(rates.share(n_params), packing.slots(n_params))

    return Plan(found.name, found.peak_flops, share, packing.slots)


def measure(study: Study, rows: Sequence[Mapping[str, Any]], gpu: str) -> Speeds:
    """Return the speeds that `rows` show; a GPU that is not named is the one they ran on."""
    by_size: dict[float, list[float]] = {}
    for row in rows:
        # A lost run is short, and its time mostly its start.
        speed = row["tokens_per_wall_second"] or row["tokens_per_second"]
        if speed and row["status"] in ("done", "running"):
            by_size.setdefault(row["n_params"], []).append(speed / (row["devices"] or 1))
    gpu = gpu or next(filter(None, (_gpu_of(row["device"]) for row in rows)), "")
    measured = {n: statistics.median(values) for n, values in by_size.items()}
    return Speeds(measured, plan_on(study, gpu) if gpu else None)


def _gpu_of(device: str | None) -> str:
    if not device or device == "cpu":
        return ""
    try:
        return find_gpu(device).name
    except PlmscaleError:
        return ""


def add_times(
    rows: list[dict[str, Any]], runs: Sequence[Run], speeds: Speeds, devices: int
) -> None:
    """Put into each row hours of devices: `device_hours` spent, `device_hours_left`,
    `device_hours_planned` (by FLOPs alone), and `seconds_left`, None where nothing says.

    `devices` is what a run takes that has not said so itself.
    """
    begun = _shared_steps(rows, runs)
    for row, run in zip(rows, runs, strict=True):
        recipe, n_params = run.recipe, row["n_params"]
        per_token = recipe["flops"] / recipe["tokens"]
        per_step = recipe["tokens"] / recipe["steps"]
        held = (row["devices"] or devices) / (row["at_once"] or speeds.sharers(n_params))
        step = max(row["step"], begun.get(run.run_id, 0))
        left = 0 if row["status"] in ENDED else (recipe["steps"] - step) * per_step
        own = row["tokens_per_second"] if row["status"] == "running" else None
        alone = speeds.of(n_params, per_token)
        speed = own or (alone * (row["devices"] or devices) if alone else None)
        seconds = 0.0 if left == 0 else left / speed if speed else None
        wall = row["wall_seconds"]
        if wall is None and row["step"] and speed:
            # Nothing was saved yet: what it has trained, at its speed.
            wall = row["tokens"] / speed
        row["device_hours"] = wall * held / 3600 if wall else 0.0
        row["seconds_left"] = seconds
        row["device_hours_left"] = None if seconds is None else seconds * held / 3600
        row["device_hours_planned"] = None
        if speeds.plan is not None:
            rate = speeds.plan.device_speed(n_params, per_token)
            row["device_hours_planned"] = recipe["tokens"] / rate / 3600


def _shared_steps(rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> dict[str, int]:
    """Return the steps that a run will not compute itself, because a shorter one has them."""
    by_id = {run.run_id: run.recipe for run in runs}
    shared = {}
    for row, run in zip(rows, runs, strict=True):
        trunk = by_id.get(run.trunk or "")
        if trunk is not None and row["status"] in ("waiting", "queued"):
            own = decay_start(run.recipe["steps"], run.recipe["schedule"])
            shared[run.run_id] = min(own, decay_start(trunk["steps"], trunk["schedule"]))
    return shared


def hours_to_end(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[Run], devices: int
) -> float | None:
    """Return hours until all of `rows` are done on `devices` at once, None where a speed is unknown.

    No less than the work shared evenly, and no less than the longest chain of a run, its parent and
    its trunk; a schedule without a gap reaches the larger of the two.
    """
    if any(row["seconds_left"] is None for row in rows):
        return None
    work = sum(row["device_hours_left"] for row in rows) / max(1, devices)
    seconds = {row["run_id"]: row["seconds_left"] for row in rows}
    ends: dict[str, float] = {}

    def end(run: Run) -> float:
        if run.run_id not in ends:
            before = [by_id[name] for name in (run.parent, run.trunk) if name in by_id]
            ends[run.run_id] = seconds[run.run_id] + max(map(end, before), default=0.0)
        return ends[run.run_id]

    by_id = {run.run_id: run for run in runs}
    return max([work, *(end(run) / 3600 for run in runs)])
