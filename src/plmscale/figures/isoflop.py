"""IsoFLOP profiles: loss against model size at constant compute."""

from __future__ import annotations

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
        1, len(objectives), figsize=(style.WIDTH, 3.5), squeeze=False, layout="constrained"
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
        if len(fit):
            _minimum(ax, fit.iloc[0], colour)
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


def _minimum(ax: Axes, fit: pd.Series, colour: tuple) -> None:
    n, loss = fit["N_opt"], fit["loss"]
    if not (np.isfinite(n) and np.isfinite(loss)):
        return
    pair = fit.get("N_opt_ci95")
    if isinstance(pair, list | tuple) and None not in pair:
        ax.plot(pair, [loss, loss], color=style.INK, lw=1.1, zorder=4, solid_capstyle="butt")
    at_edge = bool(fit["at_edge"])
    ax.plot(
        n,
        loss,
        marker="<" if at_edge else "D",
        ms=6.5 if at_edge else 5.5,
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
        Line2D([], [], **ink, lw=1.1, marker="D", mfc="white", ms=5, label="minimum, 95 % interval")
    )
    handles.append(
        Line2D([], [], ls="none", marker="<", mfc="white", mec=style.WARN, mew=1.2, ms=6.5,
               label="minimum at an edge of the sizes")
    )  # fmt: skip
    if len(done(grid)) < len(grid):
        handles.append(
            Line2D([], [], ls="none", marker="X", ms=6.5, mfc="#9ca3af", mec=style.INK,
                   label="diverged or failed, left out")
        )  # fmt: skip
    return handles
