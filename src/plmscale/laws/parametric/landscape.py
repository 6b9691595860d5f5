"""What the data say about each parameter of L(N, D): profile likelihoods and other optima."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from plmscale.laws.parametric.descent import Hold, descend
from plmscale.laws.parametric.hoffmann import (
    DELTA,
    EXPONENT_BOUNDS,
    as_theta,
    decrement,
    linear_fit,
)
from plmscale.laws.parametric.lbfgs import PAPER_START, hoffmann_grid, lbfgs_stop

Array = NDArray[np.float64]

# One more step may promise this share of the objective and the fit still counts as finished.
CONVERGED = 1e-4
# Objectives this close (relative) are one optimum.
_SAME = 1e-4
# Every 121st of the 4,500 starts: all levels of every parameter occur.
_EVERY = 121
_LEVEL = 0.95
# How high above the cut a profile is kept for a figure.
_SHOWN = 20.0


@dataclass(frozen=True)
class Data:
    """Centred ln N and ln D, ln L (points,), and the means that were taken off ln N and ln D."""

    u: Array
    v: Array
    log_loss: Array
    centre: tuple[float, float]


@dataclass(frozen=True)
class Profile:
    """Least objective at fixed values of one parameter, above the minimum in units of the cut.

    `values` and `rise` are (points,), in order of value; where `rise` exceeds 1 a likelihood
    ratio test rejects the value at 95 %. `range` holds the ends of what it does not reject;
    `bounded` says for each end whether the profile crosses 1 there or meets the search's bound.
    """

    values: Array
    rise: Array
    range: tuple[float, float]
    bounded: tuple[bool, bool]


def rejection_rise(sd: float, points: int) -> float:
    """Return how far the objective may rise before a value is rejected at 95 %.

    Twice the rise of a sum of rho(r) is E[psi^2] / E[psi'] times chi-squared with one degree of
    freedom (Huber and Ronchetti 2009, section 13.5), psi = clip(r, -delta, delta), here for
    Gaussian errors of relative standard deviation `sd`; F in place of chi-squared for few points
    is left to the caller's `sd`.
    """
    z = DELTA / sd
    inside = 2 * norm.cdf(z) - 1
    square = sd**2 * (inside - 2 * z * norm.pdf(z)) + DELTA**2 * (1 - inside)
    # Residuals of a fit with five parameters are smaller than the errors they come from.
    small_sample = points / max(points - 5, 1)
    return float(chi2.ppf(_LEVEL, 1) / 2 * square / inside * small_sample)


def profiles(theta: Array, value: float, data: Data, cut: float) -> dict[str, Profile]:
    """Profile E, alpha, beta and a = beta / (alpha + beta) around the optimum `theta` (5,)."""
    low, high = EXPONENT_BOUNDS
    exponents = np.geomspace(low, high, 41)
    top = float(np.exp(data.log_loss.min()))
    first: dict[Hold, Array] = {
        "E": np.linspace(0.0, 0.98 * top, 31),
        "alpha": exponents,
        "beta": exponents,
        "a": np.linspace(0.02, 0.98, 33),
    }
    best: dict[Hold, float] = {
        "E": theta[2], "alpha": theta[3], "beta": theta[4], "a": theta[4] / theta[3:].sum(),
    }  # fmt: skip
    return {
        name: _profile(name, grid, best[name], theta, value, data, cut)
        for name, grid in first.items()
    }


def _profile(
    name: Hold, grid: Array, best: float, theta: Array, value: float, data: Data, cut: float
) -> Profile:
    values = np.unique(np.r_[grid, best])
    rise = (_least(name, values, theta, data) - value) / cut
    rise[values == best] = 0.0
    # A second, finer grid around what is not rejected: the first is wide, not fine.
    left, right = _bracket(values, rise)
    finer = np.linspace(values[left], values[right], 26)[1:-1]
    finer_rise = (_least(name, finer, theta, data) - value) / cut
    values, rise = np.r_[values, finer], np.r_[rise, finer_rise]
    order = np.argsort(values)
    values, rise = values[order], np.maximum(rise[order], 0.0)
    left, right = _bracket(values, rise)
    inside = np.flatnonzero(rise <= 1.0)
    ends = (
        _crossing(values, rise, int(inside[0]), left),
        _crossing(values, rise, int(inside[-1]), right),
    )
    bounded = (left != inside[0], right != inside[-1])
    return Profile(values, rise, ends, bounded)


def _bracket(values: Array, rise: Array) -> tuple[int, int]:
    """Return the last rejected grid points on both sides (the ends where there are none)."""
    inside = np.flatnonzero(rise <= 1.0)
    return max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 1, len(values) - 1)


def _crossing(values: Array, rise: Array, inside: int, outside: int) -> float:
    if inside == outside:
        return float(values[inside])
    share = (1.0 - rise[inside]) / (rise[outside] - rise[inside])
    return float(values[inside] + share * (values[outside] - values[inside]))


def _least(name: Hold, values: Array, theta: Array, data: Data) -> Array:
    """Return the least objective at each value of one parameter."""
    starts = np.vstack([_nearby(name, values, theta), _searched(name, values, data)])
    found = descend(starts, data.u, data.v, data.log_loss, hold=name, rounds=100)[1]
    return found.reshape(-1, len(values)).min(axis=0)


def _nearby(name: Hold, values: Array, theta: Array) -> Array:
    starts = np.tile(theta, (len(values), 1))
    if name == "a":
        total = theta[3:].sum()
        starts[:, 3], starts[:, 4] = (1 - values) * total, values * total
        return _inside(starts)
    starts[:, {"E": 2, "alpha": 3, "beta": 4}[name]] = values
    return starts


def _inside(starts: Array) -> Array:
    """Scale both exponents so that they lie inside their bounds with their ratio kept."""
    low, high = EXPONENT_BOUNDS
    pair = starts[:, 3:]
    factor = np.clip(1.0, low / pair.min(axis=1), high / pair.max(axis=1))
    starts[:, 3:] = pair * factor[:, None]
    return starts


def _searched(name: Hold, values: Array, data: Data) -> Array:
    """Return for each value the best of a grid of the exponents that are free, rest exact."""
    loss = np.exp(data.log_loss)[None]
    other = np.geomspace(0.02, 2.0, 12)
    if name == "E":
        alphas, betas = (g.ravel() for g in np.meshgrid(other, other))
        starts = [_best_cell(data, loss - value, alphas, betas, 1, False)[0] for value in values]
        found = np.array(starts)
        found[:, 2] = values
        return found
    own, free = np.repeat(values, len(other)), np.tile(other, len(values))
    if name == "a":
        pairs = _inside(np.c_[np.zeros((len(own), 3)), (1 - own) * free, own * free])[:, 3:]
    else:
        pairs = np.c_[own, free] if name == "alpha" else np.c_[free, own]
    return _best_cell(data, loss, pairs[:, 0], pairs[:, 1], len(values), True)


def _best_cell(
    data: Data, loss: Array, alphas: Array, betas: Array, groups: int, floor: bool
) -> Array:
    """Return the best cell of each of `groups` equal parts of the cells: (groups, 5)."""
    error, solution = linear_fit(data.u, data.v, loss, alphas, betas, floor)
    first = np.arange(groups) * (len(alphas) // groups)
    cell = first + error[:, 0].reshape(groups, -1).argmin(axis=1)
    level = np.full(groups, loss.mean())
    return as_theta(solution[cell, :, 0], alphas[cell], betas[cell], level)


def identified(found: dict[str, Profile]) -> dict[str, bool]:
    """Say for each profiled parameter whether the data tell it.

    An exponent is told when its 95 % range has two ends less than a factor 4 apart, E when its
    range leaves out zero, a when its range is narrower than 0.25.
    """
    result = {}
    for name, profile in found.items():
        low, high = profile.range
        if name == "E":
            result[name] = bool(profile.bounded[0] and low > 0)
        elif name == "a":
            result[name] = bool(high - low < 0.25)
        else:
            result[name] = bool(all(profile.bounded) and high < 4.0 * low)
    return result


def drawn(profile: Profile) -> list[list[float]]:
    """Return a profile as [value, rise] pairs for a figure, without its steep far ends."""
    shown = profile.rise <= _SHOWN
    inside = np.flatnonzero(shown)
    part = slice(max(inside[0] - 1, 0), inside[-1] + 2)
    pairs = zip(profile.values[part], profile.rise[part], strict=True)
    return [[float(f"{value:.6g}"), float(f"{rise:.4g}")] for value, rise in pairs]


def optima(theta: Array, value: float, data: Data) -> list[dict[str, Any]]:
    """List where fits end: true optima by objective, then where L-BFGS-B stops.

    Starts are a part of the grid of Hoffmann et al. and the start of Cheng et al. Each optimum
    has its parameters (`theta`: log A, log B, E, alpha, beta, centred), objective, how many of
    the `of` starts end there, and `stationary`: whether a further step promises nothing. The
    last item is the stop of L-BFGS-B with scipy's defaults from the paper's start.
    """
    grid = np.vstack([hoffmann_grid()[::_EVERY], PAPER_START])
    starts = grid.copy()
    starts[:, 0] -= grid[:, 3] * data.centre[0]
    starts[:, 1] -= grid[:, 4] * data.centre[1]
    starts[:, 2] = np.exp(grid[:, 2])
    ends, values = descend(starts, data.u, data.v, data.log_loss, rounds=300)
    ends, values = np.vstack([theta, ends]), np.r_[value, values]
    order = np.argsort(values, kind="stable")
    found: list[dict[str, Any]] = []
    for i in order:
        if found and values[i] <= found[-1]["objective"] * (1 + _SAME) + 1e-15:
            found[-1]["starts"] += 1
            continue
        left = decrement(ends[i], data.u, data.v, data.log_loss)
        found.append({"theta": ends[i], "objective": float(values[i]), "starts": 1,
                      "stationary": left < CONVERGED})  # fmt: skip
    # The best fit itself was put in to be first; it is no start.
    found[0]["starts"] -= 1
    found[0]["theta"], found[0]["objective"] = theta, value
    kept = [item for item in found if item["stationary"]] or found[:1]
    for item in kept:
        item |= {"of": len(starts), "search": "descent"}
    return [*kept, _paper_stop(data)]


def _paper_stop(data: Data) -> dict[str, Any]:
    stop = lbfgs_stop(
        np.array(PAPER_START), data.u + data.centre[0], data.v + data.centre[1], data.log_loss
    )
    end = stop.theta.copy()
    end[0] -= end[3] * data.centre[0]
    end[1] -= end[4] * data.centre[1]
    end[2] = np.exp(min(end[2], 700.0))
    left = decrement(end, data.u, data.v, data.log_loss)
    return {"theta": end, "objective": stop.objective, "starts": 1, "of": 1,
            "stationary": bool(left < CONVERGED), "search": "L-BFGS-B, start of Cheng et al."}  # fmt: skip
