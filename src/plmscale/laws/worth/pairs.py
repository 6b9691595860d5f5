"""Runs that differ in one thing: partners, the gap between their curves, the noise of reruns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise

Array = NDArray[np.float64]
Curves = Mapping[str, pd.DataFrame]

# The last tenth of a run: the cosine has all but ended, and the loss hardly moves.
TAIL = 0.1
# Whole steps round both token counts; beyond this they are different runs.
SAME_TOKENS = 0.02
_TEXT = ("run_id", "status", "parent", "corpus", "objective", "architecture")
_NUMBERS = ("n_params", "tokens", "flops_6nd", "epochs", "mask_ratio", "loss", "loss_sd")


def normalised(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every column here needed, "" for unknown text and NaN for numbers.

    `done` says which rows have a usable loss. `flops_6nd` is 6 N D where it is not given.
    """
    table = runs.reset_index(drop=True).copy()
    for name in _TEXT:
        values = table[name] if name in table else pd.Series("", index=table.index)
        table[name] = values.astype(object).where(values.notna(), "").astype(str)
    for name in _NUMBERS:
        values = table[name] if name in table else pd.Series(np.nan, index=table.index)
        table[name] = pd.to_numeric(values, errors="coerce").astype(float)
    table["flops_6nd"] = table["flops_6nd"].fillna(6.0 * table["n_params"] * table["tokens"])
    table["done"] = table["status"].isin(["", "done"]) & np.isfinite(table["loss"])
    return table


def curve(curves: Curves, run_id: str, split: str = "valid") -> tuple[Array, Array] | None:
    """Return (tokens, loss) of one run's curve by tokens, or None where there is none."""
    points = curves.get(run_id)
    if points is None:
        return None
    points = points[(points["split"] == split) & np.isfinite(points["loss"])]
    points = points.sort_values("tokens").drop_duplicates("tokens")
    if points.empty:
        return None
    return points["tokens"].to_numpy(dtype=float), points["loss"].to_numpy(dtype=float)


def gaps(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return (tokens, loss of `first` minus loss of `second`) where both were validated.

    Runs of one set-up validate on the same rows at the same step, so what the choice of rows adds
    cancels in the difference.
    """
    after = np.clip(np.searchsorted(second[0], first[0]), 1, max(len(second[0]) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(second[0]) - 1)
    nearer = np.abs(second[0][before] - first[0]) < np.abs(second[0][after] - first[0])
    match = np.where(nearer, before, after)
    same = np.abs(second[0][match] / first[0] - 1) < 1e-3
    return first[0][same], first[1][same] - second[1][match[same]]


def end_gap(one: Mapping[str, Any], two: Mapping[str, Any], curves: Curves) -> tuple[float, str]:
    """Return loss(one) - loss(two) in nats at the end of two runs of equal length, and its basis.

    The mean over the last tenth of both curves where they share three points or more, else the
    difference of the table's losses.
    """
    found = [curve(curves, run["run_id"]) for run in (one, two)]
    if found[0] is not None and found[1] is not None:
        tokens, gap = gaps(found[0], found[1])
        last = min(one["tokens"], two["tokens"])
        tail = tokens >= (1 - TAIL) * last
        if tail.sum() >= 3:
            return float(gap[tail].mean()), "mean over the last tenth of both curves"
    return float(one["loss"] - two["loss"]), "difference of the final losses"


def rerun_noise(table: pd.DataFrame, curves: Curves) -> Noise | None:
    """Pool the spread at the end of finished runs that share every setting; None without any.

    `table` is a normalised runs table. Runs count as one configuration when objective, size,
    corpus, mask ratio and parent agree and their tokens differ by less than 1 %; two rows with the
    same loss are one run stored twice, not two runs.
    """
    squares, dof = 0.0, 0
    keys = ["objective", "n_params", "corpus", "mask_ratio", "parent"]
    done = table[table["done"]]
    for _, group in done[done.duplicated(keys, keep=False)].groupby(keys, dropna=False):
        rows = group.sort_values(["tokens", "run_id"]).drop_duplicates("loss")
        apart = np.diff(np.log(rows["tokens"].to_numpy())) > 0.01
        for same in np.split(np.arange(len(rows)), 1 + np.flatnonzero(apart)):
            if len(same) < 2:
                continue
            runs = rows.iloc[same].to_dict("records")
            offsets = np.array([end_gap(run, runs[0], curves)[0] for run in runs])
            squares += float(((offsets - offsets.mean()) ** 2).sum())
            dof += len(runs) - 1
    if dof == 0 or squares == 0:
        return None
    return Noise(float(np.sqrt(squares / dof)), float(dof), "reruns of one configuration")


def run_errors(noise: Noise, rng: np.random.Generator, n_boot: int, count: int) -> Array:
    """Draw errors of `count` differences of two runs, (n_boot, count) nats; zeros if not known."""
    if not noise.known:
        return np.zeros((n_boot, count))
    return np.sqrt(2.0) * noise.draw(rng, n_boot, count)


def close(one: float, two: float, within: float) -> bool:
    """Tell whether two positive numbers differ by less than a share of themselves."""
    return bool(abs(np.log(one / two)) <= within)


def mean_near(points: tuple[Array, Array], tokens: Array, width: float = 0.08) -> Array:
    """Return the mean of a curve within `width` in ln D of each of `tokens`, NaN where empty."""
    near = np.abs(np.log(points[0])[:, None] - np.log(tokens)) < width
    count = near.sum(axis=0)
    total = (points[1][:, None] * near).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
