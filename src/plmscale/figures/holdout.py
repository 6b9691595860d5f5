"""Laws fitted to small budgets alone, asked about large ones."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs

_MARKERS = {"budget": ("o", "D", "s", "p"), "run": ("^", "v", "<", ">")}


def holdout(inputs: Inputs) -> Figure:
    """Return size foretold over size seen, and loss foretold minus seen, by method and target."""
    parts = {
        name: part
        for name in style.OBJECTIVES
        if (part := (inputs.holdout.get("objectives") or {}).get(name))
        and any(target.get("predictions") for target in part["targets"])
    }
    if not parts:
        return style.empty("No budget was held out in this selection.")
    style.use_theme()
    methods = {name: _methods(part["targets"]) for name, part in parts.items()}
    targets = {name: _styled(part["targets"]) for name, part in parts.items()}
    colours = style.ordered_colours([t["flops"] for found in targets.values() for t, _ in found])
    tall = [0.8 + len(methods[name]) * (0.14 + 0.07 * len(targets[name])) for name in parts]
    figure, axes = plt.subplots(
        len(parts), 2, figsize=(style.WIDTH, sum(tall) + 0.7), squeeze=False,
        layout="constrained", sharey="row", height_ratios=tall, width_ratios=(1, 1.15),
    )  # fmt: skip
    for line, objective in enumerate(parts):
        left, right = axes[line]
        _sizes(left, targets[objective], methods[objective], colours)
        _losses(right, targets[objective], methods[objective], colours)
        name = style.OBJECTIVE_NAME[objective]
        share = lawview.number(parts[objective].get("share_of_flops"))
        spent = "" if share is None else f", {100 * share:.0f} % of the FLOPs"
        limit = style.flops_math(float(inputs.holdout["up_to"]))
        left.set_title(f"{name}: fitted up to {limit}{spent}", fontsize=8.5)
        names = [lawview.METHODS.get(m, m) for m in methods[objective]]
        left.set_yticks(range(len(names)), names)
        left.set_ylim(len(names) - 0.5, -0.5)
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
    handles = _legend(targets, colours)
    handles += [
        Line2D([], [], ls="none", marker="o", ms=5, color=style.MUTED,
               label="filled: agrees within both 95 % intervals"),
        Line2D([], [], ls="none", marker="o", ms=5, mfc="white", mec=style.MUTED, mew=1.2,
               label="open: does not"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _methods(targets: list[dict[str, Any]]) -> list[str]:
    there = {item["method"] for target in targets for item in target.get("predictions") or []}
    return [m for m in lawview.METHODS if m in there] + sorted(there - set(lawview.METHODS))


def _styled(targets: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Return the targets in order of compute, each with the marker of its kind."""
    found, counts = [], {"budget": 0, "run": 0}
    for target in sorted(targets, key=lambda t: t["flops"]):
        kind = target["kind"]
        found.append((target, _MARKERS[kind][counts[kind] % 4]))
        counts[kind] += 1
    return found


def _lane(number: int, count: int) -> float:
    return ((number + 0.5) / count - 0.5) * 0.76


def _sizes(ax: Axes, targets: list, methods: list[str], colours: dict) -> None:
    seen, budgets = [], [(t, m) for t, m in targets if t["kind"] == "budget"]
    for number, (target, marker) in enumerate(budgets):
        value = target["n_params"]["value"]
        colour = colours[target["flops"]]
        for item in target["predictions"]:
            y = methods.index(item["method"]) + _lane(number, len(budgets))
            ends = [None if (e := lawview.number(end)) is None else e / value
                    for end in item["n_params"].get("ci95") or (None, None)]  # fmt: skip
            _mark(ax, y, item["n_ratio"], ends, marker, colour, item.get("n_inside"))
            seen += [item["n_ratio"], *[end for end in ends if end and 0.1 < end < 10]]
        own = target["n_params"].get("ci95")
        if own and None not in own:
            ax.axvspan(own[0] / value, own[1] / value, color=colour, alpha=0.13, lw=0, zorder=0)
    ax.axvline(1, color=style.INK, lw=0.9, zorder=1)
    ax.set_xlabel("$N_{\\mathrm{opt}}$ foretold / seen (ratio)")
    reach = max([abs(math.log(value)) for value in seen if value > 0] + [math.log(1.5)]) * 1.1
    ax.set_xscale("log")
    ticks = [t for t in (0.1, 0.2, 0.33, 0.5, 0.67, 1, 1.5, 2, 3, 5, 10)
             if abs(math.log(t)) <= reach]  # fmt: skip
    if reach > math.log(2.5):
        ticks = [t for t in ticks if t not in (0.67, 1.5, 0.33, 3)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(math.exp(-reach), math.exp(reach))


def _losses(ax: Axes, targets: list, methods: list[str], colours: dict) -> None:
    seen = [-0.002, 0.002]
    for number, (target, marker) in enumerate(targets):
        for item in target["predictions"]:
            y = methods.index(item["method"]) + _lane(number, len(targets))
            ends = [None if (e := lawview.number(end)) is None else e - target["loss"]["value"]
                    for end in item["loss"].get("ci95") or (None, None)]  # fmt: skip
            _mark(ax, y, item["loss_error"], ends, marker, colours[target["flops"]],
                  item.get("loss_inside"))  # fmt: skip
            seen.append(item["loss_error"])
    ax.axvline(0, color=style.INK, lw=0.9, zorder=1)
    # Room for intervals, but a wild one must not press the marks together.
    pad = 0.3 * (max(seen) - min(seen))
    ax.set_xlim(min(seen) - pad, max(seen) + pad)
    ax.xaxis.set_major_locator(plt.MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set_xlabel("loss foretold − seen (nats per token)")


def _mark(
    ax: Axes,
    y: float,
    value: float,
    ends: list[float | None],
    marker: str,
    colour: tuple,
    inside: bool | None,
) -> None:
    if any(end is not None for end in ends):
        # An end that is not known lies outside every panel.
        left, right = (-1e9 if ends[0] is None else ends[0], 1e9 if ends[1] is None else ends[1])
        ax.plot([max(left, 1e-9) if value > 0 and ax.get_xscale() == "log" else left, right],
                [y, y], color=colour, lw=1.3, zorder=2)  # fmt: skip
    ax.plot(value, y, marker=marker, ms=4.3, color=colour, mew=1.1, zorder=3,
            mfc="white" if inside is False else colour)  # fmt: skip


def _legend(targets: dict[str, list], colours: dict) -> list[Line2D]:
    handles = {}
    for objective, found in targets.items():
        for target, marker in found:
            flops = style.flops_math(target["flops"])
            size = f"{style.OBJECTIVE_NAME[objective]} {style.si(target['n_params']['value'])}"
            budget = target["kind"] == "budget"
            label = f"budget {flops} FLOPs" if budget else f"run {size}, {flops} FLOPs"
            handles[label] = Line2D([], [], color=colours[target["flops"]], lw=1.3, marker=marker,
                                    ms=5, label=label)  # fmt: skip
    return list(handles.values())
