"""The map of a study's progress: sizes against budgets, every run a coloured field."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from plmscale.figures import style
from plmscale.files import atomic_write
from plmscale.status.overview import budget_names
from plmscale.status.rows import ENDED, STATES

# Okabe-Ito, and greys for what does not move; each trouble also has a sign, for those who see
# the colours alike.
COLOURS = {
    "done": "#009E73",
    "running": "#0072B2",
    "queued": "#9CCBEB",
    "stopped": "#F0E442",
    "waiting": "#E3E6EA",
    "failed": "#D55E00",
    "diverged": "#CC79A7",
    "parent_failed": "#8F7A87",
}
NAMES = {"parent_failed": "parent lost", "running": "running, % done"}
_MARKS = {"failed": "×", "diverged": "≈", "stopped": "‖", "queued": "…", "parent_failed": "–"}
_GAP = 0.06
# Inches: of a row and column of the map, the least that a number of two digits needs.
_ROW, _COLUMN = 0.235, 0.5


def progress_map(found: Mapping[str, Any]) -> Figure:
    """Return the map of an `overview` (plmscale.status): a panel an objective, runs of one size and
    budget side by side in one cell, a running or stopped run filled as far as it has come."""
    rows = found["runs"]
    if not rows:
        return style.empty("No runs.")
    style.use_theme()
    budgets = budget_names(rows)
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    panels = [[row for row in rows if row["objective"] == name] for name in objectives]
    columns = [sorted({budgets[row["run_id"]] for row in panel}, key=float) for panel in panels]
    # One axis of sizes for all, so that a row is one size across the page.
    sizes = _sizes(rows)
    height = 1.25 + _ROW * len(sizes)
    width = max(style.WIDTH, 0.7 + 0.2 * len(panels) + _COLUMN * sum(map(len, columns)))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, height), squeeze=False, layout="constrained", sharey=True,
        gridspec_kw={"width_ratios": [max(2, len(across)) for across in columns]},
    )  # fmt: skip
    for ax, name, panel, across in zip(axes[0], objectives, panels, columns, strict=True):
        _panel(ax, panel, budgets, across, sizes)
        ax.set_title(f"{style.OBJECTIVE_NAME.get(name, name.capitalize())} ({len(panel)} runs)")
    axes[0][0].set_ylabel("model size")
    share = math.floor(100 * found["share"] + 1e-9)
    figure.suptitle(
        f"{found['study']}: {share} % of the FLOPs done", x=0.01, ha="left", fontsize=9.5
    )
    handles = [_key(state, count) for state, count in found["counts"].items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)))
    return figure


def _sizes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    by_n = {row["size"]: row["n_params"] for row in rows}
    return sorted(by_n, key=lambda name: by_n[name])


def _key(state: str, count: int) -> Patch:
    return Patch(
        facecolor=COLOURS[state], edgecolor="#6b7280", linewidth=0.4,
        label=f"{_MARKS[state] + ' ' if state in _MARKS else ''}{NAMES.get(state, state)} ({count})",
    )  # fmt: skip


def _panel(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    budgets: Mapping[str, str],
    across: Sequence[str],
    down: Sequence[str],
) -> None:
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((budgets[row["run_id"]], row["size"]), []).append(row)
    order = list(STATES)
    for (budget, size), members in cells.items():
        members.sort(key=lambda row: (order.index(row["status"]), -row["share"], row["run_id"]))
        x, y = across.index(budget), down.index(size)
        part = (1 - 2 * _GAP) / len(members)
        for place, row in enumerate(members):
            _field(ax, row, x + _GAP + place * part, y + _GAP, part, 1 - 2 * _GAP)
    ax.set_xlim(0, max(2, len(across)))
    ax.set_ylim(0, len(down))
    names = [style.flops_math(float(budget)) for budget in across]
    ax.set_xticks([i + 0.5 for i in range(len(across))], names, rotation=45, ha="right")
    ax.set_yticks([i + 0.5 for i in range(len(down))], down)
    ax.tick_params(length=0)
    ax.set_xlabel("compute budget (FLOPs)")
    ax.grid(visible=False)
    # Faint lines lead from a size to its cells, over empty ones.
    ax.hlines(range(len(down) + 1), 0, max(2, len(across)), colors="#eef0f3", lw=0.5, zorder=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _field(
    ax: Axes, row: Mapping[str, Any], x: float, y: float, width: float, height: float
) -> None:
    """Draw one run: its colour, as far as it has come, and the sign of its state."""
    state, colour = row["status"], COLOURS[row["status"]]
    partial = state not in ENDED and state not in ("waiting", "queued")
    ax.add_patch(
        Rectangle((x, y), width, height, facecolor=colour, alpha=0.3 if partial else 1.0,
                  edgecolor="none")
    )  # fmt: skip
    if partial:
        ax.add_patch(
            Rectangle((x, y), width * row["share"], height, facecolor=colour, edgecolor="none")
        )
    # A thin white line tells neighbours apart.
    ax.add_patch(
        Rectangle((x, y), width, height, fill=False, edgecolor="white", linewidth=0.6)
    )  # fmt: skip
    sign, share = _MARKS.get(state, ""), row["share"]
    if state == "running" and width > 0.6:
        sign = f"{math.floor(100 * share)}"
    if not sign or width < 0.12:
        return
    # In the larger part, so that no sign stands on a border.
    filled = not partial or share >= 0.5
    middle = 0.5 if not partial else share / 2 if filled else (1 + share) / 2
    dark = not filled or state in ("queued", "stopped")
    ax.text(
        x + width * middle, y + height / 2, sign, ha="center", va="center_baseline", fontsize=6.5,
        color=style.INK if dark else "white",
    )  # fmt: skip


def write(found: Mapping[str, Any], path: Path) -> None:
    """Draw the map of `found` into `path`, a .png or .svg file, atomically."""
    figure = progress_map(found)
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata, facecolor="white")
    plt.close(figure)
    with atomic_write(path, "wb") as handle:
        handle.write(buffer.getvalue())
