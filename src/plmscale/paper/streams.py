"""Which runs were validated on the same batches: their jitter is then the same.

The i-th validation of a run reads the i-th validation batches of its data stream, and their
difficulty moves the loss of all runs on that stream alike, whatever the model. So what is left
of a curve without its trend is a fingerprint of stream and batch size.
"""

from __future__ import annotations

import numpy as np

from plmscale.paper.common_effect import (
    LEAST_POINTS,
    common_effect,
    residual,
    validation_numbers,
)
from plmscale.paper.evidence import STEPS_PER_VALIDATION
from plmscale.paper.group import Run

SAME_STREAM = 0.7
# A short run shows what it follows once many runs tell the effect: ten points around their trend
# reach 0.95 by chance less than once in 5,000.
FOLLOWS = 0.95
# With 20 points a chance correlation of 0.7 lies beyond four standard errors.
_LEAST = 20
_WINDOW = 15
# The steep beginning leaves trend in the residuals.
_SKIP = 10


def residuals(run: Run) -> dict[int, float]:
    """Return the loss less its moving average, by validation number (step / 300).

    Without the first ten validations, and without the run's own last step, which is off the grid.
    """
    at = run.tokens / run.tokens_a_step / STEPS_PER_VALIDATION
    half = _WINDOW // 2
    padded = np.pad(run.loss, half, mode="edge")
    smooth = np.convolve(padded, np.ones(_WINDOW) / _WINDOW, mode="valid")
    rest = run.loss - smooth
    whole = np.abs(at - np.round(at)) < 1e-3
    whole[:_SKIP] = False
    whole[-half:] = False
    return {int(k): float(v) for k, v in zip(np.round(at[whole]), rest[whole])}


def streams(runs: list[Run]) -> list[list[Run]]:
    """Return groups of runs whose jitter correlates above 0.7, largest group first.

    A run that is alone or has fewer than 20 comparable points joins the group whose common effect
    its end follows; without such it is alone or left out.
    """
    groups = _alike(runs)
    found = [members for members in groups if len(members) > 1]
    homes = {id(run) for members in found for run in members}
    joined: list[list[Run]] = [[] for _ in found]
    for run in runs:
        if run.valid and id(run) not in homes:
            follows = [_follows(run, members) for members in found]
            if follows and max(follows) > FOLLOWS:
                joined[int(np.argmax(follows))].append(run)
                homes.add(id(run))
    alone = [members for members in groups if len(members) == 1 and id(members[0]) not in homes]
    found = [[*members, *more] for members, more in zip(found, joined, strict=True)]
    return sorted([*found, *alone], key=len, reverse=True)


def _follows(run: Run, members: list[Run]) -> float:
    """Return the correlation of a run's end with the common effect of a group, 0 if unknown."""
    effect = common_effect(run, [m for m in members if m.objective == run.objective])
    numbers = validation_numbers(run)
    if effect is None or (numbers >= effect.start).sum() < LEAST_POINTS:
        return 0.0
    inside = numbers >= effect.start
    own = residual(run.loss[inside], numbers[inside])
    shared = residual(effect.effect[numbers[inside] - effect.start], numbers[inside])
    norm = np.linalg.norm(own) * np.linalg.norm(shared)
    return float(own @ shared / norm) if norm > 0 else 0.0


def _alike(runs: list[Run]) -> list[list[Run]]:
    """Return groups of runs linked by correlated jitter, single runs as groups of one."""
    rest = [(run, residuals(run)) for run in runs if run.valid]
    rest = [(run, r) for run, r in rest if len(r) >= _LEAST]
    if not rest:
        return []
    values = np.zeros((len(rest), 1 + max(max(r) for _, r in rest)))
    there = np.zeros_like(values)
    for i, (_, r) in enumerate(rest):
        values[i, list(r)], there[i, list(r)] = list(r.values()), 1.0
    alike = _correlation(values, there) > SAME_STREAM
    groups, left = [], set(range(len(rest)))
    while left:
        members, edge = set(), {min(left)}
        while edge:
            members |= edge
            edge = {int(j) for i in edge for j in np.flatnonzero(alike[i])} - members
        left -= members
        groups.append([rest[i][0] for i in sorted(members)])
    return sorted(groups, key=len, reverse=True)


def _correlation(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return pairwise correlations (n, n) over the columns both rows have, 0 for too few."""
    n = there @ there.T
    safe = np.maximum(n, 1)
    sums = values @ there.T
    squares = values**2 @ there.T
    covariance = values @ values.T / safe - sums / safe * (sums.T / safe)
    variance = np.maximum(squares / safe - (sums / safe) ** 2, 1e-30)
    return np.where(n >= _LEAST, covariance / np.sqrt(variance * variance.T), 0.0)
