"""One size for both objectives: how to split compute and tokens between CLM and MLM."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.errors import PlmscaleError
from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs
from plmscale.figures.frontiers import PUBLISHED_RANGE
from plmscale.laws.worth.equal_size import equal_size

_SIZES = 25
_OUTSIDE = (0, (2, 1.2))
# An interval that reaches this many times its middle leaves every panel anyway.
_WILD = 1e4


def allocation(inputs: Inputs) -> Figure:
    """Return compute for MLM against compute for CLM at equal size, and the tokens of each."""
    entries = {
        name: lawview.methods(inputs.laws, name).get(lawview.preferred(inputs.laws, name) or "")
        for name in style.OBJECTIVES
    }
    spans = {name: ((entry or {}).get("fitted_range") or {}).get("flops")
             for name, entry in entries.items()}  # fmt: skip
    if not all(spans.values()):
        return style.empty("No law for both objectives in this selection.")
    sizes = _sizes(entries, spans)
    try:
        found = [equal_size(entries["clm"], entries["mlm"], n_params=float(n)) for n in sizes]
    except PlmscaleError as error:
        return style.empty(f"No equal-size allocation: {error}.")
    inside = np.array(
        [all(spans[o][0] / 1.05 <= item[o]["flops"]["value"] <= spans[o][1] * 1.05
             for o in style.OBJECTIVES) for item in found]
    )  # fmt: skip
    style.use_theme()
    figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.9), layout="constrained")
    published = _compute(axes[0], sizes, found, inside, spans)
    _tokens(axes[1], sizes, found, inside)
    handles = [
        Line2D([], [], color=style.INK, lw=1.6, label="inside what both laws were fitted to"),
        Line2D([], [], color=style.INK, lw=1.6, ls=_OUTSIDE, label="beyond it"),
        Line2D([], [], color=style.MUTED, lw=0.9, ls=(0, (5, 1.5)), label="equal compute"),
    ]
    if published:
        handles.append(Line2D([], [], color=style.WARN, lw=1.1, label="published laws"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4,
                  title="band: 95 % of the bootstrap")  # fmt: skip
    return figure


def _sizes(entries: dict[str, Any], spans: dict[str, list[float]]) -> np.ndarray:
    """Return sizes between the optima of the smallest and of the largest compute fitted."""
    ends = [
        float(lawview.power_law(entries[name], "N_opt").at(flops))
        for name, span in spans.items()
        for flops in span
    ]
    return np.geomspace(min(ends), max(ends), _SIZES)


def _compute(
    ax: Axes,
    sizes: np.ndarray,
    found: list[dict[str, Any]],
    inside: np.ndarray,
    spans: dict[str, list[float]],
) -> bool:
    clm = np.array([item["clm"]["flops"]["value"] for item in found])
    mlm = np.array([item["mlm"]["flops"]["value"] for item in found])
    _line(ax, clm, mlm, inside, style.INK)
    band = _ends([item["flops_ratio"] for item in found])
    if band is not None:
        ax.fill_between(clm, band[0] * clm, band[1] * clm, color=style.INK, alpha=0.12, lw=0)
    ends = np.array([min(clm.min(), mlm.min()), max(clm.max(), mlm.max())])
    ax.plot(ends, ends, color=style.MUTED, lw=0.9, ls=(0, (5, 1.5)))
    published = _published(ax, spans)
    style.set_log(ax, "x", "flops", [clm.min(), clm.max() * 100])
    style.set_log(ax, "y", "flops", [mlm.min(), mlm.max() * 100])
    ax.set_xlim(clm.min(), clm.max())
    ax.set_ylim(mlm.min() / 2, mlm.max() * 2)
    for power in range(int(np.ceil(np.log10(sizes[0]))), int(np.log10(sizes[-1])) + 1):
        at = [np.interp(power, np.log10(sizes), np.log10(values)) for values in (clm, mlm)]
        x, y = 10 ** np.array(at)
        ax.plot(x, y, ls="none", marker="o", ms=4.5, mfc="white", mec=style.INK, mew=1, zorder=4)
        # Beside the line, on the side where there is room.
        right = x < np.sqrt(clm.min() * clm.max())
        ax.annotate(f"N = {style.si(10.0**power)}", (x, y), xytext=(7, -5) if right else (-7, 4),
                    ha="left" if right else "right", va="top" if right else "bottom",
                    textcoords="offset points", fontsize=7.5)  # fmt: skip
    q = found[0]["relation"]["q"]
    span = style.interval_text(tuple(q["ci95"])) if None not in q["ci95"] else "no interval"
    power = f"$C_{{\\mathrm{{MLM}}}} \\propto C_{{\\mathrm{{CLM}}}}^{{{q['value']:.2f}}}$"
    ax.text(0.03, 0.97, f"{power}  ({span})", transform=ax.transAxes, va="top", fontsize=8.5)
    ax.set_title("Compute for one size")
    ax.set_xlabel("compute for CLM (FLOPs)")
    ax.set_ylabel("compute for MLM (FLOPs)")
    return published


def _published(ax: Axes, spans: dict[str, list[float]]) -> bool:
    """Draw the line that the published laws imply, inside their range, if this study reaches it."""
    laws = {name: lawview.PUBLISHED.get(name, {}).get("N_opt") for name in style.OBJECTIVES}
    low = max(spans["clm"][0], PUBLISHED_RANGE[0])
    high = min(spans["clm"][1], PUBLISHED_RANGE[1])
    if low >= high or not all(laws.values()):
        return False
    clm = np.geomspace(low, high, 20)
    mlm = (laws["clm"][0] * clm ** laws["clm"][1] / laws["mlm"][0]) ** (1 / laws["mlm"][1])
    ax.plot(clm, mlm, color=style.WARN, lw=1.1, zorder=3)
    return True


def _tokens(ax: Axes, sizes: np.ndarray, found: list[dict[str, Any]], inside: np.ndarray) -> None:
    seen = []
    for objective in style.OBJECTIVES:
        tokens = np.array([item[objective]["tokens"]["value"] for item in found])
        colour = style.OBJECTIVE_COLOUR[objective]
        _line(ax, sizes, tokens, inside, colour)
        band = _ends([item[objective]["tokens"] for item in found])
        if band is not None:
            ax.fill_between(sizes, *band, color=colour, alpha=0.15, lw=0)
        ax.annotate(style.OBJECTIVE_NAME[objective], (sizes[8], tokens[8]), xytext=(0, 7),
                    textcoords="offset points", ha="right", color=colour, fontsize=8.5,
                    fontweight="bold")  # fmt: skip
        seen += list(tokens)
    style.set_log(ax, "x", "count", sizes)
    style.set_log(ax, "y", "count", seen)
    ax.set_xlim(sizes[0], sizes[-1])
    ax.set_ylim(min(seen) / 2, max(seen) * 2)
    ax.set_title("Tokens for one size")
    ax.set_xlabel("model size N (non-embedding parameters)")
    ax.set_ylabel("training tokens D")


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, inside: np.ndarray, colour: str) -> None:
    ax.plot(x, y, color=colour, lw=1.6, ls=_OUTSIDE)
    if inside.any():
        ax.plot(x[inside], y[inside], color=colour, lw=1.8)


def _ends(items: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    if any(None in (item["ci95"] or [None]) for item in items):
        return None
    low, high = np.array([item["ci95"] for item in items]).T
    middle = np.array([item["value"] for item in items])
    return np.maximum(low, middle / _WILD), np.minimum(high, middle * _WILD)
