"""The rows of a plan: a group, a size, or a run each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plmscale import grid
from plmscale.planning.machine import Machine, Wishes
from plmscale.planning.simulate import Schedule, simulate
from plmscale.planning.storage import WEIGHT_BYTES, all_parameters
from plmscale.planning.work import Work, to_jobs


def groups(
    subsets: Mapping[str, Any],
    works: Sequence[Work],
    on: Machine,
    wishes: Wishes,
    schedule: Schedule,
    alone: bool,
) -> list[dict[str, Any]]:
    """Return a row an experiment, a row a subset that is no experiment, and one of all, in this order.

    `alone` adds to each how long it would take with all the GPUs for itself.
    """
    rows = []
    for kind, name, members in _members(subsets, works):
        row = {"kind": kind, "group": name, **_totals(members)}
        row["gpu_hours"] = sum(w.whole.gpu_hours for w in members)
        row["gpu_hours_left"] = sum(w.gpu_hours_left for w in members)
        found = schedule if kind == "all" else None
        if found is None and alone:
            found = simulate(_closed(members, works), on.nodes, wishes.corpus_hours)
        row["hours_alone"] = found.makespan if found else None
        row["path_hours"] = found.path_hours if found else None
        row["cost"] = None if wishes.price is None else wishes.price * row["gpu_hours_left"]
        rows.append(row)
    return rows


def _members(
    subsets: Mapping[str, Any], works: Sequence[Work]
) -> Iterable[tuple[str, str, list[Work]]]:
    """Yield kind, name and runs of each experiment, each named subset that is none, and all."""
    experiments: dict[str, list[Work]] = {}
    for item in works:
        for name in item.run.experiments:
            experiments.setdefault(name, []).append(item)
    yield from (("experiment", name, members) for name, members in experiments.items())
    runs = [w.run for w in works]
    shown = [{w.name for w in members} for members in experiments.values()]
    for name, selection in subsets.items():
        inside = {run.run_id for run in grid.select(runs, selection)}
        if inside not in shown and len(inside) < len(works):
            yield "subset", name, [w for w in works if w.name in inside]
    yield "all", "all", list(works)


def _closed(members: Sequence[Work], works: Sequence[Work]) -> list[Any]:
    """Return the jobs of `members` and of all that they start from."""
    by_name = {job.name: job for job in to_jobs(works)}
    queue = [w.name for w in members if w.name in by_name]
    inside = set(queue)
    while queue:
        for name in by_name[queue.pop()].after:
            if name not in inside:
                inside.add(name)
                queue.append(name)
    return [job for name, job in by_name.items() if name in inside]


def _totals(members: Sequence[Work]) -> dict[str, Any]:
    recipes = [w.run.recipe for w in members]
    return {
        "runs": len(members),
        "to_train": sum(1 for w in members if w.sized is not None),
        "flops_6nd": sum(r["flops_6nd"] for r in recipes),
        "flops": sum(r["flops"] for r in recipes),
        "tokens": sum(r["tokens"] for r in recipes),
        "largest_n": max(r["n_params"] for r in recipes),
        "weights_bytes": sum(WEIGHT_BYTES * all_parameters(r) for r in recipes),
    }


def sizes(works: Sequence[Work]) -> list[dict[str, Any]]:
    """Return a row a size and batch, smallest first: GPUs from the least to the most of its runs."""
    groups: dict[Any, list[Work]] = {}
    for item in works:
        r = item.run.recipe
        key = (r["n_params"], r["architecture"]["name"], r["batch_rows"], r["context"])
        groups.setdefault(key, []).append(item)
    rows = []
    for (n, name, batch_rows, context), members in sorted(groups.items(), key=lambda g: g[0]):
        places = sorted({(w.whole.gpus / w.whole.slots, w.whole.place) for w in members})
        fullest = max(members, key=lambda w: w.whole.layout.memory.total)
        shares = [w.whole.share for w in members]
        rows.append(
            {
                "size": name,
                "n_params": n,
                "runs": len(members),
                "batch_rows": batch_rows,
                "context": context,
                "gpus": [place for _, place in places],
                "zero_stage": sorted({w.whole.layout.zero_stage for w in members}),
                "checkpointing": any(w.whole.layout.checkpointing for w in members),
                "memory_bytes": fullest.whole.layout.memory.total,
                "runs_a_gpu": max(w.whole.slots for w in members),
                "mfu": [min(shares), max(shares)],
                "longest_hours": max(w.whole.hours for w in members),
                "jobs": max(w.whole.jobs for w in members),
                "gpu_hours": sum(w.whole.gpu_hours for w in members),
                "gpu_hours_left": sum(w.gpu_hours_left for w in members),
            }
        )
    return rows


def run_rows(works: Sequence[Work], schedule: Schedule) -> list[dict[str, Any]]:
    """Return a row a run, in grid order: its layout, hours, and place in the schedule."""
    placed = {p.job.name: p for p in schedule.placed}
    rows = []
    for item in works:
        sized, place = item.sized or item.whole, placed.get(item.name)
        rows.append(
            {
                "run_id": item.name,
                "n_params": item.n_params,
                "to_train": item.sized is not None,
                "share_left": item.left,
                "gpus": sized.gpus,
                "runs_a_gpu": sized.slots,
                "precision": sized.precision,
                **sized.layout.to_dict(),
                "mfu": sized.share,
                "hours": sized.hours,
                "jobs": sized.jobs,
                "gpu_hours": item.whole.gpu_hours,
                "gpu_hours_left": item.gpu_hours_left,
                "start_hour": place.start if place else None,
                "end_hour": place.end if place else None,
                "on_gpus": list(place.gpus) if place else [],
            }
        )
    return rows
