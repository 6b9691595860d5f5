"""What the models read: lengths of the proteins and frequencies of the residues."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from plmscale.errors import PlmscaleError
from plmscale.figures import style
from plmscale.figures.data import Inputs

# Sources have no order, so: distinct hues, and line styles or hatches beside them.
_COLOURS = ("#009E73", "#CC79A7", "#0072B2", "#E69F00", "#56B4E9", "#D55E00")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_HATCHES = ("", "////", "....", "xxxx")
_STANDARD = set("ACDEFGHIKLMNPQRSTVWY")


def corpus_lengths(inputs: Inputs) -> Figure:
    """Return the length distribution of each source: share of its proteins by length."""
    table = inputs.stats.get("lengths")
    if table is None or table.empty:
        return style.empty("No corpus statistics in this selection.")
    style.use_theme()
    bins = _length_bins(table)
    figure, ax = plt.subplots(figsize=(style.WIDTH, 3.1), layout="constrained")
    for index, (source, rows) in enumerate(bins.groupby("source", sort=False)):
        total = rows["sequences"].sum()
        share = rows["sequences"].to_numpy() / total * 100
        edges = np.append(rows["low"].to_numpy(), rows["high"].iloc[-1])
        look = {"color": _COLOURS[index % 6], "lw": 1.5, "ls": _DASHES[index % 4]}
        middle = _median(rows)
        label = f"{source}: {style.si(total)} proteins, median {middle:.0f} residues"
        ax.stairs(share, edges, label=label, **look)
        ax.stairs(share, edges, fill=True, alpha=0.12, color=look["color"])
        ax.axvline(middle, color=look["color"], lw=0.9, ls=look["ls"], alpha=0.8)
    width = bins["high"] - bins["low"]
    ax.set_xlabel("protein length (residues)")
    ax.set_ylabel(f"share of proteins (% per {style.si(width.median())} residues)")
    ax.set_xlim(left=0, right=bins["high"].max())
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right")
    return figure


def _length_bins(table: pd.DataFrame) -> pd.DataFrame:
    """Return sequences by source and bin [low, high), all splits together, at most 80 bins."""
    if not {"source", "sequences"} <= set(table) or "length" not in table:
        raise PlmscaleError("stats/lengths.csv: expected the columns source, length, sequences")
    least = max(1, table["length"].diff().where(table["length"].diff() > 0).min())
    width = least * max(1, int(np.ceil(table["length"].max() / least / 80)))
    # Round widths are read off an axis more easily than 26.
    width = next(w for w in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**9) if w >= width)
    low = table["length"] // width * width
    counts = table.assign(low=low).groupby(["source", "low"], sort=False)["sequences"].sum()
    parts = []
    for source in dict.fromkeys(table["source"]):
        steps = np.arange(0, low.max() + width, width)
        sequences = counts[source].reindex(steps, fill_value=0).to_numpy()
        parts.append(
            pd.DataFrame(
                {"source": source, "low": steps, "high": steps + width, "sequences": sequences}
            )
        )
    return pd.concat(parts, ignore_index=True)


def _median(rows: pd.DataFrame) -> float:
    share = rows["sequences"].cumsum() / rows["sequences"].sum()
    at = int(np.searchsorted(share.to_numpy(), 0.5))
    before = share.iloc[at - 1] if at else 0.0
    inside = (0.5 - before) / max(share.iloc[at] - before, 1e-12)
    return float(rows["low"].iloc[at] + inside * (rows["high"].iloc[at] - rows["low"].iloc[at]))


def corpus_residues(inputs: Inputs) -> Figure:
    """Return the residue frequencies of each source, most frequent first."""
    table = inputs.stats.get("residues")
    if table is None or table.empty:
        return style.empty("No corpus statistics in this selection.")
    if not {"source", "residue", "count"} <= set(table):
        raise PlmscaleError("stats/residues.csv: expected the columns source, residue, count")
    style.use_theme()
    counts = table.pivot_table(
        index="residue", columns="source", values="count", aggfunc="sum", fill_value=0
    )[list(dict.fromkeys(table["source"]))]
    counts = counts[counts.sum(axis=1) > 0]
    shares = counts / counts.sum() * 100
    shares = shares.assign(order=shares.mean(axis=1)).sort_values("order", ascending=False)
    shares = shares.drop(columns="order")
    standard = [letter in _STANDARD for letter in shares.index]
    rare = shares[~np.array(standard)]
    shares = shares[standard]
    figure, ax = plt.subplots(figsize=(style.WIDTH, 2.9), layout="constrained")
    x = np.arange(len(shares))
    width = 0.8 / len(shares.columns)
    for index, source in enumerate(shares.columns):
        ax.bar(x + (index - (len(shares.columns) - 1) / 2) * width, shares[source], width,
               color=_COLOURS[index % 6], hatch=_HATCHES[index % 4], edgecolor="white",
               linewidth=0, label=f"{source}: {style.si(counts[source].sum())} residues")  # fmt: skip
    ax.set_xticks(x, shares.index)
    ax.set_xlabel("amino acid (one-letter code)")
    ax.set_ylabel("share of residues (%)")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper right")
    if len(rare):
        together = ", ".join(f"{column} {rare[column].sum():.2g} %" for column in rare)
        style.direct_notes(ax, [f"not shown: {', '.join(rare.index)} ({together})"], "upper left")
        ax.set_ylim(top=shares.to_numpy().max() * 1.18)
    return figure
