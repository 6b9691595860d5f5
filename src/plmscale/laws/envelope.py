"""Envelope of learning curves: at each compute the run with the lowest loss, and laws through it.

The other construction of Cheng et al. 2024 (and approach 1 of Hoffmann et al. 2022): no budgets
are needed, every run is compared with every other at any compute both have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.files import finite
from plmscale.laws.bootstrap import Noise, choose_noise, law_intervals, sample, seed_noise
from plmscale.laws.isoflop.entry import no_law

Array = NDArray[np.float64]

MIN_SIZES = 3
_MIN_POINTS = 3
# Over less than a decade an exponent hangs on a few neighbouring sizes.
_SPAN = 10.0
# Below this no slope in ln C is worth a number.
_LEAST_SPAN = 2.0
# Losses held in memory at a time while replicates look for their best runs.
_CHUNK = 4_000_000
MID_RUN = (
    "most points lie in the middle of a run, where the learning rate has not decayed: a run that "
    "ends at that compute would have a lower loss, so L_opt is too high, and sizes are compared "
    "at different parts of their schedules"
)


@dataclass(frozen=True)
class Grid:
    """Targets: `number` values of compute, log-spaced from `low` to `high` FLOPs.

    None for `low` is the least final compute of a run (before it no run has finished), for `high`
    the largest that MIN_SIZES sizes have seen. A run counts at a target if its nearest point lies
    within `relative` of the target, or within `absolute` FLOPs where that is given.
    """

    number: int = 100
    low: float | None = None
    high: float | None = None
    relative: float = 0.05
    absolute: float | None = None


@dataclass(frozen=True)
class RunEnds:
    """Targets: the compute of each run `tail` points before its end (1: the last point).

    Tolerances as in `Grid`; None for both lets the nearest point of any run count, however far.
    """

    tail: int = 1
    relative: float | None = None
    absolute: float | None = None


@dataclass(frozen=True)
class Curves:
    """Points of all runs: `flops`, `tokens`, `loss` by run, in order of compute; N (runs,)."""

    run_ids: tuple[str, ...]
    n_params: Array
    flops: list[Array]
    tokens: list[Array]
    loss: list[Array]


@dataclass(frozen=True)
class Matrix:
    """What each run shows at each target: (targets, runs), infinite loss where it has no point."""

    targets: Array
    flops: Array
    tokens: Array
    loss: Array


def fit_envelope(
    objective: str,
    rows: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    n_boot: int,
    rng: np.random.Generator,
    *,
    design: Grid | RunEnds | None = None,
) -> dict[str, Any]:
    """Return laws.json's entry `envelope` for the selected rows of one objective.

    `curves` are learning curves by run_id (columns tokens, flops_6nd, split, loss); rows without
    one take no part. Replicates resample whole runs, never the points of one curve.
    """
    where = f"{objective} envelope"
    design = design or Grid()
    table = valid_curves(rows, curves)
    lost = len(rows) - len(table.run_ids)
    warnings = [f"{where}: {lost} of {len(rows)} runs have no learning curve"] if lost else []
    entry: dict[str, Any] = {
        **no_law(), "ci95": {}, "n_runs": len(table.run_ids), "runs": list(table.run_ids),
        "design": {"kind": type(design).__name__} | asdict(design), "points": [],
        "notes": [MID_RUN], "warnings": warnings,
    }  # fmt: skip
    if len(np.unique(table.n_params)) < MIN_SIZES:
        text = f"{where}: learning curves of {MIN_SIZES} sizes are needed to compare sizes"
        return entry | {"warnings": [*warnings, text]}
    matrix = loss_matrix(table, design)
    points = envelope_points(table, matrix)
    entry["points"] = points.to_dict("records")
    if len(points) < _MIN_POINTS:
        text = f"{where}: {len(points)} points; a law needs {_MIN_POINTS} at least"
        return entry | {"warnings": [*warnings, text]}
    span = float(points["flops"].max() / points["flops"].min())
    if span < _LEAST_SPAN:
        text = (
            f"{where}: its points span only a factor {span:.3g} in compute, which shows no power "
            "law; runs of more budgets are needed"
        )
        return entry | {"warnings": [*warnings, text]}
    law = _laws(table, matrix, matrix.loss[None].argmin(axis=2))
    entry["N_opt"] = {"A": float(np.exp(law["log_A"][0])), "a": float(law["a"][0])}
    entry["D_opt"] = {"B": float(np.exp(law["log_B"][0])), "b": float(law["b"][0])}
    entry["L_opt"] = {"K": float(np.exp(law["log_K"][0])), "c": float(law["c"][0])}
    entry["fitted_range"] = {
        name: [float(points[column].min()), float(points[column].max())]
        for name, column in (("flops", "flops"), ("n_params", "n_params"), ("tokens", "tokens"))
    }
    noise = _noise(rows, points)
    entry["noise"] = {"sd": noise.sd, "source": noise.source, "unit": "nats a token"}
    entry["warnings"] = [*warnings, *(f"{where}: {text}" for text in _thin(points))]
    if n_boot:
        spread = replicates(table, matrix, noise, n_boot, rng)
        entry["ci95"] = law_intervals(spread)
        entry["bootstrap"] = {
            **sample(spread), "n": n_boot, "failed": int(np.isnan(spread["a"]).sum()),
        }  # fmt: skip
    return finite(entry)


def valid_curves(rows: pd.DataFrame, curves: Mapping[str, pd.DataFrame]) -> Curves:
    """Collect the validation points of the rows that have some.

    Compute is counted as in column `c`: a run's FLOPs per token are the same all along its curve.
    """
    kept: list[tuple[str, float, Array, Array, Array]] = []
    for row in rows.itertuples(index=False):
        curve = curves.get(row.run_id)
        if curve is None:
            continue
        points = curve[(curve["split"] == "valid") & np.isfinite(curve["loss"])]
        points = points[points["tokens"] > 0].sort_values("tokens", kind="stable")
        if len(points):
            tokens = points["tokens"].to_numpy(dtype=float)
            flops = tokens * (row.c / row.tokens)
            kept.append((row.run_id, row.n_params, flops, tokens, points["loss"].to_numpy(float)))
    ids, sizes, flops, tokens, loss = zip(*kept, strict=True) if kept else ((), (), (), (), ())
    return Curves(ids, np.array(sizes, dtype=float), list(flops), list(tokens), list(loss))


def target_flops(curves: Curves, design: Grid | RunEnds) -> Array:
    """Return the distinct targets of a design (targets,), rising."""
    if isinstance(design, RunEnds):
        ends = [flops[-design.tail :].min() for flops in curves.flops]
        return np.unique(ends)
    ends = np.array([flops[-1] for flops in curves.flops])
    per_size = pd.Series(ends).groupby(curves.n_params).max().sort_values()
    low = ends.min() if design.low is None else design.low
    high = per_size.iloc[-MIN_SIZES] if design.high is None else design.high
    return np.geomspace(low, high, design.number)


def loss_matrix(curves: Curves, design: Grid | RunEnds) -> Matrix:
    """Read every run at every target at its nearest point, the earlier one of two as near."""
    targets = target_flops(curves, design)
    shape = (len(targets), len(curves.run_ids))
    flops, tokens = np.empty(shape), np.empty(shape)
    loss = np.full(shape, np.inf)
    for i, points in enumerate(curves.flops):
        right = np.clip(np.searchsorted(points, targets), 1, max(len(points) - 1, 1))
        right = np.minimum(right, len(points) - 1)
        left = np.maximum(right - 1, 0)
        nearest = np.where(targets - points[left] <= points[right] - targets, left, right)
        distance = np.abs(points[nearest] - targets)
        near = np.ones(len(targets), dtype=bool)
        if design.absolute is not None:
            near = distance <= design.absolute
        elif design.relative is not None:
            near = distance <= design.relative * targets
        flops[:, i], tokens[:, i] = points[nearest], curves.tokens[i][nearest]
        loss[near, i] = curves.loss[i][nearest[near]]
    return Matrix(targets, flops, tokens, loss)


def envelope_points(curves: Curves, matrix: Matrix) -> pd.DataFrame:
    """Return the envelope: one row a target that some run reached, the first of equal losses.

    Columns target, flops, run_id, n_params, tokens, loss.
    """
    best = matrix.loss.argmin(axis=1)
    row = np.arange(len(best))
    found = pd.DataFrame(
        {
            "target": matrix.targets,
            "flops": matrix.flops[row, best],
            "run_id": [curves.run_ids[i] for i in best],
            "n_params": curves.n_params[best],
            "tokens": matrix.tokens[row, best],
            "loss": matrix.loss[row, best],
        }
    )
    return found[np.isfinite(found["loss"])].reset_index(drop=True)


def replicates(
    curves: Curves, matrix: Matrix, noise: Noise, n_boot: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Fit envelopes of runs drawn with replacement, each curve moved by its own seed noise.

    Which runs exist and how lucky each was are both chance; a curve moves as a whole. Returns the
    columns of `law_intervals`, (replicates,) each; NaN where a replicate gave no law.
    """
    runs = len(curves.run_ids)
    drawn = rng.integers(0, runs, (n_boot, runs))
    there = np.zeros((n_boot, runs), dtype=bool)
    np.put_along_axis(there, drawn, True, axis=1)
    shift = noise.draw(rng, n_boot, runs) if noise.known else np.zeros((n_boot, runs))
    offset = np.where(there, shift, np.inf)
    step = max(_CHUNK // matrix.loss.size, 1)
    best = [
        (offset[i : i + step, None] + matrix.loss).argmin(axis=2) for i in range(0, n_boot, step)
    ]
    return _laws(curves, matrix, np.concatenate(best), offset)


def _laws(
    curves: Curves, matrix: Matrix, best: NDArray[np.int64], offset: Array | None = None
) -> dict[str, Array]:
    """Regress ln N, ln D and ln L on ln C over the targets; `best` is (sets, targets)."""
    row = np.arange(best.shape[1])
    loss = matrix.loss[row, best]
    if offset is not None:
        loss = loss + np.take_along_axis(offset, best, axis=1)
    there = np.isfinite(loss)
    x = np.log(matrix.flops[row, best])
    log_loss = np.log(np.where(there & (loss > 0), loss, 1.0))
    log_a, a = _regress(x, np.log(curves.n_params)[best], there)
    log_b, b = _regress(x, np.log(matrix.tokens[row, best]), there)
    log_k, minus_c = _regress(x, log_loss, there)
    return {"log_A": log_a, "a": a, "log_B": log_b, "b": b, "log_K": log_k, "c": -minus_c}


def _regress(x: Array, y: Array, there: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Least squares of y on x (sets, points) over the points that are `there`."""
    count = there.sum(axis=1)
    enough = count >= _MIN_POINTS
    weight = there / np.maximum(count, 1)[:, None]
    mean_x, mean_y = (weight * x).sum(axis=1), (weight * y).sum(axis=1)
    u = (x - mean_x[:, None]) * there
    spread = (u * u).sum(axis=1)
    enough &= spread > 0
    slope = (u * y).sum(axis=1) / np.where(enough, spread, 1.0)
    return (
        np.where(enough, mean_y - slope * mean_x, np.nan),
        np.where(enough, slope, np.nan),
    )


def _thin(points: pd.DataFrame) -> list[str]:
    found = []
    best = points["run_id"].nunique()
    if best < 2 * _MIN_POINTS:
        found.append(f"only {best} runs make up the envelope")
    span = points["flops"].max() / points["flops"].min()
    if span < _SPAN:
        found.append(
            f"its points span only a factor {span:.2g} in compute, so its exponents and their "
            "intervals say little; give targets of less compute"
        )
    return found


def _noise(rows: pd.DataFrame, points: pd.DataFrame) -> Noise:
    """How much a whole curve may be off: replicate seeds, else the envelope's own unevenness.

    The envelope is smooth in C but no exact power law, so a cubic in ln C is taken off first.
    """
    x = np.log(points["flops"].to_numpy())
    x = (x - x.mean()) / max(np.ptp(x), 1e-12)
    degree = min(3, len(np.unique(x.round(9))) - 2)
    basis = np.vander(x, max(degree, 0) + 1)
    loss = points["loss"].to_numpy()
    residual = points["loss"] - basis @ np.linalg.lstsq(basis, loss)[0]
    # Points of one curve share its luck, so they count as one.
    by_run = residual.groupby(points["run_id"]).mean()
    free = len(by_run) - basis.shape[1]
    return choose_noise(
        seed_noise(rows), float((by_run**2).sum()), free, rows["loss_sd"].to_numpy(dtype=float)
    )
