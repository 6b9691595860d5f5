"""What status makes of the states: shares, hours, what to do next; the command, watched and drawn."""

import argparse
import io
import json
import math
import re
import signal
import xml.etree.ElementTree as ET

import pytest
from status_example import SMOKE, Commands, checkpoint, finish, load, log, own, progress

from plmscale import cli, grid
from plmscale.errors import PlmscaleError
from plmscale.figures import progress_map
from plmscale.status import command, overview, rows, speeds, text

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load(tmp_path / "results")


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"overlays: {SMOKE}\nresults: {tmp_path}/results\n")
    return path


def look(smoke, **words):
    loaded, runs = smoke
    table, problem = rows.collect(loaded, runs, ask=False)
    return overview.overview(loaded, runs, table, problem, **words)


def by_id(found, run):
    return next(row for row in found["runs"] if row["run_id"] == run.run_id)


def test_time_left_is_that_of_measured_speeds(smoke):
    loaded, runs = smoke
    small = next(run for run in runs if run.recipe["architecture"]["name"] == "2k")
    large = next(run for run in runs if run.recipe["architecture"]["name"] == "7k")
    # Whole runs at 1,000 and 250 tokens a second, start and validation within.
    finish(loaded, small, wall_seconds=small.recipe["tokens"] / 1000.0)
    finish(loaded, large, wall_seconds=large.recipe["tokens"] / 250.0)
    found = look(smoke)
    n0, n1 = small.recipe["n_params"], large.recipe["n_params"]
    for run in runs:
        row, n = by_id(found, run), run.recipe["n_params"]
        if run in (small, large):
            assert row["device_hours_left"] == 0
            continue
        # Between two sizes: a straight line of log speed in log N.
        speed = 1000.0 * (n / n0) ** -(math.log(4) / math.log(n1 / n0))
        assert row["seconds_left"] == pytest.approx(run.recipe["tokens"] / speed, rel=1e-6)
    hours = found["hours"]
    assert hours["speed"] == "measured" and hours["unit"] == "process-hours"
    assert hours["spent"] == pytest.approx(
        (small.recipe["tokens"] / 1000 + large.recipe["tokens"] / 250) / 3600
    )
    assert hours["left"] == pytest.approx(sum(r["device_hours_left"] for r in found["runs"]))


def test_beyond_the_measured_sizes_flops_per_second_stay():
    found = speeds.Speeds({1e6: 1000.0, 1e7: 200.0})
    assert found.of(1e5, 1.0) == pytest.approx(10_000)
    assert found.of(1e8, 1.0) == pytest.approx(20)
    assert found.of(10**6.5, 1.0) == pytest.approx((1000 * 200) ** 0.5)


def test_a_running_run_goes_on_at_its_own_speed(smoke):
    loaded, runs = smoke
    run = runs[0]
    checkpoint(loaded, run, 10, wall=3600.0, ranks=4)
    own(loaded, run)
    log(loaded, run, progress(run, 20, speed=500))
    found = look(smoke)
    row = by_id(found, run)
    per_step = run.recipe["tokens"] / run.recipe["steps"]
    left = (run.recipe["steps"] - 20) * per_step / 500
    assert row["seconds_left"] == pytest.approx(left)
    assert row["device_hours_left"] == pytest.approx(4 * left / 3600)
    assert row["device_hours"] == pytest.approx(4.0, abs=0.05)
    # Others of its size: a quarter of its speed on their one process.
    same = next(r for r in runs[1:] if r.recipe["n_params"] == run.recipe["n_params"])
    assert by_id(found, same)["seconds_left"] == pytest.approx(same.recipe["tokens"] / 125)
    assert found["hours"]["devices"] == 4


def test_without_any_speed_a_named_gpu_gives_the_plans(smoke):
    _, runs = smoke
    assert look(smoke)["hours"]["left"] is None
    found = look(smoke, gpu="H100", gpus=2)
    hours = found["hours"]
    assert hours["speed"] == "assumed" and hours["unit"] == "GPU-hours"
    assert hours["planned"] == pytest.approx(hours["left"])
    assert hours["planned_so_far"] == 0 and hours["gpu"] == "H100 SXM"
    # The plan's own share of the peak, with runs of this size sharing a GPU.
    plan = speeds.plan_on(smoke[0], "H100 SXM")
    recipe = runs[0].recipe
    expected = recipe["flops"] / (989e12 * plan.share(recipe["n_params"])) / 3600
    assert by_id(found, runs[0])["device_hours_planned"] == pytest.approx(expected)


def test_hours_spent_stand_beside_the_plans_for_as_much(smoke):
    loaded, runs = smoke
    finish(loaded, runs[0], device=H100, wall_seconds=7200.0, devices=2)
    found = look(smoke)
    hours = found["hours"]
    assert hours["spent"] == pytest.approx(4.0) and hours["gpu"] == "H100 SXM"
    assert hours["planned_so_far"] == pytest.approx(by_id(found, runs[0])["device_hours_planned"])
    finish(loaded, runs[0], device=H100, wall_seconds=7200.0, devices=1, at_once=8)
    assert look(smoke)["hours"]["spent"] == pytest.approx(0.25)


def test_time_to_the_end_is_work_or_the_longest_chain(smoke):
    loaded, runs = smoke
    finish(loaded, runs[0])
    few, many = look(smoke, gpus=1), look(smoke, gpus=1000)
    assert few["hours"]["hours_to_end"] == pytest.approx(few["hours"]["left"])
    longest = max(row["seconds_left"] for row in many["runs"])
    assert many["hours"]["hours_to_end"] >= longest / 3600
    # A child and its parent alone: one after the other, whatever there is.
    child = next(run for run in runs if run.parent)
    pair = [run for run in runs if run.run_id in (child.run_id, child.parent)]
    table, _ = rows.collect(loaded, runs, ask=False)
    speeds.add_times(table, runs, speeds.measure(loaded, table, ""), 1)
    two = [row for row in table if row["run_id"] in (child.run_id, child.parent)]
    chain = sum(row["seconds_left"] for row in two)
    assert min(row["seconds_left"] for row in two) > 0
    assert speeds.hours_to_end(two, pair, 1000) == pytest.approx(chain / 3600)


def test_a_shared_beginning_is_not_trained_twice(smoke):
    loaded, runs = smoke
    recipe = runs[0].recipe
    schedule = {"name": "wsd", "warmup_steps": 1, "decay_fraction": 0.1, "decay": "sqrt", "final_fraction": 0.0}  # fmt: skip
    make = lambda name, steps: {**recipe, "run_id": name, "schedule": schedule, "steps": steps, "tokens": steps * 100}  # noqa: E731  # fmt: skip
    pair = [grid.Run(make("short", 100), ["x"]), grid.Run(make("long", 200), ["x"], trunk="short")]
    finish(loaded, pair[0], wall_seconds=10.0)
    found = look((loaded, pair))
    speed = pair[0].recipe["flops_6nd"] / (6 * recipe["n_params"]) / 10.0
    assert by_id(found, pair[1])["seconds_left"] == pytest.approx((200 - 90) * 100 / speed)


def test_counts_shares_and_groups_add_up(smoke):
    loaded, runs = smoke
    finish(loaded, runs[0])
    checkpoint(loaded, runs[1], runs[1].recipe["steps"] // 2)
    own(loaded, runs[1], mark="")
    found = look(smoke)
    assert found["counts"] == {"done": 1, "stopped": 1, "waiting": len(runs) - 2}
    half = (runs[1].recipe["steps"] // 2) / runs[1].recipe["steps"]
    done = runs[0].recipe["flops_6nd"] + half * runs[1].recipe["flops_6nd"]
    assert found["share"] == pytest.approx(done / sum(r.recipe["flops_6nd"] for r in runs))
    for name in ("by_budget", "by_size", "cells"):
        assert sum(group["runs"] for group in found[name]) == len(runs)
        assert sum(n for g in found[name] for n in g["states"].values()) == len(runs)
    for run in runs:
        finish(loaded, run)
    assert text.headline(look(smoke)).endswith(f"{len(runs)} done; 100 % of the FLOPs done")


def test_almost_all_is_not_all():
    assert text.percent(0.9999) == "99 %" and text.percent(sum([0.1] * 10)) == "100 %"


def test_budgets_of_a_large_grid_stand_in_few_columns():
    many = [
        {"run_id": str(i), "budget": None if i % 2 else 1e18 * 1.13**i, "flops_6nd": 1e18 * 1.13**i}
        for i in range(60)
    ]
    names = overview.budget_names(many)
    assert len(set(names.values())) <= 14
    for row in many:
        assert 0.5 < float(names[row["run_id"]]) / row["flops_6nd"] < 2.0
    few = [{"run_id": str(b), "budget": b, "flops_6nd": 0.9 * b} for b in (1e18, 1.5e18, 2e18)]
    assert set(overview.budget_names(few).values()) == {"1e18", "1.5e18", "2e18"}


def fail(smoke, run, error):
    log(smoke[0], run, progress(run, 3), error)
    own(smoke[0], run, age=900)


def test_the_command_to_rerun_selects_exactly_what_failed(smoke, study_file, capsys):
    _, runs = smoke
    fail(smoke, runs[0], "ValueError: a")
    fail(smoke, runs[3], f"plmscale: error: {runs[3].run_id}/step-3: checkpoint cannot be loaded (E); remove the checkpoint folder to train from the start")  # fmt: skip
    assert cli.main(["status", str(study_file)]) == 0
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if "snakemake grid" in x)
    assert f"--configfile {study_file}" in line and "profile" not in line
    chosen = line.split("select=")[1]
    picked = grid.chosen_runs(smoke[0], "", chosen)
    assert [run.run_id for run in picked] == [runs[0].run_id, runs[3].run_id]
    folder = smoke[0].folder / "checkpoints" / runs[3].run_id
    assert f"rm -r {folder}" in out and out.count("rm -r") == 1
    other = finish(smoke[0], runs[1], fingerprint="0" * 64)
    assert cli.main(["status", str(study_file)]) == 0
    assert f"rm -r {other}\n" in capsys.readouterr().out


def test_many_stopped_runs_go_on_together(smoke, study_file, capsys, monkeypatch):
    _, runs = smoke
    for run in runs[:3]:
        own(smoke[0], run, mark="", job="5")
    assert cli.main(["status", str(study_file)]) == 0
    out = capsys.readouterr().out
    assert "--profile profiles/slurm" in out and out.count(f"run_id:{runs[0].run_id}") == 1
    monkeypatch.setattr(text, "_FEW_NAMES", 2)
    assert cli.main(["status", str(study_file)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].strip()
    assert command == f"snakemake grid --configfile {study_file} --profile profiles/slurm"


def test_failed_shows_the_ends_of_logs(smoke, study_file, capsys):
    _, runs = smoke
    assert cli.main(["status", str(study_file), "--failed"]) == 0
    assert "no failed runs" in capsys.readouterr().out
    fail(smoke, runs[0], "Traceback (most recent call last):\n  File z\nValueError: a")
    assert cli.main(["status", str(study_file), "--failed"]) == 0
    out = capsys.readouterr().out
    assert "  |   File z" in out and "train.log" in out and runs[1].run_id not in out


def test_json_holds_all_and_select_narrows(smoke, study_file, capsys):
    _, runs = smoke
    fail(smoke, runs[0], "ValueError: a")
    assert cli.main(["status", str(study_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["run_id"] for row in found["runs"]] == [run.run_id for run in runs]
    assert found["counts"]["failed"] == 1 and runs[0].run_id in found["rerun"]
    ask = ["status", str(study_file), "--json", "--select", "objective=mlm", "--failed"]
    assert cli.main(ask) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == [] and found["rerun"] == "" and "failed" not in found["counts"]


def test_a_large_grid_shows_a_map_and_only_what_moves(smoke, study_file, capsys, monkeypatch):
    loaded, runs = smoke
    monkeypatch.setattr(text, "_FEW", 3)
    finish(loaded, runs[0])
    own(loaded, runs[1])
    log(loaded, runs[1], progress(runs[1], runs[1].recipe["steps"] // 2))
    assert cli.main(["status", str(study_file)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^clm +", out, re.M) and "# done (1)" in out
    assert re.search(r"^2k +# ", out, re.M)
    half = 100 * (runs[1].recipe["steps"] // 2) // runs[1].recipe["steps"]
    assert f">{half}%" in out
    assert runs[1].run_id in out and runs[0].run_id not in out and runs[2].run_id not in out
    assert cli.main(["status", str(study_file), "--runs"]) == 0
    out = capsys.readouterr().out
    assert all(run.run_id in out for run in runs)


def test_a_slurm_that_does_not_answer_is_told(smoke, study_file, capsys, tmp_path, monkeypatch):
    Commands(tmp_path / "bin", monkeypatch).put("squeue", "echo no controller >&2; exit 1")
    assert cli.main(["status", str(study_file)]) == 0
    assert "Slurm does not answer (squeue: no controller)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (["--watch", "0"], "--watch 0"),
        (["--watch", "nan"], "--watch nan"),
        (["--figure", "map.pdf"], "map.pdf: name a .png or .svg file"),
        (["--gpu", "TPU"], "GPU 'TPU' is unknown"),
        (["--gpus", "0"], "--gpus 0 is not a positive number"),
        (["--select", "objective=xlm"], "did you mean"),
    ],
)
def test_mistakes_are_told_in_a_line(smoke, study_file, capsys, ask, message):
    assert cli.main(["status", str(study_file), *ask]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def view(smoke, **words):
    asked = {"json": False, "failed": False, "runs": False, "figure": None, "gpu": "", "gpus": None}
    args = argparse.Namespace(**{**asked, "watch": 1.0, "study": SMOKE, **words})
    return command.View(args, *smoke)


def test_watching_rewrites_the_screen_and_gives_it_back(smoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "12")
    loaded, runs = smoke
    out, times = Terminal(), []

    def sleep(seconds):
        times.append(seconds)
        if len(times) == 1:
            finish(loaded, runs[0])
        else:
            assert len(times) == 2, "Ctrl-C did not end it"
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGTERM)
    # A job in the background is born with Ctrl-C ignored; a person's terminal is not.
    born = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command.watch(view(smoke), 1.0, out, sleep) == 0
    finally:
        signal.signal(signal.SIGINT, born)
    assert signal.getsignal(signal.SIGTERM) is before
    shown = out.getvalue()
    assert shown.startswith("\x1b[?1049h\x1b[?25l") and shown.count("\x1b[H") == 2
    ended, after = shown.split("\x1b[?25h\x1b[?1049l")
    assert "1 done" in after and "\x1b" not in after
    # Nothing is longer or wider than the screen.
    for frame in ended.split("\x1b[H")[1:]:
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", frame).split("\n")
        assert len(plain) <= 12 and max(map(len, plain)) <= 60
        assert "lines more" in plain[-1] and "of the FLOPs done" in plain[2]
    assert times == [1.0, 1.0]


def test_watching_ends_by_sigterm_and_when_all_is_done(smoke):
    loaded, runs = smoke
    out = Terminal()
    stop = lambda _seconds: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    assert command.watch(view(smoke), 1.0, out, stop) == 0
    assert "\x1b[?25h" in out.getvalue()
    for run in runs:
        finish(loaded, run)
    out = Terminal()
    assert command.watch(view(smoke), 1.0, out, None) == 0
    assert "100 % of the FLOPs done" in out.getvalue()


def test_watched_json_is_a_document_a_line(smoke):
    out, calls = io.StringIO(), []

    def sleep(_seconds):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    assert command.watch(view(smoke, json=True), 1.0, out, sleep) == 0
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and all(json.loads(line)["study"] == "smoke" for line in lines)


def test_a_slurm_that_hung_is_not_asked_at_every_look(smoke, tmp_path, monkeypatch):
    Commands(tmp_path / "bin", monkeypatch).put("squeue", f"echo x >> {tmp_path}/asked; exit 1")
    watched = view(smoke)
    for _ in range(3):
        watched.look()
        assert watched.found["slurm"]
    assert (tmp_path / "asked").read_text() == "x\n"


def test_the_map_has_a_field_for_each_run_in_its_colour(smoke, tmp_path):
    loaded, runs = smoke
    finish(loaded, runs[0])
    finish(loaded, runs[1], status="diverged", loss=None)
    checkpoint(loaded, runs[2], runs[2].recipe["steps"] // 2)
    own(loaded, runs[2])
    found = look(smoke)
    figure = progress_map.progress_map(found)
    fields = [(ax, patch) for ax in figure.axes for patch in ax.patches if not patch.get_fill()]
    assert len(fields) == len(runs)
    colours = [_hex(p.get_facecolor()) for ax in figure.axes for p in ax.patches if p.get_fill()]
    assert colours.count("#009e73") == 1 and colours.count("#cc79a7") == 1
    # A run that runs: a pale field, and a full one as wide as it has come.
    blue = [p for ax in figure.axes for p in ax.patches if p.get_fill() and _hex(p.get_facecolor()) == "#0072b2"]  # fmt: skip
    pale, full = blue
    share = (runs[2].recipe["steps"] // 2) / runs[2].recipe["steps"]
    assert full.get_width() == pytest.approx(share * pale.get_width())
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        f"{name} ({sum(r.recipe['objective'] == name.lower() for r in runs)} runs)"
        for name in ("CLM", "MLM")
    ]
    for name in ("map.svg", "map.png"):
        progress_map.write(found, tmp_path / name)
    ET.parse(tmp_path / "map.svg")
    first = (tmp_path / "map.svg").read_bytes()
    progress_map.write(found, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_bytes() == first
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def _hex(colour):
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def test_durations_for_people():
    said = [text.duration(s) for s in (0, 59.6, 61, 3600, 3700, 90_000, None)]
    assert said == ["0 s", "1 min 0 s", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h", None]


def test_no_runs_are_an_error(smoke):
    with pytest.raises(PlmscaleError, match="no runs"):
        overview.overview(smoke[0], [], [])
