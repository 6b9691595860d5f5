"""Which parameters of L(N, D) the data tell: profiles of the objective, and where fits end."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs
from plmscale.paper.published import PARAMETRIC

_PANELS = {
    "E": "E (nats per token)",
    "alpha": "exponent $\\alpha$ of N (no unit)",
    "beta": "exponent $\\beta$ of D (no unit)",
    "a": "$a = \\beta / (\\alpha + \\beta)$ (no unit)",
}
_TOP = 4.0
_DASH = {"clm": "-", "mlm": (0, (5, 1.5))}
# Heights of the marks of the two objectives, so that they do not cover each other.
_STOP_AT = {"clm": 3.55, "mlm": 3.1}
_PRINTED_AT = {"clm": 2.65, "mlm": 2.2}


def identifiability(inputs: Inputs) -> Figure:
    """Return the rise of the objective when one parameter is held and the others are refitted."""
    entries = {
        name: entry
        for name in style.OBJECTIVES
        if (entry := lawview.methods(inputs.laws, name).get("parametric")) and entry.get("profiles")
    }
    if not entries:
        return style.empty("No profiles of a parametric law L(N, D) in this selection.")
    style.use_theme()
    figure, axes = plt.subplots(
        1, len(_PANELS), figsize=(style.WIDTH, 3.5), sharey=True, layout="constrained"
    )
    printed = _comparable(entries)
    for ax, (letter, label) in zip(axes, _PANELS.items(), strict=True):
        ax.axhline(1, color=style.INK, lw=0.9, ls=(0, (1, 1.5)))
        drawn = [_profile(ax, letter, objective, entry) for objective, entry in entries.items()]
        marks = [
            value for objective, entry in entries.items()
            for value in (*_ends(entry, letter), *([_published(objective).get(letter)] * printed))
        ]  # fmt: skip
        ax.set_xlim(*_reach([value for values in drawn for value in values], marks))
        for objective, entry in entries.items():
            _stops(ax, letter, objective, entry)
            if printed:
                _mark(ax, _published(objective).get(letter), _PRINTED_AT[objective], objective, "x")
        ax.set_ylim(-0.25, _TOP)
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(plt.MaxNLocator(4))
    axes[0].set_ylabel("rise of the objective\n(1 = rejected with 95 %)")
    figure.legend(handles=_legend(entries, printed), loc="outside lower center", ncols=2)
    return figure


def _reach(values: list[float], marks: list[float | None]) -> tuple[float, float]:
    """Return limits around the profiles and those marks that are not far outside."""
    low, high = min(values), max(values)
    room = high - low + 1e-6
    near = [m for m in marks if m is not None and low - room <= m <= high + room]
    return min([low, *near]) - 0.08 * room, max([high, *near]) + 0.08 * room


def _ends(entry: dict[str, Any], letter: str) -> list[float | None]:
    """Return where searches other than the best one ended."""
    return [
        lawview.number(found.get(letter))
        for found in (entry.get("optima") or [])[1:]
        if found["objective"] > 1.001 * entry["objective"]
    ]


def _profile(ax: Axes, letter: str, objective: str, entry: dict[str, Any]) -> list[float]:
    """Draw one profile and its optimum; return the values that must be in view."""
    colour = style.OBJECTIVE_COLOUR[objective]
    pairs = entry["profiles"].get(letter) or []
    # One point above the panel, so that the line leaves it; the far ends would only widen the axis.
    below = [i for i, (_, rise) in enumerate(pairs) if rise <= _TOP]
    best = _value(entry, letter)
    seen = [pairs[i][0] for i in below] + ([] if best is None else [best])
    if below:
        part = pairs[max(below[0] - 1, 0) : below[-1] + 2]
        ax.plot([x for x, _ in part], [y for _, y in part], color=colour, lw=1.5,
                ls=_DASH[objective])  # fmt: skip
    if best is not None:
        ax.plot(best, 0, ls="none", marker=style.OBJECTIVE_MARKER[objective], ms=6, color=colour,
                mec="white", mew=0.6, zorder=4, clip_on=False)  # fmt: skip
    return seen or [0.0, 1.0]


def _stops(ax: Axes, letter: str, objective: str, entry: dict[str, Any]) -> None:
    for found in (entry.get("optima") or [])[1:]:
        if found["objective"] > 1.001 * entry["objective"]:
            marker = "D" if found["stationary"] else "v"
            _mark(ax, lawview.number(found.get(letter)), _STOP_AT[objective], objective, marker)


def _mark(ax: Axes, value: float | None, at: float, objective: str, marker: str) -> None:
    if value is not None:
        colour = style.OBJECTIVE_COLOUR[objective]
        low, high = ax.get_xlim()
        if not low <= value <= high:
            # An arrow at the edge says that the place lies outside.
            marker, value = ("<", low) if value < low else (">", high)
        ax.plot(value, at, clip_on=False, ls="none", marker=marker, ms=5.5, mfc="white", mec=colour, mew=1.2,
                zorder=4)  # fmt: skip


def _value(entry: dict[str, Any], letter: str) -> float | None:
    if letter == "a":
        return lawview.number((entry.get("N_opt") or {}).get("a"))
    return lawview.number(entry.get(letter))


def _published(objective: str) -> dict[str, float]:
    found = {name: float(text) for name, text in PARAMETRIC.get(objective, {}).items()}
    if {"alpha", "beta"} <= set(found):
        found["a"] = found["beta"] / (found["alpha"] + found["beta"])
    return found


def _comparable(entries: dict[str, dict[str, Any]]) -> bool:
    """Return whether the runs reach the compute of the published fit: 10^18 FLOPs and more."""
    spans = [(entry.get("fitted_range") or {}).get("flops") for entry in entries.values()]
    return any(span and span[1] >= 1e18 for span in spans)


def _legend(entries: dict[str, dict[str, Any]], printed: bool) -> list[Line2D]:
    handles = []
    for objective, entry in entries.items():
        colour, name = style.OBJECTIVE_COLOUR[objective], style.OBJECTIVE_NAME[objective]
        handles.append(
            Line2D([], [], color=colour, lw=1.5, ls=_DASH[objective], ms=6, mec="white", mew=0.6,
                   marker=style.OBJECTIVE_MARKER[objective],
                   label=f"{name}: profile and least objective ({entry['objective']:.3g})")
        )  # fmt: skip
        for found in (entry.get("optima") or [])[1:]:
            if found["objective"] > 1.001 * entry["objective"]:
                ratio = found["objective"] / entry["objective"]
                kind = "local optimum" if found["stationary"] else "where L-BFGS-B stops"
                handles.append(
                    Line2D([], [], ls="none", marker="D" if found["stationary"] else "v", ms=5.5,
                           mfc="white", mec=colour, mew=1.2,
                           label=f"{name}: {kind}, objective × {ratio:.3g}")
                )  # fmt: skip
        if printed:
            handles.append(Line2D([], [], ls="none", marker="x", ms=5.5, mec=colour, mew=1.2,
                                  label=f"{name}: published"))  # fmt: skip
    handles.append(Line2D([], [], color=style.INK, lw=0.9, ls=(0, (1, 1.5)),
                          label="95 % cut: below it the data do not reject"))  # fmt: skip
    return handles
