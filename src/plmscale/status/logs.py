"""What the end of a run's log says: how far it has come, and why it ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# `ID: step 1,200/5,000, loss 2.8123, 81,000 tokens/s, 12 s left`, as training.records.Progress says.
_PROGRESS = re.compile(
    r": step ([\d,]+)/([\d,]+), loss (-?[\d.]+|nan|inf), ([\d,]+) tokens/s, ([\d,]+|inf) s left"
)
# What only a run that works prints: an error before it is past. "stopped at" is a good end, too.
_GOOD = re.compile(
    r": (?:step [\d,]+/|resumed at step |goes on from step |stopped at step |done at step )"
)
_STOPPED = re.compile(r": stopped at step ([\d,]+) by (\w+)")
_DAMAGED = re.compile(
    r"remove the (?:checkpoint )?folder|is damaged|checkpoint cannot be loaded|is incomplete; remove"
)
# The most telling first: where one rank runs out of memory, others only lose it.
_ERRORS = (
    re.compile(r"out of memory|oom[-_ ]?kill|OUT_OF_MEMORY|Cannot allocate memory", re.IGNORECASE),
    re.compile(r"^plmscale: error: "),
    re.compile(r"CUDA error|NCCL error|No space left on device|Disk quota exceeded"),
    re.compile(r"^(?:\[rank\d+\]: ?)?[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b"),
    re.compile(r"Segmentation fault|Bus error|Aborted|Killed\b|core dumped"),
    re.compile(r"^(?:slurmstepd|srun): error: "),
    re.compile(r"exit(?:ed with exit)? code [1-9]|exitcode: -?[1-9]"),
    re.compile(r"^plmscale: rank \d+ lost another rank"),
)
# Slurm's own word for an end that asks for no repair: the job goes on from its checkpoint.
_LIMIT = re.compile(r"DUE TO (TIME LIMIT|PREEMPTION|NODE FAILURE|JOB REQUEUE)|CANCELLED AT")


@dataclass(frozen=True)
class Said:
    """The end of a log. `error` is its most telling error line since the run last went well."""

    step: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    error: str = ""
    stopped: str = ""
    damaged: bool = False


def understand(lines: Sequence[str]) -> Said:
    """Return what the last lines of a run's log say; only what comes after the last good line is
    an error of now."""
    step = loss = speed = None
    for line in reversed(lines):
        if found := _PROGRESS.search(line):
            step, speed = int(found[1].replace(",", "")), float(found[4].replace(",", ""))
            loss = float(found[3]) if found[3] not in ("nan", "inf") else None
            break
    last_good = max((i for i, line in enumerate(lines) if _GOOD.search(line)), default=-1)
    stopped = _STOPPED.search(lines[last_good]) if last_good >= 0 else None
    if stopped:
        at = int(stopped[1].replace(",", ""))
        step = at if step is None or at > step else step
    since = lines[last_good + 1 :]
    error = telling(since)
    note = f"stopped by {stopped[2]}" if stopped else ""
    if limit := next((found for line in reversed(since) if (found := _LIMIT.search(line))), None):
        note = (limit[1] or "cancelled").lower()
        if not error or error.startswith(("slurmstepd: error:", "srun: error:")):
            error = ""
    return Said(step, loss, speed, error, note, bool(_DAMAGED.search(error)))


def telling(lines: Sequence[str]) -> str:
    """Return the most telling error line, of equals the last; "" where none is an error."""
    for pattern in _ERRORS:
        for line in reversed(lines):
            if pattern.search(line):
                return line.strip()
    return ""
