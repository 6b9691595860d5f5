"""Downstream metrics against loss: every run of a study, beside random twins and baselines."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plmscale.downstream.trends import Law
from plmscale.figures import downstreamview as view
from plmscale.figures import style
from plmscale.figures.data import Inputs

TWIN = "#9ca3af"
# What does not fit on a page is in the tables.
_MOST_PANELS = 12
_SHORT = 62
_NONE = "No downstream metrics in this selection."


def downstream_loss(inputs: Inputs) -> Figure:
    """Return a panel for each task, use and objective: its metric against validation loss."""
    table = inputs.downstream.get("metrics", pd.DataFrame())
    if table.empty:
        return style.empty(_NONE)
    panels = _panels(table, inputs.scaling)
    if not panels:
        return style.empty("No evaluated run has a loss, so nothing can be shown against it.")
    style.use_theme()
    shown = panels[:_MOST_PANELS]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(style.WIDTH, 2.35 * rows + 0.4), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    seen: set[str] = set()
    for ax, (measure, objective) in zip(axes.flat, shown, strict=False):
        _panel(ax, table, inputs.scaling, measure, objective, seen)
    _legend(figure, seen)
    return figure


def _panels(table: pd.DataFrame, scaling: dict[str, Any]) -> list[tuple[view.Measure, str]]:
    """Return measure and objective of each panel; perplexity last, as the loss under another name."""
    known = table[np.isfinite(pd.to_numeric(table["loss"])) & ~table["twin"]]
    found = []
    for measure in view.leading(view.measures(known)):
        kinds = measure.of(known)["kind"].unique()
        found += [(measure, kind) for kind in style.OBJECTIVES if kind in kinds]
    return found


def _panel(
    ax: Axes,
    table: pd.DataFrame,
    scaling: dict[str, Any],
    measure: view.Measure,
    objective: str,
    seen: set[str],
) -> None:
    rows = measure.of(table)
    rows = rows[(rows["kind"] == objective) & np.isfinite(rows["value"])]
    twins, own = (view.over_seeds(rows[rows["twin"] == twin]) for twin in (True, False))
    placed = own[np.isfinite(pd.to_numeric(own["loss"]))]
    ends = np.array([placed["value"] - placed["low"], placed["high"] - placed["value"]], float)
    colour = style.OBJECTIVE_COLOUR[objective]
    ax.errorbar(
        placed["loss"].astype(float), placed["value"], yerr=np.nan_to_num(ends).clip(min=0),
        fmt=style.OBJECTIVE_MARKER[objective], color=colour, ms=4, lw=0, elinewidth=0.9,
    )  # fmt: skip
    seen.add(objective)
    if len(twins):
        low = twins["low"].fillna(twins["value"]).min()
        high = twins["high"].fillna(twins["value"]).max()
        ax.axhspan(low, high, color=TWIN, alpha=0.35, lw=0, zorder=0)
        seen.add("twin")
    notes = []
    others = own[~np.isfinite(pd.to_numeric(own["loss"]))]
    for row, dashes in zip(others.to_dict("records"), (":", (0, (1, 3)), (0, (3, 1, 1, 1)))):
        told = f"{row['model']} {row['value']:.3g}"
        # A model far above all runs would press them flat against the axis.
        if abs(row["value"] - rows["value"].mean()) < 2 * np.ptp(
            [*placed["value"], *twins["value"]]
        ):
            ax.axhline(row["value"], color=style.INK, ls=dashes, lw=1.0)
            notes.append(f"dotted: {told}")
        else:
            notes.append(f"outside of the panel: {told}")
    trivial = view.baselines(table, measure)
    if len(trivial):
        best = trivial.iloc[0]
        ax.axhline(best["value"], color=style.INK, ls="--", lw=1.0)
        notes.insert(0, f"dashed: {best['name']}, {best['value']:.3g}")
    trend = find(scaling, measure, objective, "loss")
    if trend and trend["law"]:
        law = Law(**trend["law"])
        x = np.linspace(law.x0, law.x0 + law.width, 80)
        ax.plot(x, law.at(x), color=colour, lw=1.3)
        seen.add("law")
    ax.set_title("\n".join(textwrap.wrap(measure.title, 44)), fontsize=8.5)
    ax.set_ylabel(ylabel(measure))
    words = measure.definition
    notes = [view.trend_text(trend), *([words] if len(words) <= _SHORT else []), *notes]
    text = "\n".join(line for note in notes for line in textwrap.wrap(note, _SHORT))
    ax.set_xlabel(f"validation loss (nats per token)\n{text}", fontsize=7.5)
    ax.margins(x=0.08, y=0.12)


def ylabel(measure: view.Measure) -> str:
    """Return a metric's name with what is of it: a unit, or the split it is of."""
    name = measure.metric.replace("_", " ")
    return f"{name} ({measure.split})" if measure.split else name


def find(
    scaling: dict[str, Any], measure: view.Measure, objective: str, against: str, of: str = "metric"
) -> dict[str, Any] | None:
    """Return the row of scaling.json on a measure; None where there is none."""
    wanted = {**vars(measure), "objective": objective, "against": against, "of": of}
    for row in scaling.get("trends") or []:
        if all(row[name] == value for name, value in wanted.items()):
            return row
    return None


def _legend(figure: Figure, seen: set[str]) -> None:
    handles = [
        Line2D([], [], color=style.OBJECTIVE_COLOUR[name], marker=style.OBJECTIVE_MARKER[name],
               ls="", ms=4, label=f"{style.OBJECTIVE_NAME[name]} runs")
        for name in style.OBJECTIVES if name in seen
    ]  # fmt: skip
    if "twin" in seen:
        handles.append(Patch(color=TWIN, alpha=0.35, lw=0, label="random twins"))
    if "law" in seen:
        handles.append(Line2D([], [], color=style.INK, lw=1.3, label="law that foretells"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
