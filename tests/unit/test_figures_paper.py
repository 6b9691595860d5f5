"""Figures of the side studies and of how firm the laws are, drawn from laws fitted for real."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures_fitted import RATIOS, fitted, tables
from test_figures import assert_nothing_overlaps, draw, texts

from plmscale.errors import PlmscaleError
from plmscale.figures import FIGURES, compare, data, lawview
from plmscale.figures.__main__ import main
from plmscale.figures.effectivetokens import effective
from plmscale.figures.isoflop import profile
from plmscale.figures.maskratio import ablations
from plmscale.files import write_json
from plmscale.laws.worth.equal_size import equal_size
from plmscale.tables import write_runs

# The unit of what is drawn, for figures that the demo alone does not fill.
UNITS = {
    "sensitivity": ("no unit", "standard deviation"),
    "holdout": ("ratio", "nats per token"),
    "isoloss": ("FLOPs", "parameters", "nats per token"),
    "identifiability": ("nats per token", "no unit", "95 %"),
    "allocation": ("FLOPs", "parameters", "tokens"),
    "repetition": ("nats per token", "tokens"),
    "effective_tokens": ("nats per token", "tokens", "epochs"),
    "transfer_curves": ("FLOPs", "nats per token"),
    "pretraining_share": ("%", "ratio", "tokens"),
    "mask_ratio": ("%", "nats per token"),
}
OTHERS = [name for name in FIGURES if not name.startswith(("corpus", "speed"))]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def inputs():
    return fitted()


def figure_of(name):
    return draw(name, fitted())


def lines(ax):
    return [line.get_xydata() for line in ax.lines]


def drawn(ax, x, y):
    """Return whether some line of `ax` passes through exactly these points."""
    wanted = np.column_stack([np.atleast_1d(x), np.atleast_1d(y)]).astype(float)
    return any(
        len(line) == len(wanted) and np.allclose(line, wanted, rtol=1e-9) for line in lines(ax)
    )


@pytest.mark.parametrize("name", OTHERS)
def test_axes_carry_units_and_text_does_not_overlap(name):
    figure = figure_of(name)
    assert len(lines(figure.axes[0])) > 0
    labels = " ".join(f"{ax.get_xlabel()} {ax.get_ylabel()}" for ax in figure.axes)
    for unit in UNITS.get(name, ()):
        assert unit in labels
    assert_nothing_overlaps(figure)


def test_profiles_are_those_of_the_joint_fit(inputs):
    entry = inputs.laws["laws"]["clm"]["isoflop_joint"]
    ax = figure_of("isoflop").axes[0]
    point = entry["points"][1]
    shape = entry["shape"]
    # The form that the entry states: loss + k (exp(s u) - 1 - s u) / s^2.
    c = math.log(point["flops"] / shape["flops"])
    s, k = shape["s"] + shape["s_per_ln_c"] * c, shape["k"] * math.exp(-shape["g"] * c)
    u = np.array([-2.0, -0.3, 0.0, 0.4, 1.5])
    expected = point["loss"] + k * (np.exp(s * u) - 1 - s * u) / s**2
    assert np.allclose(profile(point, shape, point["N_opt"] * np.exp(u)), expected, rtol=1e-9)
    assert any(
        len(line) == 60 and np.allclose(line[:, 1], profile(point, shape, line[:, 0]))
        for line in lines(ax)
    )


def test_the_profile_without_asymmetry_is_a_parabola():
    fit = {"N_opt": 1e6, "loss": 2.5, "curvature": 0.04, "flops": 1e18}
    shape = {"s": 0.0, "s_per_ln_c": 0.0, "flops": 1e18}
    n = 1e6 * np.exp(np.array([-1.0, 0.0, 2.0]))
    assert np.allclose(profile(fit, shape, n), [2.52, 2.5, 2.58])
    assert np.allclose(profile(fit, None, n), [2.52, 2.5, 2.58])


def test_published_points_are_drawn_where_they_are_given(inputs):
    ax = figure_of("isoflop").axes[0]
    assert drawn(ax, 4e3, 3.1)
    assert "published" in texts(figure_of("isoflop"))
    without = data.Inputs(runs=inputs.runs, laws=inputs.laws)
    assert "published" not in texts(draw("isoflop", without))


def test_published_laws_are_drawn_only_where_compute_is_shared(inputs):
    assert "published" not in texts(figure_of("frontiers"))
    laws = {"laws": {"clm": {"isoflop_parabola": {
        "N_opt": {"A": 2e-3, "a": 0.57}, "D_opt": {"B": 80.0, "b": 0.43},
        "points": [{"budget": b, "N_opt": 2e-3 * b**0.57} for b in (1e17, 1e20)],
    }}}}  # fmt: skip
    figure = draw("frontiers", data.Inputs(laws=laws))
    assert "published" in texts(figure)
    coefficient, exponent = lawview.PUBLISHED["clm"]["N_opt"]
    flops = np.array([1e18, 1e20])
    assert drawn(figure.axes[0], flops, coefficient * flops**exponent)


def test_sensitivity_shows_every_exponent_and_every_effect(inputs):
    figure = figure_of("sensitivity")
    rows = [row for row in inputs.sensitivity["rows"] if row["objective"] == "mlm"]
    x = sorted(line[0, 0] for line in lines(figure.axes[1]) if len(line) == 1)
    assert np.allclose(x, sorted(row["a"] for row in rows))
    widths = [bar.get_width() for bar in figure.axes[3].patches]
    assert widths == [0.05, 0.01, 0.004, 0.03]
    assert "one level only" in texts(figure)
    assert "10^{11}" in texts(figure)


def test_holdout_marks_what_was_foretold(inputs):
    figure = figure_of("holdout")
    part = inputs.holdout["objectives"]["clm"]
    marks = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    budgets = [t for t in part["targets"] if t["kind"] == "budget"]
    items = [item for target in budgets for item in target["predictions"]]
    assert sorted(float(m.get_xdata()[0]) for m in marks) == sorted(i["n_ratio"] for i in items)
    hollow = sum(m.get_markerfacecolor() == "white" for m in marks)
    assert hollow == sum(item["n_inside"] is False for item in items)
    errors = [float(m.get_xdata()[0]) for m in figure.axes[1].lines if len(m.get_xdata()) == 1]
    every = [item["loss_error"] for t in part["targets"] for item in t["predictions"]]
    assert sorted(errors) == sorted(every)


def test_profiles_of_a_parameter_end_at_the_optimum(inputs):
    entry = inputs.laws["laws"]["clm"]["parametric"]
    ax = figure_of("identifiability").axes[1]
    assert drawn(ax, entry["alpha"], 0.0)
    low = [pair for pair in entry["profiles"]["alpha"] if pair[1] <= 4]
    line = max((line for line in lines(ax) if len(line) > 5), key=len)
    assert {tuple(pair) for pair in low} <= {tuple(point) for line in lines(ax) for point in line}
    assert line[:, 1].min() >= 0


def test_allocation_follows_the_laws(inputs):
    ax = figure_of("allocation").axes[0]
    entries = [inputs.laws["laws"][name]["isoflop_joint"] for name in ("clm", "mlm")]
    line = max(lines(ax), key=len)
    for clm, mlm in line[[0, 12, -1]]:
        size = entries[0]["N_opt"]["A"] * clm ** entries[0]["N_opt"]["a"]
        split = equal_size(*entries, n_params=float(size))
        assert split["mlm"]["flops"]["value"] == pytest.approx(mlm, rel=1e-6)


def test_a_turn_is_marked_where_the_laws_found_it(inputs):
    pairs = {p["runs"]["repeated"]: p for p in inputs.laws["repetition"]["pairs"]}
    turn = pairs["mlm-4x96-curated"]["turn"]
    assert turn["verdict"] == "turns"
    figure = figure_of("repetition")
    panel = next(ax for ax in figure.axes if ax.get_title(loc="left") == "MLM, N = 300k")
    assert drawn(panel, turn["tokens"], turn["least_loss"])
    assert "thin: loss in training" in texts(figure)


def test_tokens_of_equal_worth():
    epochs = np.array([0.5, 1.0, 3.0])
    assert np.allclose(effective(100.0, np.inf, epochs), [50, 100, 300])
    # Two repeats at R* = 2: U (1 + 2 (1 - 1/e)).
    assert np.allclose(effective(100.0, 2.0, epochs), [50, 100, 100 * (1 + 2 * (1 - math.exp(-1)))])


def test_transfer_is_compared_at_equal_tokens_and_pays_for_its_parent(inputs):
    runs = inputs.runs.set_index("run_id")
    pairs = {pair.child: pair for pair in compare.transfers(inputs.runs, own=True)}
    assert pairs["mlm-4x96-child"].scratch == "mlm-4x96-scratch"
    ax = figure_of("transfer_curves").axes[0]
    child, parent = runs.loc["mlm-4x96-child"], runs.loc["clm-4x96-parent"]
    total = child["flops_6nd"] + parent["flops_6nd"]
    assert drawn(ax, child["flops_6nd"], child["loss"])
    assert drawn(ax, [child["flops_6nd"], total], [child["loss"]] * 2)
    law = inputs.laws["transfer"]["directions"]["clm-then-mlm"]["loss_of_compute"]["ends"][
        "scratch"
    ]
    assert any(
        len(line) == 30 and np.allclose(line[:, 1], law["A"] * line[:, 0] ** -law["a"])
        for line in lines(ax)
    )


def test_worth_of_pretraining_is_drawn_for_every_pair_that_has_one(inputs):
    ax = figure_of("pretraining_share").axes[0]
    pairs = [p for way in inputs.laws["transfer"]["directions"].values() for p in way["pairs"]]
    known = [p for p in pairs if (p["total_worth"] or {}).get("value") is not None]
    assert known
    for pair in known:
        assert drawn(ax, 100 * pair["share"], pair["total_worth"]["value"])


def test_mask_ratios_are_compared_with_the_usual_one(inputs):
    found = ablations(inputs.runs)
    assert [list(table["mask_ratio"]) for table in found] == [list(RATIOS)] * 2
    figure = figure_of("mask_ratio")
    ends = figure.axes[0].lines
    assert any(np.allclose(line.get_ydata(), found[0]["loss"]) for line in ends)
    # The made-up loss rises by 0.4 nats per unit of the ratio, without noise in the difference.
    means = [line[:, 1].mean() for line in lines(figure.axes[1]) if len(line) == 40]
    assert np.allclose(sorted(means), [-0.04, 0.06, 0.18], atol=1e-3)


def test_runs_of_another_mask_ratio_are_in_no_profile(inputs):
    runs = inputs.runs.assign(budget=inputs.runs["budget"].fillna(1e12))
    grid = data.isoflop_runs(runs)
    assert set(grid.loc[grid["objective"] == "mlm", "mask_ratio"]) == {0.15}
    assert compare.repetitions(runs) != []
    assert all("mask" not in group.mixed for group in compare.repetitions(runs))


def test_several_figures_from_the_command_line(inputs, tmp_path):
    runs, _ = tables()
    write_runs(runs, tmp_path / "runs.csv")
    write_json(tmp_path / "holdout.json", inputs.holdout)
    write_json(tmp_path / "sensitivity.json", inputs.sensitivity)
    # As the authors wrote it, with a capital in the header.
    points = pd.DataFrame(
        {"objective": ["CLM", "MLM"], "budget_flops": 1e11, "model_size_label": ["4k", "50k"],
         "N_params": [4e3, 5e4], "final_validation_loss": [3.1, 3.2]}
    )  # fmt: skip
    points.to_csv(tmp_path / "points.csv", index=False)
    options = ["--runs", "runs.csv", "--holdout", "holdout.json", "--sensitivity",
               "sensitivity.json", "--points", "points.csv", "--out", "figures"]  # fmt: skip
    options = [o if o.startswith("--") else str(tmp_path / o) for o in options]
    assert main(["isoflop", "holdout", "sensitivity", *options]) == 0
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.svg")) == [
        "holdout.svg", "isoflop.svg", "sensitivity.svg",
    ]  # fmt: skip


def test_several_figures_need_a_folder(tmp_path):
    with pytest.raises(SystemExit):
        main(["isoflop", "holdout", "--out-stem", str(tmp_path / "x")])


def test_points_without_a_column_are_named(tmp_path):
    table = pd.DataFrame({"objective": ["CLM"], "model_size_label": ["1M"], "n_params": [1e6]})
    table.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(PlmscaleError, match="missing column budget_flops, final_validation_loss"):
        data.load(points=tmp_path / "p.csv")


def test_binned_curves_keep_means():
    tokens = np.arange(1, 1001) * 1000.0
    curve = pd.DataFrame({"tokens": tokens, "flops_6nd": 6 * tokens, "loss": 5 - 1e-6 * tokens})
    thin = data.binned_curve(curve, 100)
    assert len(thin) == 100
    assert np.allclose(thin["loss"], 5 - 1e-6 * thin["tokens"])
    assert len(data.binned_curve(curve, 40, log=True)) <= 40
