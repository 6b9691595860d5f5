"""Lines of equal loss over compute and model size, with the efficient frontier."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs, done, isoflop_runs
from plmscale.figures.parametric import predict, surface_law

# Without its light end, which cannot be read on white.
_MAP = ListedColormap(plt.get_cmap("cividis")(np.linspace(0, 0.88, 256)))


def isoloss(inputs: Inputs) -> Figure:
    """Return contours of L(C, N) with D = C / 6N, the runs in the colour of their loss, and the
    frontiers of the parametric and the profile laws."""
    grid = done(isoflop_runs(inputs.runs))
    laws = {
        name: law
        for name in style.OBJECTIVES
        if (law := surface_law(lawview.methods(inputs.laws, name).get("parametric")))
        and len(grid)
        and (grid["objective"] == name).any()
    }
    if not laws:
        return style.empty("No parametric law L(N, D) could be fitted to this selection.")
    style.use_theme()
    figure, axes = plt.subplots(
        1, len(laws), figsize=(style.WIDTH, 4.2), squeeze=False, layout="constrained"
    )
    handles: dict[str, Line2D] = {}
    for ax, (objective, law) in zip(axes[0], laws.items(), strict=True):
        runs = grid[grid["objective"] == objective]
        marks = _panel(ax, runs, law)
        bar = figure.colorbar(marks, ax=ax, pad=0.02, aspect=32)
        bar.set_label("loss seen (nats per token)", fontsize=8)
        bar.outline.set_linewidth(0.5)
        _frontiers(ax, inputs.laws, objective, handles)
        ax.set_title(style.OBJECTIVE_NAME[objective])
        ax.set_xlabel("compute C (FLOPs, 6ND)")
    axes[0][0].set_ylabel("model size N (non-embedding parameters)")
    handles["runs"] = Line2D([], [], ls="none", marker="o", ms=4.5, mfc="#9ca3af", mec=style.INK,
                             mew=0.4, label="runs, filled with the loss seen")  # fmt: skip
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3)
    return figure


def _panel(ax: Axes, runs: pd.DataFrame, law: dict[str, float]) -> Any:
    c = np.geomspace(runs["flops_6nd"].min() / 2, runs["flops_6nd"].max() * 2, 90)
    n = np.geomspace(runs["n_params"].min() / 1.8, runs["n_params"].max() * 1.8, 90)
    tokens = c[None] / (6 * n[:, None])
    surface = predict(law, n[:, None], tokens)
    low, high = runs["loss"].min(), runs["loss"].quantile(0.97)
    levels = np.unique(np.round(np.linspace(low, high, 9), 2))
    shades = Normalize(low, high)
    contours = ax.contour(c, n, surface, levels=levels, cmap=_MAP, norm=shades, linewidths=1.1)
    style.set_log(ax, "x", "flops", [c[0], c[-1] * 100])
    style.set_log(ax, "y", "count", n)
    ax.clabel(contours, fmt="%.2f", fontsize=6.5, inline_spacing=2, colors=style.INK)
    ax.set_xlim(c[0], c[-1])
    ax.set_ylim(n[0], n[-1])
    return ax.scatter(
        runs["flops_6nd"], runs["n_params"], c=runs["loss"], cmap=_MAP, norm=shades, s=16,
        edgecolors=style.INK, linewidths=0.4, zorder=3,
    )  # fmt: skip


def _frontiers(ax: Axes, laws: dict[str, Any], objective: str, handles: dict) -> None:
    entries = lawview.methods(laws, objective)
    spoken = lawview.preferred(laws, objective)
    flops = np.array(ax.get_xlim())
    for name, look in (
        ("parametric", {"ls": (0, (4, 1.5)), "lw": 1.2}),
        *([(spoken, {"ls": "-", "lw": 1.6})] if spoken and spoken != "parametric" else []),
    ):
        power = lawview.power_law(entries.get(name), "N_opt")
        if power is None:
            continue
        ax.plot(flops, power.at(flops), color=style.WARN, zorder=4, **look)
        label = f"efficient frontier, {lawview.METHODS.get(name, name)}"
        handles[name] = Line2D([], [], color=style.WARN, label=label, **look)
