"""Number formats, palettes, saving and the empty state."""

from __future__ import annotations

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from plmscale.figures import style


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (13_152, "13.2k"), (3_300, "3.3k"), (1_000_000, "1M"), (999_999, "1M"), (1.5e9, "1.5B"),
        (12, "12"), (0.5, "0.5"), (0, "0"), (float("nan"), "–"), (194e9, "194B"), (20, "20"),
    ],
)  # fmt: skip
def test_counts_read_as_people_say_them(value, text):
    assert style.si(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e11, "10¹¹"), (3e11, "3×10¹¹"), (9.99e11, "10¹²"), (1e18, "10¹⁸"), (0, "–")],
)
def test_flops_in_text(value, text):
    assert style.flops_text(value) == text


def test_flops_in_figures():
    assert style.flops_math(1e11) == "$10^{11}$"
    assert style.flops_math(3e11) == r"$3{\times}10^{11}$"


def test_intervals_say_when_they_are_unbounded():
    assert style.interval_text((0.4, 0.8)) == "0.40 to 0.80"
    assert style.interval_text((-math.inf, 0.8)) == "at most 0.80"
    assert style.interval_text((0.4, math.inf)) == "at least 0.40"
    assert style.interval_text((-math.inf, math.inf)) == "unbounded"
    assert style.interval_text(None) == "no interval"


def _luminance(colour):
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_budgets_get_lighter_in_order_and_stay_readable_on_white():
    colours = style.ordered_colours([3e12, 1e11, 1e12, 3e11, 1e11])
    shades = [_luminance(colours[budget]) for budget in sorted(colours)]
    assert all(low < high for low, high in pairwise(shades))
    assert shades[-1] < 0.75


def test_objectives_differ_in_colour_and_marker():
    assert len(set(style.OBJECTIVE_COLOUR.values())) == 2
    assert len(set(style.OBJECTIVE_MARKER.values())) == 2


def test_saving_the_same_figure_twice_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("first", "second"):
        style.use_theme()
        figure, ax = plt.subplots()
        ax.plot(np.arange(5), np.arange(5) ** 2)
        ax.fill_between([0, 1], [0, 1], [2, 2])
        written.append([path.read_bytes() for path in style.save(figure, tmp_path / name)])
    assert written[0] == written[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "first.png", "first.svg", "second.png", "second.svg"
    ]  # fmt: skip


def test_an_empty_figure_says_why():
    figure = style.empty("No transfer runs in this selection.")
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert texts == ["No transfer runs in this selection."]
