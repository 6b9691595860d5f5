"""Plan and status: what they count, from files alone."""

import json

import pytest

from plmscale import cli, collect, grid, plan, study
from plmscale.errors import PlmscaleError
from plmscale.files import write_json

SMOKE = study.PROJECT / "studies/smoke.yaml"


@pytest.fixture
def smoke(tmp_path):
    return study.load(SMOKE, {"results": str(tmp_path)})


def finish(smoke, run, **changes):
    recipe = run.recipe
    folder = smoke.folder / "runs" / run.run_id
    write_json(folder / "recipe.json", recipe)
    metrics = {
        "fingerprint": recipe["fingerprint"], "status": "done", "loss": 2.9, "loss_se": 0.01,
        "steps": recipe["steps"], "tokens": recipe["tokens"], "flops": recipe["flops"],
        "flops_6nd": recipe["flops_6nd"], "wall_seconds": 10.0, "epochs": {"curated": 2.0, "diverse": 0.1},
    }  # fmt: skip
    write_json(folder / "metrics.json", {**metrics, **changes})
    return folder


def test_plan_counts_each_run_once_and_drops_what_is_done(smoke):
    runs = grid.expand(smoke)
    before = plan.summarise(smoke, runs)["groups"][-1]
    assert before["runs"] == before["to_train"] == len(runs)
    assert before["flops_6nd"] == sum(r.recipe["flops_6nd"] for r in runs)
    assert before["hours_left_one_run_at_a_time"] is None
    finish(smoke, runs[0])
    after = plan.summarise(smoke, runs)["groups"][-1]
    assert after["to_train"] == len(runs) - 1
    rate = runs[0].recipe["flops_6nd"] / 10.0
    left = sum(r.recipe["flops_6nd"] for r in runs[1:])
    assert after["hours_left_one_run_at_a_time"] == pytest.approx(left / rate / 3600)


def test_status_tells_done_diverged_started_and_waiting(smoke):
    runs = grid.expand(smoke)
    finish(smoke, runs[0])
    finish(smoke, runs[1], status="diverged", loss=None)
    (smoke.folder / "checkpoints" / runs[2].run_id / "step-40").mkdir(parents=True)
    rows = plan.status(smoke, runs)
    assert [r["status"] for r in rows[:4]] == ["done", "diverged", "started", "waiting"]
    assert rows[2]["step"] == 40
    assert "1 diverged" in plan.status_line(rows)


def test_a_row_of_the_runs_table_and_a_folder_of_another_recipe(smoke):
    run = grid.expand(smoke)[0]
    row = collect.row(finish(smoke, run))
    assert row["loss_sd"] == 0.01 and row["epochs"] == 2.0 and row["source"] == "plmscale"
    with pytest.raises(PlmscaleError, match=r"metrics.json is of another recipe"):
        collect.row(finish(smoke, run, fingerprint="0" * 64))


def test_command_line_errors_are_one_line_and_exit_code_2(capsys, tmp_path):
    assert cli.main(["runs", str(tmp_path / "none.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("plmscale: error: ") and error.count("\n") == 1
    assert cli.main(["runs", str(SMOKE), "--select", "objective=xlm"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_runs_prints_the_grid_for_people_and_machines(capsys):
    assert cli.main(["runs", str(SMOKE), "--select", "objective=clm", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["objective"] for row in rows} == {"clm"}
    assert cli.main(["runs", str(SMOKE)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["run_id", "experiment"]
    assert len({line.index(" clm ") for line in lines if " clm " in line}) == 1
