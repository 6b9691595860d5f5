"""Every figure is drawn from a made-up study, and from a study that lacks what it needs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures_example import laws_json, runs_and_curves, write_study

from plmscale.errors import PlmscaleError
from plmscale.figures import FIGURES, compare, data, lawview
from plmscale.figures.__main__ import main
from plmscale.figures.speed import PARTS, time_table

# Figures the demo has, and what must stand in brackets on an axis: the unit of what is drawn.
UNITS = {
    "isoflop": ("parameters", "nats per token"),
    "frontiers": ("FLOPs", "parameters"),
    "exponents": ("no unit",),
    "parametric": ("parameters", "nats per token"),
    "learning_curves": ("FLOPs", "nats per token"),
    "repetition": ("nats per token",),
    "transfer": ("FLOPs", "nats per token"),
    "speed": ("(s)", "(%)", "tokens per second"),
    "corpus_lengths": ("residues", "%"),
    "corpus_residues": ("%",),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def inputs(paths):
    names = ["runs", "curves", "laws", "findings", "corpus_stats", "metrics"]
    return data.load(**{name: paths[name] for name in names})


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def draw(name, inputs):
    return getattr(import_module(f"plmscale.figures.{FIGURES[name]}"), name)(inputs)


def texts(figure):
    found = [t.get_text() for ax in figure.axes for t in ax.texts]
    for ax in figure.axes:
        found += [ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")]
        found += [t.get_text() for t in ax.get_legend().get_texts()] if ax.get_legend() else []
    for legend in figure.legends:
        found += [t.get_text() for t in legend.get_texts()]
    return " | ".join(found)


@pytest.mark.parametrize("name", UNITS)
def test_axes_carry_units(name, inputs):
    figure = draw(name, inputs)
    labels = " ".join(f"{ax.get_xlabel()} {ax.get_ylabel()}" for ax in figure.axes)
    for unit in UNITS[name]:
        assert unit in labels


@pytest.mark.parametrize("name", FIGURES)
def test_without_data_a_figure_says_so(name):
    figure = draw(name, data.Inputs())
    assert any(text.startswith("No ") for text in texts(figure).split(" | "))


@pytest.mark.parametrize("name", FIGURES)
def test_text_does_not_overlap(name, inputs):
    assert_nothing_overlaps(draw(name, inputs))


def assert_nothing_overlaps(figure):
    figure.canvas.draw()
    boxes = []
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            for label in [*ticks, axis.label]:
                if label.get_text() and ax.axison and label.get_visible():
                    boxes.append((label.get_text(), label.get_window_extent()))
        boxes.append((ax.get_title(loc="left"), ax._left_title.get_window_extent()))
    boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
    visible = [(text, box) for text, box in boxes if text]
    assert all(_inside(box, figure.bbox) for _, box in visible)
    for i, (first, a) in enumerate(visible):
        for second, b in visible[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert not (width > 1.5 and height > 1.5), f"{first!r} lies on {second!r}"


def _inside(box, page):
    wide = box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1
    return wide and box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1


def test_figures_are_written_with_equal_bytes(paths, tmp_path):
    options = []
    for name in ["runs", "curves", "laws", "findings", "corpus_stats", "metrics"]:
        options += [f"--{name.replace('_', '-')}", str(paths[name])]
    assert main(["all", *options, "--out", str(tmp_path / "one")]) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(first) == {f"{name}{suffix}" for name in FIGURES for suffix in (".svg", ".png")}
    again = ["isoflop", "repetition", "corpus_residues"]
    assert main([*again, *options, "--out", str(tmp_path / "two")]) == 0
    second = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert len(second) == 2 * len(again)
    assert all(first[name] == content for name, content in second.items())


def test_one_figure_from_the_command_line(paths, tmp_path):
    stem = tmp_path / "profiles"
    command = ["isoflop", "--runs", paths["runs"], "--laws", paths["laws"], "--out-stem", stem]
    command = [sys.executable, "-m", "plmscale.figures", *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert b"<svg" in stem.with_suffix(".svg").read_bytes()


def test_a_missing_file_is_one_line_that_names_it(tmp_path, capsys):
    options = ["--runs", str(tmp_path / "none.csv"), "--out-stem", str(tmp_path / "x")]
    code = main(["isoflop", *options])
    assert code == 2
    assert capsys.readouterr().err == f"plmscale: error: {tmp_path / 'none.csv'}: no such file\n"


def test_corpus_statistics_without_a_column_are_named():
    broken = data.Inputs(stats={"lengths": pd.DataFrame({"source": ["a"], "length": [3]})})
    with pytest.raises(PlmscaleError, match="missing column sequences"):
        draw("corpus_lengths", broken)


def test_isoflop_marks_diverged_runs_and_minima_at_an_edge(inputs):
    figure = draw("isoflop", inputs)
    legend = texts(figure)
    assert "diverged or failed" in legend
    assert "edge of the sizes" in legend
    markers = [line.get_marker() for line in figure.axes[1].lines]
    assert "X" in markers
    assert "P" in markers


def test_isoflop_survives_a_minimum_far_outside_and_an_open_interval(inputs):
    laws = laws_json(inputs.runs)
    point = laws["laws"]["clm"]["isoflop_parabola"]["points"][0]
    point |= {"N_opt": 1e-3, "at_edge": True, "used": False, "N_opt_ci95": [None, 2e5]}
    laws["laws"]["mlm"]["isoflop_parabola"]["points"][1] |= {"N_opt": None, "loss": None}
    odd = data.Inputs(runs=inputs.runs, laws=laws)
    low, high = draw("isoflop", odd).axes[0].get_ylim()
    assert high - low < 1
    low, high = draw("frontiers", odd).axes[0].get_ylim()
    assert low > 100


def test_isoflop_leaves_side_studies_out(inputs):
    grid = data.isoflop_runs(inputs.runs)
    assert set(grid["corpus"]) == {"mix"}
    assert not grid["run_id"].isin(["clm-parent", "mlm-child", "mlm-scratch"]).any()


def test_a_single_budget_or_objective_is_drawn(inputs):
    runs = inputs.runs[(inputs.runs["objective"] == "clm") & (inputs.runs["budget"] == 1e11)]
    assert len(draw("isoflop", data.Inputs(runs=runs)).axes) == 1


def test_exponents_beyond_the_panel_get_an_arrow(inputs):
    laws = laws_json(inputs.runs)
    laws["laws"]["clm"]["parametric"]["ci95"]["N_opt"]["a"] = [None, 4.0]
    figure = draw("exponents", data.Inputs(runs=inputs.runs, laws=laws))
    markers = [line.get_marker() for line in figure.axes[0].lines]
    assert "<" in markers
    assert ">" in markers


def test_the_band_of_a_law_comes_from_its_bootstrap(inputs):
    law = lawview.power_law(inputs.laws["laws"]["clm"]["isoflop_parabola"], "N_opt")
    low, high = law.band(np.array([1e11, 1e12]))
    assert (low < law.at([1e11, 1e12])).all()
    assert (law.at([1e11, 1e12]) < high).all()


def test_repetition_and_transfer_runs_find_their_partners(inputs):
    groups = {g.objective: g for g in compare.repetitions(inputs.runs)}
    assert groups["clm"].mixed == "clm-rep-mix"
    assert groups["clm"].repeated == ("clm-rep-curated",)
    assert compare.transfers(inputs.runs) == [
        compare.Transfer("mlm-child", "clm-parent", "mlm-scratch")
    ]


def test_repetition_has_an_axis_of_epochs(inputs):
    figure = draw("repetition", inputs)
    labels = [child.get_xlabel() for ax in figure.axes for child in ax.child_axes]
    assert labels == ["epochs of the repeated source"] * 2


def test_transfer_is_drawn_after_what_its_parent_cost(inputs):
    ax = draw("transfer", inputs).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    parent = inputs.runs.set_index("run_id").at["clm-parent", "flops_6nd"]
    assert lines["CLM → MLM"].get_xdata().min() > parent
    ends = [lines[name].get_xdata().max() for name in ("CLM → MLM", "MLM from scratch")]
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_long_curves_are_thinned_but_keep_their_ends():
    tokens = np.arange(1, 5001) * 1000
    curve = pd.DataFrame({"step": tokens, "tokens": tokens, "flops_6nd": tokens, "split": "valid",
                          "loss": 3 - 1e-8 * tokens})  # fmt: skip
    thin = data.valid_curve(curve)
    assert len(thin) <= 250
    assert list(thin["tokens"].iloc[[0, -1]]) == [1000, 5_000_000]


def test_time_of_a_run_adds_up_to_its_wall_time(inputs):
    table = time_table(inputs.metrics).set_index("run_id")
    for item in inputs.metrics:
        assert table.loc[item["run_id"], list(PARTS)].sum() == pytest.approx(item["wall_seconds"])


def test_curves_are_found_in_both_layouts(tmp_path):
    _, curves = runs_and_curves()
    curve = curves["clm-parent"]
    (tmp_path / "b").mkdir()
    curve.to_csv(tmp_path / "a.csv", index=False)
    curve.to_csv(tmp_path / "b" / "curve.csv", index=False)
    assert set(data.load_curves(tmp_path, ["a", "b", "missing"])) == {"a", "b"}


def test_warnings_are_listed_once(inputs):
    laws = {"warnings": ["x"], "laws": {"clm": {"parametric": {"warnings": ["x", "y"]}}}}
    assert lawview.warnings(laws) == ["x", "y"]
