"""The paper's own numbers from its own points and logs: to the digits printed, or not at all."""

import os
from pathlib import Path

import pytest

from plmscale.laws.fit import fit_laws
from plmscale.paper import published
from plmscale.paper.points import read_points
from plmscale.paper.reproduce import agrees, reproduce

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or Path(__file__).parents[3] / "shared") / "paper"
POINTS = SHARED / "isoflop_points.csv"


@pytest.mark.parametrize(
    ("value", "printed", "how"),
    [
        (1.2589e-3, "1.26e-3", "rounded"),
        (0.5786, "0.578", "cut"),
        (0.5775, "0.578", "rounded"),
        (0.5793, "0.578", ""),
        (123.7, "1.23e2", "cut"),
        (2.0233e6, "2.02e6", "rounded"),
        (1.2e-8, "1.26e-3", ""),
        (0.0, "0", "rounded"),
        (0.01, "0", ""),
    ],
)
def test_agreement_counts_the_digits_printed(value, printed, how):
    assert agrees(value, printed) == how


def test_digits_of_printed_numbers():
    assert [published.digits(t) for t in ("1.26e-3", "0.578", "0.230", "22036.5", "143.975")] == [
        3, 3, 3, 6, 6,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def points():
    return read_points(POINTS)


@pytest.fixture(scope="module")
def laws(points):
    methods = ["isoflop_raw_linear", "isoflop_parabola"]
    return fit_laws(points, methods=methods, n_boot=100)


def of_group(found, start):
    return [row for row in found["rows"] if row["group"].startswith(start)]


def test_all_eight_coefficients_come_out_of_the_figures_points(points, laws):
    found = reproduce(points, laws, {}, {}, n_boot=20)
    rows = of_group(found, "The table of N_opt")
    assert len(rows) == 8
    assert {row["verdict"] for row in rows} == {"reproduced to 3 digits"}


def test_other_points_do_not_reproduce_them(points, laws):
    """The verdict can fail: one percent in N at the largest budget moves the coefficients."""
    moved = points.copy()
    largest = moved["budget"] == moved["budget"].max()
    moved.loc[largest, "n_params"] *= 1.01
    rows = of_group(reproduce(moved, laws, {}, {}, n_boot=20), "The table of N_opt")
    assert sum(row["verdict"] == "not reproduced" for row in rows) >= 4


def test_jitter_and_large_models_have_verdicts(points, laws):
    found = reproduce(points, laws, {}, {"clm": 0.0071, "mlm": 0.02}, n_boot=20)
    assert [row["verdict"] for row in of_group(found, "Noise")] == ["reproduced", "not reproduced"]
    (clm, mlm) = of_group(found, "Sizes chosen")
    # 1.26e-3 x (1.14e22)^0.578, from the printed law alone.
    assert "gives 7.07e+09" in clm["why"]
    assert mlm["published"] == "1.07e+10"


def test_a_table_that_is_none_is_named(tmp_path):
    from plmscale.errors import PlmscaleError

    path = tmp_path / "points.csv"
    path.write_text("objective,loss\nclm,2\n")
    with pytest.raises(PlmscaleError, match=r"points\.csv: missing column budget_flops"):
        read_points(path)
