"""IsoFLOP profiles: loss against model size at constant compute."""

from __future__ import annotations

import math
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
    for ax, objective in zip(axes[0], objectives, strict=True):
        panel = grid[grid["objective"] == objective]
        _panel(ax, panel, lawview.methods(inputs.laws, objective), colours)
        ax.set_title(style.OBJECTIVE_NAME[objective])
        ax.set_xlabel("model size N (non-embedding parameters)")
    axes[0][0].set_ylabel("validation loss (nats per token)")
    figure.legend(
        handles=_legend(grid, colours), loc="outside lower center", ncols=4, columnspacing=1.4
    )
    return figure


def _panel(ax: Axes, runs: pd.DataFrame, laws: dict, colours: dict) -> None:
    good = done(runs)
    style.set_log(ax, "x", "count", runs["n_params"])
    if good.empty:
        style.blank(ax, "No run of this objective ended with a loss.")
        return
    parabolas = lawview.points(laws.get("isoflop_parabola"))
    for budget, rows in good.groupby("budget"):
        rows = rows.sort_values("n_params")
        colour = colours[budget]
        fit = parabolas[np.isclose(parabolas["budget"], budget)]
        drawn = _parabola(ax, fit.iloc[0], rows["n_params"], colour) if len(fit) else False
        ax.errorbar(
            rows["n_params"],
            rows["loss"],
            yerr=rows["loss_sd"] if not drawn and rows["loss_sd"].notna().all() else None,
            fmt="o" if drawn else "o--",
            ms=4,
            lw=0.8,
            color=colour,
            mec="white",
            mew=0.5,
            elinewidth=0.8,
        )
    reach = (good["n_params"].min() / 1.5, good["n_params"].max() * 1.5)
    for fit in parabolas[parabolas["budget"].isin(colours)].to_dict("records"):
        _minimum(ax, fit, reach, colours[fit["budget"]])
    low, high = style.loss_limits(good["loss"])
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


def _parabola(ax: Axes, fit: pd.Series, sizes: pd.Series, colour: tuple) -> bool:
    """Draw the fitted parabola from its vertex and its second derivative in ln N."""
    vertex, loss, bend = (lawview.number(fit.get(key)) for key in ("N_opt", "loss", "curvature"))
    if vertex is None or loss is None or bend is None:
        return False
    x = np.geomspace(sizes.min() * 0.85, sizes.max() * 1.15, 120)
    y = loss + bend / 2 * np.log(x / vertex) ** 2
    ax.plot(x, y, color=colour, lw=1.4, alpha=0.85)
    return True


def _minimum(ax: Axes, fit: dict[str, Any], sizes: tuple[float, float], colour: tuple) -> None:
    vertex, loss, bend = (lawview.number(fit.get(key)) for key in ("N_opt", "loss", "curvature"))
    if vertex is None or loss is None:
        return
    # A vertex far outside the sizes is marked where its parabola leaves the panel.
    n = float(np.clip(vertex, *sizes))
    loss += (bend or 0.0) / 2 * math.log(n / vertex) ** 2
    # Drawn below the curve, where neither the runs nor the parabola hide it.
    left, right = lawview.point_interval(fit, "N_opt") or (vertex, vertex)
    y = loss - 0.015 * (ax.dataLim.ymax - ax.dataLim.ymin)
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
        ms=7 if at_edge else 5,
        mfc="white" if at_edge else colour,
        mec=style.WARN if at_edge else style.INK,
        mew=1.2 if at_edge else 0.9,
        zorder=5,
        ls="none",
    )


def _legend(grid: pd.DataFrame, colours: dict) -> list[Line2D]:
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
    handles.append(
        Line2D([], [], ls="none", marker="P", mfc="white", mec=style.WARN, mew=1.2, ms=7,
               label="minimum at an edge of the sizes")
    )  # fmt: skip
    if len(done(grid)) < len(grid):
        handles.append(
            Line2D([], [], ls="none", marker="X", ms=6.5, mfc="#9ca3af", mec=style.INK,
                   label="diverged or failed, left out")
        )  # fmt: skip
    return handles
