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
    if missing := sorted({"source", "length", "sequences"} - set(table)):
        raise PlmscaleError(f"stats/lengths.csv: missing column {', '.join(missing)}")
    counts = table.groupby(["source", "length"], sort=False)["sequences"].sum()
    sources = list(dict.fromkeys(table["source"]))
    # A few very long proteins would leave all others a sliver of the axis.
    longest = max(_quantile(counts[source], 0.995) for source in sources)
    width = next(w for w in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**9) if w >= longest / 60)
    edges = np.arange(0, longest + width, width)
    figure, ax = plt.subplots(figsize=(style.WIDTH, 3.1), layout="constrained")
    for index, source in enumerate(sources):
        lengths = counts[source]
        binned, _ = np.histogram(lengths.index, edges, weights=lengths)
        share = binned / lengths.sum() * 100
        look = {"color": _COLOURS[index % 6], "lw": 1.5, "ls": _DASHES[index % 4]}
        middle = _quantile(lengths, 0.5)
        label = f"{_label(table, source)}: {style.si(lengths.sum())} proteins, "
        label += f"median {middle:.0f} residues"
        ax.stairs(share, edges, label=label, **look)
        ax.stairs(share, edges, fill=True, alpha=0.12, color=look["color"])
        ax.axvline(middle, color=look["color"], lw=0.9, ls=look["ls"], alpha=0.8)
    ax.set_xlabel("protein length (residues)")
    ax.set_ylabel(f"share of proteins (% per {width} residues)")
    ax.set_xlim(0, longest)
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right", title="vertical lines: medians; the longest 0.5 % are not shown")
    return figure


def _label(table: pd.DataFrame, source: str) -> str:
    """Return the name of a source, with a remark where nothing of it is trained on."""
    count = "sequences" if "sequences" in table else "count"
    if "part" in table:
        there = table[(table["source"] == source) & (table[count] > 0)]
        if set(there["part"]) == {"test"}:
            return f"{source} (held out)"
    return source


def _quantile(lengths: pd.Series, q: float) -> float:
    """Return the length (index of `lengths`, which counts sequences) that a share `q` reaches."""
    ordered = lengths.sort_index()
    share = (ordered.cumsum() / ordered.sum()).to_numpy()
    return float(ordered.index[int(np.searchsorted(share, q))])


def corpus_residues(inputs: Inputs) -> Figure:
    """Return the residue frequencies of each source, most frequent first."""
    table = inputs.stats.get("residues")
    if table is None or table.empty:
        return style.empty("No corpus statistics in this selection.")
    if missing := sorted({"source", "residue", "count"} - set(table)):
        raise PlmscaleError(f"stats/residues.csv: missing column {', '.join(missing)}")
    style.use_theme()
    counts = table.pivot_table(
        index="residue", columns="source", values="count", aggfunc="sum", fill_value=0
    )[list(dict.fromkeys(table["source"]))]
    counts = counts.loc[counts.sum(axis=1) > 0, counts.sum() > 0]
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
        label = f"{_label(table, source)}: {style.si(counts[source].sum())} residues"
        ax.bar(x + (index - (len(shares.columns) - 1) / 2) * width, shares[source], width,
               color=_COLOURS[index % 6], hatch=_HATCHES[index % 4], edgecolor="white",
               linewidth=0, label=label)  # fmt: skip
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
