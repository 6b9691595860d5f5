"""The overfitting turn: where validation loss is lowest, and how far it rises after that."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from plmscale.laws.bootstrap import interval

Array = NDArray[np.float64]

# A window this long averages the jitter away and still follows a turn within an epoch.
_WINDOW = 0.08
_FEW = 30


def find_turn(
    tokens: Array,
    loss: Array,
    unique: float,
    loss_sd: float,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Find the minimum of a validation curve and the rise from it to the end.

    `unique` is the corpus in tokens, `loss_sd` the error of a point in nats where the curve is too
    short (below 30 points) to show its own jitter. Returns `tokens`, `epoch`, `least_loss` and
    `rise` (end minus least) of the smoothed curve, epoch and rise with 95 % intervals from
    redrawn jitter, and `verdict`: "turns" where the rise is above zero for sure, "no turn" else.

    The least of many noisy points lies below the end by chance too, so the rise is compared with
    what jitter alone gives on a curve that falls all the way.
    """
    window = 2 * max(int(_WINDOW * len(loss) / 2), 1) + 1
    smooth_it = len(loss) >= _FEW

    def smooth(values: Array) -> Array:
        return savgol_filter(values, window, 2, axis=-1) if smooth_it else values

    line = smooth(loss)
    # The median is blind to the first points, where the loss falls faster than the smoother.
    jitter = 1.4826 * float(np.median(np.abs(loss - line))) if smooth_it else float(loss_sd)
    at = int(np.argmin(line))
    found: dict[str, Any] = {
        "tokens": float(tokens[at]),
        "epoch": {"value": float(tokens[at] / unique), "ci95": [None, None]},
        "least_loss": float(line[at]),
        "rise": {"value": float(line[-1] - line[at]), "ci95": [None, None]},
        "jitter_sd": jitter,
        "verdict": "not resolved",
    }
    if not (np.isfinite(jitter) and jitter > 0 and n_boot):
        return found
    noise = smooth(jitter * rng.standard_normal((n_boot, len(loss))))
    drawn = line + noise
    lowest = np.argmin(drawn, axis=1)
    falling = np.minimum.accumulate(line) + noise
    chance = falling[:, -1] - falling.min(axis=1)
    found["epoch"]["ci95"] = interval(tokens[lowest] / unique)
    found["rise"]["ci95"] = interval(drawn[:, -1] - drawn[np.arange(n_boot), lowest])
    sure = found["rise"]["value"] > float(np.quantile(chance, 0.975))
    found["verdict"] = "turns" if sure and at < len(loss) - 1 else "no turn"
    return found
