"""Where the time of the runs went."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plmscale.figures import style
from plmscale.figures.data import Inputs

PARTS = {
    "train_seconds": ("training steps", "#0072B2"),
    "valid_seconds": ("validation", "#E69F00"),
    "startup_seconds": ("start-up", "#8a2f6b"),
    "other_seconds": ("other (data, checkpoints, writing)", "#b8bec8"),
}
_MOST_BARS = 60


def time_table(metrics: list[dict]) -> pd.DataFrame:
    """Return seconds by run and part, the slowest run first; `other` is what no part explains."""
    rows = []
    for item in metrics:
        parts = {name: float(item.get(name) or 0.0) for name in PARTS if name != "other_seconds"}
        wall = float(item.get("wall_seconds") or 0.0)
        parts["other_seconds"] = max(0.0, wall - sum(parts.values()))
        speed = item.get("tokens_per_second")
        rows.append({"run_id": item["run_id"], **parts, "tokens_per_second": speed,
                     "n_params": item.get("n_params")})  # fmt: skip
    table = pd.DataFrame(rows, columns=["run_id", *PARTS, "tokens_per_second", "n_params"])
    table["total"] = table[list(PARTS)].sum(axis=1)
    return table.sort_values(["total", "run_id"], ascending=[False, True], ignore_index=True)


def speed(inputs: Inputs) -> Figure:
    """Return time by part, all runs together and run by run, and tokens a second against size."""
    table = time_table(inputs.metrics)
    if table.empty or not table["total"].sum() > 0:
        return style.empty("No timings in this selection.")
    style.use_theme()
    figure = plt.figure(figsize=(style.WIDTH, 5.0), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1), width_ratios=(1, 1))
    _bars(figure.add_subplot(grid[0, :]), table)
    _shares(figure.add_subplot(grid[1, 0]), table)
    _throughput(figure.add_subplot(grid[1, 1]), table, inputs.runs)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _bars(ax: Axes, table: pd.DataFrame) -> None:
    shown = table.head(_MOST_BARS)
    bottom = pd.Series(0.0, index=shown.index)
    for name, (label, colour) in PARTS.items():
        ax.bar(shown.index, shown[name], bottom=bottom, width=0.85, color=colour, label=label,
               linewidth=0)  # fmt: skip
        bottom = bottom + shown[name]
    ax.set_title("Each run, slowest first")
    more = len(table) - len(shown)
    ax.set_xlabel(f"runs ({len(table)}" + (f", {more} faster ones not drawn)" if more else ")"))
    ax.set_ylabel("wall time (s)")
    ax.set_xticks([])
    ax.set_xlim(-0.8, len(shown) - 0.2)
    ax.grid(axis="x", visible=False)


def _shares(ax: Axes, table: pd.DataFrame) -> None:
    total = table[list(PARTS)].sum()
    share = total / total.sum() * 100
    for line, (name, (_, colour)) in enumerate(PARTS.items()):
        ax.barh(line, share[name], color=colour, linewidth=0)
        ax.text(share[name] + 1.5, line, f"{share[name]:.0f} %", va="center", fontsize=8)
    ax.set_title("All runs together")
    ax.set_yticks(range(len(PARTS)), [PARTS[n][0].split(" (")[0] for n in PARTS])
    ax.invert_yaxis()
    ax.set_xlim(0, max(share.max() * 1.18, 10))
    ax.set_xlabel("share of run time (%)")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def _throughput(ax: Axes, table: pd.DataFrame, runs: pd.DataFrame) -> None:
    known = table[table["tokens_per_second"].notna() & table["n_params"].notna()]
    ax.set_title("Training speed")
    if known.empty:
        style.blank(ax, "No speeds were recorded.")
        return
    objective = dict(zip(runs.get("run_id", []), runs.get("objective", []), strict=True))
    known = known.assign(objective=known["run_id"].map(objective).fillna("run"))
    for name, rows in known.groupby("objective"):
        ax.plot(rows["n_params"], rows["tokens_per_second"], ls="none", ms=4.5, mfc="none", mew=1,
                marker=style.OBJECTIVE_MARKER.get(name, "^"), label=style.OBJECTIVE_NAME.get(name),
                color=style.OBJECTIVE_COLOUR.get(name, style.MUTED))  # fmt: skip
    style.set_log(ax, "x", "count", known["n_params"])
    style.set_log(ax, "y", "count", known["tokens_per_second"])
    ax.set_xlabel("model size N (parameters)")
    ax.set_ylabel("tokens per second")
    ax.legend(loc="best")
