"""Final loss of masked language models against the share of residues that is masked."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plmscale.figures import style
from plmscale.figures.data import Inputs, binned_curve, done, valid_curve

_FEWEST = 3
_SAME_TOKENS = 0.02
_MARKERS = ("o", "s", "^", "D")
# Where the runs of a size are compared with each other: the paper's own choice.
USUAL = 0.15


def ablations(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """Return tables of runs that differ in their mask ratio only, smallest size first.

    Each has one row a ratio, in order; three ratios at least.
    """
    good = done(runs)
    if good.empty:
        return []
    good = good[(good["parent"].fillna("") == "") & good["mask_ratio"].notna()]
    found = []
    for _, group in good.groupby(["objective", "n_params", "corpus"]):
        # Other lengths of training at the same size belong to other studies.
        rare = group[group["mask_ratio"] != group["mask_ratio"].mode().iloc[0]]
        if rare.empty:
            continue
        tokens = rare["tokens"].median()
        same = group[(group["tokens"] / tokens - 1).abs() < _SAME_TOKENS]
        same = same.sort_values(["mask_ratio", "run_id"])
        # A ratio may also have a run of the grid; the one named for the ablation sorts last.
        same = same.drop_duplicates("mask_ratio", keep="last")
        if len(same) >= _FEWEST:
            found.append(same.reset_index(drop=True))
    return sorted(found, key=lambda table: table["n_params"].iloc[0])


def mask_ratio(inputs: Inputs) -> Figure:
    """Return the final loss by mask ratio, and each curve less the curve at 15 %."""
    tables = ablations(inputs.runs)
    if not tables:
        return style.empty("No runs that differ in their mask ratio in this selection.")
    style.use_theme()
    columns = 1 + len(tables)
    figure, axes = plt.subplots(1, columns, figsize=(style.WIDTH, 3.2), squeeze=False,
                                layout="constrained", width_ratios=(1.15, *[1] * len(tables)))  # fmt: skip
    _ends(axes[0][0], tables)
    ratios = sorted({ratio for table in tables for ratio in table["mask_ratio"]})
    colours = style.ordered_colours(ratios)
    for ax, table in zip(axes[0][1:], tables, strict=True):
        _differences(ax, table, inputs.curves, colours)
    axes[0][1].set_ylabel(f"loss less that at {USUAL:.0%} (nats per token)".replace("%", " %"))
    return figure


def _ends(ax: Axes, tables: list[pd.DataFrame]) -> None:
    for number, table in enumerate(tables):
        best = table.loc[table["loss"].idxmin()]
        label = f"N = {style.si(best['n_params'])}, D = {style.si(best['tokens'], 2)}"
        colour = style.OBJECTIVE_COLOUR.get(best["objective"], style.INK)
        ax.errorbar(
            table["mask_ratio"] * 100, table["loss"], yerr=1.96 * table["loss_sd"].fillna(0.0),
            color=colour, lw=1.2, elinewidth=0.8, ms=4.5, marker=_MARKERS[number % 4], label=label,
            mfc=colour if number else "white", ls="-" if number else (0, (4, 1.5)),
        )  # fmt: skip
    ax.set_title("At the end of training")
    ax.set_xlabel("masked residues (%)")
    ax.set_ylabel("validation loss (nats per token)")
    ax.set_xlim(left=0)
    ax.legend(loc="upper left")


def _differences(ax: Axes, table: pd.DataFrame, curves: dict, colours: dict) -> None:
    """Draw each curve less the usual one: all runs of a size validate on the same proteins at the
    same steps, so what they share of the jitter drops out."""
    ax.set_title(f"N = {style.si(table['n_params'].iloc[0])}")
    usual = table.loc[(table["mask_ratio"] - USUAL).abs() < 1e-6, "run_id"]
    base = valid_curve(curves.get(usual.iloc[0]), points=None) if len(usual) else pd.DataFrame()
    if base.empty:
        style.blank(ax, f"No learning curve at a mask ratio of {USUAL}.", width=24)
        return
    ends = []
    for row in table.itertuples():
        curve = valid_curve(curves.get(row.run_id), points=None)
        if curve.empty or row.run_id == usual.iloc[0]:
            continue
        level = np.interp(curve["tokens"], base["tokens"], base["loss"])
        gap = binned_curve(curve.assign(loss=curve["loss"] - level), 40)
        colour = colours[row.mask_ratio]
        ax.plot(gap["tokens"], gap["loss"], color=colour, lw=1.3)
        ends.append([float(gap["loss"].iloc[-4:].mean()), row.mask_ratio, colour])
    longest = float(base["tokens"].max())
    ax.plot([0, longest], [0, 0], color=style.INK, lw=0.8)
    ends.append([0.0, USUAL, style.INK])
    ax.set_xlim(0, longest * 1.26)
    ax.xaxis.set_major_formatter(lambda value, _: style.si(value))
    ax.xaxis.set_major_locator(plt.MaxNLocator(4))
    ax.set_xlabel("training tokens D")
    _names(ax, ends, longest)


def _names(ax: Axes, ends: list, x: float) -> None:
    """Write each curve's ratio at its end, moved apart where two would overlap."""
    low, high = ax.get_ylim()
    step = 0.052 * (high - low)
    at = -np.inf
    for level, ratio, colour in sorted(ends, key=lambda item: item[0]):
        at = max(level, at + step)
        ax.annotate(f"{100 * ratio:g} %", (x, level), xytext=(1.05 * x, at), fontsize=7.5,
                    va="center", color=colour, annotation_clip=False)  # fmt: skip
