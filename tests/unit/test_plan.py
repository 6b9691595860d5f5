"""Plan and status: what they count, from files alone."""

import json

import pytest

from plmscale import cli, collect, grid, plan, study
from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.laws.advice import hardware

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


CHENG = str(study.PROJECT / "studies/cheng2024.yaml")


def planned(capsys, *more):
    assert cli.main(["plan", CHENG, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_plan_for_a_gpu_lays_out_each_size(capsys):
    found = planned(capsys, "--gpu", "H100", "--gpus", "32")
    assert found["machine"]["gpu"] == "H100 SXM" and found["machine"]["memory_bytes"] == 80e9
    rows = found["layouts"]
    assert [r["n_params"] for r in rows] == sorted(r["n_params"] for r in rows)
    assert sum(r["runs"] for r in rows) == found["groups"][-1]["runs"]
    for row in rows:
        assert row["devices"] == 8 and row["precision"] == "bf16" and row["problem"] is None
        assert row["memory"]["total"] == pytest.approx(row["memory_share"] * 80e9)
        assert row["memory_share"] <= 0.92
        assert 8 * row["micro_rows"] * row["accumulation"] >= row["batch_rows"]
    # Nothing is checkpointed here, so hours are those of the FLOPs alone.
    assert not any(row["checkpointing"] for row in rows)
    hours = found["groups"][-1]["flops"] / (0.4 * 989e12) / 3600
    assert found["gpu_hours_left"] == pytest.approx(hours)
    assert found["hours_left"] == pytest.approx(hours / 32)
    assert found["machine"]["assumed"] is True


def test_plan_by_run_with_another_share_of_the_peak(capsys):
    ask = ["--gpu", "A6000", "--gpus", "4", "--mfu", "0.2", "--runs", "--subset", "isoflop-mlm"]
    found = planned(capsys, *ask)
    rows = found["layouts"]
    assert len({r["run_id"] for r in rows}) == len(rows) == found["groups"][-1]["runs"]
    assert {r["devices"] for r in rows} == {4} and found["machine"]["assumed"] is False
    assert any(r["checkpointing"] for r in rows)
    runs = grid.chosen_runs(study.load(CHENG), "isoflop-mlm", "")
    flops = {run.run_id: run.recipe["flops"] for run in runs}
    for row in rows:
        again = 4 / 3 if row["checkpointing"] else 1
        alone = flops[row["run_id"]] / (0.2 * 154.8e12) / 3600
        assert row["gpu_hours"] == pytest.approx(again * alone)


def test_a_size_too_large_for_a_gpu_is_a_row_that_says_so(capsys):
    ask = ["--gpu", "RTX 4090", "--gpus", "2", "--subset", "repetition"]
    found = planned(capsys, *ask)
    fits, row = found["layouts"]
    assert fits["size"] == "154M" and fits["problem"] is None
    assert row["size"] == "2.8B" and row["memory"] is None and "use at least" in row["problem"]
    assert cli.main(["plan", CHENG, *ask]) == 0
    text = capsys.readouterr().out
    assert "too large" in text and text.count("use at least") == 1


def test_plan_for_people_names_what_it_assumes(capsys):
    assert cli.main(["plan", CHENG, "--gpu", "H100"]) == 0
    text = capsys.readouterr().out
    assert "8 x H100 SXM, 80 GB each; 40% of 989 TFLOP/s (bf16, dense), assumed" in text
    assert "GPU-hours" in text and "checkpointing" in text
    # Every row of the table is one size of the study.
    assert text.count("\n85M ") == 1


def test_a_gpu_without_bf16_plans_auto_in_fp32(capsys):
    assert cli.main(["plan", str(SMOKE), "--gpu", "V100", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["layouts"]
    assert {row["precision"] for row in rows} == {"fp32"}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (["--gpus", "8"], "need --gpu NAME"),
        (["--gpu", "TPU"], "GPU 'TPU' is unknown"),
        (["--gpu", "H100", "--gpus", "0"], "--gpus 0 is not a positive number"),
        (["--gpu", "H100", "--mfu", "40"], "--mfu 40 is not a share"),
    ],
)
def test_plan_refuses_half_a_machine(ask, message, capsys):
    assert cli.main(["plan", str(SMOKE), *ask]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_every_gpu_has_its_memory():
    known = hardware.gpus()
    assert known["H100 SXM"].memory_bytes == 80e9 and known["H200 SXM"].memory_bytes == 141e9
    assert all(16e9 <= gpu.memory_bytes <= 300e9 for gpu in known.values())
