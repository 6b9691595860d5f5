"""The loss a run ended with: a mean of its last validations, with or without their common effect.

Runs of one stream read the same validation batches, yet they end at different validations, so
what the batches add differs from run to run. `common_effect` tells it from the other runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from plmscale.paper.common_effect import (
    LEAST_POINTS,
    TREND_PARAMETERS,
    common_effect,
    residual,
    validation_numbers,
)
from plmscale.paper.evidence import jitter
from plmscale.paper.group import Run

DEFAULT_LAST = 5
# Averaged points lie within this share of the final compute, so that they share its loss.
LAST_SHARE = 0.03


@dataclass(frozen=True)
class FinalLoss:
    """Final loss and its standard error, nats a token; what was subtracted, and what it did.

    `others` counts the runs that told the common effect, 0 where none was subtracted. `before`
    and `after` are the jitter of one validation around the run's trend.
    """

    loss: float
    sd: float
    others: int
    before: float
    after: float


def final_losses(runs: list[Run], last: int, remove: bool) -> dict[str, FinalLoss]:
    """Return the final loss of every run with a validation curve, by run_id.

    The mean over the last `last` validations that lie within 3 % of the final compute. With
    `remove` less the common effect of its stream, where at least two other runs of its objective
    tell that and the run's own jitter falls by it. The standard error is the jitter that is left
    (of a run of few points the median of its objective) over the root of the number of points,
    and the error of what was subtracted.
    """
    valid = [run for run in runs if run.valid]
    scatter = {run.run_id: jitter(run.loss, run.tokens) for run in valid}
    usual = _medians((run.objective, scatter[run.run_id]) for run in valid)
    return {
        run.run_id: (_less_effect(run, valid, last) if remove else None)
        or _as_logged(run, last, scatter[run.run_id] or usual[run.objective])
        for run in valid
    }


def _as_logged(run: Run, last: int, sd: float) -> FinalLoss:
    points = averaged(run, last)
    return FinalLoss(float(run.loss[-points:].mean()), sd / np.sqrt(points), 0, sd, sd)


def averaged(run: Run, last: int) -> int:
    """Return how many of the last points are averaged: `last`, or those near the end."""
    late = int((run.tokens >= (1 - LAST_SHARE) * run.tokens[-1]).sum())
    return max(1, min(last, late))


def _less_effect(run: Run, runs: list[Run], last: int) -> FinalLoss | None:
    others = [
        other for other in runs
        if other is not run and not other.stuck
        and (other.stream, other.objective) == (run.stream, run.objective)
    ]  # fmt: skip
    effect = common_effect(run, others) if run.stream else None
    if effect is None:
        return None
    numbers = validation_numbers(run)
    inside = numbers >= effect.start
    at = numbers[inside] - effect.start
    loss, added = run.loss[inside], effect.effect[at]
    points = averaged(run, last)
    if len(at) < max(LEAST_POINTS, points):
        return None
    root = np.sqrt(len(at) - TREND_PARAMETERS)
    before, after = (
        float(np.linalg.norm(residual(y, numbers[inside])) / root) for y in (loss, loss - added)
    )
    if after >= before:
        return None
    mean = np.zeros(len(effect.effect))
    mean[at[-points:]] = 1 / points
    error = float(mean @ effect.covariance @ mean)
    final = float((loss - added)[-points:].mean())
    return FinalLoss(final, np.sqrt(after**2 / points + error), effect.runs, before, after)


def _medians(values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    grouped: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        grouped[name] += [value] if value else []
    return {name: float(np.median(v)) if v else np.nan for name, v in grouped.items()}


def jitter_table(
    runs: list[Run], found: dict[str, FinalLoss]
) -> list[dict[str, float | int | str]]:
    """Return one row per stream and objective: runs, of how many the common effect is removed.

    `before` and `after` are medians over these of the jitter in nats a token; None without any.
    """
    groups: dict[tuple[int, str], list[FinalLoss]] = defaultdict(list)
    for run in runs:
        if run.run_id in found:
            groups[run.stream, run.objective].append(found[run.run_id])
    rows = []
    for (stream, objective), members in sorted(groups.items()):
        removed = [m for m in members if m.others]
        rows.append(
            {"stream": stream or None, "objective": objective, "runs": len(members),
             "removed": len(removed),
             "before": float(np.median([m.before for m in removed])) if removed else None,
             "after": float(np.median([m.after for m in removed])) if removed else None}
        )  # fmt: skip
    return rows
