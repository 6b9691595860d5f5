"""IsoFLOP profiles: loss against model size at constant compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs, done, isoflop_runs


def isoflop(inputs: Inputs) -> Figure:
    """Return one panel an objective: loss against N, a colour a budget, fits and their minima."""
    grid = isoflop_runs(inputs.runs)
    objectives = [name for name in style.OBJECTIVES if (grid["objective"] == name).any()]
    if not objectives:
        return style.empty("No IsoFLOP runs in this selection.")
    style.use_theme()
    colours = style.ordered_colours(grid["budget"])
    figure, axes = plt.subplots(
        1, len(objectives), figsize=(style.WIDTH, 3.7), squeeze=False, layout="constrained"
    )
    printed = False
    for ax, objective in zip(axes[0], objectives, strict=True):
        panel = grid[grid["objective"] == objective]
        _panel(ax, panel, lawview.methods(inputs.laws, objective), colours)
        printed = _printed(ax, inputs.points, objective) or printed
        ax.set_title(style.OBJECTIVE_NAME[objective])
        ax.set_xlabel("model size N (non-embedding parameters)")
    axes[0][0].set_ylabel("validation loss (nats per token)")
    figure.legend(
        handles=_legend(inputs.laws, grid, colours, printed), loc="outside lower center", ncols=4,
        columnspacing=1.4,
    )  # fmt: skip
    return figure


def _printed(ax: Axes, points: pd.DataFrame, objective: str) -> bool:
    """Draw the points of a published figure, if there are any, and say whether there were."""
    mine = points[points["objective"] == objective] if len(points) else points
    if mine.empty:
        return False
    ax.plot(mine["n_params"], mine["loss"], ls="none", marker="_", ms=6,
            color=style.INK, mew=0.6, alpha=0.7, zorder=2.5)  # fmt: skip
    return True


def _panel(ax: Axes, runs: pd.DataFrame, laws: dict, colours: dict) -> None:
    good = done(runs)
    style.set_log(ax, "x", "count", runs["n_params"])
    if good.empty:
        style.blank(ax, "No run of this objective ended with a loss.")
        return
    entry = laws.get(_method(laws)) or {}
    fits = lawview.points(entry)
    shape = entry.get("shape")
    many = len(good) > 40
    for budget, rows in good.groupby("budget"):
        rows = rows.sort_values("n_params")
        colour = colours[budget]
        fit = fits[np.isclose(fits["budget"], budget)]
        drawn = len(fit) > 0 and _curve(ax, fit.iloc[0], shape, rows["n_params"], colour)
        ax.errorbar(
            rows["n_params"],
            rows["loss"],
            yerr=rows["loss_sd"] if not drawn and rows["loss_sd"].notna().all() else None,
            fmt="o" if drawn else "o--",
            ms=2.8 if many else 4,
            lw=0.8,
            color=colour,
            mec="white",
            mew=0.3 if many else 0.5,
            elinewidth=0.8,
        )
    reach = (good["n_params"].min() / 1.5, good["n_params"].max() * 1.5)
    for fit in fits[fits["budget"].isin(colours)].to_dict("records"):
        _minimum(ax, fit, shape, reach, colours[fit["budget"]], many)
    # One run far above all others must not press the profiles flat: an arrow stands for it.
    low, high = style.loss_limits(good["loss"], top_quantile=0.97 if many else 1.0)
    above = good[good["loss"] > high]
    for row in above.itertuples():
        ax.plot(row.n_params, 0.985, marker="^", ms=4.5, color=colours[row.budget], ls="none",
                transform=ax.get_xaxis_transform())  # fmt: skip
        ax.annotate(f"{row.loss:.2f}", (row.n_params, 0.985), xytext=(4, -1), fontsize=7,
                    xycoords=ax.get_xaxis_transform(), textcoords="offset points", va="center",
                    color=style.MUTED)  # fmt: skip
    # Room at the top for the marks of runs that have no loss.
    ax.set_ylim(low, high + 0.06 * (high - low))
    failed = runs[~runs["run_id"].isin(good["run_id"])]
    for row in failed.itertuples():
        ax.plot(
            row.n_params,
            0.975,
            marker="X",
            ms=6.5,
            color=colours[row.budget],
            mec=style.INK,
            mew=0.6,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            ls="none",
        )


def _method(laws: dict) -> str:
    """Return the method whose profiles are drawn: the joint fit where it has minima."""
    joint = (laws.get("isoflop_joint") or {}).get("points")
    return "isoflop_joint" if joint else "isoflop_parabola"


def profile(fit: Mapping[str, Any], shape: Mapping[str, Any] | None, n: np.ndarray) -> np.ndarray:
    """Return the fitted loss at sizes `n` (any shape) for one budget's minimum `fit`.

    Without `shape` a parabola in ln N with the minimum's curvature; with it the joint fit's
    loss + k (exp(s u) - 1 - s u) / s^2, u = ln N - ln N_opt, s linear in ln C.
    """
    u = np.log(n / fit["N_opt"])
    bend = lawview.number(fit.get("curvature")) or 0.0
    if not shape:
        return fit["loss"] + bend / 2 * u**2
    # At large s u the exponential leaves every panel; it must only not overflow.
    s = shape["s"] + shape["s_per_ln_c"] * math.log(fit["flops"] / shape["flops"])
    z = np.clip(s * u, -50, 50)
    rise = np.where(np.abs(z) < 1e-3, u**2 / 2 * (1 + z / 3), (np.expm1(z) - z) / (s**2 or 1.0))
    return fit["loss"] + bend * rise


def _curve(
    ax: Axes, fit: pd.Series, shape: dict[str, Any] | None, sizes: pd.Series, colour: tuple
) -> bool:
    """Draw the fitted profile of one budget; return whether there is one."""
    if any(lawview.number(fit.get(key)) is None for key in ("N_opt", "loss", "curvature")):
        return False
    x = np.geomspace(sizes.min() * 0.85, sizes.max() * 1.15, 60)
    ax.plot(x, profile(fit, shape, x), color=colour, lw=1.4, alpha=0.85)
    return True


def _minimum(
    ax: Axes,
    fit: dict[str, Any],
    shape: dict[str, Any] | None,
    sizes: tuple[float, float],
    colour: tuple,
    small: bool,
) -> None:
    vertex, loss = (lawview.number(fit.get(key)) for key in ("N_opt", "loss"))
    if vertex is None or loss is None:
        return
    # A vertex far outside the sizes is marked where its profile leaves the panel.
    n = float(np.clip(vertex, *sizes))
    loss = float(profile(fit, shape, np.array(n)))
    # Drawn below the curve, where neither the runs nor the parabola hide it.
    left, right = lawview.point_interval(fit, "N_opt") or (vertex, vertex)
    y = loss - (0.017 if small else 0.015) * (ax.dataLim.ymax - ax.dataLim.ymin)
    inside = np.clip([left, right], *sizes)
    if right > left:
        ax.plot(inside, [y, y], color=colour, lw=2.2, zorder=4, solid_capstyle="butt")
    for end, at, marker in ((left, inside[0], "<"), (right, inside[1], ">")):
        if not math.isclose(end, at):
            ax.plot(at, y, marker=marker, ms=4, color=colour, zorder=4)
    at_edge = bool(fit["at_edge"])
    ax.plot(
        n,
        loss,
        marker="P" if at_edge else "D",
        ms=(7 if at_edge else 5) - (1.2 if small else 0),
        mfc="white" if at_edge else colour,
        mec=style.WARN if at_edge else style.INK,
        mew=1.2 if at_edge else 0.9,
        zorder=5,
        ls="none",
    )


def _legend(laws: dict, grid: pd.DataFrame, colours: dict, printed: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker="o", ms=4, label=f"{style.flops_math(budget)} FLOPs")
        for budget, colour in colours.items()
    ]
    ink = {"color": style.INK, "mec": style.INK}
    handles.append(
        Line2D([], [], ls="none", **ink, marker="D", mfc="white", ms=5, label="minimum of the fit")
    )
    handles.append(
        Line2D([], [], color=style.MUTED, lw=2.2, label="its 95 % interval (arrow: goes on)")
    )
    entries = [lawview.methods(laws, objective) for objective in style.OBJECTIVES]
    if any(lawview.points(e.get(_method(e)))["at_edge"].astype(bool).any() for e in entries):
        handles.append(
            Line2D([], [], ls="none", marker="P", mfc="white", mec=style.WARN, mew=1.2, ms=7,
                   label="minimum at an edge of the sizes")
        )  # fmt: skip
    if printed:
        handles.append(
            Line2D([], [], ls="none", marker="_", ms=7, color=style.INK, mew=0.6,
                   label="points of the published figure")
        )  # fmt: skip
    if len(done(grid)) < len(grid):
        handles.append(
            Line2D([], [], ls="none", marker="X", ms=6.5, mfc="#9ca3af", mec=style.INK,
                   label="diverged or failed, left out")
        )  # fmt: skip
    return handles
