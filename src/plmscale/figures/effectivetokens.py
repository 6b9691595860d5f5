"""What a repeated token is worth: the diminishing value of further epochs."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plmscale.figures import lawview, style
from plmscale.figures.data import Inputs

_MARKERS = ("o", "s", "^", "D", "v", "p")


def effective(unique: float, r_star: float, epochs: np.ndarray) -> np.ndarray:
    """Return tokens of equal worth for `epochs` passes over `unique` tokens.

    D' = U + U R* (1 - exp(-R / R*)), R = epochs - 1 (Muennighoff et al. 2023, eq. 5); an infinite
    R* makes repeats as good as fresh tokens.
    """
    repeats = np.maximum(epochs - 1, 0)
    first = unique * np.minimum(epochs, 1)
    if np.isinf(r_star):
        return first + unique * repeats
    return first + unique * r_star * (1 - np.exp(-repeats / r_star))


def effective_tokens(inputs: Inputs) -> Figure:
    """Return by objective the loss that repetition costs, and effective against seen tokens."""
    pairs = (inputs.laws.get("repetition") or {}).get("pairs") or []
    pairs = [pair for pair in pairs if pair.get("by_epoch")]
    objectives = [o for o in style.OBJECTIVES if any(p["objective"] == o for p in pairs)]
    if not objectives:
        return style.empty("No run repeats its data beside one on fresh data in this selection.")
    style.use_theme()
    figure, axes = plt.subplots(
        2, len(objectives), figsize=(style.WIDTH, 5.6), squeeze=False, layout="constrained",
        sharey="row", height_ratios=(1, 1.1),
    )  # fmt: skip
    colours = style.ordered_colours([pair["n_params"] for pair in pairs], "plasma")
    for column, objective in enumerate(objectives):
        mine = [pair for pair in pairs if pair["objective"] == objective]
        mine.sort(key=lambda pair: (pair["n_params"], pair["runs"]["repeated"]))
        for number, pair in enumerate(mine):
            look = {"color": colours[pair["n_params"]], "marker": _MARKERS[number % 6]}
            _excess(axes[0][column], pair, look)
            _worth(axes[1][column], pair, look, number)
        top, low = axes[0][column], axes[1][column]
        top.set_title(style.OBJECTIVE_NAME[objective])
        top.axhline(0, color=style.INK, lw=0.8)
        top.set_xlabel("epochs")
        low.legend(handles=_legend(mine, colours), loc="upper left", fontsize=6.8)
        longest = max(pair["unique_tokens"] * pair["epochs"] for pair in mine)
        low.plot([0, longest], [0, longest], color=style.INK, lw=0.8, ls=(0, (4, 1.5)))
        low.text(0.55 * longest, 0.6 * longest, "fresh tokens", rotation=31, ha="center",
                 va="bottom", fontsize=7.5, rotation_mode="anchor")  # fmt: skip
        low.set_xlim(0, longest)
        low.set_ylim(0, 1.3 * longest)
        for axis in (low.xaxis, low.yaxis):
            axis.set_major_formatter(lambda value, _: style.si(value))
            axis.set_major_locator(plt.MaxNLocator(5))
        low.set_xlabel("training tokens D")
    axes[0][0].set_ylabel("loss added by repetition\n(nats per token)")
    axes[1][0].set_ylabel("fresh tokens of equal worth D'")
    # One overfitting run must not hide what repetition costs the others.
    fitted = [
        e.get("excess") for p in pairs for e in p["by_epoch"]
        if lawview.number(e.get("fitted_excess")) is not None
    ]  # fmt: skip
    if fitted:
        high = max(fitted)
        axes[0][0].set_ylim(min(0.0, *fitted) - 0.07 * high, high * 1.25)
    return figure


def _excess(ax: Axes, pair: dict[str, Any], look: dict[str, Any]) -> None:
    rows = pair["by_epoch"]
    fitted = [row for row in rows if lawview.number(row.get("fitted_excess")) is not None]
    left_out = [row for row in rows if row not in fitted]
    for some, face in ((fitted, look["color"]), (left_out, "white")):
        ax.plot([row["epoch"] for row in some], [row["excess"] for row in some], ls="none", ms=4,
                mfc=face, mec=look["color"], marker=look["marker"], zorder=3)  # fmt: skip
    ax.plot([row["epoch"] for row in fitted], [row["fitted_excess"] for row in fitted],
            color=look["color"], lw=1.2)  # fmt: skip


def _worth(ax: Axes, pair: dict[str, Any], look: dict[str, Any], number: int) -> None:
    value = lawview.number((pair.get("R_star") or {}).get("value"))
    if value is None:
        return
    unique = pair["unique_tokens"]
    last = pair["epochs"]
    if pair["R_star"].get("fitted_epochs") and (pair.get("turn") or {}).get("verdict") == "turns":
        # After the turn no number of fresh tokens describes the run.
        last = min(last, pair["turn"]["tokens"] / unique)
    epochs = np.linspace(0, last, 60)
    ends = [lawview.number(end) for end in pair["R_star"].get("ci95") or (None, None)]
    if ends[0] is not None:
        high = np.inf if ends[1] is None else ends[1]
        ax.fill_between(epochs * unique, effective(unique, ends[0], epochs),
                        effective(unique, high, epochs), color=look["color"], alpha=0.12, lw=0)  # fmt: skip
    y = effective(unique, value, epochs)
    ax.plot(epochs * unique, y, color=look["color"], lw=1.4)
    at = min(59, 44 + 4 * number)
    ax.plot(epochs[at] * unique, y[at], ls="none", ms=4.5, mec="white", mew=0.5, **look)


def _legend(pairs: list[dict[str, Any]], colours: dict) -> list[Line2D]:
    handles = []
    for number, pair in enumerate(pairs):
        law = pair.get("R_star") or {}
        value = lawview.number(law.get("value"))
        span = "not fitted"
        if value is not None:
            span = f"R* {value:.1f} ({_ends(law.get('ci95'))})"
        corpus = (pair.get("corpora") or {}).get("repeated", "")
        handles.append(
            Line2D([], [], color=colours[pair["n_params"]], marker=_MARKERS[number % 6], ms=4,
                   lw=1.2, label=f"{style.si(pair['n_params'])} {corpus}: {span}")
        )  # fmt: skip
    return handles


def _ends(pair: Any) -> str:
    low, high = (lawview.number(end) for end in pair or (None, None))
    if low is None:
        return "no interval" if high is None else f"up to {high:.1f}"
    return f"from {low:.1f}" if high is None else f"{low:.1f} to {high:.1f}"
