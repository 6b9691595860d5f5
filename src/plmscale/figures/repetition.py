"""Reading one source again and again against reading the mix once."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import findview, style
from plmscale.figures.compare import Repetition, repetitions
from plmscale.figures.data import Inputs, binned_curve, train_curve, valid_curve
from plmscale.figures.style import interval_text

_LOSS = "loss (nats per token)"
_MIXED_DASH = (0, (4, 1.5))
# The repeated source, then other orders of it.
_DASHES = ("-", (0, (1, 0.8)), (0, (6, 1, 1, 1)))
_MARKERS = ("s", "^", "D")
_FEW_POINTS = 30


def repetition(inputs: Inputs) -> Figure:
    """Return loss against tokens by objective and size: sources repeated, beside the mix."""
    groups = [
        group
        for group in repetitions(inputs.runs)
        if any(run_id in inputs.curves for run_id in group.repeated)
    ]
    if not groups:
        return style.empty("No repetition runs in this selection.")
    style.use_theme()
    columns = min(len(groups), 3 if len(groups) > 4 else 2)
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(style.WIDTH, 0.7 + 2.6 * lines), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    looks = _looks(inputs.runs, groups)
    for ax, group in zip(axes.flat, groups, strict=False):
        _panel(ax, inputs, group, looks)
    for ax in list(axes.flat)[len(groups) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel(_LOSS)
    figure.legend(handles=_legend(inputs, groups, looks), loc="outside lower center", ncols=3)
    return figure


def _looks(runs: pd.DataFrame, groups: list[Repetition]) -> dict[str, tuple]:
    """Return line style and marker of each repeated corpus: the one in most groups comes first."""
    corpora = dict(zip(runs["run_id"], runs["corpus"], strict=True))
    names = pd.Series([corpora[run_id] for group in groups for run_id in group.repeated])
    counts = names.value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    return {name: (_DASHES[i % 3], _MARKERS[i % 3]) for i, name in enumerate(order)}


def _panel(ax: Axes, inputs: Inputs, group: Repetition, looks: dict[str, tuple]) -> None:
    colour = style.OBJECTIVE_COLOUR.get(group.objective, style.INK)
    runs = inputs.runs.set_index("run_id")
    turned = turn_points(inputs.laws)
    late, tokens, turns = [], [], []
    for run_id in (group.mixed, *group.repeated):
        raw = inputs.curves.get(run_id)
        valid = binned_curve(valid_curve(raw, points=None))
        train = binned_curve(train_curve(raw))
        mixed = run_id == group.mixed
        dash, marker = (_MIXED_DASH, "o") if mixed else looks[runs.at[run_id, "corpus"]]
        look = {"color": style.MUTED if mixed else colour, "ls": dash}
        if len(train):
            ax.plot(train["tokens"], train["loss"], **look, lw=0.6, alpha=0.75, zorder=2)
            late += list(train["loss"][train["tokens"] > 0.1 * train["tokens"].max()])
        if valid.empty:
            continue
        few = len(valid) < _FEW_POINTS
        ax.plot(valid["tokens"], valid["loss"], **look, marker=marker if few else None, ms=3.8,
                mfc="white" if mixed else None, lw=1.5, zorder=3)  # fmt: skip
        late += list(valid["loss"][valid["tokens"] > 0.1 * valid["tokens"].max()])
        tokens += list(valid["tokens"])
        if not mixed and run_id in turned:
            turns.append(turned[run_id])
    if not tokens:
        style.blank(ax, "No run of this pair has validation points.")
        return
    low, high = style.loss_limits(late, 0.07, top_quantile=0.995)
    ax.set_ylim(low, high + 0.12 * (high - low))
    ax.set_xlim(0, max(tokens) * 1.02)
    ax.xaxis.set_major_formatter(lambda value, _: style.si(value))
    ax.xaxis.set_major_locator(plt.MaxNLocator(4))
    ax.set_xlabel("training tokens D")
    for at in turns:
        ax.plot(*at, marker="v", ms=6, color=colour, mec=style.INK, mew=0.7,
                zorder=4)  # fmt: skip
    name = style.OBJECTIVE_NAME.get(group.objective, group.objective)
    ax.set_title(f"{name}, N = {style.si(group.n_params)}")
    found = [findview.between(inputs.findings, run, group.mixed) for run in group.repeated]
    style.direct_notes(ax, _notes([item for item in found if item]), "upper right")
    _epoch_axis(ax, runs.loc[list(group.repeated)])


def _notes(found: list[findview.Difference]) -> list[str]:
    """Return the differences at the end in few words: a panel is narrow and full of curves."""
    gaps = ", ".join(f"{item.delta:+.3f}" for item in found).replace("-", "−")
    ends = [f"({interval_text(item.interval, 3)})" for item in found] if len(found) == 1 else []
    return ["at the end", gaps, *ends] if found else []


def turn_points(laws: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return tokens and loss at which a run's validation loss turns for sure, by run_id."""
    pairs = (laws.get("repetition") or {}).get("pairs") or []
    return {
        pair["runs"]["repeated"]: (pair["turn"]["tokens"], pair["turn"]["least_loss"])
        for pair in pairs
        if (pair.get("turn") or {}).get("verdict") == "turns"
    }


def _epoch_axis(ax: Axes, repeated: pd.DataFrame) -> None:
    known = repeated[np.isfinite(pd.to_numeric(repeated["epochs"]))]
    if known.empty or not (known["epochs"] > 0).all():
        return
    per_epoch = float((known["tokens"] / known["epochs"]).iloc[-1])
    top = ax.secondary_xaxis("top", functions=(lambda x: x / per_epoch, lambda x: x * per_epoch))
    top.xaxis.set_major_locator(plt.MaxNLocator(6, integer=True))
    top.set_xlabel("epochs of the repeated source")
    ax.spines["top"].set_visible(False)


def _legend(inputs: Inputs, groups: list[Repetition], looks: dict[str, tuple]) -> list[Line2D]:
    corpora = dict(zip(inputs.runs["run_id"], inputs.runs["corpus"], strict=True))
    ids = [run_id for group in groups for run_id in (group.mixed, *group.repeated)]
    ids = [run_id for run_id in ids if run_id in inputs.curves]
    valid = {run_id: valid_curve(inputs.curves[run_id], points=None) for run_id in ids}
    few = all(len(curve) < _FEW_POINTS for curve in valid.values())

    def line(name: str, colour: str, dash: object, marker: str, face: str | None) -> Line2D:
        return Line2D([], [], color=colour, lw=1.5, ls=dash, marker=marker if few else None,
                      mfc=face, ms=3.8, label=name)  # fmt: skip

    mixed = ", ".join(dict.fromkeys(corpora[group.mixed] for group in groups))
    handles = [line(f"{mixed}: validation", style.MUTED, _MIXED_DASH, "o", "white")]
    for name, (dash, marker) in looks.items():
        handles.append(line(f"{name}, repeated: validation", style.INK, dash, marker, None))
    if any(len(train_curve(inputs.curves[run_id])) for run_id in ids):
        handles.append(
            Line2D([], [], color=style.INK, lw=0.6, alpha=0.75, label="thin: loss in training")
        )
    repeated = {run_id for group in groups for run_id in group.repeated}
    if repeated & set(turn_points(inputs.laws)):
        handles.append(
            Line2D([], [], ls="none", marker="v", ms=6, mfc="white", mec=style.INK, mew=0.7,
                   label="least validation loss before a rise")
        )  # fmt: skip
    return handles
