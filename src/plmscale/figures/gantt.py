"""The schedule of a plan: a bar a run on the GPUs that it has, and how many GPUs are busy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from plmscale.errors import PlmscaleError
from plmscale.figures import style
from plmscale.files import atomic_write
from plmscale.planning.simulate import Placed, Schedule
from plmscale.planning.work import Work

SMALL = "small"
COLOUR = {**style.OBJECTIVE_COLOUR, "mixed": "#009E73", SMALL: "#b8bec8"}
NAME = {**style.OBJECTIVE_NAME, "mixed": "mixed objective", SMALL: "small runs that share a GPU"}
PATH = "#23272e"
_HEIGHT = 5.6
# Hours of a unit of the time axis, long ones first.
_UNITS = ((24.0, "days"), (1.0, "hours"), (1 / 60, "minutes"))
# Inches: the width of a character for each point of its size, a line of 5 pt, and free space.
_CHARACTER, _LINE, _MARGIN = 0.0088, 0.085, 0.05
# Lines between parents and children beyond so many would hide the bars.
_MOST_LINKS = 400


def gantt(schedule: Schedule, works: Sequence[Work], nodes: Sequence[int]) -> Figure:
    """Return the schedule, GPUs from top to bottom in their nodes, hours or days to the right.

    Runs that share a GPU are one grey bar as long as any of them is there. The longest path has a
    dark frame, and thin lines lead from a run to those that start from it.
    """
    if not schedule.placed:
        return style.empty("Nothing is left to train.")
    style.use_theme()
    unit, name = next(u for u in _UNITS if schedule.makespan > 4 * u[0] or u is _UNITS[-1])
    figure, (bars, busy) = plt.subplots(
        2, 1, figsize=(style.WIDTH, _HEIGHT), sharex=True, height_ratios=(5, 1),
        layout="constrained",
    )  # fmt: skip
    kinds = {w.name: SMALL if w.sized and w.sized.slots > 1 else w.run.recipe["objective"]
             for w in works}  # fmt: skip
    sizes = {w.name: w.run.recipe["architecture"]["name"] for w in works}
    _bars(bars, schedule, kinds, unit)
    _links(bars, schedule, unit)
    _busy(busy, schedule, kinds, unit)
    busy.set_xlim(0, schedule.makespan / unit * 1.005)
    busy.set_xlabel(f"{name} from now")
    bars.set_ylim(schedule.gpus, 0)
    _node_axis(bars, nodes)
    bars.set_title(
        f"{len(schedule.placed):,} runs on {schedule.gpus:,} GPUs: {schedule.makespan / unit:.3g} {name}, "
        f"{schedule.utilisation:.0%} busy"
    )
    figure.legend(handles=_legend(kinds, schedule), loc="outside lower center", ncols=5)
    # Labels need the size of the axes on paper.
    figure.draw_without_rendering()
    _labels(bars, schedule, kinds, sizes, unit)
    return figure


def write(path: Path, figure: Figure) -> None:
    """Write `figure` as the kind of file that the name of `path` says: .svg or .png."""
    if path.suffix not in (".svg", ".png"):
        raise PlmscaleError(f"{path}: the name of a figure must end in .svg or .png")
    kept = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    buffer = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "plmscale", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=path.suffix[1:], metadata=kept, facecolor="white")
    with atomic_write(path, "wb") as handle:
        handle.write(buffer.getvalue())
    plt.close(figure)


def blocks(gpus: Sequence[int]) -> list[tuple[int, int]]:
    """Return first GPU and number of each stretch of neighbours: [0, 1, 4] -> [(0, 2), (4, 1)]."""
    found: list[tuple[int, int]] = []
    for gpu in sorted(gpus):
        if found and gpu == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((gpu, 1))
    return found


def shared_spans(placed: Sequence[Placed]) -> dict[int, list[tuple[float, float]]]:
    """Return for each GPU that is shared the times at which anything runs on it, in order."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for place in sorted(placed, key=lambda p: p.start):
        if place.job.slots > 1:
            rows = spans.setdefault(place.gpus[0], [])
            if rows and place.start <= rows[-1][1]:
                rows[-1] = (rows[-1][0], max(rows[-1][1], place.end))
            else:
                rows.append((place.start, place.end))
    return spans


def _bars(ax: Axes, schedule: Schedule, kinds: Mapping[str, str], unit: float) -> None:
    shapes: dict[str, list[list[tuple[float, float]]]] = {kind: [] for kind in COLOUR}
    path = []
    for gpu, spans in shared_spans(schedule.placed).items():
        shapes[SMALL] += [_box(a / unit, b / unit, gpu, 1) for a, b in spans]
    for place in schedule.placed:
        whole = place.job.slots == 1
        for first, count in blocks(place.gpus):
            box = _box(place.start / unit, place.end / unit, first, count)
            if whole:
                shapes[kinds[place.job.name]].append(box)
            if place.job.name in schedule.path:
                path.append(box)
    thin = 0.4 if schedule.gpus <= 256 else 0.1
    for kind, boxes in shapes.items():
        ax.add_collection(
            PolyCollection(boxes, facecolors=COLOUR[kind], edgecolors="white", linewidths=thin)
        )
    ax.add_collection(
        PolyCollection(path, facecolors="none", edgecolors=PATH, linewidths=1.3, zorder=4)
    )
    ax.grid(visible=False)


def _box(start: float, end: float, first: int, count: int) -> list[tuple[float, float]]:
    return [(start, first), (end, first), (end, first + count), (start, first + count)]


def _links(ax: Axes, schedule: Schedule, unit: float) -> None:
    by_name = {place.job.name: place for place in schedule.placed}
    lines = []
    for place in schedule.placed:
        for parent in place.job.after:
            before = by_name[parent]
            lines.append(
                [(before.end / unit, _middle(before)), (place.start / unit, _middle(place))]
            )
    if len(lines) <= _MOST_LINKS:
        ax.add_collection(
            LineCollection(
                lines, colors=PATH, linewidths=0.6, alpha=0.6 if len(lines) < 25 else 0.3, zorder=3
            )
        )


def _middle(place: Placed) -> float:
    first, count = blocks(place.gpus)[0]
    return first + count / 2


def _busy(ax: Axes, schedule: Schedule, kinds: Mapping[str, str], unit: float) -> None:
    """Draw GPUs in use over time, by kind, one on the other."""
    times = np.unique([t for p in schedule.placed for t in (p.start, p.end)])
    below = np.zeros(len(times))
    for kind, colour in COLOUR.items():
        change = np.zeros(len(times) + 1)
        for place in schedule.placed:
            if kinds[place.job.name] == kind:
                used = place.job.gpus / place.job.slots
                change[np.searchsorted(times, place.start)] += used
                change[np.searchsorted(times, place.end)] -= used
        level = below + np.cumsum(change)[:-1]
        ax.fill_between(times / unit, below, level, step="post", color=colour, linewidth=0)
        below = level
    ax.set_ylim(0, schedule.gpus * 1.04)
    ax.set_ylabel("GPUs busy")
    ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _node_axis(ax: Axes, nodes: Sequence[int]) -> None:
    starts = np.cumsum([0, *nodes])
    if len(nodes) == 1:
        ax.set_ylabel("GPU")
        ax.yaxis.set_major_locator(MaxNLocator(9, integer=True))
        return
    if len(nodes) <= 64:
        for start in starts[1:-1]:
            ax.axhline(start, color="#9aa1ac", linewidth=0.5, zorder=0.5)
    step = max(1, -(-len(nodes) // 16))
    shown = range(0, len(nodes), step)
    ax.set_yticks([(starts[n] + starts[n + 1]) / 2 for n in shown], [str(n + 1) for n in shown])
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel(f"node, of {max(nodes)} GPUs" if max(nodes) > 1 else "GPU")


def _labels(
    ax: Axes,
    schedule: Schedule,
    kinds: Mapping[str, str],
    sizes: Mapping[str, str],
    unit: float,
) -> None:
    """Write the size of its model into each bar that has room for it."""
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    width = box.width / np.ptp(ax.get_xlim()) / unit
    height = box.height / schedule.gpus
    for place in schedule.placed:
        if kinds[place.job.name] == SMALL:
            continue
        text = sizes[place.job.name]
        room = (place.end - place.start) * width
        for first, count in blocks(place.gpus):
            tall = count * height
            for turn, long, thick in ((0, room, tall), (90, tall, room)):
                points = min(7.5, max(5.0, thick * 55))
                if thick >= _LINE and long >= _CHARACTER * points * len(text) + _MARGIN:
                    ax.text((place.start + place.end) / 2 / unit, first + count / 2, text,
                            ha="center", va="center", rotation=turn, color="white",
                            fontsize=points, zorder=5)  # fmt: skip
                    break


def _legend(kinds: Mapping[str, str], schedule: Schedule) -> list[Patch]:
    present = {kinds[place.job.name] for place in schedule.placed}
    handles = [Patch(color=COLOUR[kind], label=NAME[kind]) for kind in COLOUR if kind in present]
    return [*handles, Patch(facecolor="none", edgecolor=PATH, label="longest path")]
