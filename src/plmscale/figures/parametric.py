"""The fitted surface L(N, D) with the runs behind it, and what it leaves unexplained."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs, done, isoflop_runs

_LETTERS = ("E", "A", "B", "alpha", "beta")


def parametric(inputs: Inputs) -> Figure:
    """Return contours of L(N, D) with runs and efficient frontier, and residuals, by objective."""
    laws = {
        name: surface_law(lawview.methods(inputs.laws, name).get("parametric"))
        for name in style.OBJECTIVES
    }
    laws = {name: law for name, law in laws.items() if law}
    grid = done(isoflop_runs(inputs.runs))
    laws = {name: law for name, law in laws.items() if (grid["objective"] == name).any()}
    if not laws:
        return style.empty("No parametric law L(N, D) could be fitted to this selection.")
    style.use_theme()
    figure, axes = plt.subplots(
        2,
        len(laws),
        figsize=(style.WIDTH, 5.6),
        squeeze=False,
        layout="constrained",
        height_ratios=(1.7, 1),
        sharex="col",
    )
    colours = style.ordered_colours(grid["budget"])
    for column, (objective, law) in enumerate(laws.items()):
        runs = grid[grid["objective"] == objective]
        _surface(axes[0][column], runs, law, colours)
        _residuals(axes[1][column], runs, law, colours)
        axes[0][column].set_title(f"{style.OBJECTIVE_NAME[objective]}: {_formula(law)}")
    axes[0][0].set_ylabel("training tokens D")
    axes[1][0].set_ylabel("measured − fitted loss\n(nats per token)")
    handles = [
        Line2D([], [], color=c, marker="o", ls="none", ms=4.5, mec=style.INK, mew=0.5,
               label=f"{style.flops_math(b)} FLOPs")
        for b, c in colours.items()
    ]  # fmt: skip
    handles.append(Line2D([], [], color=style.INK, ls="--", label="efficient frontier"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


def surface_law(entry: dict[str, Any] | None) -> dict[str, float] | None:
    """Return E, A, B, alpha and beta of an entry, None unless it has all five."""
    values = {letter: lawview.number((entry or {}).get(letter)) for letter in _LETTERS}
    return None if None in values.values() else values


def predict(law: dict[str, float], n: Any, d: Any) -> Any:
    """Return E + A / N^alpha + B / D^beta in nats per token."""
    return law["E"] + law["A"] / n ** law["alpha"] + law["B"] / d ** law["beta"]


def _formula(law: dict[str, float]) -> str:
    first = f"{_coefficient(law['A'])}\\,N^{{-{law['alpha']:.2f}}}"
    second = f"{_coefficient(law['B'])}\\,D^{{-{law['beta']:.2f}}}"
    return f"$L = {law['E']:.2f} + {first} + {second}$"


def _coefficient(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return style.flops_math(value).strip("$") if value > 0 else "0"


def _surface(ax: Axes, runs: pd.DataFrame, law: dict[str, float], colours: dict) -> None:
    n = np.geomspace(runs["n_params"].min() / 1.8, runs["n_params"].max() * 1.8, 90)
    d = np.geomspace(runs["tokens"].min() / 1.8, runs["tokens"].max() * 1.8, 90)
    surface = predict(law, n[None], d[:, None])
    fitted = predict(law, runs["n_params"], runs["tokens"])
    # Levels where the runs are: evenly over the corners would spend them all on bad models.
    levels = np.unique(np.round(np.quantile(fitted, np.linspace(0.02, 0.98, 8)), 3))
    contours = ax.contour(n, d, surface, levels=levels, colors="#9ca3af", linewidths=0.8)
    style.set_log(ax, "x", "count", n)
    style.set_log(ax, "y", "count", d)
    ax.clabel(contours, fmt="%.3f", fontsize=6.5, inline_spacing=2, zorder=2)
    ax.scatter(
        runs["n_params"],
        runs["tokens"],
        c=[colours[b] for b in runs["budget"]],
        s=22 if len(runs) < 40 else 12,
        edgecolors=style.INK,
        linewidths=0.5,
        zorder=3,
    )
    if law["alpha"] > 0 and law["beta"] > 0 and law["A"] > 0 and law["B"] > 0:
        frontier = _frontier_tokens(law, n)
        ax.plot(n, frontier, color=style.INK, ls="--", lw=1.2, zorder=2)
        if not ((frontier > d[0]) & (frontier < d[-1])).any():
            style.direct_notes(ax, ["the efficient frontier lies outside"], "lower left")
    ax.set_xlim(n[0], n[-1])
    ax.set_ylim(d[0], d[-1])


def _frontier_tokens(law: dict[str, float], n: np.ndarray) -> np.ndarray:
    # At the minimum for a fixed 6ND: alpha A / N^alpha = beta B / D^beta
    # (Hoffmann et al. 2022, eq. 4).
    balance = law["beta"] * law["B"] * n ** law["alpha"] / (law["alpha"] * law["A"])
    return balance ** (1 / law["beta"])


def _residuals(ax: Axes, runs: pd.DataFrame, law: dict[str, float], colours: dict) -> None:
    left = runs["loss"] - predict(law, runs["n_params"], runs["tokens"])
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.scatter(runs["n_params"], left, c=[colours[b] for b in runs["budget"]], s=18 if len(runs) < 40 else 10,
               edgecolors=style.INK, linewidths=0.4, zorder=3)  # fmt: skip
    ax.set_xlabel("model size N (non-embedding parameters)")
    rms = float(np.sqrt(np.mean(left**2)))
    ax.set_title(f"residuals, root mean square {rms:.4f}", fontsize=8, weight="normal")
    high = float(left.abs().max()) * 1.2 + 1e-5
    ax.set_ylim(-high, high)
