"""What a study will cost, and how far it has come; reads files only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from plmscale import resources
from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.grid import Run, si
from plmscale.settings import Study
from plmscale.textable import table

# Stored bytes a parameter: fp32 weights, and a checkpoint with fp32 master and two moments in bf16 runs.
_WEIGHT_BYTES = 4
_CHECKPOINT_BYTES = 14


def summarise(study: Study, runs: list[Run]) -> dict[str, Any]:
    """Return counts, FLOPs and storage of `runs`, in all and per experiment.

    Hours are given where finished runs of this study show a rate; nothing is guessed.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        for experiment in run.experiments:
            groups.setdefault(experiment, []).append(run)
    rate = _measured_rate(study)
    rows = [_line(name, members, rate, study) for name, members in [*groups.items(), ("all", runs)]]
    return {"study": study.study, "groups": rows, "flops_per_second_measured": rate}


def _line(name: str, runs: list[Run], rate: float | None, study: Study) -> dict[str, Any]:
    flops = sum(r.recipe["flops_6nd"] for r in runs)
    todo = [r for r in runs if not (study.folder / "runs" / r.run_id / "metrics.json").exists()]
    left = sum(r.recipe["flops_6nd"] for r in todo)
    params = [r.recipe["n_params"] for r in runs]
    return {
        "experiment": name,
        "runs": len(runs),
        "to_train": len(todo),
        "flops_6nd": flops,
        "flops": sum(r.recipe["flops"] for r in runs),
        "tokens": sum(r.recipe["tokens"] for r in runs),
        "largest_n": max(params),
        "weights_bytes": _WEIGHT_BYTES * sum(params),
        "largest_checkpoint_bytes": _CHECKPOINT_BYTES * max(params),
        "largest_memory_mb": max(resources.memory_mb(r.recipe) for r in runs),
        "hours_left_one_run_at_a_time": left / rate / 3600 if rate else None,
    }


def _measured_rate(study: Study) -> float | None:
    """Return 6ND FLOPs a second over all finished runs, or None before the first."""
    flops = seconds = 0.0
    for path in (study.folder / "runs").glob("*/metrics.json"):
        metrics = read_json(path)
        flops += metrics.get("flops_6nd") or 0.0
        seconds += metrics.get("wall_seconds") or 0.0
    return flops / seconds if seconds else None


def text(summary: dict[str, Any]) -> str:
    """Return a plan for people."""
    rows = []
    for group in summary["groups"]:
        hours = group["hours_left_one_run_at_a_time"]
        rows.append(
            {
                "experiment": group["experiment"],
                "runs": group["runs"],
                "to train": group["to_train"],
                "FLOPs (6ND)": f"{group['flops_6nd']:.3g}",
                "FLOPs (exact)": f"{group['flops']:.3g}",
                "tokens": si(group["tokens"]),
                "largest N": si(group["largest_n"]),
                "weights": f"{group['weights_bytes'] / 1e6:.3g} MB",
                "memory a run": f"{group['largest_memory_mb']:,} MB",
                "hours left": "-" if hours is None else f"{hours:.3g}",
            }
        )
    note = (
        "Hours: at the speed of this study's finished runs, one at a time."
        if summary["flops_per_second_measured"]
        else "Hours are shown once a run of this study has finished."
    )
    return f"{table(rows, list(rows[0]))}\n\n{note}"


def status(study: Study, runs: list[Run]) -> list[dict[str, Any]]:
    """Return a row a run: done, diverged, parent_failed, started (a checkpoint exists) or waiting."""
    rows = []
    for run in runs:
        row: dict[str, Any] = {
            "run_id": run.run_id,
            "status": "waiting",
            "step": None,
            "steps": run.recipe["steps"],
            "loss": None,
            "flops_6nd": run.recipe["flops_6nd"],
        }
        metrics = study.folder / "runs" / run.run_id / "metrics.json"
        checkpoint = study.folder / "checkpoints" / run.run_id
        if metrics.exists():
            found = read_json(metrics)
            row.update(status=found["status"], step=found["steps"], loss=found["loss"])
        elif checkpoint.is_dir():
            row.update(status="started", step=_step_of(checkpoint))
        rows.append(row)
    return rows


def _step_of(checkpoint: Path) -> int | None:
    """Return the step of a run's newest checkpoint, or None before the first."""
    steps = [p.name.removeprefix("step-") for p in checkpoint.glob("step-*")]
    return max((int(s) for s in steps if s.isdigit()), default=None)


def status_line(rows: list[dict[str, Any]]) -> str:
    """Return the counts of each status and the share of the FLOPs that is done."""
    if not rows:
        raise PlmscaleError("no runs")
    counts = Counter(row["status"] for row in rows)
    total = sum(row["flops_6nd"] for row in rows)
    done = sum(r["flops_6nd"] for r in rows if r["status"] not in ("waiting", "started"))
    parts = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    return f"{len(rows)} runs: {parts}; {100 * done / total:.0f} % of the FLOPs done"
