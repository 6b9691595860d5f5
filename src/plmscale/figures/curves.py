"""Learning curves, and the two side studies read from them: repetition and transfer."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import findview, style
from plmscale.figures.compare import Repetition, Transfer, repetitions, transfers
from plmscale.figures.data import Inputs, isoflop_runs, valid_curve

_LOSS = "validation loss (nats per token)"


def learning_curves(inputs: Inputs) -> Figure:
    """Return validation loss against compute, a colour a size, with the envelope of all runs."""
    grid = isoflop_runs(inputs.runs)
    grid = grid[grid["run_id"].isin(inputs.curves)] if len(grid) else grid
    objectives = [name for name in style.OBJECTIVES if (grid["objective"] == name).any()]
    if not objectives:
        return style.empty("No learning curves in this selection.")
    style.use_theme()
    colours = style.ordered_colours(grid["n_params"], "plasma")
    figure, axes = plt.subplots(
        1, len(objectives), figsize=(style.WIDTH, 3.4), squeeze=False, layout="constrained"
    )
    for ax, objective in zip(axes[0], objectives, strict=True):
        _learning_panel(ax, grid[grid["objective"] == objective], inputs.curves, colours)
        ax.set_title(style.OBJECTIVE_NAME[objective])
        ax.set_xlabel("compute C (FLOPs, 6ND)")
    axes[0][0].set_ylabel(_LOSS)
    shown = _some(list(colours.items()), 10)
    handles = [Line2D([], [], color=colour, label=style.si(size)) for size, colour in shown]
    handles.append(Line2D([], [], color=style.INK, lw=2, ls=(0, (1, 1)), label="envelope"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 8),
        title="model size N (non-embedding parameters)",
    )
    return figure


def _some(items: list, most: int) -> list:
    """Return at most `most` items, spread evenly: a legend of forty sizes cannot be read."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))]


def _learning_panel(ax: Axes, runs: pd.DataFrame, curves: dict, colours: dict) -> None:
    parts = []
    for row in runs.sort_values("n_params").itertuples():
        curve = valid_curve(curves[row.run_id])
        if len(curve):
            ax.plot(curve["flops_6nd"], curve["loss"], color=colours[row.n_params], lw=0.9,
                    alpha=0.85)  # fmt: skip
            parts.append(curve)
    if not parts:
        style.blank(ax, "No run of this objective has validation points.")
        return
    every = pd.concat(parts)
    ax.plot(*_envelope(every), color=style.INK, lw=2, ls=(0, (1, 1)))
    style.set_log(ax, "x", "flops", every["flops_6nd"])
    ax.set_ylim(style.loss_limits(every["loss"], 0.06, top_quantile=0.85))


def _envelope(every: pd.DataFrame, cells: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return compute and the least loss reached by then, one point a cell of log compute."""
    log_flops = np.log(every["flops_6nd"].to_numpy(dtype=float))
    width = max((log_flops.max() - log_flops.min()) / cells, 1e-9)
    cell = np.floor((log_flops - log_flops.min()) / width).astype(int)
    table = pd.DataFrame({"cell": cell, "x": np.exp(log_flops), "loss": every["loss"].to_numpy()})
    best = table.loc[table.groupby("cell")["loss"].idxmin()]
    return best["x"].to_numpy(), np.minimum.accumulate(best["loss"].to_numpy())


def repetition(inputs: Inputs) -> Figure:
    """Return loss against tokens, curated repeated against the mix, with an axis of epochs."""
    groups = [
        group
        for group in repetitions(inputs.runs)
        if any(run_id in inputs.curves for run_id in group.repeated)
    ]
    if not groups:
        return style.empty("No repetition runs in this selection.")
    style.use_theme()
    columns = min(len(groups), 2)
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(style.WIDTH, 3.3 * lines),
        squeeze=False,
        layout="constrained",
    )
    for ax, group in zip(axes.flat, groups, strict=False):
        _repetition_panel(ax, inputs, group)
    for ax in list(axes.flat)[len(groups) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel(_LOSS)
    return figure


def _repetition_panel(ax: Axes, inputs: Inputs, group: Repetition) -> None:
    runs = inputs.runs.set_index("run_id")
    colour = style.OBJECTIVE_COLOUR.get(group.objective, style.INK)
    losses, tokens = [], []
    for run_id in (group.mixed, *group.repeated):
        curve = valid_curve(inputs.curves.get(run_id))
        if curve.empty:
            continue
        mixed = run_id == group.mixed
        ax.plot(
            curve["tokens"],
            curve["loss"],
            color=style.MUTED if mixed else colour,
            marker="o" if mixed else style.OBJECTIVE_MARKER.get(group.objective, "o"),
            mfc="white" if mixed else colour,
            ms=3.8,
            ls=(0, (4, 1.5)) if mixed else "-",
            label=f"{runs.at[run_id, 'corpus']}" + ("" if mixed else ", repeated"),
        )
        losses += list(curve["loss"])
        tokens += list(curve["tokens"])
    style.set_log(ax, "x", "count", tokens)
    ax.set_xlabel("training tokens D")
    ax.set_ylim(style.loss_limits(losses, 0.07, top_quantile=0.85))
    name = style.OBJECTIVE_NAME.get(group.objective, group.objective)
    ax.set_title(f"{name}, N = {style.si(group.n_params)}")
    ax.legend(loc="upper right")
    _note(ax, [findview.between(inputs.findings, run, group.mixed) for run in group.repeated])
    _epoch_axis(ax, runs.loc[list(group.repeated)])


def _note(ax: Axes, found: list[findview.Difference | None]) -> None:
    """Write the paired difference of the last points: the standard error of each loss, which the
    runs share because they share the validation rows, would hide it."""
    lines = []
    for item in found:
        if item is not None:
            span = style.interval_text(item.interval, 3).replace("-", "−")
            lines.append(f"at the end: {item.delta:+.3f} nats per token".replace("-", "−"))
            lines.append(f"95 %: {span}")
    style.direct_notes(ax, lines, "lower left")


def _epoch_axis(ax: Axes, repeated: pd.DataFrame) -> None:
    known = repeated[np.isfinite(pd.to_numeric(repeated["epochs"]))]
    if known.empty or not (known["epochs"] > 0).all():
        return
    per_epoch = float((known["tokens"] / known["epochs"]).iloc[-1])
    top = ax.secondary_xaxis("top", functions=(lambda x: x / per_epoch, lambda x: x * per_epoch))
    style.log_axis(top.xaxis, "count", dense=True)
    top.set_xlabel(f"epochs of the {known['corpus'].iloc[-1]} source (repeated run)")
    ax.spines["top"].set_visible(False)


def transfer(inputs: Inputs) -> Figure:
    """Return learning curves of transfer and scratch against all compute paid, the parent's too."""
    pairs = [pair for pair in transfers(inputs.runs) if pair.child in inputs.curves]
    if not pairs:
        return style.empty("No transfer runs in this selection.")
    style.use_theme()
    columns = min(len(pairs), 2)
    lines = -(-len(pairs) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(style.WIDTH, 3.4 * lines),
        squeeze=False,
        layout="constrained",
    )
    for ax, pair in zip(axes.flat, pairs, strict=False):
        _transfer_panel(ax, inputs, pair)
    for ax in list(axes.flat)[len(pairs) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel(_LOSS)
    return figure


def _transfer_panel(ax: Axes, inputs: Inputs, pair: Transfer) -> None:
    runs = inputs.runs.set_index("run_id")
    child = runs.loc[pair.child]
    parent = runs.loc[pair.parent] if pair.parent in runs.index else None
    paid = float(parent["flops_6nd"]) if parent is not None else 0.0
    source = parent["objective"] if parent is not None else "another run"
    names = style.OBJECTIVE_NAME
    target = names.get(child["objective"], child["objective"])
    losses, flops = [], []
    for run_id, offset, scratch in ((pair.scratch, 0.0, True), (pair.child, paid, False)):
        curve = valid_curve(inputs.curves.get(run_id)) if run_id else pd.DataFrame()
        if curve.empty:
            continue
        colour = style.MUTED if scratch else style.OBJECTIVE_COLOUR.get(child["objective"], "k")
        label = f"{target} from scratch" if scratch else f"{names.get(source, source)} → {target}"
        x = curve["flops_6nd"] + offset
        ax.plot(x, curve["loss"], color=colour, ms=3.8, label=label,
                marker="o" if scratch else "s", mfc="white" if scratch else colour,
                ls=(0, (4, 1.5)) if scratch else "-")  # fmt: skip
        losses += list(curve["loss"])
        flops += list(x)
    if paid:
        ax.axvspan(0, paid, color=style.OBJECTIVE_COLOUR.get(source, "k"), alpha=0.1, lw=0)
        words = f"spent on {names.get(source, source)}"
        ax.text(0.5 * paid, 0.96, words, ha="center", va="top", fontsize=7.5, color=style.INK,
                transform=ax.get_xaxis_transform())  # fmt: skip
    ax.set_xlim(0, max(flops) * 1.05)
    unit = 10 ** np.floor(np.log10(max(flops)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value / unit:g}")
    ax.set_xlabel(f"total compute, the parent's included ({style.flops_math(unit)} FLOPs, 6ND)")
    ax.set_ylim(style.loss_limits(losses, 0.08, top_quantile=0.8))
    ax.set_title(f"N = {style.si(child['n_params'])}")
    ax.legend(loc="upper right")
    _note(ax, [findview.between(inputs.findings, pair.child, pair.scratch or "")])
