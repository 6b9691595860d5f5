"""All estimators of one objective, each an entry of laws.json, and what their intervals say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from plmscale.laws.bootstrap import generator
from plmscale.laws.envelope import fit_envelope
from plmscale.laws.isoflop.entry import no_law
from plmscale.laws.isoflop.joint import fit_joint
from plmscale.laws.isoflop.methods import ISOFLOP_METHODS, fit_isoflop
from plmscale.laws.parametric.entry import parametric_entry
from plmscale.laws.single import SINGLE_LAWS, fit_single

Curves = Mapping[str, pd.DataFrame]

METHODS = (*ISOFLOP_METHODS, "isoflop_joint", "envelope", "parametric", *SINGLE_LAWS)
"""Names of all laws; those of one factor (SINGLE_LAWS) give no best size."""

# Runs whose compute differs by less than this ratio are of one budget (as in isoflop.py).
_SAME_BUDGET = 1.25
_MANY_FAILED = 0.05
# An interval of an exponent this wide says nothing.
_NOTHING = 1.0


def fit_objective(
    objective: str,
    rows: pd.DataFrame,
    curves: Curves,
    methods: Sequence[str],
    n_boot: int,
    seed: int,
    noise_sd: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Fit `methods` to the selected rows of one objective; return laws.json's entry of each.

    `envelope` is left out where there are no curves. The IsoFLOP methods share one set of
    simulated losses, each other method draws its own. `noise_sd` (nats a token) is a known noise
    of one loss, for the IsoFLOP methods.
    """
    entries: dict[str, dict[str, Any]] = {}
    isoflop = [name for name in methods if name in ISOFLOP_METHODS]
    single = [name for name in methods if name in SINGLE_LAWS]
    # Single laws need a parabola's minima and N_opt(C), asked for or not.
    profile_methods = list(dict.fromkeys([*isoflop, *(["isoflop_parabola"] if single else [])]))
    if profile_methods:
        rng = generator(seed, objective, "isoflop")
        found = fit_isoflop(objective, rows, profile_methods, n_boot, rng, noise_sd)
        entries.update({name: found[name] for name in isoflop})
    if "isoflop_joint" in methods:
        rng = generator(seed, objective, "isoflop_joint")
        entries["isoflop_joint"] = fit_joint(objective, rows, n_boot, rng, noise_sd)
    if "envelope" in methods and (mine := own_curves(rows, curves)):
        rng = generator(seed, objective, "envelope")
        entries["envelope"] = fit_envelope(objective, rows, mine, n_boot, rng)
    if "parametric" in methods:
        rng = generator(seed, objective, "parametric")
        entries["parametric"] = (
            parametric_entry(objective, rows, n_boot, rng)
            if (reason := shortcoming(rows)) is None
            else _no_surface(f"{objective} parametric: {reason}", rows)
        )
    for name, entry in entries.items():
        text = interval_warnings(f"{objective} {name}", entry, n_boot)
        entry["warnings"] = [*entry["warnings"], *text]
    for name in single:
        rng = generator(seed, objective, name)
        optimum = found["isoflop_parabola"]
        entries[name] = fit_single(objective, rows, name, n_boot, rng, optimum)
    return {name: entries[name] for name in METHODS if name in entries}


def own_curves(rows: pd.DataFrame, curves: Curves) -> dict[str, pd.DataFrame]:
    """Return the curves of these rows."""
    return {name: curves[name] for name in rows["run_id"] if name in curves}


def shortcoming(rows: pd.DataFrame) -> str | None:
    """Say what a table of one objective lacks for L(N, D) and laws in C, None where it has it."""
    sizes, (low, high) = rows["n_params"].nunique(), (rows["c"].min(), rows["c"].max())
    if sizes == 1:
        return f"one size only ({rows['n_params'].iloc[0]:.3g} parameters)"
    if high <= low * _SAME_BUDGET:
        return f"one budget only ({rows['c'].median():.3g} FLOPs, {sizes} sizes)"
    if rows["tokens"].max() <= rows["tokens"].min() * 1.01:
        return f"one token count only ({rows['tokens'].iloc[0]:.3g})"
    return None


def holds_law(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry holds a law at all."""
    law = entry.get("N_opt") or {"a": (entry.get("law") or {}).get("c")}
    return law["a"] is not None


def _no_surface(why: str, rows: pd.DataFrame) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(("E", "A", "B", "alpha", "beta", "objective"))
    return {
        **empty, **no_law(), "ci95": {}, "n_runs": len(rows), "runs": list(rows["run_id"]),
        "converged": False,
        "warnings": [f"{why}: L(N, D) needs different sizes and budgets"],
    }  # fmt: skip


def interval_warnings(where: str, entry: Mapping[str, Any], n_boot: int) -> list[str]:
    """Say where the intervals of an entry are missing, widened or too wide to say anything."""
    if entry["N_opt"].get("a") is None:
        return []
    found = []
    boot = entry.get("bootstrap") or {}
    if not n_boot or not boot.get("n"):
        why = "none were asked for" if not n_boot else "nothing tells the noise of a loss"
        return [f"{where}: no intervals, since {why}"]
    if boot["failed"] > _MANY_FAILED * boot["n"]:
        found.append(
            f"{where}: {boot['failed']} of {boot['n']} bootstrap replicates have no minimum "
            "(a profile turned concave); the intervals are widened for them"
        )
    for law, letter in (("N_opt", "a"), ("D_opt", "b")):
        low, high = entry["ci95"][law].get(letter) or (None, None)
        if low is None or high is None:
            found.append(
                f"{where}: the interval of {law}'s exponent {letter} is unbounded; "
                "these runs say nothing about it"
            )
        elif high - low >= _NOTHING:
            found.append(
                f"{where}: the interval of {law}'s exponent {letter} "
                f"[{low:.2f}, {high:.2f}] is wider than the whole range from 0 to 1; "
                "it says nothing"
            )
    return found
