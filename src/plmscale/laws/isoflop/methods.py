"""From profiles to laws: optimum of each budget, power laws through them, their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plmscale.laws.bootstrap import Noise, choose_noise, noise_entry, noise_parts, seed_noise
from plmscale.laws.isoflop.entry import exp, law_entry, point_entry
from plmscale.laws.isoflop.powerlaw import fit_linear, fit_loglog, scatter
from plmscale.laws.isoflop.profiles import (
    Minima,
    Profile,
    asymmetry,
    build_profiles,
    parabola_coefficients,
    parabola_minima,
    parabola_values,
    raw_minima,
)
from plmscale.laws.isoflop.spline import MIN_SIZES_AKIMA, spline_minima

Array = NDArray[np.float64]

ISOFLOP_METHODS = (
    "isoflop_raw_loglog",
    "isoflop_raw_linear",
    "isoflop_parabola",
    "isoflop_spline",
)
_MINIMUM = {
    "isoflop_raw_loglog": "drawn evenly within the cell of the size with the lowest loss",
    "isoflop_raw_linear": "drawn evenly within the cell of the size with the lowest loss",
    "isoflop_parabola": "refitted in every replicate, plus a common error for asymmetry and the "
    "scatter of the optima about the power law",
    "isoflop_spline": "found again in every replicate",
}


def fit_isoflop(
    objective: str,
    rows: pd.DataFrame,
    methods: Sequence[str],
    n_boot: int,
    rng: np.random.Generator,
    noise_sd: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Fit the asked IsoFLOP methods to the selected rows of one objective.

    Returns laws.json's entry per method. All methods share one set of simulated losses: each
    profile's parabola (its points themselves where that is concave) plus noise, at least
    `noise_sd` (nats a token) where that is given. What a parabola cannot know, the asymmetry of
    the profiles, enters its intervals as a common error of the size that a cubic shows.
    """
    profiles, remarks, notes = build_profiles(rows)
    shifts, squares, dof = asymmetry(profiles)
    known = (seed_noise(rows), squares, dof, rows["loss_sd"].to_numpy(dtype=float), noise_sd)
    noise = choose_noise(*known)
    simulated = None
    if noise.known and n_boot and profiles:
        simulated = [_simulate(profile, noise, n_boot, rng) for profile in profiles]
    entries = {}
    for method in methods:
        where = f"{objective} {method}"
        if method == "isoflop_parabola":
            entry = _parabola(where, profiles, simulated, shifts, noise, rng)
        elif method == "isoflop_spline":
            entry = _spline(where, profiles, simulated)
        else:
            entry = _raw(where, profiles, simulated, method == "isoflop_raw_linear", rng)
        extra = entry.pop("noise", {})
        parts = noise_parts(*known)
        entry["noise"] = noise_entry(noise, parts, _MINIMUM[method], **extra)
        entry["warnings"] = [*(f"{where}: {text}" for text in remarks), *entry["warnings"]]
        entry["notes"] = [*notes, *entry.get("notes", [])]
        entries[method] = entry
    return entries


def _centre(profile: Profile) -> Array:
    """Return the losses (points,) that replicates scatter about."""
    coefficients = parabola_coefficients(profile, profile.loss[None])
    if coefficients[0, 2] <= 0:
        return profile.loss
    return np.where(profile.near, parabola_values(profile, coefficients)[0], profile.loss)


def _simulate(profile: Profile, noise: Noise, n_boot: int, rng: np.random.Generator) -> Array:
    centre = _centre(profile)
    return centre + noise.draw(rng, n_boot, len(centre)) / np.sqrt(profile.weight)


def _parabola(
    where: str,
    profiles: Sequence[Profile],
    simulated: list[Array] | None,
    shifts: Array,
    noise: Noise,
    rng: np.random.Generator,
) -> dict[str, Any]:
    # Without any noise the weights are still right up to a factor.
    sd = noise.sd if noise.known else 1.0
    found = [parabola_minima(profile, profile.loss[None], sd) for profile in profiles]
    sizes = [profile.log_n[profile.near] for profile in profiles]
    problems = [_vertex_problem(m, size) for m, size in zip(found, sizes, strict=True)]
    # A vertex outside the sizes is a guess.
    used = [problem is None for problem in problems]
    beyond = _beyond(profiles, found, used) if noise.known else 0.0
    found = [_less_weight(minimum, beyond) for minimum in found]
    spread = None
    if simulated is not None:
        common = rng.standard_normal(len(simulated[0]))
        spread = []
        for profile, losses, shift in zip(profiles, simulated, shifts, strict=True):
            minima = _less_weight(parabola_minima(profile, losses, sd), beyond)
            by = shift * common + beyond * rng.standard_normal(len(losses))
            spread.append(_moved(profile, minima, minima.log_n + by, minima.loss))
    points = _points(profiles, found, spread, sizes, used)
    for point, shift in zip(points, shifts, strict=True):
        point["asymmetry_shift"] = float(shift)
    entry = law_entry(where, profiles, points, found, spread, _named(where, profiles, problems))
    entry["noise"] = {"scatter": {"sd": beyond, "unit": "ln N", "source": "minima of single "
                      "budgets that leave the power law by more than noise"}}  # fmt: skip
    return entry


def _spline(
    where: str, profiles: Sequence[Profile], simulated: list[Array] | None
) -> dict[str, Any]:
    found, spread, problems, used, notes = [], [], [], [], []
    for i, profile in enumerate(profiles):
        enough = len(profile.log_n) >= MIN_SIZES_AKIMA
        locate = spline_minima if enough else parabola_minima
        minimum = _even(locate(profile, profile.loss[None]))
        found.append(minimum)
        name = _edge_problem if enough else _vertex_problem
        problems.append(name(minimum, profile.log_n))
        # A curve's minimum at its end is still a bound, as a raw one is.
        used.append(enough or problems[-1] is None)
        if not enough:
            notes.append(
                f"budget {profile.budget:.3g}: {len(profile.log_n)} sizes are too few for an "
                f"Akima curve ({MIN_SIZES_AKIMA} needed); the minimum is that of a parabola"
            )
        if simulated is not None:
            # The replicates' minima stray from their own centre's minimum as the table's strays
            # from the truth; an interval needs the truth, so their way is gone backwards.
            centre = locate(profile, _centre(profile)[None])
            drawn = _even(locate(profile, simulated[i]))
            log_n = minimum.log_n + centre.log_n - drawn.log_n
            loss = minimum.loss + centre.loss - drawn.loss
            spread.append(_moved(profile, drawn, log_n, loss))
    points = _points(profiles, found, spread or None, [p.log_n for p in profiles], used)
    warnings = _named(where, profiles, problems)
    return {**law_entry(where, profiles, points, found, spread or None, warnings), "notes": notes}


def _raw(
    where: str,
    profiles: Sequence[Profile],
    simulated: list[Array] | None,
    linear: bool,
    rng: np.random.Generator,
) -> dict[str, Any]:
    found = [raw_minima(profile, profile.loss[None]) for profile in profiles]
    problems = [_edge_problem(m, p.log_n) for m, p in zip(found, profiles, strict=True)]
    spread = None
    if simulated is not None:
        spread = [raw_minima(p, losses, rng) for p, losses in zip(profiles, simulated, strict=True)]
    # A raw minimum at the edge is still a bound.
    used = [True] * len(profiles)
    points = _points(profiles, found, spread, [p.log_n for p in profiles], used)
    warnings = _named(where, profiles, problems)
    fit = _even_linear if linear else fit_loglog
    return law_entry(where, profiles, points, found, spread, warnings, fit)


def _even_linear(log_x: Array, log_y: Array, weight: Array) -> tuple[Array, Array]:
    return fit_linear(log_x, log_y)


def _points(
    profiles: Sequence[Profile],
    found: Sequence[Minima],
    spread: Sequence[Minima] | None,
    sizes: Sequence[Array],
    used: Sequence[bool],
) -> list[dict[str, Any]]:
    draws = spread if spread is not None else [None] * len(profiles)
    points = [point_entry(*parts) for parts in zip(profiles, found, draws, sizes, strict=True)]
    return [
        {**point, "asymmetry_shift": None, "used": bool(use)}
        for point, use in zip(points, used, strict=True)
    ]


def _named(where: str, profiles: Sequence[Profile], problems: Sequence[str | None]) -> list[str]:
    pairs = zip(profiles, problems, strict=True)
    return [f"{where}, budget {profile.budget:.3g}: {text}" for profile, text in pairs if text]


def _moved(profile: Profile, minima: Minima, log_n: Array, loss: Array) -> Minima:
    there = np.isfinite(log_n)
    log_d = profile.tokens_at(np.where(there, log_n, profile.log_n[0]))
    return replace(minima, log_n=log_n, log_d=np.where(there, log_d, np.nan), loss=loss)


def _even(minima: Minima) -> Minima:
    return replace(minima, weight=np.ones_like(minima.log_n))


def _less_weight(minima: Minima, beyond: float) -> Minima:
    return replace(minima, weight=minima.weight / (1 + beyond**2 * minima.weight))


def _beyond(profiles: Sequence[Profile], found: Sequence[Minima], used: Sequence[bool]) -> float:
    kept = [(p, m) for p, m, use in zip(profiles, found, used, strict=True) if use]
    log_c = np.log([profile.flops for profile, _ in kept])
    log_n, weight = (np.array([getattr(m, k)[0] for _, m in kept]) for k in ("log_n", "weight"))
    return scatter(log_c, log_n, weight)


def _vertex_problem(minimum: Minima, sizes: Array) -> str | None:
    log_n = float(minimum.log_n[0])
    if not np.isfinite(log_n):
        return "the parabola is concave, so the profile shows no minimum; not used"
    if sizes[0] < log_n < sizes[-1]:
        return None
    side = "below the smallest" if log_n <= sizes[0] else "above the largest"
    return f"the parabola's minimum lies {side} fitted size ({exp(log_n):.3g}); not used"


def _edge_problem(minimum: Minima, sizes: Array) -> str | None:
    log_n = float(minimum.log_n[0])
    if sizes[0] < log_n < sizes[-1]:
        return None
    which = "smallest" if log_n <= sizes[0] else "largest"
    return f"the {which} size has the lowest loss; the optimum may lie beyond it"
