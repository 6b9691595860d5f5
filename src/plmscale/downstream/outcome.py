"""What becomes of a job of the downstream stage: predictions made, failures told, attempts counted."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plmscale.downstream.plan import attempt, note
from plmscale.errors import PlmscaleError
from plmscale.files import write_json


@dataclass
class Outcome:
    """What became of a model in a task: rows for tables.

    predictions: {path, method, seed, model, twin}, path relative to OUT. failures: {task, model,
    method, reason, status}, status `failed`, `not applicable`, or
    `not run` for side results that lack a program or a GPU.
    """

    task: str
    model: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(row["status"] == "failed" for row in self.failures)

    def fail(self, model: str, method: str, reason: str, status: str = "failed") -> None:
        row = {"task": self.task, "model": model, "method": method, "reason": reason}
        self.failures.append({**row, "status": status})
        words = {"not applicable": "does not apply"}.get(status, status)
        say(f"{self.task}, {' '.join(filter(None, (model, method)))}: {words}: {reason}")

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self)}


def say(text: str) -> None:
    """Tell a line of progress."""
    print(f"plmscale: {text}", file=sys.stderr, flush=True)


def noted(outcome: Outcome, out: Path, step: str = "", name: str = "") -> Outcome:
    """Write down how often it was tried and what failed, for `plan.attempt`; return the outcome."""
    step, name = step or outcome.task, name or outcome.model
    failed = [row for row in outcome.failures if row["status"] == "failed"]
    known = {"attempt": attempt(out, step, name), "failed": failed}
    write_json(note(out, step, name), known)
    return outcome


class told:
    """Turns what goes wrong inside into a row of the outcome; the caller goes on behind it."""

    def __init__(self, outcome: Outcome, model: str, method: str) -> None:
        self.outcome, self.model, self.method = outcome, model, method

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if isinstance(error, PlmscaleError):
            reason = str(error)
        else:
            traceback.print_exception(error, file=sys.stderr)
            first = (str(error).strip().splitlines() or [""])[0]
            reason = f"{type(error).__name__}: {first}"[:300]
        self.outcome.fail(self.model, self.method, reason)
        return True
