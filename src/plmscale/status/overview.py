"""From rows to the whole: counts by budget and size, time left, hours spent, how to go on."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.grid import Run, number
from plmscale.settings import Study
from plmscale.status import speeds as timing
from plmscale.status.rows import ENDED, STATES
from plmscale.study import PROJECT

Row = Mapping[str, Any]
# More columns than that do not fit a terminal or a figure.
_MOST_BUDGETS = 14


def overview(
    study: Study,
    runs: Sequence[Run],
    rows: list[dict[str, Any]],
    problem: str = "",
    gpu: str = "",
    gpus: int | None = None,
) -> dict[str, Any]:
    """Return all that `plmscale status` shows; adds times to `rows`.

    `gpu` names what the plan is counted on where no run tells; `gpus` is how many devices work at
    once from now on, by default as many as do now.

    Raises PlmscaleError without runs, for an unknown GPU or a number of them that is none.
    """
    if not rows:
        raise PlmscaleError("no runs")
    if gpus is not None and gpus < 1:
        raise PlmscaleError(f"--gpus {gpus} is not a positive number")
    speeds = timing.measure(study, rows, gpu)
    timing.add_times(rows, runs, speeds, study.execution.devices)
    busy = sum(r["devices"] or study.execution.devices for r in rows if r["status"] == "running")
    devices = gpus or busy or study.execution.devices
    budgets = budget_names(rows)
    named = [{**row, "budget_name": budgets[row["run_id"]]} for row in rows]
    return {
        "study": study.study,
        "runs": rows,
        "counts": counts(rows),
        "share": share_done(rows),
        "by_budget": _groups(named, lambda r: (r["objective"], r["budget_name"]), ("budget",)),
        "by_size": _groups(named, lambda r: (r["objective"], r["size"]), ("size",)),
        "cells": _groups(
            named, lambda r: (r["objective"], r["budget_name"], r["size"]), ("budget", "size")
        ),
        "hours": _hours(rows, runs, speeds, devices, bool(gpus or busy)),
        "slurm": problem,
    }


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many runs are in each state, in the order of STATES; only states that occur."""
    found = Counter(row["status"] for row in rows)
    return {state: found[state] for state in STATES if found[state]}


def share_done(rows: Sequence[Row]) -> float:
    """Return the share of the FLOPs (6 N D) that is done; a run that is lost counts as settled."""
    total = sum(row["flops_6nd"] for row in rows)
    done = (row["flops_6nd"] * (row["status"] in ENDED or row["share"]) for row in rows)
    return sum(done) / total if total else 0.0


def budget_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return a budget to stand under for each run: its own, or the FLOPs of one that has none.

    Budgets are told apart by as many digits as leave few enough: the rests that transfer and
    repetition leave are each a budget of their own, and near another's.
    """
    amounts = {row["run_id"]: row["budget"] or row["flops_6nd"] for row in rows}
    names: dict[str, str] = {}
    for digits in (3, 2, 1, 0):
        names = {run_id: number(_rounded(value, digits)) for run_id, value in amounts.items()}
        if len(set(names.values())) <= _MOST_BUDGETS:
            break
    return names


def _rounded(value: float, digits: int) -> float:
    """Round to significant digits; none: to 1 or 3 times a power of ten, in the logarithm."""
    if digits:
        return float(f"{value:.{digits - 1}e}")
    half = round(2 * math.log10(value))
    return (3.0 if half % 2 else 1.0) * 10.0 ** (half // 2)


def _groups(
    rows: Sequence[Row], key: Callable[[Row], tuple], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    members: dict[tuple, list[Row]] = {}
    for row in rows:
        members.setdefault(key(row), []).append(row)
    groups = []
    for found, group in members.items():
        losses = [r["loss"] for r in group if r["status"] == "done" and r["loss"] is not None]
        left = [r["device_hours_left"] for r in group]
        running = [r for r in group if r["status"] == "running"]
        groups.append(
            {
                "objective": found[0],
                **dict(zip(names, found[1:], strict=True)),
                "n_params": group[0]["n_params"] if "size" in names else None,
                "runs": len(group),
                "states": counts(group),
                "share": share_done(group),
                "running_share": share_done(running),
                "best_loss": min(losses, default=None),
                "device_hours": sum(r["device_hours"] for r in group),
                "device_hours_left": None if None in left else sum(left),
            }
        )
    return sorted(
        groups,
        key=lambda g: (g["objective"], float(g.get("budget") or 0), g["n_params"] or 0),
    )


def _hours(
    rows: Sequence[Row], runs: Sequence[Run], speeds: timing.Speeds, devices: int, known: bool
) -> dict[str, Any]:
    left = [row["device_hours_left"] for row in rows]
    planned = [row["device_hours_planned"] for row in rows]
    settled = [row["status"] in ENDED or row["share"] for row in rows]
    gpu = speeds.plan.gpu if speeds.plan else ""
    on_gpu = gpu or any(row["device"] not in (None, "cpu") for row in rows)
    sizes = sorted(speeds.measured)
    return {
        "unit": "GPU-hours" if on_gpu else "process-hours",
        "spent": sum(row["device_hours"] for row in rows),
        "planned_so_far": None
        if None in planned
        else sum(p * float(s) for p, s in zip(planned, settled, strict=True)),
        "planned": None if None in planned else sum(planned),
        "left": None if None in left else sum(left),
        "hours_to_end": timing.hours_to_end(rows, runs, devices),
        "devices": devices,
        "devices_known": known,
        "gpu": gpu,
        "measured_sizes": sizes,
        "speed": "measured" if sizes else "assumed" if gpu else "unknown",
    }


def rerun(study_file: Path, rows: Sequence[Row], named: Sequence[Row]) -> str:
    """Return the command that starts `rows` again, "" for none: those in `named` and what they
    need, or, where none is named, all that has not ended."""
    if not rows:
        return ""
    words = ["snakemake", "grid"]
    if Path(study_file).resolve() != (PROJECT / "config.yaml").resolve():
        words += ["--configfile", str(study_file)]
    if any(row["job"] for row in rows):
        words += ["--profile", "profiles/slurm"]
    if named:
        chosen = ",".join(f"run_id:{row['run_id']}" for row in named)
        words += ["--config", f"select={chosen}"]
    return shlex.join(words)


def first_aid(study: Study, row: Row) -> str:
    """Return what must be done before a failed run is started again; "" for nothing."""
    folder = study.folder / "checkpoints" / row["run_id"]
    error = row["error"]
    if row["damaged"]:
        return f"its checkpoint is of no use; first: rm -r {shlex.quote(str(folder))}"
    if error.startswith(str(study.folder)) and "metrics.json" in error:
        return f"first: rm -r {shlex.quote(str(Path(error.partition(': ')[0]).parent))}"
    if "memory" in error.lower():
        return (
            "it needs more memory, or more devices or a smaller execution.micro_rows, which change "
            "no result"
        )
    if "No space left" in error or "no space left" in error or "quota" in error:
        return "first free space on the disk"
    return ""
