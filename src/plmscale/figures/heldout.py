"""What became of the records of each source, and how near held-out ones are to training."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.errors import PlmscaleError
from plmscale.figures import style
from plmscale.figures.data import Inputs

# Light and dark alternate, so that neighbours differ in print, too.
_FATES = {
    "train": ("trained on", "#009E73"),
    "held": ("held out", "#0072B2"),
    "unused": ("near a held-out one: not used", "#A6CEE9"),
    "within": ("copy within the source", "#E69F00"),
    "across": ("copy of another source's", "#A34700"),
    "length": ("too short or too long", "#C9CDD4"),
    "letters": ("letters or inner stops", "#6b7280"),
}
_PARTS = {"valid": "validation", "test": "test"}
_ROW = 0.27  # inches
_LEAST_TOLD = 4.5  # per cent; in a narrower piece its number would not fit


def fates(sources: pd.DataFrame) -> pd.DataFrame:
    """Return records of each source (index) by what became of them, columns as in _FATES.

    `sources` is stats/sources.csv. Sources of which cleaning left no counts are left out.
    """
    rows = {}
    for name, parts in sources.groupby("source", sort=False):
        train = parts[parts["part"] == "train"]
        if train.empty or not train["read_sequences"].iloc[0] > 0:
            continue
        counted = train.iloc[0].fillna(0)
        dropped = {key: n for key, n in counted.items() if str(key).startswith("dropped_")}
        length = dropped.pop("dropped_by_length", 0)
        rows[name] = {
            "train": counted["sequences"],
            "held": parts.loc[parts["part"] != "train", "sequences"].sum(),
            "unused": counted.get("unused_sequences", 0),
            "within": counted.get("duplicates_within_source", 0),
            "across": counted.get("duplicates_across_sources", 0),
            "length": length,
            "letters": sum(dropped.values()),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(_FATES)).astype(float)


def corpus_duplicates(inputs: Inputs) -> Figure:
    """Return what became of each source's records, and which source kept the copies."""
    sources = inputs.stats.get("sources")
    if sources is None or sources.empty or "read_sequences" not in sources:
        return style.empty("No counts of the cleaning in this selection.")
    if missing := sorted({"source", "part", "sequences"} - set(sources)):
        raise PlmscaleError(f"stats/sources.csv: missing column {', '.join(missing)}")
    table = fates(sources)
    if table.empty:
        return style.empty("No counts of the cleaning in this selection.")
    style.use_theme()
    copies = _copies(inputs.stats.get("duplicates"), table)
    heights = [len(table), *([len(copies)] if copies is not None else [])]
    figure, axes = plt.subplots(
        len(heights), figsize=(style.WIDTH, 1.0 + _ROW * sum(heights) + 0.75 * len(heights)),
        height_ratios=heights, squeeze=False, layout="constrained",
    )  # fmt: skip
    bars = axes[0, 0]
    _stack(bars, table, {key: colour for key, (_, colour) in _FATES.items()})
    bars.set_xlabel("share of the records read (%)")
    seen = [key for key in _FATES if table[key].sum() > 0]
    handles = [plt.Rectangle((0, 0), 1, 1, color=_FATES[key][1]) for key in seen]
    labels = [_FATES[key][0] for key in seen]
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    if copies is not None:
        _matrix(axes[1, 0], copies)
    return figure


def _copies(duplicates: pd.DataFrame | None, table: pd.DataFrame) -> pd.DataFrame | None:
    """Return copies of another source's sequences in % of records read: rows lost, columns kept.

    None where no source lost any to another one.
    """
    if duplicates is None or duplicates.empty:
        return None
    if missing := sorted({"source", "kept_in", "sequences"} - set(duplicates)):
        raise PlmscaleError(f"stats/duplicates.csv: missing column {', '.join(missing)}")
    across = duplicates[duplicates["source"] != duplicates["kept_in"]]
    across = across[(across["sequences"] > 0) & across["source"].isin(table.index)]
    if across.empty:
        return None
    matrix = across.pivot_table(index="source", columns="kept_in", values="sequences")
    order = list(dict.fromkeys([*duplicates["source"], *duplicates["kept_in"]]))
    matrix = matrix.reindex(
        index=[name for name in order if name in matrix.index],
        columns=[name for name in order if name in matrix],
    )
    return matrix.div(table.loc[matrix.index].sum(axis=1), axis=0) * 100


def _matrix(ax: Axes, share: pd.DataFrame) -> None:
    values = share.to_numpy()
    ax.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(values), cmap="Oranges", vmin=0, vmax=100, edgecolor="white",
        linewidth=0.8,
    )  # fmt: skip
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(j, i, _percent(value), ha="center", va="center", fontsize=7.5,
                    color="white" if value > 60 else style.INK)  # fmt: skip
    ax.set_xticks(range(values.shape[1]), share.columns)
    ax.set_yticks(range(values.shape[0]), share.index)
    ax.set_title("Copies of another source's, by who kept the sequence (% of the records read)")
    ax.set_xlabel("kept in")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)


def corpus_identity(inputs: Inputs) -> Figure:
    """Return held-out sequences by their highest identity to training, per source and part."""
    table = inputs.stats.get("identity")
    nothing = "No held-out sequences with a known identity in this selection."
    if table is None or table.empty:
        return style.empty(nothing)
    if missing := sorted({"source", "part", "bin", "sequences"} - set(table)):
        raise PlmscaleError(f"stats/identity.csv: missing column {', '.join(missing)}")
    if not table["sequences"].sum() > 0:
        return style.empty(nothing)
    style.use_theme()
    counts = table.pivot_table(
        index=["source", "part"], columns="bin", values="sequences", aggfunc="sum", sort=False
    ).reindex(columns=list(IDENTITY_BINS), fill_value=0)
    counts = counts[counts.sum(axis=1) > 0].fillna(0)
    counts.index = [f"{source}, {_PARTS.get(part, part)}" for source, part in counts.index]
    order = style.ordered_colours(range(len(IDENTITY_BINS)))
    colours = {name: order[i] for i, name in enumerate(IDENTITY_BINS)}
    figure, ax = plt.subplots(
        figsize=(style.WIDTH, 1.25 + _ROW * len(counts)), layout="constrained"
    )
    _stack(ax, counts, colours)
    ax.set_xlabel("share of the held-out proteins (%)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in IDENTITY_BINS]
    labels = [name.replace(">= ", "≥ ").replace("-", " to ") for name in IDENTITY_BINS]
    figure.legend(handles, labels, loc="outside upper center", ncols=5,
                  title="highest identity to a protein that is trained on")  # fmt: skip
    return figure


def _stack(ax: Axes, table: pd.DataFrame, colours: dict) -> None:
    """Draw each row of `table`, counts, as a bar of shares; the total stands at its right."""
    totals = table.sum(axis=1)
    share = table.div(totals, axis=0) * 100
    left = np.zeros(len(table))
    for column in table:
        width = share[column].to_numpy()
        ax.barh(range(len(table)), width, left=left, color=colours[column], height=0.72,
                edgecolor="white", linewidth=0.6)  # fmt: skip
        red, green, blue = plt.matplotlib.colors.to_rgb(colours[column])
        ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else style.INK
        for y, (start, w) in enumerate(zip(left, width, strict=True)):
            if w >= _LEAST_TOLD:
                ax.text(start + w / 2, y, _percent(w), ha="center", va="center", fontsize=7.5,
                        color=ink)  # fmt: skip
        left = left + width
    for y, total in enumerate(totals):
        ax.text(101, y, style.si(total), va="center", fontsize=7.5, color=style.MUTED)
    ax.set_yticks(range(len(table)), table.index)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 108)
    ax.set_xticks(range(0, 101, 20))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 0.95 else f"{value:.1g} %"
