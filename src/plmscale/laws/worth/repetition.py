"""What a repeated token is worth (Muennighoff et al. 2023). The content of laws.json's `repetition`.

A run that reads U unique tokens 1 + R times learns as if from

    D' = U + U R* (1 - exp(-R / R*))                         (their equation 5)

fresh tokens: the first repeats count nearly as much as fresh tokens, and beyond R* passes they
count for little. R* is found per objective and size from the gap between the validation curve of
the repeated corpus and that of a partner on fresh tokens. The two corpora differ in more than
repetition; the gap at the end of the first epoch, when nothing has been repeated yet, is taken for
that difference, and what the gap grows by afterwards for repetition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.files import finite
from plmscale.laws.bootstrap import Noise, generator, interval
from plmscale.laws.table.select import select
from plmscale.laws.worth.pairs import (
    Curves,
    close,
    curve,
    gaps,
    normalised,
    rerun_noise,
    run_errors,
)
from plmscale.laws.worth.surface import Surface, fit_surface
from plmscale.laws.worth.turn import find_turn

Array = NDArray[np.float64]

ASSUMPTIONS = (
    "both runs validate on the same sequences and have the same schedule, so their curves are "
    "compared at equal tokens",
    "the gap in the last third of the first epoch is the difference between the corpora and stays; "
    "what it grows by later is due to repetition",
    "a gap is turned into tokens on a surface quadratic in ln N and ln D through the ends of fresh "
    "runs from scratch, since a curve's own slope mixes in its learning rate",
    "after the turn of an overfitting run no number of fresh tokens describes it: R* is fitted to "
    "the epochs before",
)
# Fewer passes than this show no repetition to speak of; a fresh run has seen its corpus about once.
MIN_EPOCHS = 2.0
FRESH_EPOCHS = 1.5
_SAME_TOKENS = 0.05
_FIRST_EPOCH = (2 / 3, 1.0)
# R* between "the second pass is worth nothing" and "a thousand passes are as good as fresh".
_R_STAR = np.geomspace(0.05, 1e3, 241)


def fit_repetition(
    runs: pd.DataFrame, curves: Curves, n_boot: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Fit R* to every run that read its corpus twice or more and has a partner on fresh tokens.

    `curves` maps run_id to a curve (step, tokens, flops_6nd, split, loss in nats a token). The
    partner has the same objective, size and mask ratio, tokens within 5 %, another corpus and at
    most 1.5 epochs. Returns None for a table without such runs; otherwise `pairs` (corpus gap,
    epochs with their gap, R_star, the same with the corpus gap left free, effective tokens at the
    last fitted epoch, the overfitting `turn`), `assumptions` and `warnings`. Intervals are 95 %; what cannot be told is None and says why.
    """
    table = normalised(runs)
    usable = table[table["done"] & (table["parent"] == "")]
    repeated = usable[usable["epochs"] >= MIN_EPOCHS]
    order = repeated.sort_values(["objective", "n_params", "corpus", "run_id"])
    found, warnings = [], []
    surfaces: dict[str, Surface | None] = {}
    scratch = select(runs).runs if len(repeated) else repeated
    reruns = rerun_noise(table, curves)
    for run in order.to_dict("records"):
        partner = _partner(run, usable)
        if partner is None:
            continue
        objective = run["objective"]
        if objective not in surfaces:
            fresh = scratch[(scratch["objective"] == objective)
                            & ~(scratch["epochs"] > FRESH_EPOCHS)]  # fmt: skip
            surfaces[objective] = fit_surface(
                fresh, n_boot, generator(seed, "repetition", objective)
            )
        rng = generator(seed, "repetition", run["run_id"])
        item = _pair(run, partner, surfaces[objective], curves, reruns, n_boot, rng)
        found.append(item)
        warnings += [f"repetition, {run['run_id']}: {text}" for text in item["warnings"]]
    if not found:
        return None
    return finite({"pairs": found, "assumptions": list(ASSUMPTIONS), "warnings": warnings})


def _partner(run: dict[str, Any], usable: pd.DataFrame) -> dict[str, Any] | None:
    rows = usable[
        (usable["objective"] == run["objective"])
        & (usable["corpus"] != run["corpus"])
        & ~(usable["epochs"] > FRESH_EPOCHS)
        & (usable["mask_ratio"].fillna(0.0) == np.nan_to_num(run["mask_ratio"]))
    ]
    near = [
        close(n, run["n_params"], 0.005) and close(d, run["tokens"], _SAME_TOKENS)
        for n, d in zip(rows["n_params"], rows["tokens"], strict=True)
    ]
    # An empty list would select columns.
    rows = rows[np.array(near, dtype=bool)]
    if rows.empty:
        return None
    away = np.abs(np.log(rows["tokens"] / run["tokens"])).round(3)
    return rows.assign(away=away).sort_values(["away", "run_id"]).iloc[0].to_dict()


def _pair(
    run: dict[str, Any],
    partner: dict[str, Any],
    surface: Surface | None,
    curves: Curves,
    reruns: Noise | None,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    unique = float(run["tokens"] / run["epochs"])
    size = float(run["n_params"])
    item: dict[str, Any] = {
        "objective": run["objective"], "n_params": size,
        "runs": {"repeated": run["run_id"], "fresh": partner["run_id"]},
        "corpora": {"repeated": run["corpus"], "fresh": partner["corpus"]},
        "epochs": float(run["epochs"]), "unique_tokens": unique,
        "loss": {"repeated": float(run["loss"]), "fresh": float(partner["loss"])},
        "difference": float(run["loss"] - partner["loss"]),
        "corpus_gap": None, "by_epoch": [], "R_star": None, "R_star_free_gap": None,
        "effective_tokens": None,
        "turn": None, "memorised": None, "noise": None, "warnings": [],
    }  # fmt: skip
    points = curve(curves, run["run_id"])
    other = curve(curves, partner["run_id"])
    if points is None or other is None:
        item["warnings"].append("no validation curve of both runs; only the end is compared")
        return item
    item["turn"] = find_turn(*points, unique, float(run["loss_sd"]), n_boot, rng)
    item["memorised"] = _memorised(run, partner, curves, unique)
    epoch, tokens, gap = _by_epoch(points, other, unique)
    first = _first_gap(points, other, unique)
    if first is None or len(gap) < 3:
        item["warnings"].append(
            "R* not identified: it takes validation points within the first epoch and in three "
            "later ones"
        )
        return item
    excess = gap - first
    item["corpus_gap"] = {"value": first, "ci95": [None, None]}
    item["by_epoch"] = [
        {"epoch": float(e), "tokens": float(d), "gap": float(g), "excess": float(x)}
        for e, d, g, x in zip(epoch, tokens, gap, excess, strict=True)
    ]
    if surface is None:
        item["warnings"].append(
            f"R* not identified: too few fresh {run['objective']} runs for a surface of L(N, D) "
            "that turns the gap into tokens"
        )
        return item
    turns = item["turn"]["verdict"] == "turns"
    before = tokens <= (item["turn"]["tokens"] if turns else np.inf)
    if before.sum() < 3:
        item["warnings"].append("R* not identified: the run overfits within three epochs")
        return item
    _fit(item, surface, unique, size, tokens, excess, before, reruns, n_boot, rng)
    if turns:
        item["warnings"].append(
            f"validation loss rises again after epoch {item['turn']['epoch']['value']:.1f}, by "
            f"{item['turn']['rise']['value']:.3f} nats; R* describes the epochs before"
        )
    return item


def _by_epoch(
    points: tuple[Array, Array], other: tuple[Array, Array], unique: float
) -> tuple[Array, Array, Array]:
    """Return number, mean tokens and mean gap of every epoch after the first, (epochs,) each."""
    tokens, gap = gaps(points, other)
    number = np.ceil(tokens / unique - 1e-9).astype(int)
    rows = [
        (k, tokens[number == k].mean(), gap[number == k].mean())
        for k in np.unique(number)
        if k >= 2
    ]
    table = np.array(rows, dtype=float).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _first_gap(
    points: tuple[Array, Array], other: tuple[Array, Array], unique: float
) -> float | None:
    tokens, gap = gaps(points, other)
    inside = (tokens > _FIRST_EPOCH[0] * unique) & (tokens <= _FIRST_EPOCH[1] * unique)
    return float(gap[inside].mean()) if inside.any() else None


def _fit(
    item: dict[str, Any],
    surface: Surface,
    unique: float,
    size: float,
    tokens: Array,
    excess: Array,
    before: Array,
    reruns: Noise | None,
    n_boot: int,
    rng: np.random.Generator,
) -> None:
    """Fill in corpus gap, R_star and effective tokens with intervals.

    The noise of an epoch's mean gap is what the fitted form leaves; the first epoch has it too,
    and an error there shifts every later one. On top, two runs may drift apart as reruns do, which
    moves all later epochs together. Replicates draw all three, and the surface.
    """
    predicted = _excess(surface, unique, size, tokens[before])
    best, fitted = _best(predicted[:1], excess[None, before])
    residual = excess[before] - fitted[0]
    dof = max(int(before.sum()) - 1, 1)
    noise = Noise(float(np.sqrt((residual**2).sum() / dof)), float(dof), "epochs about the form")
    item["noise"] = {"sd": noise.sd, "source": noise.source, "unit": "nats a token"}
    # One draw of the spread for all epochs of a replicate, the first included.
    error = noise.draw(rng, n_boot, len(tokens) + 1)
    drift = np.zeros(n_boot)
    if reruns is not None:
        drift = run_errors(reruns, rng, n_boot, 1)[:, 0]
    item["noise"]["drift"] = None if reruns is None else {"sd": reruns.sd, "source": reruns.source}
    # The first gap is a mean over a third of an epoch only, so it jitters more.
    first = error[:, :1] / np.sqrt(_FIRST_EPOCH[1] - _FIRST_EPOCH[0])
    later = error[:, 1:] + drift[:, None]
    spread, _ = _best(predicted[1:], fitted + later[:, before] - first)
    item["corpus_gap"]["ci95"] = interval(item["corpus_gap"]["value"] + first[:, 0])
    item["R_star"] = _r_star(best[0], spread) | {"fitted_epochs": int(before.sum())}
    # The same with the gap between the corpora left free, told by the shape alone.
    free, _ = _best(_centred(predicted[:1]), _centred(excess[None, before]))
    item["R_star_free_gap"] = _r_star(free[0], np.empty(0))["value"]
    if not item["R_star"]["identified"]:
        low, high = item["R_star"]["ci95"]
        bound = f"above {low:.3g}" if low is not None else (
            f"below {high:.3g}" if high is not None else "anything")  # fmt: skip
        item["warnings"].append(f"R* not identified: with 95 % confidence it is {bound}")
    last = int(np.flatnonzero(before)[-1])
    drop = -np.r_[excess[last], excess[last] + later[:, last] - first[:, 0]]
    share = np.exp(surface.worth(size, float(tokens[last]), drop))
    # A replicate that no number of tokens explains is infinite, and so may an end be.
    with np.errstate(invalid="ignore"):
        ends = interval(share[1:])
    item["effective_tokens"] = {
        "at_tokens": float(tokens[last]), "epochs": float(tokens[last] / unique),
        "value": float(tokens[last] * share[0]),
        "ci95": [None if e is None else float(tokens[last]) * e for e in ends],
        "share": {"value": float(share[0]), "ci95": ends},
    }  # fmt: skip
    for row, x in zip([r for r, b in zip(item["by_epoch"], before, strict=True) if b], fitted[0],
                      strict=True):  # fmt: skip
        row["fitted_excess"] = float(x)


def _r_star(value: float, spread: Array) -> dict[str, Any]:
    """Return R* with its interval; an end at the border of the search is no bound."""
    low, high = interval(spread)
    low = None if low is None or low <= _R_STAR[0] * 1.001 else low
    high = None if high is None or high >= _R_STAR[-1] / 1.001 else high
    inside = _R_STAR[0] < value < _R_STAR[-1]
    return {"value": float(value) if inside else None, "ci95": [low, high],
            "identified": low is not None and high is not None}  # fmt: skip


def _centred(values: Array) -> Array:
    """Take the mean over epochs off, which leaves the gap between the corpora free."""
    return values - values.mean(axis=-1, keepdims=True)


def _excess(surface: Surface, unique: float, size: float, tokens: Array) -> Array:
    """Return the loss above fresh tokens for every R* of the grid: (1 + R, grid, epochs)."""
    repeats = tokens / unique - 1
    worth = unique * (1 - _R_STAR[:, None] * np.expm1(-repeats / _R_STAR[:, None]))
    step = np.log(worth / tokens)
    slope = np.column_stack([surface.slope(size, float(d)) for d in tokens])
    bend = surface.coefficients[:, 5]
    return slope[:, None, :] * step + bend[:, None, None] * step**2


def _best(predicted: Array, excess: Array) -> tuple[Array, Array]:
    """Return R* of least squares and its excess, for (R, grid, epochs) and (R, epochs)."""
    cost = ((predicted - excess[:, None, :]) ** 2).sum(axis=2)
    at = np.argmin(cost, axis=1)
    rows = np.arange(len(at))
    left, right = np.maximum(at - 1, 0), np.minimum(at + 1, len(_R_STAR) - 1)
    # A parabola through the three lowest points of the grid, in ln R*.
    bend = cost[rows, left] - 2 * cost[rows, at] + cost[rows, right]
    inner = (left < at) & (right > at) & (bend > 0)
    shift = np.where(
        inner, (cost[rows, left] - cost[rows, right]) / np.where(inner, 2 * bend, 1), 0
    )
    step = np.log(_R_STAR[1] / _R_STAR[0])
    return _R_STAR[at] * np.exp(step * shift), predicted[rows, at]


def _memorised(
    run: dict[str, Any], partner: dict[str, Any], curves: Curves, unique: float
) -> dict[str, Any] | None:
    """Return validation minus training loss in the first and the last epoch, both runs, in nats."""
    found: dict[str, Any] = {}
    for name, row in (("repeated", run), ("fresh", partner)):
        sides = {split: curve(curves, row["run_id"], split) for split in ("valid", "train")}
        if sides["valid"] is None or sides["train"] is None:
            return None
        end = float(row["tokens"])
        for when, low, high in (("first_epoch", 2 / 3 * unique, unique),
                                ("last_epoch", end - unique, end * 1.001)):  # fmt: skip
            means = [
                loss[(tokens > low) & (tokens <= high)]
                for tokens, loss in (sides["valid"], sides["train"])  # type: ignore[misc]
            ]
            if not (len(means[0]) and len(means[1])):
                return None
            found.setdefault(when, {})[name] = float(means[0].mean() - means[1].mean())
    return found
