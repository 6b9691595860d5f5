"""L(C) = A C^-a from scratch and after pre-training, with and without the parent's compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise, choose_noise, interval, sample
from plmscale.laws.worth.pairs import Curves, curve
from plmscale.laws.worth.regression import regress
from plmscale.laws.worth.transfer_pairs import Pair

Array = NDArray[np.float64]

CONVENTIONS = ("after_pretraining", "with_pretraining")
MIN_RUNS = 3
_TARGETS = 60


def compute_laws(
    pairs: Sequence[Pair], curves: Curves, noise: Noise, n_boot: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Fit L(C) = A C^-a to runs from scratch and after pre-training, C = 6 N D.

    `ends` fits the final losses of whole runs, `frontier` the lower envelope of the learning
    curves at log-spaced C (the paper's picture). In each, `scratch`, then the runs after
    pre-training in the two CONVENTIONS: their own compute only, or the parent's too. Intervals of
    `ends` come from new losses of whole runs with the residual or rerun noise, whichever is
    larger; those of `frontier` from drawing the runs anew. None where fewer than three runs exist.
    """
    scratch = [(0.0, pair.scratch) for pair in pairs]
    sets = {
        "scratch": list({run["run_id"]: (c, run) for c, run in scratch}.values()),
        "after_pretraining": [(0.0, pair.child) for pair in pairs],
        "with_pretraining": [(float(p.parent["flops_6nd"]), p.child) for p in pairs],
    }
    return {
        "ends": {name: _ends(runs, noise, n_boot, rng) for name, runs in sets.items()},
        "frontier": {name: _frontier(runs, curves, n_boot, rng) for name, runs in sets.items()},
    }


def _ends(
    runs: list[tuple[float, dict[str, Any]]], noise: Noise, n_boot: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    if len(runs) < MIN_RUNS:
        return None
    log_c = np.log([extra + run["flops_6nd"] for extra, run in runs])
    loss = np.array([run["loss"] for _, run in runs])
    first = _fit(log_c, np.log(loss)[None], np.ones((1, len(runs))))
    fitted = first[0, 0] - first[0, 1] * log_c
    squares = float(((np.log(loss) - fitted) ** 2).sum())
    known = Noise(noise.sd / float(loss.mean()), noise.dof, noise.source) if noise.known else None
    spread = choose_noise(known, squares, len(runs) - 2, np.full(1, np.nan))
    drawn = fitted + spread.draw(rng, n_boot, len(runs)) if spread.known else np.empty((0, 0))
    law = _fit(log_c, drawn, np.ones_like(drawn)) if n_boot and spread.known else np.empty((0, 2))
    return _entry(first[0], law, log_c, len(runs)) | {
        "noise": {"sd": spread.sd, "source": spread.source, "unit": "relative"}
    }


def _frontier(
    runs: list[tuple[float, dict[str, Any]]], curves: Curves, n_boot: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    found = []
    for extra, run in runs:
        points = curve(curves, run["run_id"])
        if points is not None and len(points[0]) > 1:
            found.append((extra + 6.0 * run["n_params"] * points[0], points[1]))
    if len(found) < MIN_RUNS:
        return None
    # Left of the first run's end the envelope is that run's own curve.
    low = min(c[-1] for c, _ in found)
    high = max(c[-1] for c, _ in found)
    log_c = np.linspace(np.log(low), np.log(high), _TARGETS)
    losses = np.stack([
        np.interp(log_c, np.log(c), loss, left=np.inf, right=np.inf) for c, loss in found
    ])  # fmt: skip
    drawn = rng.integers(0, len(found), size=(n_boot, len(found)))
    envelope = np.vstack([losses.min(axis=0), losses[drawn].min(axis=1)])
    usable = np.isfinite(envelope)
    law = _fit(log_c, np.log(np.where(usable, envelope, 1.0)), usable.astype(float))
    # A draw of one run only is that run's curve, not an envelope.
    alone = (drawn == drawn[:, :1]).all(axis=1)
    law[1:][alone] = np.nan
    return _entry(law[0], law[1:], log_c, len(found))


def _fit(log_c: Array, log_loss: Array, weight: Array) -> Array:
    """Return (replicates, 2): ln A and a."""
    found = regress(np.column_stack([np.ones_like(log_c), log_c]), log_loss, weight)
    return found * [1.0, -1.0]


def _entry(first: Array, law: Array, log_c: Array, n_runs: int) -> dict[str, Any]:
    ends = [None if e is None else float(np.exp(e)) for e in interval(law[:, 0])]
    return {
        "A": float(np.exp(first[0])), "a": float(first[1]),
        "ci95": {"A": ends, "a": interval(law[:, 1])},
        "n_runs": n_runs,
        "fitted_range": [float(np.exp(log_c.min())), float(np.exp(log_c.max()))],
        "bootstrap": {**sample({"log_A": law[:, 0], "a": law[:, 1]}),
                      "n": len(law), "failed": int(np.isnan(law[:, 0]).sum())},
    }  # fmt: skip
