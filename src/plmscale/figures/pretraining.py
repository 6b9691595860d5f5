"""What pre-training with the other objective is worth: its share of the compute, and its tokens."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs
from plmscale.paper.published import PRETRAINING_SHARE


def pretraining_share(inputs: Inputs) -> Figure:
    """Return worth against share of compute, and effectively transferred tokens against D_F."""
    ways = (inputs.laws.get("transfer") or {}).get("directions") or {}
    ways = {name: way for name, way in sorted(ways.items()) if way.get("pairs")}
    if not ways:
        return style.empty("No transfer law could be fitted to the runs of this selection.")
    style.use_theme()
    figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.9), layout="constrained")
    for way in ways.values():
        _share(axes[0], way)
        _tokens(axes[1], way)
    _frame_share(axes[0], ways)
    _frame_tokens(axes[1], ways)
    figure.legend(handles=_legend(ways), loc="outside lower center", ncols=2)
    return figure


def _name(way: dict[str, Any]) -> str:
    names = style.OBJECTIVE_NAME
    return f"{names.get(way['pretraining'])} then {names.get(way['objective'])}"


def _look(way: dict[str, Any]) -> dict[str, Any]:
    return {
        "color": style.OBJECTIVE_COLOUR.get(way["objective"], style.INK),
        "marker": style.OBJECTIVE_MARKER.get(way["objective"], "^"),
    }


def _share(ax: Axes, way: dict[str, Any]) -> None:
    colour = _look(way)["color"]
    law = way.get("share") or {}
    curve = law.get("curve") or []
    if curve:
        x = np.array([point["share"] for point in curve]) * 100
        ax.plot(x, [point["worth"] for point in curve], color=colour, lw=1.4)
        ends = [point.get("ci95") or (None, None) for point in curve]
        if all(None not in pair for pair in ends):
            ax.fill_between(x, *np.transpose(ends), color=colour, alpha=0.15, lw=0)
    for pair in way["pairs"]:
        _errorbar(ax, pair["share"] * 100, pair["total_worth"], _look(way))
    (best, _), (worth, _) = _known(law.get("best")), _known(law.get("worth"))
    if best is not None and worth is not None:
        at = law.get("at_edge")
        ax.plot(best * 100, worth, ls="none", marker="P" if at else "D",
                ms=8, mfc="white", mec=style.WARN if at else style.INK, mew=1.3, zorder=5)  # fmt: skip


def _errorbar(ax: Axes, x: float, value: dict[str, Any] | None, look: dict[str, Any]) -> None:
    middle, ends = _known(value)
    if middle is not None:
        if None not in ends:
            ax.plot([x, x], ends, color=look["color"], lw=1.0, zorder=3)
        ax.plot(x, middle, ls="none", ms=5, mec="white", mew=0.6, zorder=4, **look)


def _known(value: dict[str, Any] | None) -> tuple[float | None, tuple]:
    """Return a value and its interval, with None for what could not be told."""
    ends = (value or {}).get("ci95") or (None, None)
    return lawview.number((value or {}).get("value")), tuple(map(lawview.number, ends))


def _frame_share(ax: Axes, ways: dict[str, Any]) -> None:
    ax.axhline(1, color=style.INK, lw=0.8)
    if any(way["pretraining"] == "clm" for way in ways.values()):
        low, high = (100 * end for end in PRETRAINING_SHARE)
        ax.axvspan(low, high, color="#b8bec8", alpha=0.35, lw=0, zorder=0)
    ax.set_yscale("log")
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
             if ax.get_ylim()[0] <= t <= ax.get_ylim()[1]]  # fmt: skip
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0, 100)
    ax.set_xlabel("compute spent on pre-training (% of the total)")
    ax.set_ylabel("compute from scratch for the same loss\nover all compute paid (ratio)")
    ax.set_title("What it is worth")


def _tokens(ax: Axes, way: dict[str, Any]) -> None:
    look = _look(way)
    for pair in way["pairs"]:
        size = 3.5 + 1.3 * max(np.log10(pair["n_params"]) - 7, 0)
        value, ends = _known(pair.get("D_t"))
        if value is None:
            continue
        if None not in ends:
            # An end below zero has no place on a log axis: the line then leaves the panel below.
            ax.plot([pair["D_F"]] * 2, [max(ends[0], 1.0), ends[1]], color=look["color"], lw=1.0)
        if value > 0:
            ax.plot(pair["D_F"], value, ls="none", ms=size, mec="white", mew=0.6, zorder=4, **look)
            top = value if ends[1] is None else max(ends[1], value)
            ax.annotate(style.si(pair["n_params"]), (pair["D_F"], top), xytext=(0, 4), rotation=90,
                        textcoords="offset points", fontsize=7, ha="center", va="bottom",
                        color=look["color"])  # fmt: skip


def _frame_tokens(ax: Axes, ways: dict[str, Any]) -> None:
    pairs = [pair for way in ways.values() for pair in way["pairs"]]
    own = [pair["D_F"] for pair in pairs]
    moved = [value for pair in pairs if (value := _known(pair.get("D_t"))[0] or 0.0) > 0]
    low, high = min(own) / 1.6, max(own) * 2.2
    style.set_log(ax, "x", "count", [low, high])
    style.set_log(ax, "y", "count", [min(moved, default=low), max(own)])
    ax.set_xlim(low, high)
    ax.set_ylim(min(moved, default=low) / 3, max([*moved, *own]) * 2.5)
    ax.plot([low, high], [low, high], color=style.INK, lw=0.8, ls=(0, (4, 1.5)))
    ax.set_xlabel("tokens after pre-training $D_F$")
    ax.set_ylabel("effectively transferred tokens $D_t$")
    ax.set_title("How many tokens it replaces")


def _legend(ways: dict[str, Any]) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], lw=1.4, ms=5, label=f"{_name(way)} (marks: pairs of runs, 95 %)",
               **_look(way))
        for way in ways.values()
    ]  # fmt: skip
    shares = [way["share"] for way in ways.values() if way.get("share")]
    if any(not share.get("at_edge") for share in shares):
        handles.append(Line2D([], [], ls="none", marker="D", ms=6, mfc="white", mec=style.INK,
                              mew=1.3, label="best share of the fit"))  # fmt: skip
    if any(share.get("at_edge") for share in shares):
        handles.append(Line2D([], [], ls="none", marker="P", ms=7, mfc="white", mec=style.WARN,
                              mew=1.3, label="best share, at an edge of those tried"))  # fmt: skip
    if any(way["pretraining"] == "clm" for way in ways.values()):
        handles.append(Patch(color="#b8bec8", alpha=0.5, label="published best share, CLM first"))
    handles.append(Line2D([], [], color=style.INK, lw=0.8, ls=(0, (4, 1.5)),
                          label="as many tokens as it was trained on"))  # fmt: skip
    return handles
