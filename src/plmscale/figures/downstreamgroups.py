"""Numbers by group: zero-shot fitness by category, and generated proteins beside their controls."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import downstreamview as view
from plmscale.figures import style
from plmscale.figures.data import Inputs
from plmscale.figures.downstreamcurves import TWIN, size_handles

# ProteinGym's five selection types, and their average last.
_CATEGORIES = {
    "Activity": "activity", "Binding": "binding", "Expression": "expression",
    "OrganismalFitness": "organismal\nfitness", "Stability": "stability", "average": "average",
}  # fmt: skip
_CONTROLS = {"natural": "#009E73", "shuffled": "#6b7280", "unigram": "#a16207"}
# By how they are made: the lengths of the natural ones stand for theirs.
_OF_EQUAL_LENGTHS = ("shuffled", "unigram")
_PANELS = {
    "ks_length": "lengths (KS distance)",
    "nearest_held_out": "nearest natural (identity)",
    "clusters_50": "clusters at 50 % (number)",
}


def downstream_fitness(inputs: Inputs) -> Figure:
    """Return Spearman's correlation by category, a panel an objective."""
    table = inputs.downstream.get("metrics", pd.DataFrame())
    if table.empty:
        return style.empty("No downstream metrics in this selection.")
    rows = table[(table["task"] == "fitness") & table["group"].isin(_CATEGORIES)]
    rows = rows[(rows["metric"] == "spearman") & np.isfinite(rows["value"])]
    models = rows[rows["origin"] != "baseline"]
    kinds = [name for name in style.OBJECTIVES if name in set(models["kind"])]
    if not kinds:
        return style.empty("No zero-shot fitness in this selection.")
    style.use_theme()
    shown = view.spread_models(models)
    colours = style.ordered_colours(shown["n_params"])
    figure, axes = plt.subplots(
        len(kinds), 1, figsize=(style.WIDTH, 2.2 * len(kinds) + 0.5), squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    places = [name for name in _CATEGORIES if name in set(rows["group"])]
    for ax, kind in zip(axes[:, 0], kinds, strict=True):
        mine = shown[shown["kind"] == kind]
        _categories(ax, models[models["kind"] == kind], mine, places, colours)
        for _, base in rows[rows["origin"] == "baseline"].groupby("model"):
            at = [places.index(name) for name in base["group"]]
            ax.hlines(
                base["value"], np.array(at) - 0.4, np.array(at) + 0.4, color=style.INK, lw=0.9
            )
        ax.set_title(style.OBJECTIVE_NAME[kind])
        ax.set_ylabel("Spearman (no unit)")
        ax.set_xticks(range(len(places)), [_CATEGORIES[name] for name in places])
        ax.grid(axis="x", visible=False)
    handles = [h for h in size_handles(shown, colours) if h.get_lw() == 2.2]
    if models["twin"].any():
        handles.append(Line2D([], [], color=TWIN, marker="o", ls="", ms=4, label="random weights"))
    if (rows["origin"] == "baseline").any():
        handles.append(Line2D([], [], color=style.INK, lw=0.9, label="baselines"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)))
    return figure


def _categories(
    ax: Axes,
    rows: pd.DataFrame,
    shown: pd.DataFrame,
    places: list[str],
    colours: dict[float, tuple],
) -> None:
    offsets = np.linspace(-0.3, 0.3, len(shown)) if len(shown) > 1 else [0.0]
    for offset, model in zip(offsets, shown.to_dict("records"), strict=True):
        for twin in (True, False):
            own = rows[(rows["twin"] == twin) & (rows["model"] == model["model"])]
            for group, part in own.groupby("group"):
                _point(ax, places.index(group) + offset, view.over_seeds(part).iloc[0],
                       TWIN if twin else colours[model["n_params"]], model["kind"])  # fmt: skip


def _point(ax: Axes, x: float, row: pd.Series, colour: str | tuple, kind: str) -> None:
    ends = np.array([[row["value"] - row["low"]], [row["high"] - row["value"]]], float)
    ax.errorbar(
        [x], [row["value"]], yerr=np.nan_to_num(ends).clip(min=0), color=colour, ms=4, ls="",
        marker=style.OBJECTIVE_MARKER.get(kind, "D"), elinewidth=0.9,
    )  # fmt: skip


def downstream_generation(inputs: Inputs) -> Figure:
    """Return distributions of the best model's proteins, and numbers of models by setting."""
    table = inputs.downstream.get("metrics", pd.DataFrame())
    if table.empty:
        return style.empty("No downstream metrics in this selection.")
    rows = table[(table["task"] == "generation") & np.isfinite(table["value"])]
    names = [name for name in _PANELS if name in set(rows["metric"])]
    if not names:
        return style.empty("No generated proteins in this selection.")
    style.use_theme()
    shown = view.spread_models(rows)
    model, sets = _sets(inputs, shown)
    figure = plt.figure(figsize=(style.WIDTH, 6.2 if sets else 3.6), layout="constrained")
    parts = figure.subfigures(2, 1) if sets else [figure]
    if sets:
        _distributions(parts[0], sets, model)
    axes = parts[-1].subplots(1, len(names), squeeze=False)[0]
    colours = style.ordered_colours(shown["n_params"])
    for ax, name in zip(axes, names, strict=True):
        _settings(ax, rows[rows["metric"] == name], shown, colours)
        ax.set_ylabel(_PANELS[name])
    handles = [h for h in size_handles(shown, colours) if h.get_lw() == 2.2]
    if rows["twin"].any():
        handles.append(Line2D([], [], color=TWIN, marker="o", ls="", ms=4, label="random weights"))
    used = [name for name in _CONTROLS if name in set(rows["group"])]
    handles += [
        Line2D([], [], color=_CONTROLS[name], lw=1.2, ls="--", label=f"{name} proteins")
        for name in used
    ]
    parts[-1].legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return figure


def _settings(
    ax: Axes, rows: pd.DataFrame, shown: pd.DataFrame, colours: dict[float, tuple]
) -> None:
    made = rows[rows["split"] == "generated"]
    places = list(dict.fromkeys(made["group"]))
    # Natural proteins on top: their lengths are everybody's.
    for name, colour in reversed(_CONTROLS.items()):
        control = rows[(rows["group"] == name) & (rows["split"] == "control")]
        if len(control):
            ax.axhline(control["value"].iloc[0], color=colour, lw=1.2, ls="--", zorder=1)
    _categories(ax, made, shown, places, colours)
    ax.set_xticks(range(len(places)), places, rotation=90, fontsize=7)
    ax.margins(x=0.08)
    low, high = ax.get_ylim()
    if high - low < 1e-3 * abs(high + low):
        # All alike but for rounding, which would fill the panel.
        ax.set_ylim(0.45 * (high + low), 0.55 * (high + low))


def _sets(inputs: Inputs, shown: pd.DataFrame) -> tuple[str, dict[tuple[str, str], pd.DataFrame]]:
    """Return the largest model that is shown and its proteins by set; none without predictions."""
    if inputs.evaluation is None or shown.empty:
        return "", {}
    best = shown.sort_values("n_params").iloc[-1]
    folder = inputs.evaluation / "predictions" / "generation" / best["model"]
    path = folder / f"{best['method']}-s{best['seed']}.parquet"
    if not path.is_file():
        return "", {}
    from plmscale.downstream.base import Predictions
    from plmscale.downstream.generation import tables

    return str(best["model"]), dict(tables.read(Predictions.read(path)).sets)


def _distributions(part: Figure, sets: dict[tuple[str, str], pd.DataFrame], model: str) -> None:
    searched = any("held_out_identity" in own for own in sets.values())
    names = {"length": "length (residues)"}
    names |= {"held_out_identity": "nearest natural (identity)"} if searched else {}
    axes = part.subplots(1, len(names), squeeze=False)[0]
    made = [key for key in sets if key[0] == "generated"]
    colours = dict(zip(made, plt.get_cmap("plasma")(np.linspace(0.1, 0.8, len(made)))))
    for ax, (column, label) in zip(axes, names.items(), strict=True):
        for key, own in sets.items():
            if column == "length" and key[1] in _OF_EQUAL_LENGTHS:
                continue
            # A protein without any hit is as far as can be.
            values = np.sort(own[column].fillna(0).to_numpy(float))
            if len(values):
                ax.step(
                    [values[0], *values], np.arange(len(values) + 1) / len(values), where="post",
                    lw=1.3, color=colours.get(key, _CONTROLS.get(key[1], style.INK)),
                    ls="-" if key in colours else "--", label=key[1],
                )  # fmt: skip
        ax.set_xlabel(label)
        ax.set_ylabel("share of proteins at most")
    axes[0].set_title(model)
    part.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
