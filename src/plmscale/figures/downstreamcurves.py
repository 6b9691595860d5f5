"""Lines by model: contact prediction by training proteins, perplexity by identity to the corpus."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.figures import downstreamview as view
from plmscale.figures import style
from plmscale.figures.data import Inputs

DASHES = {"clm": "-", "mlm": "--"}
_CURVE = "train="
_RANGES = ("|i-j|>=6", "|i-j|>=24")
_METHODS = {"probe": "probe of frozen states", "lora": "LoRA"}


def downstream_contacts(inputs: Inputs) -> Figure:
    """Return precision by number of training proteins, a column a method, a row a separation."""
    table = inputs.downstream.get("metrics", pd.DataFrame())
    if table.empty:
        return style.empty("No downstream metrics in this selection.")
    chosen = (table["task"] == "contacts") & table["group"].str.startswith(_CURVE)
    curves = table[chosen & (table["metric"] == "P@L/5") & np.isfinite(table["value"])]
    methods = [name for name in _METHODS if name in set(curves["method"])]
    ranges = [name for name in _RANGES if curves["definition"].str.startswith(f"{name},").any()]
    if not methods or not ranges:
        return style.empty(
            "No learning curves of contact prediction: its readout was trained on one number of "
            "proteins (option train_sizes of the task)."
        )
    curves = curves.assign(x=curves["group"].str.removeprefix(_CURVE).astype(float))
    style.use_theme()
    shown = view.spread_models(curves)
    colours = style.ordered_colours(shown["n_params"])
    figure, axes = plt.subplots(
        len(ranges), len(methods), figsize=(style.WIDTH, 2.3 * len(ranges) + 0.5), squeeze=False,
        sharey="row", layout="constrained",
    )  # fmt: skip
    for row, where in zip(axes, ranges, strict=True):
        for ax, method in zip(row, methods, strict=True):
            own = curves[(curves["method"] == method)]
            own = own[own["definition"].str.startswith(f"{where},")]
            _lines(ax, own, shown, colours)
            style.set_log(ax, "x", "count", own["x"].tolist())
            sizes = sorted(set(own["x"]))
            # At most sizes there is a tick of their own: these are few, and no powers of ten.
            ax.set_xticks(sizes, [style.si(size) for size in sizes])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_title(_METHODS[method])
        row[0].set_ylabel(f"P@L/5, {where.replace('>=', ' ≥ ')} (share)")
    for ax in axes[-1]:
        ax.set_xlabel("training proteins (number)")
    _legend(figure, shown, colours, bool(curves["twin"].any()))
    return figure


def downstream_identity(inputs: Inputs) -> Figure:
    """Return perplexity by bin of identity, a panel an objective."""
    table = inputs.downstream.get("metrics", pd.DataFrame())
    if table.empty:
        return style.empty("No downstream metrics in this selection.")
    rows = table[(table["task"] == "perplexity") & np.isfinite(table["value"])]
    rows = rows[rows["group"].isin(IDENTITY_BINS) & rows["metric"].str.startswith("perplexity_")]
    # Validation proteins are far from the corpus and others may be near: a bin is of the part of the
    # held-out proteins that has more in it.
    rows = rows.sort_values("n", ascending=False, kind="stable")
    rows = rows.drop_duplicates(["model", "twin", "method", "seed", "group", "metric"])
    # Bins of another corpus than a model's own are no primary numbers.
    models = rows[(rows["origin"] != "baseline") & rows["primary"]]
    kinds = [name for name in style.OBJECTIVES if name in set(models["kind"])]
    if not kinds:
        return style.empty("No perplexity by identity to the corpus in this selection.")
    places = [name for name in IDENTITY_BINS if name in set(rows["group"])]
    rows = rows.assign(x=rows["group"].map(IDENTITY_BINS.index).astype(float))
    models = rows.loc[models.index]
    style.use_theme()
    shown = view.spread_models(models)
    colours = style.ordered_colours(shown["n_params"])
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(style.WIDTH, 3.2), squeeze=False, layout="constrained"
    )
    for ax, kind in zip(axes[0], kinds, strict=True):
        own = models[models["kind"] == kind]
        _lines(ax, own, shown[shown["kind"] == kind], colours)
        for _, base in rows[rows["origin"] == "baseline"].groupby("model"):
            base = base.sort_values("x")
            ax.plot(base["x"], base["value"], color=style.INK, lw=1.0, ls=":")
        counts = own.groupby("group")["n"].max()
        ticks = [f"{name}\n{style.si(counts.get(name, np.nan))}" for name in places]
        ax.set_xticks([IDENTITY_BINS.index(name) for name in places], ticks, fontsize=7)
        ax.set_title(f"{style.OBJECTIVE_NAME[kind]} perplexity")
        ax.set_xlabel("highest identity to the corpus; proteins (number)")
        ax.set_ylabel("perplexity (per residue)")
    named = {"baselines": (style.INK, ":")} if (rows["origin"] == "baseline").any() else {}
    _legend(figure, shown, colours, bool(models["twin"].any()), named)
    return figure


def _lines(ax: Axes, rows: pd.DataFrame, shown: pd.DataFrame, colours: dict[float, tuple]) -> None:
    """Draw a line a model with bars, and the random twins of the same models in grey below them."""
    for twin in (True, False):
        own = rows[(rows["twin"] == twin) & rows["model"].isin(shown["model"])]
        for _, of_model in own.groupby("model", sort=False):
            points = [view.over_seeds(part).iloc[0] for _, part in of_model.groupby("x")]
            line = pd.DataFrame(points).sort_values("x")
            kind, size = line["kind"].iloc[0], line["n_params"].iloc[0]
            ends = np.array([line["value"] - line["low"], line["high"] - line["value"]], float)
            ax.errorbar(
                line["x"], line["value"], yerr=None if twin else np.nan_to_num(ends).clip(min=0),
                color=TWIN if twin else colours[size], ls=DASHES.get(kind, "-"),
                lw=0.9 if twin else 1.4, marker="" if twin else style.OBJECTIVE_MARKER[kind], ms=3.5,
                elinewidth=0.8, zorder=1 if twin else 3,
            )  # fmt: skip


TWIN = "#9ca3af"


def _legend(
    figure: Figure,
    shown: pd.DataFrame,
    colours: dict[float, tuple],
    twins: bool,
    more: dict[str, tuple[str, str]] | None = None,
) -> None:
    handles = size_handles(shown, colours)
    if twins:
        handles.append(Line2D([], [], color=TWIN, label="random weights"))
    for name, (colour, dashes) in (more or {}).items():
        handles.append(Line2D([], [], color=colour, ls=dashes, label=name))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)))


def size_handles(shown: pd.DataFrame, colours: dict[float, tuple]) -> Sequence[Line2D]:
    """Return legend handles of model sizes by colour, and of objectives by dash and marker."""
    handles = [
        Line2D([], [], color=colour, lw=2.2, label=f"{style.si(size)} parameters")
        for size, colour in colours.items()
    ]
    return handles + [
        Line2D([], [], color=style.MUTED, ls=DASHES[kind], marker=style.OBJECTIVE_MARKER[kind], ms=3.5,
               label=style.OBJECTIVE_NAME[kind])
        for kind in style.OBJECTIVES if kind in set(shown["kind"])
    ]  # fmt: skip
