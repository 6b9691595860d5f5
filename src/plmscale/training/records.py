"""What a run writes: curve, TensorBoard events, validation rows, metrics."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from plmscale.files import atomic_write, finite
from plmscale.training.evaluate import Validation
from plmscale.training.options import AT_ONCE

CURVE_COLUMNS = ("step", "tokens", "flops_6nd", "split", "loss")


class Curve:
    """The learning curve, in memory and as TensorBoard events; a CSV file at the end."""

    def __init__(
        self, directory: Path, tokens_per_step: int, n_params: int, points: list[list[Any]]
    ) -> None:
        """Begin with `points` of an earlier, killed start of the run; its events are rewritten."""
        shutil.rmtree(directory, ignore_errors=True)
        self._events: Any = None
        self._record(lambda: setattr(self, "_events", _events(directory)), begin=True)
        self._tokens_per_step, self._n_params = tokens_per_step, n_params
        self.points: list[list[Any]] = []
        for step, split, loss in points:
            self.add(step, split, loss)

    def add(self, step: int, split: str, loss: float | None) -> None:
        """Add a point; `loss` in nats a token, None or not finite for a lost run."""
        known = loss is not None and math.isfinite(loss)
        self.points.append([step, split, loss if known else None])
        shown = math.nan if loss is None else loss
        self._record(lambda: self._events.add_scalar(f"loss/{split}", shown, step))

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Add scalars that only TensorBoard shows."""
        for name, value in values.items():
            self._record(lambda n=name, v=value: self._events.add_scalar(n, v, step))

    def _record(self, action: Callable[[], object], begin: bool = False) -> None:
        """Events are for looking on: a full disk ends them, not the run."""
        if self._events is None and not begin:
            return
        try:
            action()
        except OSError as error:
            self._events = None
            print(f"plmscale: warning: TensorBoard events end here: {error}", flush=True)

    def write(self, path: Path) -> None:
        """Write the CSV file (`CURVE_COLUMNS`) and close the events."""
        self._record(lambda: self._events.close())
        with atomic_write(path) as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(CURVE_COLUMNS)
            for step, split, loss in self.points:
                tokens = step * self._tokens_per_step
                flops = 6 * self._n_params * tokens
                writer.writerow([step, tokens, flops, split, "" if loss is None else repr(loss)])


def _events(directory: Path) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(directory), max_queue=1000)


def write_validation(path: Path, validation: Validation | None) -> None:
    """Write one line a validation row: `row,source,tokens,nll,objective` (predicted tokens, nats)."""
    with atomic_write(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["row", "source", "tokens", "nll", "objective"])
        if validation is None:
            return
        columns: Sequence[Any] = (
            validation.sources,
            validation.tokens,
            validation.nll,
            validation.objectives,
        )
        rows = len(validation.sources) // len(validation.weights)
        for number, (source, tokens, nll, name) in enumerate(zip(*columns, strict=True)):
            writer.writerow([number % rows, source, int(tokens), repr(float(nll)), name])


def at_once() -> int:
    """Return how many runs share this run's device, as the pack that started it says."""
    said = os.environ.get(AT_ONCE, "")
    return int(said) if said.isdigit() and int(said) else 1


def write_progress(path: Path, values: dict[str, Any]) -> None:
    """Write how far a run has come, for `plmscale status`: whole or not at all, and never in the way.

    Not flushed to the disk, which may take seconds while training waits: after a crash the
    checkpoint counts.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(finite(values), sort_keys=True), encoding="utf-8")
        os.replace(temporary, path)


class Progress:
    """One line that renews itself in a terminal; a plain line now and then in a log file."""

    def __init__(self, run_id: str, steps: int, tokens_per_step: int) -> None:
        self._run_id, self._steps, self._tokens = run_id, steps, tokens_per_step
        self._terminal = sys.stdout.isatty()
        self._begun = self._shown = time.monotonic()
        self._shown_step: int | None = None
        self._open = False

    def show(self, step: int, loss: float, notes: str = "") -> float | None:
        """Print step, loss, speed and time left, when the last line is old enough; return the speed
        in tokens a second where it did."""
        now = time.monotonic()
        if self._shown_step is None:
            self._shown, self._shown_step = now, step
            return None
        # A long run's log need not grow with it: a line every 5 s at first, every minute later.
        plain = min(60.0, max(5.0, (now - self._begun) / 20))
        if now - self._shown < (0.5 if self._terminal else plain) and step < self._steps:
            return None
        rate = (step - self._shown_step) / max(now - self._shown, 1e-9)
        left = (self._steps - step) / rate if rate else math.inf
        line = (
            f"{self._run_id}: step {step:,}/{self._steps:,}, loss {loss:.4f}, "
            f"{rate * self._tokens:,.0f} tokens/s, {left:,.0f} s left{notes}"
        )
        if self._terminal:
            print(f"\r{line}\x1b[K", end="", flush=True)
            self._open = True
        else:
            print(line, flush=True)
        self._shown, self._shown_step = now, step
        return rate * self._tokens

    def say(self, line: str) -> None:
        """Print a line of its own."""
        print(f"\n{line}" if self._open else line, flush=True)
        self._open = False


class Spikes:
    """Counts logged losses that stand out: over `MARGIN` nats above the median of the last ones."""

    MARGIN = 0.3
    WINDOW = 16

    def __init__(self) -> None:
        self.recent: list[float] = []
        self.count = 0

    def see(self, loss: float) -> bool:
        """Return whether `loss` is a spike, and count it."""
        enough = len(self.recent) >= self.WINDOW // 2
        spike = enough and loss > statistics.median(self.recent) + self.MARGIN
        self.count += spike
        if math.isfinite(loss):
            self.recent = [*self.recent, loss][-self.WINDOW :]
        return spike


class DivergenceRule:
    """When a training loss means that the run is lost.

    At once when it is not finite; when it lies `MARGIN` nats above the first logged loss at
    `PATIENCE` logged points in a row otherwise.
    """

    MARGIN = 1.0
    PATIENCE = 3

    def __init__(self) -> None:
        self.first: float | None = None
        self.above = 0

    def judge(self, step: int, loss: float) -> str | None:
        """Return why the run is lost at `step`, or None."""
        if not math.isfinite(loss):
            return f"training loss is not finite at step {step}"
        if self.first is None:
            self.first = loss
        self.above = self.above + 1 if loss > self.first + self.MARGIN else 0
        if self.above < self.PATIENCE:
            return None
        return (
            f"training loss {loss:.3f} at step {step} is over {self.MARGIN} nats above the first "
            f"({self.first:.3f}) for {self.PATIENCE} logged points"
        )
