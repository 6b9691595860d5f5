"""What the laws say for one budget: N, D, loss, how sure, and how far from what was seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from plmscale.errors import PlmscaleError
from plmscale.files import finite
from plmscale.laws.advice.nearest import nearest_architecture
from plmscale.laws.bootstrap import interval
from plmscale.laws.isoflop.bend import bend_error
from plmscale.laws.single import SINGLE_LAWS

# Which method answers: the first of these that gave a sound law. A joint fit shares one profile
# shape between all budgets, which makes it the surest; a parabola looks at each budget alone; a
# parametric fit needs fewer points but trusts its formula everywhere; raw minima know only the
# sizes that were trained; an envelope takes losses from runs that were not at their end.
ORDER = ("isoflop_joint", "isoflop_parabola", "isoflop_spline", "parametric",
         "isoflop_raw_loglog", "isoflop_raw_linear", "envelope")  # fmt: skip
_WHY = {
    "isoflop_joint": "one profile shape for all budgets, so every run helps to place each optimum",
    "isoflop_parabola": "it uses every size near the optimum and assumes no formula for the loss",
    "isoflop_spline": "it follows each profile, and neither a joint fit nor a parabola is sound",
    "parametric": "no profile method gave a law with a bounded interval",
}
_DISAGREE = 2.0
# Warnings of a method that a reader of its answer must see; the others are in laws.json.
_SERIOUS = ("says nothing", "say nothing", "did not converge", "hardly identified",
            "ended at a bound", "ended at the bounds", "no intervals")  # fmt: skip


def advise(
    laws: Mapping[str, Any], objective: str, flops: float, method: str | None = None
) -> dict[str, Any]:
    """Answer for one budget from the content of laws.json.

    Returns N (`n_params`), D (`tokens`) and `loss` (nats a token), each {"value", "ci95"};
    `method` and `why`; `extrapolation` {"factor", "decades"} beyond the fitted budgets (0 decades
    inside); `perplexity`, e to the loss; the nearest of the paper's sizes as `architecture` with its
    own tokens and loss (see `nearest`); every method's answer in `methods`, `agreement` (largest
    over smallest N), and `warnings`. `clm-then-mlm` is answered by `transfer_advice`.

    Raises PlmscaleError for an unknown objective or method, one without a law, or FLOPs that are
    not positive.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise PlmscaleError(f"FLOPs must be a positive number, not {flops:g}")
    if "-then-" in objective:
        return _both_stages(laws, objective, flops, method)
    known = laws.get("laws", {})
    if objective not in known:
        raise PlmscaleError(
            f"no law for objective {objective!r}; these laws hold: {', '.join(sorted(known))}"
        )
    entries = known[objective]
    if method is not None and method not in entries:
        raise PlmscaleError(f"no method {method!r} for {objective}; there are: "
                            f"{', '.join(sorted(entries))}")  # fmt: skip
    answers = {
        name: _answer(entries[name], flops)
        for name in (*ORDER, *sorted(set(entries) - set(ORDER)))
        if name in entries and (entries[name].get("N_opt") or {}).get("a") is not None
    }
    if method in SINGLE_LAWS:
        raise PlmscaleError(f"{method} is a law of one factor and knows no best size; "
                            f"methods that do: {', '.join(answers)}")  # fmt: skip
    if method is not None and method not in answers:
        raise PlmscaleError(
            f"{objective} {method}: this method gave no law; {_first_warning(entries[method])}"
        )
    if not answers:
        raise PlmscaleError(f"{objective}: no method gave a law; "
                            f"{_first_warning(next(iter(entries.values()), {}))}")  # fmt: skip
    chosen, why = (method, "it was asked for") if method else _default(entries, answers)
    for name, found in answers.items():
        found["sound"] = _sound(entries[name])
    # A method that says of itself that it knows nothing has no say in whether methods agree.
    saying = {key: found for key, found in answers.items() if found["sound"] or key == chosen}
    sizes = {name: found["n_params"]["value"] for name, found in saying.items()}
    agreement = max(sizes.values()) / min(sizes.values())
    extrapolation = _extrapolation(entries[chosen], flops)
    warnings = [text for text in entries[chosen].get("warnings", [])
                if any(word in text for word in _SERIOUS)]  # fmt: skip
    if extrapolation["decades"]:
        side = "above the largest" if extrapolation["factor"] > 1 else "below the smallest"
        factor = max(extrapolation["factor"], 1 / extrapolation["factor"])
        warnings.insert(
            0,
            f"{flops:.3g} FLOPs are a factor {factor:.3g} ({extrapolation['decades']:.1f} decades) "
            f"{side} fitted budget: a power law is assumed to hold where nothing was measured, "
            "and the intervals do not include that it may not",
        )
    if agreement > _DISAGREE:
        ends = (min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__))
        low, high = (f"{name} {sizes[name]:.3g}" for name in ends)
        warnings.append(
            f"methods disagree on N by a factor {agreement:.2g} ({low} to {high}); "
            "no single interval covers the choice of method"
        )
    answer = {name: answers[chosen][name] for name in ("n_params", "tokens", "loss")}
    n, d, loss = (answer[name]["value"] for name in answer)
    return finite(
        {
            "objective": objective,
            "flops": flops,
            "flops_convention": _convention(laws),
            "method": chosen,
            "why": why,
            **answer,
            "perplexity": perplexity(answer["loss"]),
            "tokens_per_param": d / n,
            "architecture": nearest_architecture(entries[chosen], flops, n, d, loss),
            "extrapolation": extrapolation,
            "methods": answers,
            "agreement": agreement,
            "warnings": warnings,
        }
    )


def _convention(laws: Mapping[str, Any]) -> str | None:
    """Return how these laws count compute; the FLOPs asked for are of the same kind."""
    return (laws.get("provenance") or {}).get("flops_convention")


def perplexity(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return e to a loss {value, ci95} in nats a token."""
    ends = [None if end is None else math.exp(min(end, 700.0)) for end in loss["ci95"]]
    return {"value": math.exp(loss["value"]), "ci95": ends}


def _both_stages(
    laws: Mapping[str, Any], direction: str, flops: float, method: str | None
) -> dict[str, Any]:
    # transfer_advice itself asks `advise` about the last stage.
    from plmscale.laws.worth.transfer_advice import advise_transfer

    if method is not None:
        raise PlmscaleError(f"--method is for one objective; {direction} takes a sound one itself")
    answer = advise_transfer(laws, flops, direction)
    last = direction.rsplit("-", 1)[1]
    n, loss = answer["n_params"]["value"], answer["loss"]["value"]
    total = answer["tokens"]["value"] + answer["pretrain"]["tokens"]["value"]
    worth = answer["worth"]["value"]
    near = nearest_architecture(
        laws["laws"][last][answer["method"]], flops * worth, n, total * worth, loss
    )
    # Both stages shrink alike where the size grows.
    near["tokens"] = answer["tokens"]["value"] * n / near["n_params"]
    return finite(
        {
            **answer,
            "flops_convention": _convention(laws),
            "why": f"its laws for {last}, and what the transfer runs show pre-training to be worth",
            "perplexity": perplexity(answer["loss"]),
            "architecture": near,
        }
    )


def _answer(entry: Mapping[str, Any], flops: float) -> dict[str, Any]:
    log_c = math.log(flops)
    n, d, loss = entry["N_opt"], entry["D_opt"], entry["L_opt"]
    floor = loss.get("E", 0.0)
    values = {
        "n_params": math.exp(math.log(n["A"]) + n["a"] * log_c),
        "tokens": math.exp(math.log(d["B"]) + d["b"] * log_c),
        "loss": floor + math.exp(math.log(loss["K"]) - loss["c"] * log_c),
    }
    boot = entry.get("bootstrap") or {}
    ends: dict[str, list[float | None]] = {name: [None, None] for name in values}
    if boot.get("rows"):
        column = dict(zip(boot["columns"], np.array(boot["rows"], dtype=float).T, strict=True))
        # Replicates that failed are counted, not kept; they widen the intervals here again.
        lost = math.ceil(len(boot["rows"]) * boot["failed"] / max(boot["n"] - boot["failed"], 1))
        pad = np.full(lost, np.nan)
        with np.errstate(over="ignore"):
            spread = {
                "n_params": np.exp(column["log_A"] + column["a"] * log_c),
                "tokens": np.exp(column["log_B"] + column["b"] * log_c),
                "loss": column.get("E", 0.0) + np.exp(column["log_K"] - column["c"] * log_c),
            }
        # What the law cannot follow, on top of what the noise of its minima does to it.
        extra = np.random.default_rng(0).standard_normal(len(spread["loss"]))
        spread["loss"] = spread["loss"] * np.exp(bend_error(entry, flops) * extra)
        ends = {name: interval(np.r_[v, pad]) for name, v in spread.items()}
    return {name: {"value": value, "ci95": ends[name]} for name, value in values.items()}


def _default(entries: Mapping[str, Any], answers: Mapping[str, Any]) -> tuple[str, str]:
    for name in ORDER:
        if name in answers and _sound(entries[name]):
            return name, _WHY.get(name, "methods preferred to it gave no law that says something")

    # Nothing sound: the narrowest interval on offer is still the least bad answer.
    def width(name: str) -> float:
        low, high = answers[name]["n_params"]["ci95"]
        return math.inf if low is None or high is None or low <= 0 else high / low

    name = min(answers, key=lambda key: (width(key), ORDER.index(key) if key in ORDER else 99))
    return name, "no method is sound here (see the warnings); this one has the narrowest interval"


def _sound(entry: Mapping[str, Any]) -> bool:
    low, high = (entry.get("ci95") or {}).get("a") or (None, None)
    if low is None or high is None or high - low >= 1 or entry.get("converged") is False:
        return False
    known = entry.get("identified") or {}
    if not all(known.get(name, True) for name in ("alpha", "beta")):
        return False
    return "points" not in entry or sum(bool(p.get("used", True)) for p in entry["points"]) >= 3


def _extrapolation(entry: Mapping[str, Any], flops: float) -> dict[str, float]:
    low, high = entry["fitted_range"]["flops"]
    # Rounding to whole steps puts a budget's C slightly beside its label.
    nearest = min(max(flops, low / 1.05), high * 1.05)
    if nearest == flops:
        return {"factor": 1.0, "decades": 0.0, "fitted": [low, high]}
    factor = flops / (high if flops > high else low)
    return {"factor": factor, "decades": abs(math.log10(factor)), "fitted": [low, high]}


def _first_warning(entry: Mapping[str, Any]) -> str:
    return next(iter(entry.get("warnings") or []), "fit the laws again to see why")
