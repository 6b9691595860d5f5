"""One run after pre-training beside one from scratch: what pre-training was worth, in tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from plmscale.laws.bootstrap import interval
from plmscale.laws.worth.pairs import SAME_TOKENS, Curves, close, curve, end_gap
from plmscale.laws.worth.surface import Surface

Array = NDArray[np.float64]

# A same-size run may differ this much in N to show how far from-scratch runs reach in D.
_LIKE = np.log(2.0)


@dataclass(frozen=True)
class Pair:
    """A run after pre-training (`child`), its `parent` and the run from `scratch` beside it.

    `gain` is the loss from scratch minus the child's at the child's end, `log_e` is ln(D_E / D_F),
    both (1 + replicates,) with the estimate first; `offset` is the error of a difference of two
    runs, (1 + replicates,), zero first. Where nothing tells D_E, `log_e` is NaN. `beyond` tells
    that no run from scratch saw D_E tokens.
    """

    child: dict[str, Any]
    parent: dict[str, Any]
    scratch: dict[str, Any]
    gain: Array
    offset: Array
    log_e: Array
    basis: str
    beyond: bool

    @property
    def usable(self) -> bool:
        """Whether D_E is known and within what runs from scratch have seen."""
        return bool(np.isfinite(self.log_e[0])) and not self.beyond

    @property
    def tokens(self) -> float:
        """D_F, the tokens after pre-training."""
        return float(self.child["tokens"])

    @property
    def ratio(self) -> float:
        """Compute of pre-training over compute after it."""
        return float(self.parent["flops_6nd"] / self.child["flops_6nd"])

    @property
    def total_worth(self) -> Array:
        """Compute from scratch for the same loss, over all that was spent (parent and child)."""
        return np.exp(self.log_e) / (1 + self.ratio)


def make_pair(
    child: dict[str, Any],
    parent: dict[str, Any],
    scratch: dict[str, Any],
    others: Array,
    surface: Surface | None,
    curves: Curves,
    offset: Array,
) -> Pair:
    """Compare one run after pre-training with one from scratch.

    `others` holds (ln N, ln D) of the from-scratch runs of the objective, (runs, 2). With a
    surface, D_E is where it has fallen by the gain; without one it is read off the scratch run's
    own curve, which is only possible where that run went on for longer.
    """
    tokens, size = float(child["tokens"]), float(child["n_params"])
    if close(tokens, scratch["tokens"], SAME_TOKENS):
        gap, basis = end_gap(scratch, child, curves)
        at_end = np.full(len(offset), gap)
    elif surface is not None:
        # The scratch run has another length: carry its loss along the surface to the child's.
        along = surface.value(size, tokens) - surface.value(size, scratch["tokens"])
        at_end = scratch["loss"] + along - child["loss"]
        basis = "final losses, the one from scratch carried along the surface of fresh runs"
    else:
        at_end, basis = np.full(len(offset), np.nan), "the from-scratch run's own curve"
    gain = at_end + offset
    if surface is not None:
        log_e = surface.worth(size, tokens, gain)
    else:
        read = scratch_reading(scratch, curves)
        log_e = np.full(len(offset), np.nan)
        if read is not None:
            log_e = np.log(read(child["loss"] - offset) / tokens)
    near = np.abs(others[:, 0] - np.log(size)) <= _LIKE
    reach = others[near, 1].max() if near.any() else np.log(scratch["tokens"])
    return Pair(child, parent, scratch, gain, offset, log_e, basis,
                bool(np.log(tokens) + log_e[0] > reach + 0.01))  # fmt: skip


def table_row(pair: Pair, known: bool) -> dict[str, Any]:
    """Return one line of the table: losses in nats, tokens, speed-up, and the verdict on compute.

    `known` says whether anything tells the noise; without it there are no intervals.
    """

    def both(values: Array) -> dict[str, Any]:
        # Replicates in which nothing from scratch gets there are infinite, and so may an end be.
        with np.errstate(invalid="ignore"):
            ends = interval(values[1:]) if known else [None, None]
        return {"value": float(values[0]), "ci95": ends}

    worth = both(pair.total_worth)
    low, high = worth["ci95"]
    verdict = "not resolved"
    if low is not None and low > 1:
        verdict = "better than scratch for the same total compute"
    elif high is not None and high < 1:
        verdict = "worse than scratch for the same total compute"
    return {
        "n_params": float(pair.child["n_params"]),
        "runs": {"child": pair.child["run_id"], "parent": pair.parent["run_id"],
                 "scratch": pair.scratch["run_id"]},
        "D_F": pair.tokens,
        "D_P": float(pair.parent["tokens"]),
        "flops": {"child": float(pair.child["flops_6nd"]),
                  "parent": float(pair.parent["flops_6nd"])},
        "share": pair.ratio / (1 + pair.ratio),
        "loss_scratch": float(pair.scratch["loss"]),
        "loss_transfer": float(pair.child["loss"]),
        "gain": both(pair.gain) if np.isfinite(pair.gain[0]) else None,
        "D_E": both(pair.tokens * np.exp(pair.log_e)),
        "D_t": both(pair.tokens * np.expm1(pair.log_e)),
        "speed_up": both(np.exp(pair.log_e)),
        "total_worth": worth,
        "verdict": verdict,
        "beyond_scratch_runs": pair.beyond,
        "basis": pair.basis,
    }  # fmt: skip


def scratch_reading(
    scratch: dict[str, Any], curves: Curves
) -> Callable[[Array | float], Array] | None:
    """Return a function from losses to the tokens where the scratch curve has them.

    Infinite below its lowest loss, NaN above its highest.

    The curve is made monotone first, so that the jitter of validation cannot give two answers.
    """
    points = curve(curves, scratch["run_id"])
    if points is None or len(points[0]) < 3:
        return None
    falling = np.asarray(isotonic_regression(points[1], increasing=False).x)

    def read(loss: Array | float) -> Array:
        found = np.exp(np.interp(-np.asarray(loss), -falling, np.log(points[0])))
        reached = np.where(np.asarray(loss) > falling[-1], found, np.inf)
        return np.where(np.asarray(loss) < falling[0], reached, np.nan)

    return read
