"""The minimum of an Akima curve through a profile's points, for many tables at once.

Akima (1970) interpolation is cubic in each interval and local: a stray point bends the curve
beside it only. No form of the profile is assumed; in return every point's noise is followed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from plmscale.laws.isoflop.profiles import Minima, Profile

Array = NDArray[np.float64]

# Slopes at a knot come from two neighbours on each side, so fewer knots are mostly invention.
MIN_SIZES_AKIMA = 5


def spline_minima(profile: Profile, losses: Array) -> Minima:
    """Locate the least loss of the Akima curve in ln N for each row of `losses`.

    `losses` is (replicates, points) with at least MIN_SIZES_AKIMA points; the curve is not
    continued beyond them, so a minimum at the smallest or largest size is returned as it is.
    """
    curve = Akima1DInterpolator(profile.log_n, losses.T, axis=0)
    cubic, square, linear, level = curve.c
    width = np.diff(profile.log_n)[:, None]
    # Stationary points of each cubic: 3 c3 t^2 + 2 c2 t + c1 = 0, written so that c3 = 0 is fine.
    root = np.sqrt(np.maximum(square**2 - 3 * cubic * linear, 0.0))
    signed = -(square + np.where(square < 0, -root, root))
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.stack([signed / (3 * cubic), linear / signed])
    places = np.where(np.isfinite(places), places, 0.0)
    places = np.concatenate([np.clip(places, 0.0, width), np.zeros_like(places[:1])])
    values = ((cubic * places + square) * places + linear) * places + level
    # The last knot starts no interval; (3, intervals, replicates) become one list of candidates.
    flat = np.concatenate([values.reshape(-1, len(losses)), losses.T[-1:]])
    where = np.concatenate(
        [(profile.log_n[:-1, None] + places).reshape(-1, len(losses)),
         np.full((1, len(losses)), profile.log_n[-1])]
    )  # fmt: skip
    best = np.argmin(flat, axis=0)
    row = np.arange(len(losses))
    log_n = where[best, row]
    piece = np.clip(np.searchsorted(profile.log_n, log_n, side="right") - 1, 0, len(width) - 1)
    bend = 6 * cubic[piece, row] * (log_n - profile.log_n[piece]) + 2 * square[piece, row]
    return Minima(log_n, profile.tokens_at(log_n), flat[best, row], bend, np.ones(len(losses)))
