"""What the files of one run say: results, checkpoint, owner, log. Read while all of it may change."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plmscale.status.logs import Said, understand
from plmscale.status.reading import number, read_object, read_tail, table_of

# As in training.lock: the owner writes the time every ten seconds; six missed mean that it is gone.
ALIVE_SECONDS = 60.0
# Heard so lately, it is alive whatever the process table says: a container has its own.
_JUST_HEARD = 25.0
# A process that is there but silent (stopped, or waiting for a file system) is believed so long.
_SILENT_SECONDS = 3600.0
# A finished run's second name for its results, beside its checkpoints.
_KEPT = "finished"
_SLURM_LOGS = Path(".snakemake/slurm_logs")


@dataclass(frozen=True)
class Owner:
    """The process that trains a run, or did. `age`: seconds since it was heard last; `released`: it
    has let the run go."""

    alive: bool = False
    released: bool = False
    age: float | None = None
    host: str = ""
    pid: int = 0
    job: str = ""


@dataclass
class Evidence:
    """All that is known of a run from files. `metrics` is None unless the run has ended."""

    metrics: dict[str, Any] | None = None
    metrics_problem: str = ""
    owner: Owner = field(default_factory=Owner)
    said: Said = field(default_factory=Said)
    progress: dict[str, Any] = field(default_factory=dict)
    checkpoint_step: int | None = None
    checkpoint_problem: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    saved: float = 0.0
    updated: float = 0.0
    begun: bool = False


def gather(study_folder: Path, run_id: str, fingerprint: str, now: float) -> Evidence:
    """Return the evidence on one run; `now` is the Unix time that ages are counted from."""
    found = Evidence()
    folder = study_folder / "checkpoints" / run_id
    # Snakemake removes the outputs of a job that it starts again; kept ones are put back by it.
    for path in (study_folder / "runs" / run_id / "metrics.json", folder / _KEPT / "metrics.json"):
        metrics = read_object(path)
        if not metrics.there:
            continue
        if metrics.value is None:
            found.metrics_problem = f"{path}: not valid JSON; remove it to train again"
        elif metrics.value.get("fingerprint", fingerprint) != fingerprint:
            found.metrics_problem = f"{path}: of another recipe; remove the folder {path.parent}"
        else:
            found.metrics, found.updated = metrics.value, metrics.modified
            return found
    found.owner = _owner(folder / "owner.lock", now)
    lines, found.updated = read_tail(folder / "train.log")
    slurm_lines, slurm_time = _slurm_log(run_id)
    # Slurm's words on the job's end come after all that the run could say, and may be all there is.
    found.said = understand([*lines, *(slurm_lines if slurm_time >= found.updated - 5 else [])])
    progress = read_object(folder / "progress.json")
    found.progress = progress.value or {}
    found.updated = max(found.updated, progress.modified, slurm_time)
    _checkpoint(folder, found)
    found.begun = bool(lines or found.owner.pid or progress.there)
    found.begun |= found.checkpoint_step is not None
    return found


def _owner(path: Path, now: float) -> Owner:
    """Return who holds a run. On this machine the process table tells at once that it is gone."""
    found = read_object(path)
    said = found.value or {}
    pid, job = number(said.get("pid"), int) or 0, str(said.get("job") or "")
    host = str(said.get("host") or "")
    times = [t for t in (number(said.get("time")), found.modified or None) if t]
    # Clocks of nodes and of the file server differ; the one that agrees with ours is believed.
    age = min((abs(now - t) for t in times), default=None)
    if not said.get("mark"):
        return Owner(False, True, age, host, pid, job)
    runs = _process_runs(pid) if host == socket.gethostname() else None
    limit = {True: _SILENT_SECONDS, None: ALIVE_SECONDS, False: _JUST_HEARD}[runs]
    return Owner(age is not None and age < limit, False, age, host, pid, job)


def _process_runs(pid: int) -> bool | None:
    """Return whether there is a process `pid` on this machine; None where that cannot be told."""
    if not Path("/proc/self").exists():
        return None
    try:
        # A zombie, which waits for its parent to ask after it, has no words.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def _checkpoint(folder: Path, found: Evidence) -> None:
    """Fill in the newest checkpoint: its step, clocks and curve."""
    latest = read_object(folder / "latest.json")
    for _ in range(3):
        if not latest.there:
            break
        tag = str(table_of(latest.value).get("tag") or "")
        state = read_object(folder / tag / "state.json") if tag else None
        if state is not None and state.value is not None:
            found.state, found.saved = state.value, latest.modified
            found.checkpoint_step = number(state.value.get("step"), int)
            return
        # A newer checkpoint may have taken its place while we read.
        again = read_object(folder / "latest.json")
        if again.value == latest.value:
            found.checkpoint_problem = (
                f"{folder / tag}: the checkpoint that latest.json names cannot be read"
                if tag
                else f"{folder / 'latest.json'}: not valid"
            )
            break
        latest = again
    found.checkpoint_step = _newest_step(folder)


def _newest_step(folder: Path) -> int | None:
    try:
        names = [name.removeprefix("step-") for name in os.listdir(folder)]
    except OSError:
        return None
    return max((int(name) for name in names if name.isdigit()), default=None)


def _slurm_log(run_id: str) -> tuple[list[str], float]:
    """Return the end of the run's newest job log that Snakemake's Slurm executor kept."""
    try:
        logs = [
            entry
            for rule in os.listdir(_SLURM_LOGS)
            if (folder := _SLURM_LOGS / rule / run_id).is_dir()
            for entry in os.scandir(folder)
        ]
        newest = max(logs, key=lambda entry: entry.stat().st_mtime)
    except (OSError, ValueError):
        return [], 0.0
    return read_tail(Path(newest.path), 8192)


def wall_seconds(found: Evidence, now: float | None = None) -> float | None:
    """Return how long an unfinished run has held its devices, over all its starts; None: unknown.

    Up to its last checkpoint, as that says; from there on to `now` for a run that is alive.
    """
    clocks = table_of(found.state.get("clocks"))
    wall = number(clocks.get("wall_seconds"))
    if (whole := number(found.progress.get("wall_seconds"))) is not None:
        written = number(found.progress.get("time")) or 0.0
        wall, since = max(whole, wall or 0.0), max(written, found.saved)
    else:
        since = found.saved
    if wall is None:
        return None
    if found.owner.alive and since:
        wall += max(0.0, (time.time() if now is None else now) - since)
    return wall
