"""Does pre-training with the other objective pay? The content of laws.json's `transfer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from plmscale.files import finite
from plmscale.laws.bootstrap import Noise, generator, interval
from plmscale.laws.table.select import select
from plmscale.laws.worth.pairs import Curves, close, normalised, rerun_noise, run_errors
from plmscale.laws.worth.surface import Surface, fit_surface
from plmscale.laws.worth.transfer_advice import advise_transfer
from plmscale.laws.worth.transfer_frontier import compute_laws
from plmscale.laws.worth.transfer_pairs import Pair, make_pair, table_row
from plmscale.laws.worth.transfer_share import best_share
from plmscale.laws.worth.transfer_tokens import token_laws

__all__ = ["advise_transfer", "fit_transfer"]

ASSUMPTIONS = (
    "gain: loss from scratch minus loss after pre-training at equal size and tokens, both at the "
    "end of their schedules",
    "D_E: tokens from scratch that lower the loss by the gain, on a surface quadratic in ln N and "
    "ln D through the ends of all runs from scratch",
    "total_worth: compute from scratch for the same loss over the compute of parent and child",
)
# Two exponents from points that lie on a line say little each.
_COLLINEAR = 0.95


def fit_transfer(
    runs: pd.DataFrame, curves: Curves, n_boot: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Fit what pre-training is worth, for every pair of objectives in a runs table.

    `curves` maps run_id to a curve (step, tokens, flops_6nd, split, loss). Returns None for a
    table without runs that have a parent; otherwise `directions`, keyed like `clm-then-mlm`, each
    with the table of `pairs`, `loss_of_compute` (L = A C^-a), `effective_tokens`
    (D_t = k D_F^alpha N^beta), `share` and `warnings`. Laws that too few runs support are None.
    Compute is 6 N D, losses are nats a token, intervals are 95 %. Equal input and seed give equal
    output, which holds no NaN.
    """
    table = normalised(runs)
    children = table[table["done"] & (table["parent"] != "")]
    if children.empty:
        return None
    by_id = table.drop_duplicates("run_id").set_index("run_id", drop=False)
    scratch = select(runs).runs
    noise = rerun_noise(table, curves)
    warnings: list[str] = []
    groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for child in children.sort_values(["n_params", "tokens", "run_id"]).to_dict("records"):
        if child["parent"] not in by_id.index:
            warnings.append(
                f"transfer, {child['run_id']}: its parent {child['parent']} has no row in the runs "
                "table, so its objective and compute are not known; left out"
            )
            continue
        parent = by_id.loc[child["parent"]].to_dict()
        groups.setdefault(f"{parent['objective']}-then-{child['objective']}", []).append(
            (child, parent)
        )
    directions = {
        name: _direction(name, found, table, scratch, curves, noise, n_boot, seed)
        for name, found in sorted(groups.items())
    }
    warnings += [text for found in directions.values() for text in found["warnings"]]
    return finite(
        {"directions": directions, "assumptions": list(ASSUMPTIONS), "warnings": warnings}
    )


def _direction(
    name: str,
    found: list[tuple[dict[str, Any], dict[str, Any]]],
    table: pd.DataFrame,
    scratch: pd.DataFrame,
    curves: Curves,
    reruns: Noise | None,
    n_boot: int,
    seed: int,
) -> dict[str, Any]:
    source, objective = name.split("-then-")
    rng = generator(seed, "transfer", name)
    fresh = scratch[scratch["objective"] == objective]
    surface = fit_surface(fresh, n_boot, rng)
    noise = _noise(reruns, surface, found)
    pairs, warnings = _pairs(found, table, fresh, surface, noise, curves, n_boot, rng)
    tokens = token_laws(pairs, surface, curves, rng)
    compute = compute_laws(pairs, curves, noise, n_boot, rng)
    share, more = best_share(pairs) if pairs else (None, [])
    warnings += more
    if surface is None:
        warnings.append(
            f"too few {objective} runs from scratch for a surface of L(N, D); D_E is read off the "
            "from-scratch run's own curve, whose learning rate was still high there"
        )
    if not noise.known:
        warnings.append("no intervals, since nothing tells how far reruns would differ")
    if tokens["ends"] is None:
        warnings.append(f"{len(pairs)} usable pair{'' if len(pairs) == 1 else 's'}: too few for "
                        "D_t = k D_F^alpha N^beta, which takes four and three sizes")  # fmt: skip
    elif abs(tokens["ends"]["correlation_D_F_N"]) > _COLLINEAR:
        warnings.append(
            "D_F rises with N in these runs (correlation "
            f"{tokens['ends']['correlation_D_F_N']:.2f}), so their ends do not tell alpha from "
            "beta; `along` gives what they identify, `curves` and `gaps` vary D_F within a run"
        )
    if beyond := [f"{p.child['n_params']:.3g}" for p in pairs if p.beyond]:
        warnings.append(f"N = {', '.join(beyond)}: no run from scratch saw as many tokens as D_E; "
                        "left out of the laws")  # fmt: skip
    totals = [p.child["flops_6nd"] + p.parent["flops_6nd"] for p in pairs]
    return {
        "objective": objective,
        "pretraining": source,
        "n_pairs": len(pairs),
        "pairs": [table_row(pair, noise.known and n_boot > 0) for pair in pairs],
        "mean_speed_up": _mean([pair.log_e for pair in pairs if pair.usable], noise),
        "mean_total_worth": _mean([np.log(p.total_worth) for p in pairs if p.usable], noise),
        "loss_of_compute": compute,
        "effective_tokens": tokens,
        "share": share,
        "fitted_range": {"flops": [min(totals), max(totals)]} if totals else None,
        "noise": {"sd": noise.sd, "source": noise.source, "unit": "nats a token"},
        "surface": None if surface is None else
        {"n_runs": len(surface.log_n), "residual_sd": surface.noise.sd},
        "warnings": [f"{name}: {text}" for text in warnings],
    }  # fmt: skip


def _mean(logs: list[Any], noise: Noise) -> dict[str, Any] | None:
    """Return the geometric mean over sizes, with the interval that their noise gives it."""
    if not logs:
        return None
    values = np.exp(np.mean(logs, axis=0))
    with np.errstate(invalid="ignore"):
        ends = interval(values[1:]) if noise.known and len(values) > 1 else [None, None]
    return {"value": float(values[0]), "ci95": ends}


def _noise(
    reruns: Noise | None,
    surface: Surface | None,
    found: list[tuple[dict[str, Any], dict[str, Any]]],
) -> Noise:
    if reruns is not None:
        return reruns
    if surface is not None:
        return surface.noise
    known = [child["loss_sd"] for child, _ in found if np.isfinite(child["loss_sd"])]
    if known:
        sd = float(np.sqrt(np.mean(np.square(known))))
        return Noise(sd, float("inf"), "loss_sd (evaluation only)")
    return Noise(float("nan"), float("nan"), "unknown")


def _pairs(
    found: list[tuple[dict[str, Any], dict[str, Any]]],
    table: pd.DataFrame,
    fresh: pd.DataFrame,
    surface: Surface | None,
    noise: Noise,
    curves: Curves,
    n_boot: int,
    rng: np.random.Generator,
) -> tuple[list[Pair], list[str]]:
    pairs, warnings = [], []
    others = np.log(fresh[["n_params", "tokens"]].to_numpy(dtype=float))
    errors = run_errors(noise, rng, n_boot, len(found))
    for (child, parent), error in zip(found, errors.T, strict=True):
        offset = np.r_[0.0, error]
        rivals = table[table["done"] & (table["parent"] == "")
                       & (table["objective"] == child["objective"])
                       & (table["corpus"] == child["corpus"])]  # fmt: skip
        rivals = rivals[[close(n, child["n_params"], 0.005) for n in rivals["n_params"]]]
        if rivals.empty:
            warnings.append(f"{child['run_id']}: no {child['objective']} run from scratch of its "
                            "size on its corpus; left out")  # fmt: skip
            continue
        away = np.abs(np.log(rivals["tokens"] / child["tokens"])).round(3)
        nearest = rivals.assign(away=away).sort_values(["away", "run_id"]).iloc[0].to_dict()
        pair = make_pair(child, parent, nearest, others, surface, curves, offset)
        if not np.isfinite(pair.log_e[0]):
            warnings.append(
                f"{child['run_id']}: nothing tells D_E, since its loss is beyond what the run from "
                "scratch, or the surface of fresh runs, reached"
            )
        pairs.append(pair)
    return pairs, warnings
