"""Loss as a power law of one factor: L(N), L(D) and L(C).

Kaplan et al. 2020, eq. 1.1 to 1.3: L(N) where data do not limit, L(D) where size does not limit,
L(C) with the best size for each compute. Each is fitted as K x^-c and, with a floor, E + K x^-c.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Z95, Noise, choose_noise, interval, sample, seed_noise
from plmscale.laws.isoflop.powerlaw import fit_loglog

Array = NDArray[np.float64]

SINGLE_LAWS = ("loss_n", "loss_d", "loss_c")
# The best size for a run's compute splits the runs: below it the size limits the loss more than
# the tokens do, above it less; at it both do alike (dL/dlnN = dL/dlnD). Half of it is a
# compromise: further out the other factor matters less, and fewer runs are left.
FACTOR = 2.0
# Runs whose factor differs by less count as one point, as budgets do.
SAME = 1.25
MIN_POINTS = 4
# Over less than a decade a power law cannot be told from a straight line.
DECADE = 10.0
_COLUMN = {"loss_n": "n_params", "loss_d": "tokens", "loss_c": "flops"}
_LETTER = {"loss_n": "N", "loss_d": "D", "loss_c": "C"}
# Steps of 0.3 %, which move a floor by a few thousandths of a nat; a smaller floor is none.
_EXPONENTS = np.geomspace(1e-3, 3.0, 2400)
_NO_FLOOR = 0.01


def fit_single(
    objective: str,
    rows: pd.DataFrame,
    which: str,
    n_boot: int,
    rng: np.random.Generator,
    optimum: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fit one of SINGLE_LAWS to the selected rows of one objective; return laws.json's entry.

    `optimum` is an IsoFLOP entry: its N_opt(C) decides which runs L(N) and L(D) may use, and its
    `points` are the minima for L(C). N in parameters, D in tokens, C in FLOPs, loss in nats a
    token. `law` holds K and c of K x^-c, `with_floor` E, K and c of E + K x^-c. Intervals are of a
    bootstrap over the points' losses; they do not hold what the other factor still does.
    """
    where = f"{objective} {which}"
    points, rule = _points(rows, which, optimum)
    entry: dict[str, Any] = {
        "form": f"L = K {_LETTER[which]}^-c, and with a floor L = E + K {_LETTER[which]}^-c",
        "rule": rule, "law": {"K": None, "c": None},
        "with_floor": {"E": None, "K": None, "c": None}, "ci95": {},
        "n_runs": int(points["n_runs"].sum()) if len(points) else 0,
        "points": points.to_dict("records"), "notes": [],
    }  # fmt: skip
    column = _COLUMN[which]
    if len(points) < MIN_POINTS:
        count = f"{len(points)} point" + ("s" if len(points) != 1 else "")
        text = f"{where}: {count} for this law, {MIN_POINTS} are needed ({rule})"
        return {**entry, "warnings": [text]}
    log_x, loss = np.log(points[column].to_numpy(float)), points["loss"].to_numpy(float)
    sure, known = _certainty(rows, points)
    law = power_law(log_x, loss[None], sure)
    floored = floored_law(log_x, loss[None], sure)
    squares = float(sure @ (loss - np.exp(law["log_K"][0] - law["c"][0] * log_x)) ** 2)
    noise = choose_noise(known, squares, len(loss) - 2, np.empty(0))
    warnings = _warnings(where, which, points[column])
    if noise.known and n_boot:
        centre = np.exp(law["log_K"][0] - law["c"][0] * log_x)
        with_floor = floored["E"][0] + np.exp(floored["log_K"][0] - floored["c"][0] * log_x)
        errors = noise.draw(rng, n_boot, len(loss)) / np.sqrt(sure)
        spread = power_law(log_x, np.maximum(centre + errors, 1e-9), sure)
        spread_floor = floored_law(log_x, np.maximum(with_floor + errors, 1e-9), sure)
        entry["ci95"] = {**_ends(spread), "with_floor": _ends(spread_floor)}
        low = entry["ci95"]["with_floor"]["E"][0]
        if not low:
            entry["notes"].append(f"{where}: these losses do not show a floor E above zero")
        kept = {**spread, **{f"{name}_floor": v for name, v in spread_floor.items()}}
        entry["bootstrap"] = {**sample(kept), "n": n_boot, "failed": 0}
    else:
        warnings.append(f"{where}: no intervals, since nothing tells the noise of a loss")
    return {
        **entry,
        "law": {"K": float(np.exp(law["log_K"][0])), "c": float(law["c"][0])},
        "with_floor": {
            "E": float(floored["E"][0]), "K": float(np.exp(floored["log_K"][0])),
            "c": float(floored["c"][0]),
        },
        "fitted_range": {column: [float(points[column].min()), float(points[column].max())]},
        "noise": {"sd": noise.sd, "source": noise.source, "unit": "nats a token"},
        "warnings": warnings,
    }  # fmt: skip


def power_law(log_x: Array, loss: Array, weight: Array | None = None) -> dict[str, Array]:
    """Fit K x^-c by regression in log-log space; `loss` is (replicates, points).

    `weight` (points,) is one over the variance of each point up to a factor, equal if None.
    """
    weight = np.ones(len(log_x)) if weight is None else weight
    log_k, slope = fit_loglog(log_x, np.log(loss), np.broadcast_to(weight, loss.shape))
    return {"log_K": log_k, "c": -slope}


def floored_law(log_x: Array, loss: Array, weight: Array | None = None) -> dict[str, Array]:
    """Fit E + K x^-c with E = 0 or above by least squares of the loss; shapes as `power_law`.

    For a given c, E and K are linear, so a grid over c finds the global optimum; where its E
    would be below zero, the law without a floor stands.
    """
    weight = np.ones(len(log_x)) if weight is None else weight
    share = weight / weight.sum()
    centre = share @ log_x
    basis = np.exp(-_EXPONENTS[:, None] * (log_x - centre))
    level = (basis @ share)[:, None]
    spread = basis - level
    middle = (loss @ share)[:, None]
    square = (spread**2) @ share
    k = ((loss - middle) * share) @ spread.T / square
    # What is left of the variance once K has explained its part.
    left = ((loss - middle) ** 2) @ share
    left = np.where(k > 0, left[:, None] - k**2 * square, np.inf)
    best = np.argmin(left, axis=1)
    row = np.arange(len(loss))
    c, k = _EXPONENTS[best], k[row, best]
    e = middle[:, 0] - k * level[best, 0]
    plain = power_law(log_x, loss, weight)
    none = (e < _NO_FLOOR) | (k <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_k = np.log(k) + c * centre
    return {
        "E": np.where(none, 0.0, e),
        "log_K": np.where(none, plain["log_K"], log_k),
        "c": np.where(none, plain["c"], c),
    }


def _points(
    rows: pd.DataFrame, which: str, optimum: Mapping[str, Any] | None
) -> tuple[pd.DataFrame, str]:
    """Return the points of a law (its factor, loss, n_runs, runs) and the rule that chose them."""
    if which == "loss_c":
        return _minima(optimum), "the minimum of each budget's profile"
    best = _best_size(rows, optimum)
    if which == "loss_n":
        if best is not None:
            free = rows[rows["n_params"] <= best / FACTOR]
            rule = f"of each size at most 1/{FACTOR:g} of N_opt(C), the run with most tokens"
        else:
            free = rows if _one(rows["tokens"]) else rows.iloc[:0]
            rule = "runs of one token count, or sizes below an N_opt(C), which there is not"
        return _furthest(free, "n_params", "tokens"), rule
    if best is not None:
        free = rows[rows["n_params"] >= best * FACTOR]
        rule = f"at each token count, the largest size that is at least {FACTOR:g} N_opt(C)"
    else:
        free = rows if _one(rows["n_params"]) else rows.iloc[:0]
        rule = "runs of one size, or sizes above an N_opt(C), which there is not"
    return _furthest(free, "tokens", "n_params"), rule


def _best_size(rows: pd.DataFrame, optimum: Mapping[str, Any] | None) -> pd.Series | None:
    law = (optimum or {}).get("N_opt") or {}
    if law.get("a") is None:
        return None
    return np.exp(np.log(law["A"]) + law["a"] * np.log(rows["c"]))


def _furthest(rows: pd.DataFrame, factor: str, other: str) -> pd.DataFrame:
    """Keep, at each value of `factor` (within SAME), the runs with most of the other one.

    Runs alike in both (seeds) are averaged.
    """
    ordered = rows.sort_values([factor, "run_id"])
    group, start, found = -1, -np.inf, []
    for value in ordered[factor]:
        if value > start * SAME or group < 0:
            group, start = group + 1, value
        found.append(group)
    points = []
    for _, near in ordered.groupby(found):
        top = near[near[other] >= near[other].max() * 0.99]
        top = top[np.isclose(top[factor], top[factor].iloc[0], rtol=0.01)]
        points.append(
            {factor: float(top[factor].mean()), other: float(top[other].mean()),
             "loss": float(top["loss"].mean()), "n_runs": len(top), "runs": list(top["run_id"])}
        )  # fmt: skip
    return pd.DataFrame(points, columns=[factor, other, "loss", "n_runs", "runs"])


def _one(values: pd.Series) -> bool:
    return bool(values.max() <= values.min() * SAME)


def _minima(optimum: Mapping[str, Any] | None) -> pd.DataFrame:
    points = [
        {"flops": p["flops"], "loss": p["loss"], "loss_ci95": p["loss_ci95"],
         "n_runs": len(p["runs"]), "runs": p["runs"]}
        for p in (optimum or {}).get("points", [])
        if p.get("used") and p["loss"] is not None
    ]  # fmt: skip
    return pd.DataFrame(points, columns=["flops", "loss", "loss_ci95", "n_runs", "runs"])


def _certainty(rows: pd.DataFrame, points: pd.DataFrame) -> tuple[Array, Noise | None]:
    """Return the weight of each point (points,), 1 for an ordinary one, and what noise is known.

    Minima come with intervals: one that its budget hardly shows counts for less.
    """
    equal = np.ones(len(points))
    if "loss_ci95" not in points:
        return equal, seed_noise(rows)
    ends = [
        pair if pair and None not in pair else [-np.inf, np.inf] for pair in points["loss_ci95"]
    ]
    sd = np.array([(high - low) / (2 * Z95) for low, high in ends])
    if not np.isfinite(sd).any() or np.median(sd) <= 0:
        return equal, None
    usual = float(np.median(sd[np.isfinite(sd)]))
    weight = np.minimum(1.0, (usual / np.maximum(sd, usual)) ** 2)
    return np.maximum(weight, 1e-6), Noise(usual, float("inf"), "the minima's intervals")


def _ends(replicates: Mapping[str, Array]) -> dict[str, list[float | None]]:
    found = {name: interval(v) for name, v in replicates.items() if name != "log_K"}
    ends = interval(replicates["log_K"])
    found["K"] = [None if e is None or abs(e) > 700 else float(np.exp(e)) for e in ends]
    return found


def _warnings(where: str, which: str, values: pd.Series) -> list[str]:
    span = float(values.max() / values.min())
    if span >= DECADE:
        return []
    name = {"loss_n": "sizes", "loss_d": "token counts", "loss_c": "budgets"}[which]
    return [f"{where}: the {name} span a factor {span:.2g} only; do not carry this law further"]
