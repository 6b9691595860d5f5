"""What a run writes: curve, TensorBoard events, validation rows, metrics."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plmscale.files import atomic_write
from plmscale.training.evaluate import Validation

CURVE_COLUMNS = ("step", "tokens", "flops_6nd", "split", "loss")
_PROGRESS_SECONDS = 5.0


class Curve:
    """The learning curve, in memory and as TensorBoard events; a CSV file at the end."""

    def __init__(
        self, directory: Path, tokens_per_step: int, n_params: int, points: list[list[Any]]
    ) -> None:
        """Begin with `points` of an earlier, killed start of the run; its events are rewritten."""
        from torch.utils.tensorboard.writer import SummaryWriter

        shutil.rmtree(directory, ignore_errors=True)
        self._events = SummaryWriter(str(directory), max_queue=1000)
        self._tokens_per_step, self._n_params = tokens_per_step, n_params
        self.points: list[list[Any]] = []
        for step, split, loss in points:
            self.add(step, split, loss)

    def add(self, step: int, split: str, loss: float | None) -> None:
        """Add a point; `loss` in nats a token, None or not finite for a lost run."""
        known = loss is not None and math.isfinite(loss)
        self.points.append([step, split, loss if known else None])
        self._events.add_scalar(f"loss/{split}", math.nan if loss is None else loss, step)

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Add scalars that only TensorBoard shows."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def write(self, path: Path) -> None:
        """Write the CSV file (`CURVE_COLUMNS`) and close the events."""
        self._events.close()
        with atomic_write(path) as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(CURVE_COLUMNS)
            for step, split, loss in self.points:
                tokens = step * self._tokens_per_step
                flops = 6 * self._n_params * tokens
                writer.writerow([step, tokens, flops, split, "" if loss is None else repr(loss)])


def write_validation(path: Path, validation: Validation | None) -> None:
    """Write one line a validation row: `row,source,tokens,nll` (predicted tokens, their nats)."""
    with atomic_write(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["row", "source", "tokens", "nll"])
        if validation is not None:
            columns: Sequence[Any] = (validation.sources, validation.tokens, validation.nll)
            for row, (source, tokens, nll) in enumerate(zip(*columns, strict=True)):
                writer.writerow([row, source, int(tokens), repr(float(nll))])


class Progress:
    """One plain line every few seconds, for terminals and log files alike."""

    def __init__(self, run_id: str, steps: int, tokens_per_step: int) -> None:
        self._run_id, self._steps, self._tokens = run_id, steps, tokens_per_step
        self._shown = time.monotonic()
        self._shown_step: int | None = None

    def show(self, step: int, loss: float) -> None:
        """Print step, loss, speed and time left, when the last line is old enough."""
        now = time.monotonic()
        if self._shown_step is None:
            self._shown, self._shown_step = now, step
            return
        if now - self._shown < _PROGRESS_SECONDS and step < self._steps:
            return
        rate = (step - self._shown_step) / max(now - self._shown, 1e-9)
        left = (self._steps - step) / rate if rate else math.inf
        print(
            f"{self._run_id}: step {step:,}/{self._steps:,}, loss {loss:.4f}, "
            f"{rate * self._tokens:,.0f} tokens/s, {left:,.0f} s left",
            flush=True,
        )
        self._shown, self._shown_step = now, step


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
