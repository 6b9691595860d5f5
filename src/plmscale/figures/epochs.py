"""How often each source is read, by mix and token budget."""

from __future__ import annotations

import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.errors import PlmscaleError
from plmscale.figures import style
from plmscale.figures.data import Inputs

_COLUMNS = {"mix", "budget", "tokens", "source", "epochs", "capped"}
# One epoch is where repetition begins; up to about four, repeated text was found to be worth
# nearly as much as fresh text (Muennighoff et al. 2023).
_EDGES = {1.0: (style.INK, "-"), 4.0: (style.WARN, "--")}
# Of log10 epochs: one is the neutral middle, and strong colours are kept for repetition.
_SHADES = TwoSlopeNorm(vmin=-4.5, vcenter=0, vmax=1.5)
_MOST_COLUMNS = 11
_ROW = 0.235  # inches


def corpus_epochs(inputs: Inputs) -> Figure:
    """Return a map of epochs for each mix: its sources against the token budgets of the study."""
    table = inputs.stats.get("epochs")
    if table is None or table.empty:
        return style.empty("No epochs in this selection: no runs are known to read this corpus.")
    if missing := sorted(_COLUMNS - set(table)):
        raise PlmscaleError(f"stats/epochs.csv: missing column {', '.join(missing)}")
    style.use_theme()
    mixes = [(mix, rows) for mix, rows in table.groupby("mix", sort=False)]
    sizes = [rows["source"].nunique() for _, rows in mixes]
    # Titles and tick labels of a map take as much room as about four of its rows.
    figure, axes = plt.subplots(
        len(mixes), figsize=(style.WIDTH, 0.55 + _ROW * (sum(sizes) + 3.6 * len(sizes))),
        height_ratios=sizes, squeeze=False, layout="constrained",
    )  # fmt: skip
    # Cells are of one width in all maps, and no wider than a fifth of the figure.
    widest = max(5, *(min(rows["tokens"].nunique(), _MOST_COLUMNS) for _, rows in mixes))
    for ax, (mix, rows) in zip(axes[:, 0], mixes, strict=True):
        _map(ax, str(mix), rows, widest)
    axes[-1, 0].set_xlabel("training tokens, and below them the budget (FLOPs) they belong to")
    handles = [
        Line2D([], [], color=colour, ls=dashes, lw=1.6,
               label=f"from here on {edge:g} epoch{'s' if edge > 1 else ''} or more")
        for edge, (colour, dashes) in _EDGES.items() if (table["epochs"] >= edge).any()
    ] or [Line2D([], [], ls="none", label="no source is read as often as once")]  # fmt: skip
    if table["capped"].any():
        handles.append(Line2D([], [], ls="none", marker="$*$", color=style.INK, ms=5,
                              label="held down by max_epochs"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _map(ax: Axes, mix: str, rows: pd.DataFrame, widest: int) -> None:
    epochs = rows.pivot_table(index="source", columns="tokens", values="epochs", sort=False)
    epochs = epochs.sort_index(axis=1)
    left_out = max(0, epochs.shape[1] - _MOST_COLUMNS)
    if left_out:
        shown = np.linspace(0, epochs.shape[1] - 1, _MOST_COLUMNS).round().astype(int)
        epochs = epochs.iloc[:, shown]
    capped = rows.pivot_table(index="source", columns="tokens", values="capped", aggfunc="any")
    values = epochs.to_numpy()
    shade = sns.color_palette("vlag", as_cmap=True)
    logs = np.log10(np.maximum(values, 1e-9))
    ax.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(logs), cmap=shade, norm=_SHADES, edgecolor="white", linewidth=0.8,
    )  # fmt: skip
    for (i, j), value in np.ndenumerate(values):
        if math.isfinite(value):
            dark = np.dot(shade(_SHADES(logs[i, j]))[:3], (0.299, 0.587, 0.114)) < 0.5
            mark = "*" if capped.at[epochs.index[i], epochs.columns[j]] else ""
            ax.text(j, i, _short(value) + mark, ha="center", va="center", fontsize=7.5,
                    color="white" if dark else style.INK)  # fmt: skip
    for edge, (colour, dashes) in _EDGES.items():
        _outline(ax, values >= edge, colour, dashes)
    budget = rows.groupby("tokens")["budget"].max()
    labels = [
        f"{style.si(tokens)}\n{style.flops_math(budget[tokens]) if budget[tokens] > 0 else ''}"
        for tokens in epochs.columns
    ]
    ax.set_xticks(range(len(labels)), labels)
    names = ["\n".join(textwrap.wrap(str(name), 24)) for name in epochs.index]
    ax.set_yticks(range(len(names)), names)
    ax.set_xlim(-0.5 - 0.006 * widest, widest - 0.5 + 0.006 * widest)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    ax.set_title(f"{mix}: epochs of each source")
    if left_out:
        ax.set_title(f"{left_out} budgets between are not shown", loc="right", fontsize=7.5,
                     fontweight="normal", color=style.MUTED)  # fmt: skip
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)


def _outline(ax: Axes, reached: np.ndarray, colour: str, dashes: str) -> None:
    """Draw the border between cells where `reached` is set, bool (sources, budgets), and others."""
    look = {"color": colour, "ls": dashes, "lw": 1.6, "solid_capstyle": "projecting"}
    for i, j in zip(*np.nonzero(reached)):
        if j == 0 or not reached[i, j - 1]:
            ax.plot([j - 0.5, j - 0.5], [i - 0.5, i + 0.5], **look)
        for other, y in ((i - 1, i - 0.5), (i + 1, i + 0.5)):
            if 0 <= other < len(reached) and not reached[other, j]:
                ax.plot([j - 0.5, j + 0.5], [y, y], **look)


def _short(epochs: float) -> str:
    """Return epochs in three characters or so: 0.004, 0.46, 1.3, 13, 210."""
    if epochs < 0.0005:
        return "<0.001" if epochs > 0 else "0"
    if epochs < 0.095:
        return f"{epochs:.1g}"
    return f"{epochs:.2f}" if epochs < 9.995 else style.si(epochs)
