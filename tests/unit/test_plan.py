"""`plmscale plan`: what it counts and says, from files alone; the grid's own commands beside it."""

import json

import pytest

from plmscale import cli, collect, grid, study
from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.laws.advice import hardware
from plmscale.planning import brief, text

SMOKE = study.PROJECT / "studies/smoke.yaml"
CHENG = str(study.PROJECT / "studies/cheng2024.yaml")


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


def planned(capsys, *ask, of=CHENG):
    assert cli.main(["plan", of, "--json", *ask]) == 0
    return json.loads(capsys.readouterr().out)


def said(capsys, *ask, of=CHENG):
    assert cli.main(["plan", of, *ask]) == 0
    return capsys.readouterr().out


def test_a_plan_without_a_gpu_counts_each_run_once_and_drops_what_is_done(smoke):
    runs = grid.expand(smoke)
    before = brief.summarise(smoke, runs)["groups"][-1]
    assert before["runs"] == before["to_train"] == len(runs)
    assert before["flops_6nd"] == sum(r.recipe["flops_6nd"] for r in runs)
    assert before["hours_left_one_run_at_a_time"] is None
    finish(smoke, runs[0])
    after = brief.summarise(smoke, runs)["groups"][-1]
    assert after["to_train"] == len(runs) - 1
    rate = runs[0].recipe["flops_6nd"] / 10.0
    left = sum(r.recipe["flops_6nd"] for r in runs[1:])
    assert after["hours_left_one_run_at_a_time"] == pytest.approx(left / rate / 3600)


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


def test_every_kind_of_gpu_has_its_hours(capsys):
    found = planned(
        capsys, "--mfu", "0.4", "--no-packing", "--price", "2", "--subset", "mask-ratio"
    )
    rows = {row["gpu"]: row for row in found["gpu_types"]}
    assert set(rows) == set(hardware.gpus())
    assert all(gpu.fp32_flops > 0 for gpu in hardware.gpus().values())
    h100, b200 = rows["H100 SXM"], rows["B200"]
    flops = found["groups"][-1]["flops"]
    # Start of jobs and validation come on top.
    assert flops < h100["gpu_hours_left"] * 0.4 * 989e12 * 3600 < 1.05 * flops
    assert h100["gpu_hours_left"] / b200["gpu_hours_left"] == pytest.approx(2250 / 989, rel=0.02)
    assert h100["cost"] == 2 * h100["gpu_hours_left"]
    assert rows["V100 SXM"]["gpu_hours_left"] is None and "bf16" in rows["V100 SXM"]["problem"]


def test_a_plan_adds_up(capsys):
    ask = ["--gpu", "H100", "--gpus", "32", "--devices", "auto", "--price", "2.5"]
    found = planned(capsys, *ask)
    assert found["machine"]["gpu"] == "H100 SXM" and found["machine"]["nodes"] == 4
    everything, runs, schedule = found["groups"][-1], found["runs"], found["schedule"]
    assert everything["kind"] == "all" and everything["runs"] == len(runs)
    total = sum(row["gpu_hours"] for row in runs)
    for hours in (
        sum(row["gpu_hours"] for row in found["sizes"]),
        everything["gpu_hours"],
        schedule["gpu_hours"],
        schedule["utilisation"] * 32 * schedule["makespan_hours"],
        found["money"]["used"] / 2.5,
    ):
        assert hours == pytest.approx(total)
    assert schedule["makespan_hours"] == max(row["end_hour"] for row in runs)
    assert schedule["makespan_hours"] >= schedule["work_bound_hours"] == pytest.approx(total / 32)
    assert schedule["makespan_hours"] >= schedule["path_bound_hours"]
    path = sum(step["hours"] for step in schedule["critical_path"])
    assert path == pytest.approx(schedule["path_bound_hours"])
    assert [row["n_params"] for row in found["sizes"]] == sorted(
        row["n_params"] for row in found["sizes"]
    )
    for row in runs:
        assert len(row["on_gpus"]) == row["gpus"] and row["memory"]["total"] <= 0.92 * 80e9
        assert row["end_hour"] - row["start_hour"] == pytest.approx(row["hours"])
    assert [other["gpus"] for other in found["other_gpus"]] == [16, 64]
    slow, fast = (other["makespan_hours"] for other in found["other_gpus"])
    assert slow > schedule["makespan_hours"] > fast


def test_groups_are_the_experiments_and_the_subsets_that_are_none(capsys):
    rows = planned(capsys, "--gpu", "H100", "--gpus", "64", "--devices", "auto")["groups"]
    loaded = study.load(CHENG)
    assert [r["group"] for r in rows if r["kind"] == "experiment"] == list(
        dict.fromkeys(e for run in grid.expand(loaded) for e in run.experiments)
    )
    for row in rows:
        if row["kind"] == "subset":
            assert row["runs"] == len(grid.chosen_runs(loaded, row["group"]))
        assert row["path_hours"] <= row["hours_alone"] <= rows[-1]["hours_alone"] * 1.1
    chosen = planned(capsys, "--gpu", "H100", "--gpus", "64", "--subset", "transfer")["groups"]
    assert {row["kind"] for row in chosen} == {"experiment", "all"}


def test_the_corpus_comes_before_all(capsys):
    ask = ["--gpu", "H100", "--gpus", "64", "--subset", "mask-ratio"]
    now, later = planned(capsys, *ask), planned(capsys, *ask, "--corpus-hours", "50")
    assert min(row["start_hour"] for row in later["runs"]) == 50
    wait = later["schedule"]["makespan_hours"] - now["schedule"]["makespan_hours"]
    assert wait == pytest.approx(50)
    assert "the corpus (50 h) -> " in said(capsys, *ask, "--corpus-hours", "50")


def test_the_study_can_say_how_many_gpus_a_run_takes(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"overlays: {SMOKE}\nexecution: {{devices: 2}}\n")
    ask = ["--gpu", "H100", "--gpus", "4"]
    assert {row["gpus"] for row in planned(capsys, *ask, of=str(path))["runs"]} == {2}
    found = planned(capsys, *ask, "--devices", "auto", of=str(path))["runs"]
    assert {(row["gpus"], row["runs_a_gpu"]) for row in found} == {(1, 8)}
    assert {r["gpus"] for r in planned(capsys, *ask, "--devices", "1", of=str(path))["runs"]} == {1}


def test_what_is_done_costs_nothing_more(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"overlays: {SMOKE}\nresults: {tmp_path}\n")
    loaded = study.load(path)
    for run in grid.expand(loaded):
        finish(loaded, run)
    found = planned(capsys, "--gpu", "H100", "--price", "3", of=str(path))
    assert found["schedule"]["makespan_hours"] == found["money"]["rented"] == 0
    assert found["groups"][-1]["gpu_hours_left"] == 0 < found["groups"][-1]["gpu_hours"]
    text = said(capsys, "--gpu", "H100", "--gantt", str(tmp_path / "a.svg"), of=str(path))
    assert "the 0 runs to train take 0" in text and (tmp_path / "a.svg").exists()


def test_a_plan_for_people_lines_up_and_answers(capsys):
    ask = ["--gpu", "H100", "--gpus", "64", "--devices", "auto", "--walltime", "24"]
    groups, sizes, answer = said(capsys, *ask, "--price", "2.5", "--currency", "EUR").split("\n\n")
    for table in (groups, sizes):
        widths = {len(line) for line in table.splitlines()}
        assert len(widths) == 1 and len(table.splitlines()[0]) < 170
    lines = answer.splitlines()
    assert [line.split(".")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert lines[0].startswith("1. On 64 x H100 SXM (8 nodes of 8) the ")
    assert " EUR at 2.5 a GPU-hour, or " in lines[1]
    assert " on 32 and " in lines[2] and " on 128 GPUs" in lines[2]
    assert "outlast a job of 24 hours" in lines[3] and "corpus 201 GB" in lines[3]
    assert "assumed, not measured" in lines[4]
    by_run = said(capsys, *ask, "--runs", "--subset", "mask-ratio").split("\n\n")[1]
    assert len(by_run.splitlines()) == 1 + len(grid.chosen_runs(study.load(CHENG), "mask-ratio"))


@pytest.mark.parametrize(
    ("hours", "shown"),
    [(0, "0"), (0.5, "30 min"), (7.55, "7.55 h"), (71.9, "71.9 h"), (72, "3 days"),
     (24 * 1500, "1,500 days"), (None, "-")],
)  # fmt: skip
def test_hours_for_people(hours, shown):
    assert text.duration(hours) == shown


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (["--gpus", "8"], "plan: --gpus needs --gpu NAME"),
        (["--walltime", "8"], "plan: --walltime needs --gpu NAME"),
        (["--gantt", "x.png"], "plan: --gantt needs --gpu NAME"),
        (["--gpu", "TPU"], "GPU 'TPU' is unknown"),
        (["--gpu", "H100", "--gpus", "0"], "--gpus 0 is not a positive number"),
        (["--gpu", "H100", "--gpus-per-node", "0"], "--gpus-per-node 0 is not a positive number"),
        (["--gpu", "H100", "--mfu", "40"], "--mfu 40 is not a share"),
        (["--gpu", "H100", "--mfu", "nan"], "--mfu nan is not a share"),
        (["--gpu", "H100", "--mfu", "0.4", "--mfu-table", "x"], "not both"),
        (["--gpu", "H100", "--mfu-table", "none.tsv"], "none.tsv: cannot be read"),
        (["--gpu", "H100", "--price", "-1"], "--price -1 is not a number of at least 0"),
        (["--gpu", "H100", "--price", "inf"], "--price inf is not a number"),
        (["--gpu", "H100", "--corpus-hours", "-2"], "--corpus-hours -2 is not a number"),
        (["--gpu", "H100", "--max-hours", "0"], "--max-hours 0 is not a positive number"),
        (["--gpu", "H100", "--walltime", "0.01"], "--walltime 0.01: a job needs"),
        (["--gpu", "H100", "--devices", "some"], "--devices some is neither a positive number"),
        (
            ["--gpu", "H100", "--devices", "16"],
            "16 GPUs a run (--devices or the study's execution.devices): there are 8",
        ),
        (["--gpu", "H100", "--gpus", "16", "--devices", "12"], "no number of whole nodes of 8"),
        (["--gpu", "H100", "--gantt", "plan.pdf"], "--gantt plan.pdf: the name must end in"),
    ],
)
def test_half_a_question_is_refused_in_one_line(ask, message, capsys):
    assert cli.main(["plan", str(SMOKE), *ask]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_that_fits_no_gpu_is_named_in_one_line(capsys):
    assert cli.main(["plan", CHENG, "--gpu", "RTX 4090", "--gpus", "2", "--devices", "auto"]) == 2
    error = capsys.readouterr().err
    assert "use at least" in error and error.count("\n") == 1


def test_every_gpu_has_its_memory():
    known = hardware.gpus()
    assert known["H100 SXM"].memory_bytes == 80e9 and known["H200 SXM"].memory_bytes == 141e9
    assert all(16e9 <= gpu.memory_bytes <= 300e9 for gpu in known.values())
