"""One row a run: its state, by the evidence, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from plmscale.grid import Run
from plmscale.settings import Study
from plmscale.status import slurm
from plmscale.status.evidence import Evidence, gather, wall_seconds
from plmscale.status.reading import number, read_object, table_of

STATES = {
    "done": "has its results",
    "running": "a process trains it",
    "queued": "waits in Slurm",
    "stopped": "ended without an error; goes on from its checkpoint when started again",
    "waiting": "not started",
    "failed": "its log ends in an error, and no process has it",
    "diverged": "lost, a result of its own",
    "parent_failed": "the run it starts from is lost",
}
"""All states, in the order in which they are shown."""
ENDED = ("done", "diverged", "parent_failed")

# How Slurm's accounting names ends that ask for a repair; the others only for another start.
_BAD_ENDS = {
    "OUT_OF_MEMORY": "the job ran out of memory",
    "FAILED": "the job failed",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "it could not end before its deadline",
}
_CALM_ENDS = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "CANCELLED", "REQUEUED", "REVOKED")


def collect(
    study: Study, runs: list[Run], now: float | None = None, ask: bool = True
) -> tuple[list[dict[str, Any]], str]:
    """Return a row for each of `runs` and, where Slurm is there but does not answer, why.

    Reads files and, if `ask`, asks squeue and sacct; needs neither, and waits for neither beyond
    its limit. `now`, a Unix time, is for tests.
    """
    asked = slurm.ask_queue() if ask else None
    now = time.time() if now is None else now
    found = {
        run.run_id: gather(study.folder, run.run_id, run.recipe["fingerprint"], now) for run in runs
    }
    answer = slurm.queue(asked)
    packs = _packs(study) if answer.jobs else {}
    jobs = slurm.jobs_of(answer, found, study.results, packs)
    lost = {e.owner.job for r, e in found.items() if e.metrics is None and not e.owner.alive}
    ends = slurm.ends(slurm.ask_ends(lost)) if ask and not answer.problem else {}
    rows = [_row(run, found[run.run_id], jobs.get(run.run_id), answer, ends, now) for run in runs]
    _name_parents(rows, runs)
    return rows, answer.problem


def _packs(study: Study) -> dict[str, list[str]]:
    """Return the members of each pack: runs that share one job (`packs/NAME.runs.json`)."""
    lists = (study.folder / "packs").glob("*.runs.json")
    read = {path.name.removesuffix(".runs.json"): read_object(path).value or {} for path in lists}
    return {name: list(table_of(value.get("runs"))) for name, value in read.items()}


def _row(
    run: Run,
    found: Evidence,
    job: slurm.Job | None,
    answer: slurm.Answer,
    ends: Mapping[str, tuple[str, str]],
    now: float,
) -> dict[str, Any]:
    recipe = run.recipe
    if job is None and not found.owner.released:
        job = answer.job(found.owner.job)
    state, detail = _state(found, job, ends)
    # What failed says why in `error`, with or without a log.
    error, detail = (detail, "") if state == "failed" else ("", detail)
    metrics, row = found.metrics or {}, _progress(recipe, found)
    source = metrics or found.progress
    device = str(source.get("device") or "") or None
    devices = number(metrics.get("devices"), int) or number(found.progress.get("devices"), int)
    ranks = number(found.state.get("ranks"), int)
    wall = number(metrics.get("wall_seconds")) if found.metrics else wall_seconds(found, now)
    return {
        "run_id": run.run_id,
        "status": state,
        "detail": detail,
        "experiment": ",".join(run.experiments),
        "objective": recipe["objective"],
        "size": recipe["architecture"]["name"],
        "n_params": recipe["n_params"],
        "budget": recipe["budget"],
        "flops_6nd": recipe["flops_6nd"],
        "flops": recipe["flops"],
        **row,
        "devices": devices or ranks,
        # Runs that share a GPU say how many, so that its hours are counted once; on a CPU each is
        # a process of its own.
        "at_once": None if device == "cpu" else number(source.get("at_once"), int),
        "device": device,
        "wall_seconds": wall,
        "tokens_per_wall_second": _whole_speed(metrics),
        "error": error,
        "damaged": bool(error and (found.said.damaged or found.checkpoint_problem)),
        "job": job.number if job else found.owner.job,
        "host": found.owner.host if state == "running" else "",
        "heard_seconds": found.owner.age if state == "running" else None,
        "updated": found.updated or None,
    }


def _state(
    found: Evidence, job: slurm.Job | None, ends: Mapping[str, tuple[str, str]]
) -> tuple[str, str]:
    """Return the state of a run and a word on it."""
    if found.metrics is not None:
        state = found.metrics.get("status")
        known = state if state in ENDED else "done"
        return known, str(found.metrics.get("status_detail") or "")
    in_pack = job is not None and job.pack
    if in_pack and job.running and not found.owner.alive:
        # Its turn comes, or came and it failed; the job goes on for the others.
        if found.said.error:
            return "failed", found.said.error
        return "queued", f"job {job.number}: waits for its turn in the pack"
    if found.owner.alive or (job and job.running):
        silent = found.owner.age or 0.0
        if not found.owner.alive and job.number != found.owner.job:
            return "running", f"job {job.number} starts"
        return "running", f"not heard for {silent:,.0f} s" if silent > 60 else ""
    if job and job.queued:
        reason = "" if job.reason in ("", "None") else f": {job.reason}"
        return "queued", f"job {job.number}{reason}"
    if found.metrics_problem:
        return "failed", found.metrics_problem
    end, code = ends.get(found.owner.job, ("", ""))
    if end in _BAD_ENDS and not (end == "FAILED" and (found.said.error or found.said.stopped)):
        return "failed", f"job {found.owner.job}: {_BAD_ENDS[end]} (exit code {code})"
    if found.said.error or found.checkpoint_problem:
        return "failed", found.said.error or found.checkpoint_problem
    if not found.begun:
        return "waiting", ""
    why = found.said.stopped or "killed, or its machine went down"
    if end in _CALM_ENDS:
        why = f"job {found.owner.job}: {end.lower().replace('_', ' ')}"
    return "stopped", why if found.checkpoint_step is not None else f"{why}; no checkpoint yet"


def _progress(recipe: Mapping[str, Any], found: Evidence) -> dict[str, Any]:
    """Return steps, tokens, losses and speed so far: of the log, the checkpoint or the results."""
    steps, per_step = recipe["steps"], recipe["tokens"] / recipe["steps"]
    metrics = found.metrics
    if metrics is not None:
        step = number(metrics.get("steps"), int) or 0
        loss, kind = number(metrics.get("loss")), "valid"
        speed = number(metrics.get("tokens_per_second"))
        train = None
    else:
        told = found.progress
        sources = [
            (number(told.get("step"), int), number(told.get("loss"))),
            (found.said.step, found.said.loss),
            (found.checkpoint_step, _last(found.state, "train")),
        ]
        step = max((s for s, _ in sources if s is not None), default=0)
        train = next((x for s, x in sorted(sources, key=lambda e: -(e[0] or 0)) if x), None)
        valid = number(told.get("valid_loss")) or _last(found.state, "valid")
        loss, kind = (train, "train") if train is not None else (valid, "valid")
        speed = number(told.get("tokens_per_second")) or found.said.tokens_per_second
        speed = speed or _speed_of(found.state, per_step)
    return {
        "step": step,
        "steps": steps,
        "share": min(1.0, step / steps) if steps else 0.0,
        "tokens": round(step * per_step),
        "tokens_planned": recipe["tokens"],
        "loss": loss,
        "loss_of": kind if loss is not None else "",
        "tokens_per_second": speed,
    }


def _whole_speed(metrics: Mapping[str, Any]) -> float | None:
    """Return tokens a second of a finished run over all its time: start, validation, checkpoints."""
    flops, n_params, wall = (
        number(metrics.get(key)) for key in ("flops_6nd_spent", "n_params", "wall_seconds")
    )
    return flops / (6 * n_params) / wall if flops and n_params and wall else None


def _last(state: Mapping[str, Any], split: str) -> float | None:
    """Return the last loss of a split in a checkpoint's curve."""
    curve = state.get("curve")
    points = curve if isinstance(curve, list) else []
    for point in reversed(points):
        if isinstance(point, list) and len(point) == 3 and point[1] == split:
            return number(point[2])
    return None


def _speed_of(state: Mapping[str, Any], per_step: float) -> float | None:
    """Return tokens a second over all that a checkpoint's run has trained itself."""
    seconds = number(table_of(state.get("clocks")).get("train_seconds"))
    begun = number(table_of(state.get("trunk")).get("step"), int) or 0
    step = number(state.get("step"), int) or 0
    return (step - begun) * per_step / seconds if seconds and step > begun else None


def _name_parents(rows: list[dict[str, Any]], runs: list[Run]) -> None:
    """Say of a waiting run which one it waits for."""
    states = {row["run_id"]: row["status"] for row in rows}
    for row, run in zip(rows, runs, strict=True):
        if row["status"] == "waiting" and run.parent and states.get(run.parent, "done") != "done":
            row["detail"] = f"needs {run.parent}, which is {states[run.parent]}"
