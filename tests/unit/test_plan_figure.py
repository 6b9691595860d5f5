"""The schedule's figure: every run is in it, small ones together, and it is written as asked."""

import re

import pytest

from plmscale import cli, grid, study
from plmscale.figures import gantt
from plmscale.planning.machine import Wishes, machine
from plmscale.planning.rates import Rates
from plmscale.planning.simulate import Job, Placed, simulate
from plmscale.planning.sizing import Sizer
from plmscale.planning.work import to_jobs, work

CHENG = study.PROJECT / "studies/cheng2024.yaml"


@pytest.fixture(scope="module")
def drawn():
    loaded = study.load(CHENG)
    on = machine("H100", 64)
    rates = Rates({1.0: 0.4}, "given", {})
    works = work(loaded, grid.expand(loaded), Sizer(on, Wishes(), rates, loaded.execution))
    schedule = simulate(to_jobs(works), on.nodes)
    return schedule, gantt.gantt(schedule, works, on.nodes)


def areas(ax, unit):
    """Return GPU-hours of the coloured bars by their first colour."""
    found = {}
    for collection in ax.collections:
        if len(collection.get_facecolor()) and hasattr(collection, "get_paths"):
            colour = tuple(collection.get_facecolor()[0])
            for path in collection.get_paths():
                (x0, y0), (x1, y1) = path.vertices.min(axis=0), path.vertices.max(axis=0)
                found[colour] = found.get(colour, 0.0) + (x1 - x0) * unit * (y1 - y0)
    return found


def test_bars_have_the_gpu_hours_of_their_runs(drawn):
    schedule, figure = drawn
    bars = figure.axes[0]
    whole = sum(p.job.gpu_hours for p in schedule.placed if p.job.slots == 1)
    spans = gantt.shared_spans(schedule.placed)
    shared = sum(b - a for rows in spans.values() for a, b in rows)
    found = areas(bars, 24.0)
    grey = max(found, key=lambda colour: min(colour[:3]))
    assert found.pop(grey) == pytest.approx(shared)
    assert sum(found.values()) == pytest.approx(whole)
    assert bars.get_ylim() == (64, 0)
    shown = [label.get_text() for label in bars.texts]
    assert "10B" in shown and len(shown) > 20


def test_neighbours_are_one_bar():
    assert gantt.blocks([4, 0, 1, 7, 5]) == [(0, 2), (4, 2), (7, 1)]


def test_runs_that_share_a_gpu_are_one_bar_while_any_is_there():
    small = Job("a", 1, slots=4)
    spans = [(0, 2), (1, 3), (3, 4), (6, 7)]
    placed = [Placed(small, a, b, (3,)) for a, b in spans]
    assert gantt.shared_spans([*placed, Placed(Job("w", 9), 0, 9, (1,))]) == {3: [(0, 4), (6, 7)]}


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_command_writes_the_kind_that_the_name_says(kind, tmp_path, capsys):
    path = tmp_path / f"plan.{kind}"
    ask = ["--gpu", "H100", "--gpus", "16", "--subset", "transfer", "--gantt", str(path)]
    assert cli.main(["plan", str(CHENG), *ask]) == 0
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    cli.main(["plan", str(CHENG), *ask])
    assert path.read_bytes() == first
    if kind == "svg":
        assert not re.search(rb"<dc:date>", first)
