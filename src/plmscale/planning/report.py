"""The whole plan as one dictionary: by group, by size, by run; schedule, storage, money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.grid import Run
from plmscale.laws.advice.hardware import gpus as known_gpus
from plmscale.planning.machine import Machine, Wishes, machine
from plmscale.planning.rates import Rates, rates
from plmscale.planning.rows import groups, run_rows, sizes
from plmscale.planning.simulate import Schedule, simulate
from plmscale.planning.sizing import START_HOURS, Sizer
from plmscale.planning.storage import storage
from plmscale.planning.work import Work, to_jobs, with_ancestors, work
from plmscale.settings import Study

# Of larger groups no schedule of their own is made, nor of other numbers of GPUs: a plan takes seconds.
_MOST_RUNS_ALONE = 2000
# GPUs at hand when GPU-hours by type are compared: enough for any run to reach `max_hours`.
_MANY = 1024


def make(
    study: Study,
    runs: Sequence[Run],
    on: Machine,
    wishes: Wishes,
    shares: Rates,
    by_subset: bool = True,
) -> tuple[dict[str, Any], Schedule, list[Work]]:
    """Return the plan of `runs` (and what they start from) on a machine, its schedule, its works.

    `by_subset` adds a row for each named subset of the study to the groups.

    Raises PlmscaleError where a run fits no number of these GPUs, with what it needs.
    """
    _check_devices(on, wishes)
    chosen = {run.run_id for run in runs}
    all_runs = with_ancestors(study, runs)
    works = work(study, all_runs, Sizer(on, wishes, shares, study.execution))
    schedule = simulate(to_jobs(works), on.nodes, wishes.corpus_hours)
    stored = storage(study, works, schedule)
    subsets = study.subsets if by_subset else {}
    small = len(works) <= _MOST_RUNS_ALONE
    plan = {
        "study": study.study,
        "machine": _machine_dict(on),
        "wishes": asdict(wishes),
        "mfu": {
            "origin": shares.origin,
            "points": {f"{n:g}": share for n, share in sorted(shares.points.items())},
            "measured": {f"{n:g}": share for n, share in sorted(shares.measured.items())},
            "start_hours": START_HOURS,
        },
        "added": [w.name for w in works if w.name not in chosen],
        "groups": groups(subsets, works, on, wishes, schedule, small),
        "sizes": sizes(works),
        "runs": run_rows(works, schedule),
        "schedule": _schedule_dict(schedule, works),
        "other_gpus": _other_gpus(study, all_runs, on, wishes, shares) if small else [],
        "storage": stored,
        "money": _money(wishes, schedule),
    }
    return plan, schedule, works


def _check_devices(on: Machine, wishes: Wishes) -> None:
    asked, node = wishes.devices, on.node
    where = f"{asked} GPUs a run (--devices or the study's execution.devices)"
    if asked > on.gpus:
        raise PlmscaleError(f"{where}: there are {on.gpus} in all; raise --gpus")
    if asked > node and (asked % node or asked // node > on.gpus // node):
        raise PlmscaleError(f"{where}: no number of whole nodes of {node} GPUs")


def _machine_dict(on: Machine) -> dict[str, Any]:
    return {
        "gpu": on.gpu.name,
        "gpus": on.gpus,
        "gpus_per_node": on.node,
        "nodes": len(on.nodes),
        "memory_bytes": on.gpu.memory_bytes,
        "peak_flops": on.gpu.peak_flops,
        "fp32_flops": on.gpu.fp32_flops,
        "format": on.gpu.format,
    }


def _schedule_dict(schedule: Schedule, works: Sequence[Work]) -> dict[str, Any]:
    hours = {w.name: w.sized.hours for w in works if w.sized}
    last = max(schedule.placed, key=lambda p: (p.end, p.job.name), default=None)
    return {
        "makespan_hours": schedule.makespan,
        "utilisation": schedule.utilisation,
        "gpu_hours": schedule.gpu_hours,
        "work_bound_hours": schedule.work_hours,
        "path_bound_hours": schedule.path_hours,
        "critical_path": [{"run_id": name, "hours": hours[name]} for name in schedule.path],
        "corpus_hours": schedule.begin,
        "last_to_end": last.job.name if last else None,
    }


def _other_gpus(
    study: Study, runs: Sequence[Run], on: Machine, wishes: Wishes, shares: Rates
) -> list[dict[str, Any]]:
    """Return the makespan with half and with twice the GPUs; runs are laid out anew for each."""
    rows = []
    for gpus in (on.gpus // 2, on.gpus * 2):
        if gpus < 1 or wishes.devices > gpus:
            continue
        other = replace(on, gpus=gpus)
        try:
            works = work(study, runs, Sizer(other, wishes, shares, study.execution))
            schedule = simulate(to_jobs(works), other.nodes, wishes.corpus_hours)
        except PlmscaleError:
            # Half of them hold not every run.
            continue
        row = {"gpus": gpus, "makespan_hours": schedule.makespan, "gpu_hours": schedule.gpu_hours}
        rows.append(row)
    return rows


def _money(wishes: Wishes, schedule: Schedule) -> dict[str, Any] | None:
    if wishes.price is None:
        return None
    return {
        "price": wishes.price,
        "currency": wishes.currency,
        "used": wishes.price * schedule.gpu_hours,
        "rented": wishes.price * schedule.gpus * (schedule.makespan - schedule.begin),
    }


def gpu_types(
    study: Study, runs: Sequence[Run], wishes: Wishes, mfu: float | None, table: Path | None
) -> list[dict[str, Any]]:
    """Return GPU-hours of `runs` on every GPU of the hardware table, each with room for all.

    A GPU that cannot train one of them is a row with its `problem`.
    """
    rows = []
    for name in known_gpus():
        on = machine(name, _MANY)
        shares = rates(study, name, mfu, table, wishes.packing)
        row: dict[str, Any] = {
            "gpu": name,
            "mfu": shares.origin,
            "mfu_points": {f"{n:g}": share for n, share in sorted(shares.points.items())},
            **dict.fromkeys(("gpu_hours_left", "most_gpus", "longest_hours", "cost", "problem")),
        }
        rows.append(row)
        try:
            works = work(study, runs, Sizer(on, wishes, shares, study.execution))
        except PlmscaleError as error:
            row["problem"] = str(error)
            continue
        left = [w.sized for w in works if w.sized]
        row["gpu_hours_left"] = sum(sized.gpu_hours for sized in left)
        row["most_gpus"] = max((sized.gpus for sized in left), default=0)
        row["longest_hours"] = max((sized.hours for sized in left), default=0.0)
        if wishes.price is not None:
            row["cost"] = wishes.price * row["gpu_hours_left"]
    return rows
