"""What a study will cost, and how far it has come; reads files only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plmscale import memory, resources
from plmscale.architecture import Architecture
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


def layouts(
    study: Study, runs: list[Run], gpu: str, gpus: int, mfu: float | None, per_run: bool
) -> dict[str, Any]:
    """Return how each size (or run) lies on GPUs of this name, and what it costs there.

    A run takes the study's `execution.devices` GPUs, at most `gpus`, all there are. GPU-hours are
    FLOPs with attention and head / (peak x mfu) / 3600, times 4/3 with checkpointing, which
    computes each forward pass twice; `mfu` None is what well-tuned training reaches. Hours are
    GPU-hours of what is still to train, spread evenly over all GPUs: no run waits for another.

    Raises PlmscaleError for an unknown GPU or a share that is none; a size that does not fit is a
    row that says so.
    """
    from plmscale.laws.advice.hardware import DEFAULT_MFU, find_gpu

    found, share = find_gpu(gpu), DEFAULT_MFU if mfu is None else mfu
    if not 0 < share <= 1:
        raise PlmscaleError(f"--mfu {share:g} is not a share between 0 and 1")
    if gpus < 1:
        raise PlmscaleError(f"--gpus {gpus} is not a positive number")
    devices = min(study.execution.devices, gpus)
    has_bf16 = found.format.startswith("bf16")
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        r = run.recipe
        alike = (r["architecture"]["name"], r["context"], r["batch_rows"], r["precision"])
        groups.setdefault(run.run_id if per_run else alike, []).append(run)
    rows = []
    for members in groups.values():
        row = _layout(study, members[0].recipe, devices, found.memory_bytes, has_bf16)
        again = 4 / 3 if row["checkpointing"] else 1.0
        rate = found.peak_flops * share * 3600 / again
        todo = [
            r for r in members if not (study.folder / "runs" / r.run_id / "metrics.json").exists()
        ]
        row |= {
            "run_id": members[0].run_id if per_run else None,
            "runs": len(members),
            "gpu_hours": sum(r.recipe["flops"] for r in members) / rate,
            "gpu_hours_left": sum(r.recipe["flops"] for r in todo) / rate,
        }
        rows.append(row)
    rows.sort(key=lambda row: row["n_params"])
    machine = {
        "gpu": found.name,
        "gpus": gpus,
        "memory_bytes": found.memory_bytes,
        "peak_flops": found.peak_flops,
        "format": found.format,
        "mfu": share,
        "assumed": mfu is None,
    }
    left = sum(row["gpu_hours_left"] for row in rows)
    return {"machine": machine, "layouts": rows, "gpu_hours_left": left, "hours_left": left / gpus}


def _layout(
    study: Study, recipe: Mapping[str, Any], devices: int, device_bytes: float, has_bf16: bool
) -> dict[str, Any]:
    execution = study.execution
    precision = recipe["precision"]
    if precision == "auto":
        precision = "bf16" if has_bf16 else "fp32"
    checkpointing = {"auto": None, "on": True, "off": False}[execution.activation_checkpointing]
    row = {
        "size": recipe["architecture"]["name"],
        "n_params": recipe["n_params"],
        "batch_rows": recipe["batch_rows"],
        "devices": devices,
        "precision": precision,
        **dict.fromkeys(("zero_stage", "micro_rows", "accumulation", "checkpointing")),
        **dict.fromkeys(("memory", "memory_share", "problem")),
    }
    try:
        layout = memory.choose(
            Architecture.from_dict(recipe["architecture"]),
            recipe["context"],
            recipe["batch_rows"],
            devices,
            device_bytes,
            device="cuda",
            precision=precision,
            zero_stage=execution.zero_stage,
            micro_rows=execution.micro_rows,
            checkpointing=checkpointing,
        )
    except PlmscaleError as error:
        return {**row, "problem": str(error)}
    return {**row, **layout.to_dict(), "memory_share": layout.memory.total / device_bytes}


def layout_text(plan: Mapping[str, Any]) -> str:
    """Return the table of `layouts` for people."""
    machine, rows = plan["machine"], []
    for found in plan["layouts"]:
        fits = found["memory"] is not None
        row = {"run_id": found["run_id"]} if found["run_id"] else {"size": found["size"]}
        rows.append(
            {
                **row,
                "N": si(found["n_params"]),
                **({} if found["run_id"] else {"runs": found["runs"]}),
                "batch rows": found["batch_rows"],
                "GPUs a run": found["devices"],
                "ZeRO": found["zero_stage"],
                "micro rows": found["micro_rows"],
                "accumulation": found["accumulation"],
                "checkpointing": found["checkpointing"],
                "GB a GPU": f"{found['memory']['total'] / 1e9:.3g}" if fits else "too large",
                "of its memory": f"{found['memory_share']:.0%}" if fits else None,
                "GPU-hours": f"{found['gpu_hours']:.3g}",
            }
        )
    text = [table(rows, list(rows[0]))]
    text += dict.fromkeys(found["problem"] for found in plan["layouts"] if found["problem"])
    gpus, share = machine["gpus"], f"{machine['mfu']:.0%}"
    text.append(
        f"{gpus} x {machine['gpu']}, {machine['memory_bytes'] / 1e9:.0f} GB each; "
        f"{share} of {machine['peak_flops'] / 1e12:.4g} TFLOP/s ({machine['format']}), "
        f"{'assumed' if machine['assumed'] else 'as given'}; checkpointing costs a third more.\n"
        f"Left to train: {plan['gpu_hours_left']:.3g} GPU-hours, {plan['hours_left']:.3g} hours "
        "where no GPU ever waits."
    )
    return "\n\n".join(text)


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
