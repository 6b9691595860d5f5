"""Figures of a downstream evaluation, whole and with parts missing."""

from __future__ import annotations

from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from downstream_tables_example import SE, TYPES, full, write
from matplotlib.collections import LineCollection
from test_figures import assert_nothing_overlaps, texts

from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.downstream.base import Predictions
from plmscale.downstream.scaling import scaling
from plmscale.figures import DOWNSTREAM, data
from plmscale.figures.__main__ import main
from plmscale.figures.downstreamview import leading, measures, over_seeds
from plmscale.files import write_json

UNITS = {
    "downstream_loss": ("nats per token", "accuracy"),
    "downstream_contacts": ("P@L/5", "training proteins (number)"),
    "downstream_identity": ("per residue", "proteins (number)"),
    "downstream_fitness": ("no unit",),
    "downstream_generation": ("KS", "identity", "number"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluated")
    runs, found = full()
    tables = write(path, runs, found)
    told = scaling(found["metrics"], found["gains"], runs, replicates=300)
    write_json(tables / "scaling.json", told)
    return path


@pytest.fixture(scope="module")
def inputs(folder):
    return data.load(folder / "runs.csv", downstream=folder / "downstream")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def draw(name, inputs):
    return getattr(import_module(f"plmscale.figures.{DOWNSTREAM[name]}"), name)(inputs)


def panel(figure, title):
    return next(ax for ax in figure.axes if ax.get_title(loc="left").startswith(title))


def without(inputs, keep):
    metrics = inputs.downstream["metrics"]
    tables = {**inputs.downstream, "metrics": metrics[keep(metrics)]}
    return data.Inputs(downstream=tables, scaling=inputs.scaling)


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_axes_carry_units_and_nothing_overlaps(name, inputs):
    figure = draw(name, inputs)
    labels = " ".join(f"{ax.get_xlabel()} {ax.get_ylabel()}" for ax in figure.axes)
    for unit in UNITS[name]:
        assert unit in labels
    assert_nothing_overlaps(figure)


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_without_data_a_figure_says_so(name, inputs):
    for empty in (data.Inputs(), without(inputs, lambda m: m["task"] == "secondary_structure")):
        assert any(text.startswith("No ") for text in texts(draw(name, empty)).split(" | "))


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_without_baselines_and_twins_a_figure_is_drawn(name, inputs):
    bare = without(inputs, lambda m: (m["origin"] == "run") & ~m["twin"])
    assert "random" not in texts(draw(name, bare))


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_one_model_is_drawn(name, inputs):
    figure = draw(name, without(inputs, lambda m: m["run_id"] == "clm-2"))
    assert_nothing_overlaps(figure)


def test_points_intervals_band_and_baseline_against_loss_are_those_of_the_table(inputs):
    ax = panel(draw("downstream_loss", inputs), "Fold classification: probe")
    table = inputs.downstream["metrics"].query(
        "task == 'fold' and method == 'probe' and kind == 'clm'"
    )
    own, twins = table[~table["twin"]].sort_values("loss"), table[table["twin"]]
    points = ax.containers[0].lines[0].get_xydata()
    assert points[np.argsort(points[:, 0])] == pytest.approx(own[["loss", "value"]].to_numpy(float))
    bars = next(c for c in ax.collections if isinstance(c, LineCollection))
    heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    assert heights == pytest.approx([4 * SE] * len(own))
    band = ax.patches[0].get_bbox()
    assert (band.y0, band.y1) == pytest.approx((twins["ci95_low"].min(), twins["ci95_high"].max()))
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [0.08]
    assert "ρ = −1.00" in ax.get_xlabel() and "dashed: composition, 0.08" in ax.get_xlabel()


def test_the_law_is_drawn_where_one_fits_and_only_there(inputs):
    figure = draw("downstream_loss", inputs)
    curves = [line for line in panel(figure, "Fold").lines if len(line.get_xdata()) == 80]
    assert len(curves) == 1
    x, y = curves[0].get_data()
    assert y == pytest.approx(0.2 + 0.4 * (2.9 - x), abs=0.015)
    flat = panel(figure, "Generation")
    assert not [line for line in flat.lines if len(line.get_xdata()) == 80]
    assert "not resolved" in flat.get_xlabel() or "no trend" in flat.get_xlabel()


def test_a_model_far_from_all_runs_is_told_and_not_drawn(inputs):
    figure = draw("downstream_loss", inputs)
    ax = next(ax for ax in figure.axes if "esm2-150m" in ax.get_xlabel())
    assert "outside of the panel: esm2-150m 0.62" in ax.get_xlabel() and ax.get_ylim()[1] < 0.5


def test_contact_curves_have_the_training_sizes_for_both_methods(inputs):
    figure = draw("downstream_contacts", inputs)
    assert len(figure.axes) == 4
    for ax in figure.axes:
        lines = [c.lines[0] for c in ax.containers]
        assert len(lines) == 20  # five sizes, two objectives, each with its twin
        assert {tuple(line.get_xdata()) for line in lines} == {(5.0, 20.0, 80.0)}


def test_bins_of_identity_stand_in_order_and_outsiders_are_left_out(inputs):
    figure = draw("downstream_identity", inputs)
    for ax in figure.axes:
        names = [label.get_text().split("\n")[0] for label in ax.get_xticklabels()]
        assert names == list(IDENTITY_BINS)
    other = inputs.downstream["metrics"].copy()
    other.loc[other["task"] == "perplexity", "primary"] = False
    figure = draw("downstream_identity", data.Inputs(downstream={"metrics": other}))
    assert "No perplexity by identity" in texts(figure)


def test_bins_come_from_the_held_out_part_that_has_more_proteins(inputs):
    metrics = inputs.downstream["metrics"]
    few = metrics[(metrics["task"] == "perplexity") & (metrics["group"] == IDENTITY_BINS[0])]
    few = few.assign(split="valid", n=3, value=99.0)
    both = data.Inputs(downstream={"metrics": pd.concat([few, metrics], ignore_index=True)})
    ax = draw("downstream_identity", both).axes[0]
    assert ax.get_ylim()[1] < 50
    assert ax.get_xticklabels()[0].get_text() == f"{IDENTITY_BINS[0]}\n700"


def test_fitness_has_all_categories_and_the_average(inputs):
    ax = draw("downstream_fitness", inputs).axes[-1]
    assert len(ax.get_xticklabels()) == len(TYPES) + 1
    assert ax.get_xticklabels()[-1].get_text() == "average"


def test_generated_proteins_are_drawn_from_predictions_where_these_are_at_hand(inputs, tmp_path):
    assert len(draw("downstream_generation", inputs).axes) == 3
    rng = np.random.default_rng(1)
    rows = []
    for split, group, low in (
        ("generated", "T=1.0 p=1.0", 20), ("control", "natural", 60), ("reference", "reference", 60)
    ):  # fmt: skip
        rows += [(f"{group}:{i}", split, group, "A" * int(n), None, True, 128)
                 for i, n in enumerate(rng.integers(low, low + 60, 30))]  # fmt: skip
    names = ("id", "split", "group", "sequence", "prediction", "terminated", "max_length")
    table = pa.table({n: list(column) for n, column in zip(names, zip(*rows))}).append_column(
        "target", pa.nulls(len(rows))
    )
    largest = "clm-5"
    Predictions(table, {"corpus": {}}).write(
        tmp_path / "predictions" / "generation" / largest / "zero-shot-s1.parquet"
    )
    inputs = data.Inputs(downstream=inputs.downstream, scaling=inputs.scaling, evaluation=tmp_path)
    figure = draw("downstream_generation", inputs)
    assert_nothing_overlaps(figure)
    ax = next(ax for ax in figure.axes if "residues" in ax.get_xlabel())
    ends = {line.get_label(): line.get_xdata() for line in ax.lines}
    assert set(ends) == {"T=1.0 p=1.0", "natural"}
    # From a share of 0 at the shortest on.
    assert ends["natural"].tolist()[1:] == sorted(len(r[3]) for r in rows if r[2] == "natural")


def test_means_over_seeds_hold_the_scatter_of_seeds(inputs):
    table = inputs.downstream["metrics"]
    rows = table.query("model == 'clm-1' and task == 'fold' and method == 'lora' and not twin")
    twice = over_seeds(rows.loc[rows.index.repeat(2)].assign(value=[0.2, 0.4]))
    assert twice["value"].item() == pytest.approx(0.3)
    half = 1.96 * np.hypot(SE, 0.1)
    assert twice["high"].item() - 0.3 == pytest.approx(half, rel=1e-3)


def test_one_measure_leads_for_each_task_and_method(inputs):
    found = leading(measures(inputs.downstream["metrics"]))
    fitness = [m for m in found if m.task == "fitness"]
    assert [m.group for m in fitness] == ["average"]
    assert [m.task for m in found][-1] == "perplexity"


def test_the_command_draws_what_was_asked_for(folder, tmp_path, capsys):
    words = [
        "downstream_fitness",
        "--downstream",
        str(folder / "downstream"),
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "downstream_fitness.svg",
        "downstream_fitness.png",
    }
    words[2] = str(tmp_path / "absent")
    assert main(words) == 2
    assert "absent" in capsys.readouterr().err
