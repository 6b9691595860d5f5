"""Transfer at several sizes: learning curves with their frontiers."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.compare import Transfer, transfers
from plmscale.figures.data import Inputs, binned_curve, valid_curve

_SCRATCH, _AFTER, _WITH = (0, (4, 1.5)), "-", (0, (1, 1.2))
_LAWS = {"scratch": _SCRATCH, "after_pretraining": _AFTER, "with_pretraining": _WITH}


def directions(runs: pd.DataFrame) -> dict[tuple[str, str], list[Transfer]]:
    """Return the transfer pairs of a runs table by (objective trained first, objective of the
    child), each list with the smallest model first."""
    by_id = runs.set_index("run_id") if len(runs) else runs
    found: dict[tuple[str, str], list[Transfer]] = {}
    for pair in transfers(runs, own=True):
        source = by_id.at[pair.parent, "objective"] if pair.parent in by_id.index else "?"
        found.setdefault((source, by_id.at[pair.child, "objective"]), []).append(pair)
    for pairs in found.values():
        pairs.sort(key=lambda pair: by_id.at[pair.child, "n_params"])
    return dict(sorted(found.items()))


def transfer_curves(inputs: Inputs) -> Figure:
    """Return curves from scratch and after pre-training against the run's own compute."""
    found = {
        way: pairs
        for way, all_pairs in directions(inputs.runs).items()
        if (pairs := [pair for pair in all_pairs if pair.child in inputs.curves])
    }
    if not found:
        return style.empty("No transfer runs in this selection.")
    style.use_theme()
    runs = inputs.runs.set_index("run_id")
    sizes = [runs.at[p.child, "n_params"] for pairs in found.values() for p in pairs]
    colours = style.ordered_colours(sizes, "plasma")
    figure, axes = plt.subplots(
        1, len(found), figsize=(style.WIDTH, 4.0), squeeze=False, layout="constrained"
    )
    drawn = False
    for ax, ((source, target), pairs) in zip(axes[0], found.items(), strict=True):
        flops, ends = [], []
        for pair in pairs:
            _pair(ax, inputs, pair, colours[runs.at[pair.child, "n_params"]], flops, ends)
        drawn = _frontiers(ax, _laws(inputs.laws, source, target)) or drawn
        style.set_log(ax, "x", "flops", [min(flops), max(flops) * 100])
        ax.set_xlim(min(flops), max(flops) * 1.3)
        low, high = style.loss_limits(ends, 0.1)
        ax.set_ylim(low, high + 0.25 * (high - low))
        names = style.OBJECTIVE_NAME
        ax.set_title(f"{names.get(target, target)} after {names.get(source, 'unknown')}")
        ax.set_xlabel("compute C (FLOPs, 6ND)")
    axes[0][0].set_ylabel("validation loss (nats per token)")
    figure.legend(handles=_legend(colours, drawn), loc="outside lower center", ncols=4)
    return figure


def _pair(
    ax: Axes,
    inputs: Inputs,
    pair: Transfer,
    colour: tuple,
    flops: list[float],
    ends: list[float],
) -> None:
    runs = inputs.runs.set_index("run_id")
    for run_id, dash in ((pair.scratch, _SCRATCH), (pair.child, _AFTER)):
        curve = valid_curve(inputs.curves.get(run_id), points=None) if run_id else pd.DataFrame()
        if curve.empty:
            continue
        curve = binned_curve(curve, 45, log=True)
        ax.plot(curve["flops_6nd"], curve["loss"], color=colour, lw=1.1, ls=dash)
        # The end and a decade and a half before it must be in view.
        flops.append(float(curve["flops_6nd"].iloc[-1]) / 30)
        flops.append(float(curve["flops_6nd"].iloc[-1]))
        ends.append(float(runs.at[run_id, "loss"]))
        ax.plot(runs.at[run_id, "flops_6nd"], runs.at[run_id, "loss"], ls="none", ms=4.5,
                marker="o" if run_id == pair.scratch else "s", color=colour, zorder=4,
                mec=style.INK, mew=0.6, mfc="white" if run_id == pair.scratch else colour)  # fmt: skip
    if pair.parent in runs.index:
        # What was paid in all: the parent is not free.
        own, loss = runs.at[pair.child, "flops_6nd"], runs.at[pair.child, "loss"]
        total = own + float(runs.at[pair.parent, "flops_6nd"])
        ax.plot([own, total], [loss, loss], color=colour, lw=0.9, ls=_WITH, zorder=3)
        ax.plot(total, loss, ls="none", marker=">", ms=5, mfc="white", mec=colour, mew=1.1,
                zorder=4)  # fmt: skip
        flops.append(total * 1.2)


def _laws(laws: dict[str, Any], source: str, target: str) -> dict[str, Any]:
    ways = (laws.get("transfer") or {}).get("directions") or {}
    return ((ways.get(f"{source}-then-{target}") or {}).get("loss_of_compute") or {}).get(
        "ends", {}
    )


def _frontiers(ax: Axes, laws: dict[str, Any]) -> bool:
    drawn = False
    for name, dash in _LAWS.items():
        law = (laws or {}).get(name) or {}
        first, power = lawview.number(law.get("A")), lawview.number(law.get("a"))
        span = law.get("fitted_range")
        if first is None or power is None or not span:
            continue
        flops = np.geomspace(span[0] / 1.5, span[1] * 1.5, 30)
        ax.plot(flops, first * flops**-power, color=style.INK, lw=1.0, ls=dash, zorder=3.5)
        drawn = True
    return drawn


def _legend(colours: dict, drawn: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, lw=1.8, label=f"N = {style.si(size)}")
        for size, colour in colours.items()
    ]
    ink = {"color": style.INK, "lw": 1.0}
    handles += [
        Line2D([], [], **ink, ls=_SCRATCH, marker="o", ms=4.5, mfc="white", label="from scratch"),
        Line2D([], [], **ink, ls=_AFTER, marker="s", ms=4.5, label="after pre-training"),
        Line2D([], [], **ink, ls=_WITH, marker=">", ms=5, mfc="white",
               label="same, and what its parent cost"),
    ]  # fmt: skip
    if drawn:
        handles.append(Line2D([], [], **ink, label="black: $L = A\\,C^{-a}$ of each"))
    return handles
