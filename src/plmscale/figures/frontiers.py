"""Efficient frontiers N(C) and D(C), and the exponents of all methods side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs

_STYLE = {
    "isoflop_joint": "-",
    "isoflop_parabola": (0, (6, 1.5)),
    "isoflop_spline": (0, (4, 1, 1, 1, 1, 1)),
    "parametric": (0, (3.5, 1.2, 1, 1.2)),
    "isoflop_raw_loglog": (0, (2, 1.2)),
    "isoflop_raw_linear": (0, (1, 2.5)),
    "envelope": (0, (1, 1.2)),
}
PUBLISHED_RANGE = (1e18, 1e21)
"""Budgets of Cheng et al. 2024 in FLOPs, 6ND."""
_AXES = {"N_opt": ("model size N (parameters)", "N", "a"), "D_opt": ("tokens D", "D", "b")}


def frontiers(inputs: Inputs) -> Figure:
    """Return N_opt(C) and D_opt(C): the method that speaks with its band, the others as lines."""
    objectives = [
        name for name in style.OBJECTIVES if lawview.preferred(inputs.laws, name) is not None
    ]
    if not objectives:
        return style.empty("No law could be fitted to the runs of this selection.")
    style.use_theme()
    figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 4.3), layout="constrained")
    for ax, which in zip(axes, _AXES, strict=True):
        label, symbol, letter = _AXES[which]
        handles = []
        seen = []
        for objective in objectives:
            handles.append(_frontier(ax, inputs.laws, objective, which, symbol, letter, seen))
        ax.set_title(f"Compute-optimal {label.split(' (')[0]}")
        ax.set_xlabel("compute C (FLOPs, 6ND)")
        ax.set_ylabel(label)
        published = _published(ax, objectives, which, _budgets(inputs.laws))
        _scale(ax, seen)
        # A wild method's line may run behind the words.
        ax.legend(
            handles=[h for h in handles if h], loc="upper left", bbox_to_anchor=(0, 1), fontsize=7.2,
            frameon=True, framealpha=0.9, edgecolor="none", borderaxespad=0.1,
        )  # fmt: skip
    at_edge = any(
        lawview.points(lawview.methods(inputs.laws, o).get(lawview.preferred(inputs.laws, o)))
        ["at_edge"].astype(bool).any()
        for o in objectives
    )  # fmt: skip
    used = {m for o in objectives for m in lawview.methods(inputs.laws, o) if m in _STYLE}
    figure.legend(
        handles=[
            Line2D([], [], color=style.MUTED, ls=_STYLE[name], label=lawview.METHODS[name])
            for name in _STYLE
            if name in used
        ]
        + (
            [Line2D([], [], color=style.INK, lw=0.9, label="published (CLM and MLM)")]
            if published
            else []
        )
        + ([_edge_handle()] if at_edge else []),
        loc="outside lower center",
        ncols=4,
        title="how the law was fitted (band: 95 % of the bootstrap)",
    )
    return figure


def _frontier(
    ax: Axes,
    laws: dict,
    objective: str,
    which: str,
    symbol: str,
    letter: str,
    seen: list[tuple[float, float]],
) -> Line2D | None:
    """Draw one objective's frontier, add what must be in view to `seen`, return its handle."""
    spoken = lawview.preferred(laws, objective)
    entries = lawview.methods(laws, objective)
    colour = style.OBJECTIVE_COLOUR[objective]
    budgets = _budgets(laws)
    flops = np.geomspace(min(budgets) / 1.6, max(budgets) * 1.6, 60)
    handle = None
    for name, entry in entries.items():
        law = lawview.power_law(entry, which)
        if name not in _STYLE or law is None:
            continue
        lead = name == spoken
        y = law.at(flops)
        ax.plot(flops, y, color=colour, ls=_STYLE[name], lw=1.8 if lead else 0.9,
                alpha=1 if lead else 0.75, zorder=3 if lead else 2)  # fmt: skip
        if lead:
            # Only what is trusted most sets the limits: a wild band or a wild method may leave
            # the panel, but must not squeeze the points into a line.
            seen.extend(zip(flops, y, strict=True))
            band = law.band(flops)
            if band is not None:
                ax.fill_between(flops, *band, color=colour, alpha=0.15, lw=0, zorder=1)
            handle = _entry(objective, law, symbol, letter)
    minima = lawview.points(entries.get(spoken))
    for row in minima.itertuples():
        y = getattr(row, which)
        if not np.isfinite(y):
            continue
        if row.used:
            seen.append((row.budget, y))
        ax.plot(row.budget, y, marker=style.OBJECTIVE_MARKER[objective], ms=5.5, ls="none",
                mfc="white" if row.at_edge else colour, mec=colour, mew=1.2, zorder=4)  # fmt: skip
    return handle


def _published(ax: Axes, objectives: list[str], which: str, budgets: list[float]) -> bool:
    """Draw the paper's laws inside the compute they were fitted to, if this study reaches it."""
    low, high = max(min(budgets), PUBLISHED_RANGE[0]), min(max(budgets), PUBLISHED_RANGE[1])
    if low >= high:
        return False
    flops = np.array([low, high])
    for objective in objectives:
        if objective in lawview.PUBLISHED:
            coefficient, exponent = lawview.PUBLISHED[objective][which]
            ax.plot(flops, coefficient * flops**exponent, color=style.INK, lw=0.9, zorder=5)
    return True


def _entry(objective: str, law: lawview.PowerLaw, symbol: str, letter: str) -> Line2D:
    text = f"{style.OBJECTIVE_NAME[objective]}: ${symbol} \\propto C^{{{law.exponent:.2f}}}$"
    text += f"  (${letter}$: {style.interval_text(law.interval)})"
    colour = style.OBJECTIVE_COLOUR[objective]
    return Line2D([], [], color=colour, marker=style.OBJECTIVE_MARKER[objective], ms=5, label=text)


def _edge_handle() -> Line2D:
    return Line2D([], [], ls="none", marker="o", ms=5, mfc="white", mec=style.MUTED, mew=1.2,
                  label="minimum at an edge of the sizes")  # fmt: skip


def _budgets(laws: dict) -> list[float]:
    found = []
    for objective in lawview.objectives(laws):
        for entry in lawview.methods(laws, objective).values():
            found += lawview.points(entry)["budget"].dropna().tolist()
    return found or [1e11, 1e12]


def _scale(ax: Axes, seen: list[tuple[float, float]]) -> None:
    x, y = (np.array(values, dtype=float) for values in zip(*seen, strict=True))
    style.set_log(ax, "x", "flops", [x.min(), x.max() * 100])
    low, high = y.min() / 1.7, y.max() * 1.7
    # The upper fifth stays free for the legend.
    high *= (high / low) ** 0.28
    style.set_log(ax, "y", "count", [low, high])
    ax.set_ylim(low, high)


def exponents(inputs: Inputs) -> Figure:
    """Return a forest plot: each method's exponent with its interval, and the paper's."""
    rows = {o: _exponent_rows(inputs.laws, o) for o in style.OBJECTIVES}
    rows = {objective: found for objective, found in rows.items() if found}
    if not rows:
        return style.empty("No law could be fitted to the runs of this selection.")
    style.use_theme()
    names = [m for m in lawview.METHODS if any(m in found for found in rows.values())]
    figure, axes = plt.subplots(
        1, 2, figsize=(style.WIDTH, 1.5 + 0.44 * len(names)), sharey=True, layout="constrained"
    )
    step = 0.3 if len(rows) > 1 else 0
    for ax, which in zip(axes, _AXES, strict=True):
        _, symbol, letter = _AXES[which]
        reach = _reach(rows, which)
        for offset, (objective, found) in enumerate(rows.items()):
            for line, name in enumerate(names):
                if name in found and which in found[name]:
                    y = line + (offset - (len(rows) - 1) / 2) * step
                    _interval(ax, y, objective, found[name][which], reach)
            ax.axvline(
                lawview.PUBLISHED[objective][which][1],
                color=style.OBJECTIVE_COLOUR[objective],
                lw=0.9,
                ls=(0, (4, 2)) if objective == "clm" else (0, (1, 1.5)),
                zorder=1,
            )
        ax.set_xlim(*reach)
        ax.set_title(f"${symbol}_{{\\mathrm{{opt}}}} \\propto C^{letter}$")
        ax.set_xlabel(f"exponent {letter} (no unit)")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(names)), [lawview.METHODS[name] for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    figure.legend(handles=_exponent_legend(rows), loc="outside lower center", ncols=4)
    return figure


def _exponent_rows(laws: dict, objective: str) -> dict[str, dict[str, lawview.PowerLaw]]:
    found = {}
    for name, entry in lawview.methods(laws, objective).items():
        both = {which: lawview.power_law(entry, which) for which in _AXES}
        both = {which: law for which, law in both.items() if law is not None}
        if both:
            found[name] = both
    return found


def _reach(rows: dict, which: str) -> tuple[float, float]:
    """Return axis limits around all estimates, intervals and published values, within reason."""
    ends = []
    for objective, found in rows.items():
        ends.append(lawview.PUBLISHED[objective][which][1])
        for law in (laws[which] for laws in found.values() if which in laws):
            ends += [law.exponent, *(law.interval or ())]
    ends = [end for end in ends if -0.35 <= end <= 1.35]
    pad = 0.06 * (max(ends) - min(ends)) + 0.01
    return max(min(ends) - pad, -0.35), min(max(ends) + pad, 1.35)


def _interval(
    ax: Axes, y: float, objective: str, law: lawview.PowerLaw, reach: tuple[float, float]
) -> None:
    colour = style.OBJECTIVE_COLOUR[objective]
    low, high = reach
    if law.interval:
        left, right = law.interval
        ax.plot([max(left, low), min(right, high)], [y, y], color=colour, lw=1.6)
        # An arrow says that the interval goes on outside the axis.
        if left < low:
            ax.plot(low, y, marker="<", color=colour, ms=5, clip_on=False)
        if right > high:
            ax.plot(high, y, marker=">", color=colour, ms=5, clip_on=False)
    if low <= law.exponent <= high:
        marker = style.OBJECTIVE_MARKER[objective]
        ax.plot(law.exponent, y, marker=marker, ms=5.5, color=colour, mec="white", mew=0.6)


def _exponent_legend(rows: dict) -> list[Line2D]:
    handles = []
    for objective in rows:
        colour, name = style.OBJECTIVE_COLOUR[objective], style.OBJECTIVE_NAME[objective]
        marker = style.OBJECTIVE_MARKER[objective]
        handles.append(Line2D([], [], color=colour, marker=marker, ms=5, label=f"{name}, 95 %"))
        dash = (0, (4, 2)) if objective == "clm" else (0, (1, 1.5))
        handles.append(Line2D([], [], color=colour, lw=0.9, ls=dash, label=f"{name}, Cheng et al."))
    return handles
