"""`plmscale report`: what is taken as finished, what is told as missing, what is never touched."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from sofar_example import finish
from status_example import checkpoint, load, log, own, progress

from plmscale import cli, collect, grid, study
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.laws.findings import findings
from plmscale.sofar import missing, points, steps
from plmscale.sofar.finished import take
from plmscale.status import rows as status
from plmscale.tables import read_runs


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load(tmp_path / "results")


def named(runs, part):
    (found,) = [run for run in runs if run.run_id.startswith(part)]
    return found


def files(folder, *besides):
    """Return what would show a change of any file below: size and time of change by path."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not any(name in path.parts for name in besides)
    }


# ---- what is finished ----------------------------------------------------------------------------


def test_finished_is_what_has_whole_results_of_its_recipe(smoke, tmp_path):
    loaded, runs = smoke
    finish(loaded, runs[0])
    finish(loaded, runs[1], status="diverged")
    finish(loaded, runs[2], places=("kept",))
    other = finish(loaded, runs[3])
    write_json(other / "metrics.json", {**read_json(other / "metrics.json"), "fingerprint": "f"})
    (finish(loaded, runs[4]) / "curve.csv").unlink()
    (finish(loaded, runs[5]) / "metrics.json").write_text('{"status": "do')
    taken = take(loaded.folder, runs, tmp_path / "copy")
    assert list(taken) == [run.run_id for run in runs[:3]]
    assert {path.name for path in (tmp_path / "copy/runs").iterdir()} == set(taken)
    assert {path.stem for path in (tmp_path / "copy/curves").iterdir()} == set(taken)
    for run in runs[:3]:
        assert collect.row(tmp_path / "copy/runs" / run.run_id)["run_id"] == run.run_id


def test_what_was_taken_stays_as_it_was_when_the_run_is_trained_again(smoke, tmp_path):
    loaded, runs = smoke
    folder = finish(loaded, runs[0])
    take(loaded.folder, runs, tmp_path / "copy")
    before = files(tmp_path / "copy")
    shutil.rmtree(folder)
    finish(loaded, runs[0], seed=7)
    assert {p: f[2] for p, f in files(tmp_path / "copy").items()} == {
        p: f[2] for p, f in before.items()
    }


def test_results_kept_beside_the_checkpoints_count_while_the_folder_is_emptied(smoke, tmp_path):
    """Snakemake deletes the outputs of a job that it starts again."""
    loaded, runs = smoke
    finish(loaded, runs[0])
    finish(loaded, runs[0], places=("kept",))
    (loaded.folder / "runs" / runs[0].run_id / "validation.csv").unlink()
    assert list(take(loaded.folder, runs, tmp_path / "copy")) == [runs[0].run_id]


def test_a_run_that_ends_between_two_looks_is_finished_and_half_results_are_a_failure(smoke):
    loaded, runs = smoke
    finish(loaded, runs[0])
    seen, _ = status.collect(loaded, runs[:3], ask=False)
    taken = {runs[1].run_id: {"status": "diverged", "status_detail": "nan"}}
    found = missing.runs_by_state(seen, taken)
    assert [row["status"] for row in found] == ["failed", "diverged", "waiting"]
    assert "curve.csv" in found[0]["error"] and found[1]["detail"] == "nan"


# ---- what the laws rest on -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "cheng2024"])
def test_the_plan_names_the_runs_that_the_laws_use_when_all_is_finished(tmp_path, name):
    """The laws' own selection on the whole table is the measure."""
    loaded = study.load(study.PROJECT / f"studies/{name}.yaml", {"results": str(tmp_path)})
    runs = grid.expand(loaded)
    if name == "cheng2024":
        runs = grid.select(runs, {"flops_6nd": "<4e19"})
    folders = [finish(loaded, run, rows=4, points=3) for run in runs]
    for folder, run in zip(folders, runs, strict=True):
        (folder / "recipe.json").write_text(json.dumps(run.recipe))
    collect.write_table(folders, tmp_path / "runs.csv")
    real, planned = read_runs(tmp_path / "runs.csv"), points.planned_table(runs)
    used = points.law_runs(real, "flops_6nd")
    assert len(used) and set(used["run_id"]) == set(points.law_runs(planned, "flops_6nd")["run_id"])
    # Which of two comes first in a comparison depends on their epochs, which are not planned.
    compared, expected = (
        {k: sorted(sorted(i["runs"]) for i in findings(t)[k]) for k in ("repetition", "transfer")}
        for t in (planned, real)
    )
    assert compared == expected and all(expected.values())


def test_points_of_a_profile_by_what_became_of_them(smoke):
    _, runs = smoke
    table = points.planned_table(runs)
    ids = {run.run_id: "waiting" for run in runs}
    for part, state in {"clm-2k-1e9": "done", "clm-3k-1e9": "diverged", "clm-7k-1e9": "running",
                        "clm-7k-2e9": "failed"}.items():  # fmt: skip
        ids[named(runs, part).run_id] = state
    small, large = [p for p in points.law_points(table, "flops_6nd", ids) if p["kind"] == "profile"]
    assert (small["budget"], small["planned"], large["budget"]) == (1e9, 3, 2e9)
    kinds = ("there", "lost", "missing")
    assert [[i["name"] for i in small[k]] for k in kinds] == [["2k"], ["3k"], ["7k"]]
    assert [[i["name"] for i in large[k]] for k in kinds] == [[], [], ["2k", "3k", "7k"]]


def test_one_seed_that_ended_well_is_enough_for_a_size(tmp_path):
    text = {"grid": {"isoflop": {"kind": "isoflop", "objectives": ["clm"], "budgets": [1e9],
                                 "sizes": ["2k", "3k", "7k"], "seeds": [1, 2]}}}  # fmt: skip
    loaded = study.load(study.PROJECT / "studies/smoke.yaml", {**text, "subsets": {}})
    runs = grid.expand(loaded)
    ids = {run.run_id: "waiting" for run in runs}
    ids |= {run.run_id: "done" for run in runs if run.recipe["seed"] == 1}
    (profile,) = [
        p for p in points.law_points(points.planned_table(runs), "flops_6nd", ids)
        if p["kind"] == "profile"
    ]  # fmt: skip
    assert len(profile["there"]) == 3 and not profile["missing"]


def test_a_comparison_needs_all_its_runs_and_is_lost_with_one(smoke):
    _, runs = smoke
    table, ids = points.planned_table(runs), {run.run_id: "done" for run in runs}

    def transfer():
        (found,) = [
            p for p in points.law_points(table, "flops_6nd", ids) if p["kind"] == "transfer"
        ]
        return {k for k in ("there", "lost", "missing") if found[k]}

    assert transfer() == {"there"}
    child = next(run for run in runs if run.parent)
    ids[child.parent] = "running"
    assert transfer() == {"missing"}
    ids[child.run_id] = "parent_failed"
    assert transfer() == {"lost"}


def test_laws_of_runs_that_the_whole_grid_leaves_out_are_noticed(smoke, tmp_path):
    """The only finished MLM run is one of the repeated corpus, which most MLM runs are not of."""
    loaded, runs = smoke
    odd = named(runs, "mlm-3k-41ktok-curated")
    finish(loaded, odd)
    taken = take(loaded.folder, runs, tmp_path)
    collect.write_table([tmp_path / "runs" / name for name in taken], tmp_path / "r.csv")
    seen = missing.runs_by_state(status.collect(loaded, runs, ask=False)[0], taken)
    found = missing.describe(loaded, runs, seen, read_runs(tmp_path / "r.csv"), {}, now=0)
    assert found["other_runs"] == {"mlm": [odd.run_id]}
    assert found["time"] == "1970-01-01T00:00:00Z" and found["counts"]["done"] == 1


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"overlays: {study.PROJECT}/studies/smoke.yaml\nlaws: {{bootstrap: 20}}\n"
        f"results: {tmp_path}/results\n"
    )
    return str(path)


def test_the_report_of_half_a_study_touches_nothing_else(smoke, study_file, tmp_path, monkeypatch, capsys):  # fmt: skip
    loaded, runs = smoke
    for run in runs[:7]:
        finish(loaded, run, status="diverged" if run is runs[1] else "done")
    own(loaded, runs[7])
    log(loaded, runs[7], progress(runs[7], runs[7].recipe["steps"] // 2))
    checkpoint(loaded, runs[7], 2)
    before = files(loaded.folder)
    assert cli.main(["report", study_file]) == 0
    assert files(loaded.folder, "so-far") == before
    view, said = loaded.folder / "so-far", capsys.readouterr()
    assert said.err == ""
    assert "7 of 11 runs have ended" in said.out and f"Report: {view / 'report.html'}" in said.out
    # The tables are those that the workflow makes of the same runs.
    folders = [loaded.folder / "runs" / run.run_id for run in runs[:7]]
    for folder, run in zip(folders, runs, strict=False):
        write_json(folder / "recipe.json", run.recipe)
    collect.collect(folders, tmp_path / "runs.csv", tmp_path / "curves")
    assert (view / "runs.csv").read_bytes() == (tmp_path / "runs.csv").read_bytes()
    assert {f[2] for f in files(view / "curves").values()} == {
        f[2] for f in files(tmp_path / "curves").values()
    }
    assert pd.read_parquet(view / "runs.parquet")["loss"].notna().sum() == 6
    told = read_json(view / "missing.json")
    assert told["counts"] == {"done": 6, "running": 1, "waiting": 3, "diverged": 1}
    assert told["not_made"] == []
    assert {g["experiment"] for g in told["groups"]} == set(loaded.grid)
    assert read_json(view / "laws/laws.json")["laws"]["clm"]
    page = (view / "report.html").read_text()
    assert page.index("7 of 11 runs have ended") < page.index("How large should a protein")
    # A table of another moment is never left: the next report is made of what is there then.
    shutil.rmtree(loaded.folder / "runs" / runs[0].run_id)
    monkeypatch.setattr(steps, "draw_figures", lambda *inputs: None)
    assert cli.main(["report", study_file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 5
    assert len(read_runs(view / "runs.csv")) == len(list((view / "curves").iterdir())) == 6


def test_with_nothing_finished_the_report_comes_and_says_so(smoke, study_file, capsys):
    loaded, _ = smoke
    assert cli.main(["report", study_file, "--subset", "transfer"]) == 0
    assert "none of the 3 runs has ended" in capsys.readouterr().out
    view = loaded.folder / "subsets/transfer/so-far"
    page = (view / "report.html").read_text()
    assert "subset transfer: 3 of the study&#39;s 11 runs" in page
    assert "No run has ended yet" in page
    assert read_json(view / "laws/laws.json")["warnings"] == ["no run is finished yet"]


def test_what_cannot_be_made_is_told_and_does_not_cost_the_report(smoke, study_file, monkeypatch, capsys):  # fmt: skip
    from plmscale.figures import speed
    from plmscale.laws import sensitivity

    def broken(*args, **more):
        raise ValueError("no such thing")

    def refused(*args, **more):
        raise PlmscaleError("sensitivity: too odd a table")

    monkeypatch.setattr(speed, "speed", broken)
    monkeypatch.setattr(sensitivity, "sensitivity", refused)
    loaded, runs = smoke
    finish(loaded, runs[0], status="diverged")
    assert cli.main(["report", study_file]) == 0
    view = loaded.folder / "so-far"
    made = {item["step"]: item["why"] for item in read_json(view / "missing.json")["not_made"]}
    assert made["sensitivity"] == "too odd a table"
    assert made["figure_speed"].startswith("a fault of plmscale (ValueError: no such thing)")
    assert "Traceback" in (view / "logs/figure_speed.log").read_text()
    page = (view / "report.html").read_text()
    assert "The comparison of choices could not be made: too odd a table." in page
    assert "plmscale: warning: figure_speed" in capsys.readouterr().err
    assert (view / "figures/isoflop.svg").exists() and not (view / "figures/speed.svg").exists()


def test_a_folder_of_one_s_own_and_mistakes_in_one_line(smoke, study_file, tmp_path, capsys):
    assert cli.main(["report", study_file, "--out", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert cli.main(["report", str(study.PROJECT / "studies/cheng2024-logs.yaml")]) == 2
    assert "reads finished runs from logs" in capsys.readouterr().err
    assert cli.main(["report", study_file, "--subset", "transfr"]) == 2
    assert "did you mean transfer" in capsys.readouterr().err
