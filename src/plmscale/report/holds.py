"""Does the law hold, and how much of it is choice? Sentences and rows for the report."""

from __future__ import annotations

import math
from typing import Any

from plmscale.figures import lawview
from plmscale.figures.style import OBJECTIVE_NAME, flops_text, si
from plmscale.report.words import signed

CHOICES = {
    "method": "the method",
    "profile_method": "the method, IsoFLOP ones alone",
    "table": "the table",
    "flops": "what counts as compute",
    "budgets": "which budgets take part",
}
"""Choices of sensitivity.json as readers see them."""

HOLDOUT_COLUMNS = (
    ("objective", "text"), ("asked for", "nowrap"), ("method", "nowrap"), ("N foretold", "number"),
    ("/ seen", "number"), ("holds", "text"), ("loss foretold", "number"), ("− seen", "number"),
    ("holds", "text"),
)  # fmt: skip

CHOICE_COLUMNS = (
    ("objective", "text"), ("choice", "nowrap"), ("moves a by (s.d.)", "number"),
    ("lowest", "text"), ("highest", "text"),
)  # fmt: skip


def holdout_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return one row for each method and target, in the order of HOLDOUT_COLUMNS."""
    rows = []
    for objective, part in (found.get("objectives") or {}).items():
        for target in part["targets"]:
            asked = (
                f"{flops_text(target['budget'])} FLOPs" if target["kind"] == "budget"
                else target["run_id"]
            )  # fmt: skip
            for item in target["predictions"]:
                ratio = item.get("n_ratio")
                rows.append(
                    [
                        OBJECTIVE_NAME.get(objective, objective),
                        asked,
                        lawview.METHODS.get(item["method"], item["method"]),
                        si(item["n_params"]["value"]),
                        "–" if ratio is None else f"{ratio:.2f}",
                        _yes(item.get("n_inside")),
                        f"{item['loss']['value']:.3f}",
                        signed(item["loss_error"]),
                        _yes(item["loss_inside"]),
                    ]
                )
    return rows


def _yes(inside: bool | None) -> str:
    return {True: "yes", False: "no", None: "–"}[inside]


def holdout_sentences(found: dict[str, Any]) -> list[str]:
    """Say, per objective, how the methods fared on the largest budget they had not seen."""
    if found.get("note"):
        return [f"Nothing was held out: {found['note']}."]
    texts = []
    for objective, part in (found.get("objectives") or {}).items():
        budgets = [t for t in part["targets"] if t["kind"] == "budget" and t["predictions"]]
        if not budgets:
            continue
        target = budgets[-1]
        ratios = {
            lawview.METHODS.get(i["method"], i["method"]): i["n_ratio"]
            for i in target["predictions"]
        }
        near = min(ratios, key=lambda name: abs(math.log(ratios[name])))
        far = max(ratios, key=lambda name: abs(math.log(ratios[name])))
        held = [i["n_inside"] for i in target["predictions"] if i["n_inside"] is not None]
        texts.append(
            f"{OBJECTIVE_NAME.get(objective, objective)}: from budgets up to "
            f"{flops_text(found['up_to'])} FLOPs ({part['share_of_flops']:.0%} of all compute), "
            f"the methods foretell a best size for {flops_text(target['budget'])} FLOPs that is "
            f"{ratios[near]:.2f} ({near}) to {ratios[far]:.2f} ({far}) times the one seen there, "
            f"{si(target['n_params']['value'], 2)}; {sum(held)} of {len(held)} stated intervals "
            f"hold. {_losses(part['targets'])}"
        )
    return texts


def _losses(targets: list[dict[str, Any]]) -> str:
    """Say how far foretold losses are off, for all targets and methods together."""
    items = [item for target in targets for item in target["predictions"]]
    errors = [item["loss_error"] for item in items]
    held = [item["loss_inside"] for item in items if item["loss_inside"] is not None]
    if all(error > 0 for error in errors):
        side = "too high"
    else:
        side = "too low" if all(error < 0 for error in errors) else "off"
    sizes = sorted(map(abs, errors))
    return (
        f"Losses of all {len(targets)} larger budgets and runs are foretold {sizes[0]:.3f} to "
        f"{sizes[-1]:.3f} nats {side}; {sum(held)} of {len(held)} intervals hold."
    )


def choice_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return one row for each choice and one for the data, in the order of CHOICE_COLUMNS."""
    rows = []
    for objective, effect in (found.get("effects") or {}).items():
        name = OBJECTIVE_NAME.get(objective, objective)
        for choice, item in sorted(
            (effect.get("choices") or {}).items(), key=lambda pair: -pair[1]["sd"]
        ):
            levels = sorted(item["levels"].items(), key=lambda pair: pair[1])
            ends = [
                f"{value:.3f} ({_level(choice, level)})" for level, value in (levels[0], levels[-1])
            ]
            rows.append([name, CHOICES.get(choice, choice), f"{item['sd']:.3f}", *ends])
        if effect.get("data_sd") is not None:
            rows.append([name, "the data (standard error)", f"{effect['data_sd']:.3f}", "–", "–"])
    return rows


def _level(choice: str, level: str) -> str:
    if choice in ("method", "profile_method"):
        return lawview.METHODS.get(level, level)
    if choice == "flops":
        return {"flops_6nd": "6ND", "flops": "with attention"}.get(level, level)
    return level


def choice_sentences(found: dict[str, Any]) -> list[str]:
    """Say, per objective, whether choices or data limit the exponent."""
    texts = []
    for objective, effect in (found.get("effects") or {}).items():
        choices = effect.get("choices") or {}
        if not choices or effect.get("data_sd") is None:
            continue
        whole = {name: item for name, item in choices.items() if name != "profile_method"}
        name, item = max(whole.items(), key=lambda pair: pair[1]["sd"])
        share = item["sd"] / effect["data_sd"] if effect["data_sd"] else math.inf
        relation = (
            "more than the data leave open" if share > 1.2
            else "less than the data leave open" if share < 0.8
            else "about as much as the data leave open"
        )  # fmt: skip
        narrow = choices.get("profile_method")
        low, high = (f"{effect[end]:.2f}".replace("-", "−") for end in ("lowest", "highest"))
        texts.append(
            f"{OBJECTIVE_NAME.get(objective, objective)}: over {effect['n_fits']} fits the size "
            f"exponent runs from {low} to {high}. "
            f"{CHOICES.get(name, name).capitalize()} matters most: it moves the exponent by "
            f"{item['sd']:.3f} (s.d. over its levels), {relation} "
            f"(standard error {effect['data_sd']:.3f})."
            + (f" Among IsoFLOP methods alone it is {narrow['sd']:.3f}." if narrow else "")
        )
    return texts
