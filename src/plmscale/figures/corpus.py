"""What the models read: lengths of the proteins and frequencies of the residues."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from plmscale.figures import style
from plmscale.figures.data import Inputs

# Sources are nominal, so: distinct hues, and hatches or line styles beside them.
_COLOURS = ("#009E73", "#CC79A7", "#0072B2", "#E69F00", "#56B4E9", "#D55E00")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def corpus_lengths(inputs: Inputs) -> Figure:
    """Return the length distribution of each source: share of its proteins by length."""
    table = inputs.stats.get("lengths")
    if table is None or table.empty:
        return style.empty("No corpus statistics in this selection.")
    style.use_theme()
    table = table.groupby(["source", *_bin(table)], as_index=False)["sequences"].sum()
    figure, ax = plt.subplots(figsize=(style.WIDTH, 3.1), layout="constrained")
    for index, (source, rows) in enumerate(table.groupby("source")):
        rows = rows.sort_values("low")
        edges = np.append(rows["low"].to_numpy(), rows["high"].iloc[-1])
        share = rows["sequences"].to_numpy() / rows["sequences"].sum() * 100
        colour = _COLOURS[index % len(_COLOURS)]
        label = f"{source}: {style.si(rows['sequences'].sum())} proteins{_median(inputs, source)}"
        ax.stairs(share, edges, color=colour, lw=1.5, ls=_DASHES[index % len(_DASHES)], label=label)
        ax.stairs(share, edges, color=colour, fill=True, alpha=0.12)
    ax.set_xlabel("protein length (residues)")
    ax.set_ylabel("share of the source's proteins (%)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right")
    return figure
