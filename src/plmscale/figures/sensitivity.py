"""How much of an exponent is choice and how much is data."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs

CHOICES = ("table", "flops", "budgets")
_CHOICE_NAME = {
    "method": "method",
    "profile_method": "method, IsoFLOP alone",
    "table": "table (audit, averaging)",
    "flops": "count of FLOPs",
    "budgets": "budgets taking part",
}
_FLOPS_NAME = {"flops_6nd": "6ND", "flops": "with attention"}
# One marker a level of a choice; more levels than markers share the last one.
_MARKERS = ("s", "D", "^", "v", "<", ">", "p", "h")
_BASE_MARKER = "o"
_DATA_COLOUR = "#b8bec8"


def sensitivity(inputs: Inputs) -> Figure:
    """Return the exponent a under every choice, by method, and how far each choice moves it."""
    found = inputs.sensitivity
    rows = [row for row in found.get("rows") or [] if lawview.number(row.get("a")) is not None]
    objectives = [name for name in style.OBJECTIVES if any(r["objective"] == name for r in rows)]
    if not objectives:
        return style.empty("No sensitivity study in this selection.")
    style.use_theme()
    methods = _methods(rows)
    variants = _variants(rows, found.get("base") or {})
    figure, axes = plt.subplots(
        2, len(objectives), figsize=(style.WIDTH, 2.6 + 0.56 * len(methods)), squeeze=False,
        layout="constrained", sharey="row", height_ratios=(0.62 * len(methods), 1.7),
    )  # fmt: skip
    for column, objective in enumerate(objectives):
        mine = [row for row in rows if row["objective"] == objective]
        effects = (found.get("effects") or {}).get(objective) or {}
        _forest(axes[0][column], mine, methods, variants, objective)
        _bars(axes[1][column], effects)
        axes[0][column].set_title(style.OBJECTIVE_NAME[objective])
    handles = [
        Line2D([], [], ls="none", color=style.INK if not label else style.MUTED, marker=marker,
               ms=5, label=label or _base_label(found.get("base") or {}))
        for label, marker in variants.values()
    ]  # fmt: skip
    if any(objective in lawview.PUBLISHED for objective in objectives):
        handles.append(Line2D([], [], color=style.INK, lw=0.9, ls=(0, (4, 2)),
                              label="published (Cheng et al. 2024)"))  # fmt: skip
    handles.append(Patch(color=_DATA_COLOUR, label="standard error from the data"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _methods(rows: list[dict[str, Any]]) -> list[str]:
    there = {row["method"] for row in rows}
    return [m for m in lawview.METHODS if m in there] + sorted(there - set(lawview.METHODS))


def _variants(rows: list[dict[str, Any]], base: dict[str, Any]) -> dict[tuple, tuple[str, str]]:
    """Return label and marker of every combination of choices other than the method.

    The label names what differs from the base and is empty for the base itself.
    """
    keys = list(dict.fromkeys(tuple(row.get(c) for c in CHOICES) for row in rows))
    keys.sort(key=lambda key: sum(_differs(key, base)))
    found: dict[tuple, tuple[str, str]] = {}
    for key in keys:
        words = [
            _level_name(choice, str(value))
            for choice, value, other in zip(CHOICES, key, _differs(key, base), strict=True)
            if other
        ]
        number = len([label for label, _ in found.values() if label])
        marker = _MARKERS[min(number, len(_MARKERS) - 1)] if words else _BASE_MARKER
        found[key] = (", ".join(words), marker)
    return found


def _differs(key: tuple, base: dict[str, Any]) -> list[bool]:
    return [choice in base and value != base[choice]
            for choice, value in zip(CHOICES, key, strict=True)]  # fmt: skip


def _level_name(choice: str, value: str) -> str:
    if choice == "flops":
        return _FLOPS_NAME.get(value, value)
    left_out = value.removeprefix("without ")
    if choice == "budgets" and left_out != value:
        return f"without {style.flops_math(float(left_out))} FLOPs"
    return value


def _base_label(base: dict[str, Any]) -> str:
    return f"base: table as given, {_FLOPS_NAME.get(base.get('flops'), '6ND')}, all budgets"


def _forest(
    ax: Axes,
    rows: list[dict[str, Any]],
    methods: list[str],
    variants: dict[tuple, tuple[str, str]],
    objective: str,
) -> None:
    colour = style.OBJECTIVE_COLOUR[objective]
    lanes = {key: (i + 0.5) / len(variants) * 0.8 - 0.4 for i, key in enumerate(variants)}
    values = [float(row["a"]) for row in rows]
    published = lawview.PUBLISHED.get(objective, {}).get("N_opt")
    inside = [*values, *([published[1]] if published else [])]
    span = max(max(inside) - min(inside), 0.05)
    low, high = min(inside) - 0.25 * span, max(inside) + 0.25 * span
    for line in range(1, len(methods)):
        ax.axhline(line - 0.5, color="#e5e7eb", lw=0.6, zorder=0)
    for row in rows:
        key = tuple(row.get(c) for c in CHOICES)
        label, marker = variants[key]
        y = methods.index(row["method"]) + lanes[key]
        shade = style.MUTED if label else colour
        ends = [lawview.number(end) for end in row.get("ci95") or (None, None)]
        if ends != [None, None]:
            left = low if ends[0] is None else max(ends[0], low)
            right = high if ends[1] is None else min(ends[1], high)
            ax.plot([left, right], [y, y], color=shade, lw=0.9 if label else 2.0,
                    solid_capstyle="butt", zorder=2)  # fmt: skip
        ax.plot(row["a"], y, marker=marker, ms=3.6 if label else 5.5, color=shade,
                mec="white", mew=0.5, zorder=3)  # fmt: skip
    if published:
        ax.axvline(published[1], color=style.INK, lw=0.9, ls=(0, (4, 2)), zorder=1)
    ax.set_xlim(low, high)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.set_yticks(range(len(methods)), [lawview.METHODS.get(m, m) for m in methods])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("exponent a of $N_{\\mathrm{opt}} \\propto C^a$ (no unit)")


def _bars(ax: Axes, effects: dict[str, Any]) -> None:
    names = [*_CHOICE_NAME.values(), "the data"]
    choices = effects.get("choices") or {}
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("moves a by (standard deviation)")
    drawn = [
        (line, lawview.number((choices.get(choice) or {}).get("sd")), style.INK)
        for line, choice in enumerate(_CHOICE_NAME)
    ]
    drawn.append((len(names) - 1, lawview.number(effects.get("data_sd")), _DATA_COLOUR))
    widest = max([value for _, value, _ in drawn if value is not None] or [0.01])
    for line, value, colour in drawn:
        if value is None:
            ax.text(0.015 * widest, line, "one level only", va="center", fontsize=7.5,
                    color=style.MUTED)  # fmt: skip
            continue
        ax.barh(line, value, height=0.62, color=colour, linewidth=0)
        ax.text(value + 0.02 * widest, line, f"{value:.3f}", va="center", fontsize=7.5)
    ax.set_xlim(0, widest * 1.2)
