"""Effectively transferred tokens (Hernandez et al. 2021): what pre-training is worth in tokens.

D_t = D_E - D_F (their equation 1): D_E is how many tokens a model of the same size needs from
scratch to reach the loss that the pre-trained one reached after D_F tokens. The law is
D_t = k D_F^alpha N^beta (equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.laws.bootstrap import interval, sample
from plmscale.laws.worth.pairs import SAME_TOKENS, Curves, close, curve, gaps, mean_near
from plmscale.laws.worth.regression import regress, worth_law
from plmscale.laws.worth.surface import Surface
from plmscale.laws.worth.transfer_pairs import Pair, scratch_reading

Array = NDArray[np.float64]

# Where curves are read, as shares of the run: after the warm-up, evenly in ln D.
FRACTIONS = tuple(np.geomspace(0.06, 1.0, 11))


def token_laws(
    pairs: Sequence[Pair], surface: Surface | None, curves: Curves, rng: np.random.Generator
) -> dict[str, Any]:
    """Fit D_t = k D_F^alpha N^beta to the ends of runs and, two ways, along their curves.

    `ends` is the sound reading: both runs have finished their schedules. `along` fits the same
    ends with alpha fixed at 1, which is all that ends identify when D_F was chosen to rise with N.
    `curves` reads D_E off the from-scratch curve at points along the run, as a plot of the curves
    suggests; D_E lies later in the schedule than D_F, so the learning rate differs. `gaps` turns
    the gap at equal D into tokens with the surface, taking the effect of the schedule as the same
    for both. Intervals of curve readings resample the sizes.
    """
    laws: dict[str, Any] = {
        "ends": _ends_law(pairs, fixed_alpha=False), "along": _ends_law(pairs, fixed_alpha=True)
    }  # fmt: skip
    replicates = len(pairs[0].log_e) - 1 if pairs else 0
    drawn = rng.integers(0, max(len(pairs), 1), size=(replicates, len(pairs)))
    times = (drawn[:, :, None] == np.arange(len(pairs))).sum(axis=1)
    counts = np.vstack([np.ones(len(pairs)), times])
    laws["curves"] = _curve_law([_read_curve(p, curves) for p in pairs], pairs, counts)
    laws["gaps"] = _curve_law([_read_gaps(p, curves, surface) for p in pairs], pairs, counts)
    return laws


def _ends_law(pairs: Sequence[Pair], fixed_alpha: bool) -> dict[str, Any] | None:
    used = [pair for pair in pairs if pair.usable]
    sizes = {round(float(np.log(pair.child["n_params"])), 3) for pair in used}
    if len(used) < (3 if fixed_alpha else 4) or len(sizes) < 3:
        return None
    log_f = np.log([pair.tokens for pair in used])
    log_n = np.log([pair.child["n_params"] for pair in used])
    log_e = np.column_stack([pair.log_e for pair in used])
    terms = [np.ones_like(log_n), log_n] if fixed_alpha else [np.ones_like(log_n), log_f, log_n]
    theta = worth_law(np.column_stack(terms), log_e)
    # D_t / D_F has one power of D_F less than D_t.
    alpha = np.ones(len(theta)) if fixed_alpha else theta[:, 1] + 1
    alpha = np.where(np.isnan(theta[:, 0]), np.nan, alpha)
    law = _law_entry(np.column_stack([theta[:, 0], alpha, theta[:, -1]]), fixed_alpha)
    fitted = np.logaddexp(0.0, np.column_stack(terms) @ theta[0])
    return law | {
        "n_points": len(used),
        "residual_sd": float(np.sqrt(np.mean((log_e[0] - fitted) ** 2))),
        "residual_of": "ln(D_E / D_F)",
        "correlation_D_F_N": float(np.corrcoef(log_f, log_n)[0, 1]),
    }


def _curve_law(
    readings: Sequence[tuple[Array, Array]], pairs: Sequence[Pair], counts: Array
) -> dict[str, Any] | None:
    """Fit the law to `readings`: per pair tokens (points,) and ln D_t (1 + R, points) or NaN."""
    sizes = {pair.child["n_params"] for pair, (tokens, _) in zip(pairs, readings, strict=True)
             if len(tokens)}  # fmt: skip
    if len(sizes) < 3:
        return None
    log_f = np.concatenate([np.log(tokens) for tokens, _ in readings])
    log_n = np.concatenate([
        np.full(len(tokens), np.log(pair.child["n_params"]))
        for pair, (tokens, _) in zip(pairs, readings, strict=True)
    ])  # fmt: skip
    y = np.hstack([values for _, values in readings])
    each = np.concatenate([np.full(len(t), i) for i, (t, _) in enumerate(readings)]).astype(int)
    weight = counts[:, each] * np.isfinite(y)
    design = np.column_stack([np.ones_like(log_n), log_f, log_n])
    found = regress(design, y, weight)
    if np.isnan(found[0]).any():
        return None
    used = weight[0] > 0
    return _law_entry(found, fixed_alpha=False) | {
        "n_points": int(used.sum()),
        "residual_sd": float(np.sqrt(np.mean((y[0] - design @ found[0])[used] ** 2))),
        "residual_of": "ln D_t",
        "correlation_D_F_N": float(np.corrcoef(log_f[used], log_n[used])[0, 1]),
    }


def _law_entry(found: Array, fixed_alpha: bool) -> dict[str, Any]:
    """Describe D_t = k D_F^alpha N^beta from rows of ln k, alpha, beta, the estimate first."""
    log_k, alpha, beta = found.T
    ends = [None if e is None or abs(e) > 700 else float(np.exp(e)) for e in interval(log_k[1:])]
    return {
        "k": float(np.exp(log_k[0])) if abs(log_k[0]) < 700 else None, "alpha": float(alpha[0]), "beta": float(beta[0]),
        "ci95": {"k": ends, "beta": interval(beta[1:]),
                 "alpha": None if fixed_alpha else interval(alpha[1:])},
        "alpha_fixed": fixed_alpha,
        "bootstrap": {**sample({"log_k": log_k[1:], "alpha": alpha[1:], "beta": beta[1:]}),
                      "n": len(log_k) - 1, "failed": int(np.isnan(log_k[1:]).sum())},
    }  # fmt: skip


def _read_curve(pair: Pair, curves: Curves) -> tuple[Array, Array]:
    read, points = scratch_reading(pair.scratch, curves), curve(curves, pair.child["run_id"])
    if read is None or points is None:
        return np.empty(0), np.empty((len(pair.offset), 0))
    tokens = pair.tokens * np.array(FRACTIONS)
    loss = mean_near(points, tokens)
    with np.errstate(invalid="ignore", divide="ignore"):
        return tokens, np.log(read(loss - pair.offset[:, None]) - tokens)


def _read_gaps(pair: Pair, curves: Curves, surface: Surface | None) -> tuple[Array, Array]:
    points = [curve(curves, run["run_id"]) for run in (pair.scratch, pair.child)]
    nothing = np.empty(0), np.empty((len(pair.offset), 0))
    # Equal D is an equal place in the schedule only for runs of equal length.
    if (surface is None or points[0] is None or points[1] is None
            or not close(pair.tokens, pair.scratch["tokens"], SAME_TOKENS)):  # fmt: skip
        return nothing
    both = gaps(points[0], points[1])
    if len(both[0]) < 3:
        return nothing
    tokens = pair.tokens * np.array(FRACTIONS)
    gap = mean_near(both, tokens) + pair.offset[:, None]
    size = float(pair.child["n_params"])
    worth = [surface.worth(size, d, gap[:, i]) for i, d in enumerate(tokens)]
    with np.errstate(invalid="ignore", divide="ignore"):
        y = np.log(np.expm1(np.column_stack(worth))) + np.log(tokens)
    return tokens, np.where(np.isfinite(y), y, np.nan)
