"""How every figure looks: theme, colours, number formats, and saving.

Colours: objectives use two colours of the Okabe-Ito set, which differ for every common form of
colour blindness, and each has its own marker, so colour is never the only carrier. Budgets and
sizes are ordered, so they take perceptually uniform sequential maps.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from plmscale.files import atomic_write

OBJECTIVES = ("clm", "mlm")
OBJECTIVE_COLOUR = {"clm": "#0072B2", "mlm": "#D55E00"}
OBJECTIVE_MARKER = {"clm": "o", "mlm": "s"}
OBJECTIVE_NAME = {"clm": "CLM", "mlm": "MLM"}
INK = "#23272e"
MUTED = "#6b7280"
WARN = "#B00040"
WIDTH = 7.2
"""Figure width in inches: a two-column page's text width, so that 8 pt text stays 8 pt in print."""

_SI = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def use_theme() -> None:
    """Set the theme; every figure function calls it first, so figures do not depend on order."""
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update(
        {
            "font.family": "sans-serif",
            # DejaVu ships with matplotlib: the same glyphs, and so the same bytes, everywhere.
            "font.sans-serif": ["DejaVu Sans"],
            "mathtext.fontset": "dejavusans",
            "font.size": 8.5,
            "axes.titlesize": 9.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8.5,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "legend.fontsize": 7.5,
            "legend.title_fontsize": 7.5,
            "legend.frameon": False,
            "axes.edgecolor": "#4b5563",
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": "#4b5563",
            "ytick.color": "#4b5563",
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "axes.linewidth": 0.7,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "xtick.minor.width": 0.5,
            "ytick.minor.width": 0.5,
            "xtick.major.size": 3.5,
            "ytick.major.size": 3.5,
            "xtick.minor.size": 2,
            "ytick.minor.size": 2,
            "axes.grid": True,
            "grid.color": "#e5e7eb",
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.4,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.06,
            "figure.constrained_layout.h_pad": 0.06,
            "savefig.dpi": 200,
            "svg.fonttype": "path",
            "svg.hashsalt": "plmscale",
            "path.simplify": True,
        }
    )


def si(value: float, digits: int = 3) -> str:
    """Return a count the way people say it: 13152 -> "13.2k", 1.5e6 -> "1.5M"."""
    if value is None or not math.isfinite(value):
        return "–"
    for factor, letter in _SI:
        # 999,999 must become 1M and not 1000k, so compare after rounding.
        if abs(value) >= factor * (1 - 0.5 * 10**-digits):
            return f"{_trim(value / factor, digits)}{letter}"
    return _trim(value, digits)


def _trim(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def power_of_ten(value: float) -> tuple[float, int]:
    """Return (mantissa, exponent) with the mantissa rounded to two digits: 3e11 -> (3.0, 11)."""
    exponent = math.floor(math.log10(abs(value)) + 1e-12)
    mantissa = round(value / 10**exponent, 1)
    return (1.0, exponent + 1) if mantissa >= 10 else (mantissa, exponent)


def flops_math(value: float) -> str:
    """Return FLOPs for a figure, as mathtext: 3e11 -> "$3{\\times}10^{11}$"."""
    if not value > 0:
        return "0"
    mantissa, exponent = power_of_ten(value)
    lead = "" if mantissa == 1 else f"{mantissa:g}{{\\times}}"
    return f"${lead}10^{{{exponent}}}$"


def flops_text(value: float) -> str:
    """Return FLOPs for running text: 3e11 -> "3×10¹¹"."""
    if value is None or not value > 0 or not math.isfinite(value):
        return "–"
    mantissa, exponent = power_of_ten(value)
    lead = "" if mantissa == 1 else f"{mantissa:g}×"
    return f"{lead}10{str(exponent).translate(_SUPERSCRIPT)}"


def interval_text(pair: tuple[float, float] | None, digits: int = 2) -> str:
    """Return "0.41 to 0.78"; an infinite end reads "unbounded", no interval "no interval"."""
    if pair is None:
        return "no interval"
    low, high = pair
    if math.isinf(low) and math.isinf(high):
        return "unbounded"
    if math.isinf(low):
        return f"at most {high:.{digits}f}".replace("-", "−")
    if math.isinf(high):
        return f"at least {low:.{digits}f}".replace("-", "−")
    return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")


def ordered_colours(values: Sequence[float], name: str = "viridis") -> dict[float, tuple]:
    """Return a colour for each distinct value, in order along the map `name`.

    The light end is cut off: pale yellow on white paper cannot be read.
    """
    distinct = sorted(set(values))
    cmap = plt.get_cmap(name)
    positions = np.linspace(0.05, 0.82, len(distinct)) if len(distinct) > 1 else [0.35]
    return {value: cmap(position) for value, position in zip(distinct, positions, strict=True)}


def log_axis(axis: Axis, kind: str, dense: bool = False) -> None:
    """Make ticks of a log axis readable. `kind`: "flops" (powers of ten) or "count" (13k, 1.5M).

    `dense` labels 1, 2 and 5 of every decade: for a span below two decades, where labels at
    powers of ten alone would leave an axis with one number on it.
    """
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if dense else (1.0,)))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10))))
    axis.set_minor_formatter(NullFormatter())
    form = flops_math if kind == "flops" else si
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def set_log(ax: Axes, which: str, kind: str, values: Sequence[float]) -> None:
    """Put axis `which` ("x" or "y") on a log scale with labels fit for the span of `values`."""
    finite = [v for v in values if v is not None and math.isfinite(v) and v > 0]
    decades = math.log10(max(finite) / min(finite)) if finite else 1.0
    getattr(ax, f"set_{which}scale")("log")
    log_axis(getattr(ax, f"{which}axis"), kind, dense=decades < 1.8)


def loss_limits(losses: Sequence[float], pad: float = 0.08, top_quantile: float = 1.0) -> tuple:
    """Return y limits that show differences between losses rather than one outlier far above."""
    values = np.asarray([v for v in losses if v is not None and math.isfinite(v)], dtype=float)
    low, high = float(values.min()), float(np.quantile(values, top_quantile))
    span = max(high - low, 1e-3)
    return low - pad * span, high + pad * span


def direct_notes(ax: Axes, lines: Sequence[str], where: str = "lower left") -> None:
    """Write short notes inside `ax`, in a corner given like a legend's place."""
    if not lines:
        return
    vertical, horizontal = where.split()
    ax.text(
        0.02 if horizontal == "left" else 0.98,
        0.02 if vertical == "lower" else 0.98,
        "\n".join(lines),
        transform=ax.transAxes,
        ha=horizontal,
        va="bottom" if vertical == "lower" else "top",
        fontsize=7.5,
        color=MUTED,
    )


def empty(message: str, height: float = 1.6) -> Figure:
    """Return a figure that says why there is nothing to see: better than a missing file."""
    use_theme()
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    blank(ax, message, width=80)
    return figure


def blank(ax: Axes, message: str, width: int = 42) -> None:
    """Turn one panel into a statement that nothing is there."""
    ax.set_axis_off()
    text = "\n".join(textwrap.wrap(message, width))
    ax.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=ax.transAxes)


def save(figure: Figure, stem: str | Path) -> list[Path]:
    """Write `figure` as STEM.svg and STEM.png, atomically, and close it.

    Equal figures give equal bytes: ids come from a fixed salt and no date is stored.
    """
    stem = Path(stem)
    written = []
    for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
        buffer = io.BytesIO()
        with plt.rc_context({"svg.hashsalt": "plmscale", "svg.fonttype": "path"}):
            figure.savefig(buffer, format=suffix[1:], metadata=metadata, facecolor="white")
        path = stem.with_name(stem.name + suffix)
        with atomic_write(path, "wb") as handle:
            handle.write(buffer.getvalue())
        written.append(path)
    plt.close(figure)
    return written
