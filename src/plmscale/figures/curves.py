"""Learning curves of the grid, and of transferred runs beside runs from scratch."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import findview, style
from plmscale.figures.compare import Transfer, transfers
from plmscale.figures.data import Inputs, binned_curve, isoflop_runs, valid_curve

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
        curve = binned_curve(valid_curve(curves[row.run_id], points=None), 50, log=True)
        if len(curve):
            parts.append(curve.assign(n_params=row.n_params))
    if not parts:
        style.blank(ax, "No run of this objective has validation points.")
        return
    every = pd.concat(parts)
    ends = [part["loss"].iloc[-1] for part in parts]
    low, high = style.loss_limits([*ends, every["loss"].min()], 0.06, top_quantile=0.97)
    for part in parts:
        # What lies above the panel need not be in the file, save one point to come from.
        first = max(int(np.argmax(part["loss"].to_numpy() < high)) - 1, 0)
        part = part.iloc[first:]
        ax.plot(part["flops_6nd"], part["loss"], color=colours[part["n_params"].iloc[0]],
                lw=0.9 if len(parts) < 30 else 0.6, alpha=0.85)  # fmt: skip
    ax.plot(*_envelope(every), color=style.INK, lw=2, ls=(0, (1, 1)))
    seen = every.loc[every["loss"] < high, "flops_6nd"]
    style.set_log(ax, "x", "flops", seen)
    ax.set_xlim(seen.min() / 1.3, seen.max() * 1.3)
    ax.set_ylim(low, high)


def _envelope(every: pd.DataFrame, cells: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return compute and the least loss reached by then, one point a cell of log compute."""
    log_flops = np.log(every["flops_6nd"].to_numpy(dtype=float))
    width = max((log_flops.max() - log_flops.min()) / cells, 1e-9)
    cell = np.floor((log_flops - log_flops.min()) / width).astype(int)
    table = pd.DataFrame({"cell": cell, "x": np.exp(log_flops), "loss": every["loss"].to_numpy()})
    best = table.loc[table.groupby("cell")["loss"].idxmin()]
    return best["x"].to_numpy(), np.minimum.accumulate(best["loss"].to_numpy())


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
    ax.set_xlabel(f"compute with the parent's ({style.flops_math(unit)} FLOPs, 6ND)")
    ax.set_ylim(style.loss_limits(losses, 0.08, top_quantile=0.8))
    ax.set_title(f"N = {style.si(child['n_params'])}")
    ax.legend(loc="upper right")
    found = [findview.between(inputs.findings, pair.child, pair.scratch or "")]
    style.direct_notes(ax, findview.lines(found), "lower left")
