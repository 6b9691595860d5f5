"""The section `downstream:`, and what the workflow reads from it before anything starts."""

import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import pytest

from plmscale import study
from plmscale.cluster.site import Site
from plmscale.downstream import plan, settings, tasks
from plmscale.errors import PlmscaleError
from plmscale.grid import expand

SMOKE = study.PROJECT / "studies/smoke.yaml"


def load(**section):
    return study.load(SMOKE, {"downstream": {"tasks": ["perplexity"], **section}})


def models(loaded, chosen=None):
    runs = {run.run_id: run for run in expand(loaded)}
    return plan.models(loaded, runs, runs if chosen is None else {n: runs[n] for n in chosen})


def test_every_task_may_stand_in_a_study():
    assert get_args(settings.TaskName) == tasks.NAMES


def test_the_demo_evaluates_without_a_download():
    section = study.load(study.PROJECT / "config.yaml").downstream
    assert not any(plan.has_data(name) for name in section.tasks) and not section.models
    assert study.load(SMOKE).downstream is None


def test_a_list_of_tasks_is_each_by_its_defaults():
    section = load(tasks=["fold", "fitness"]).downstream
    assert section.tasks == {"fold": settings.TaskConfig(), "fitness": settings.TaskConfig()}
    assert load(tasks={"fold": None}).downstream.tasks["fold"] == settings.TaskConfig()
    assert load(models={"x": "hf:a/b"}).downstream.models["x"].where == "hf:a/b"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tasks": ["folds"]}, "downstream.tasks.folds"),
        ({"tasks": []}, "downstream.tasks: "),
        ({"task": ["fold"]}, "downstream.task: unknown key; did you mean tasks"),
        ({"tasks": {"fold": {"limits": 3}}}, "downstream.tasks.fold.limits: unknown key; did you mean limit"),
        ({"tasks": {"fold": {"limit": 0}}}, "downstream.tasks.fold.limit: "),
        ({"tasks": {"fold": {"methods": ["prob"]}}}, "downstream.tasks.fold.methods.0: "),
        ({"tasks": {"fold": {"options": {"stepz": 1}}}}, "tasks.fold.options.stepz: Extra inputs"),
        ({"tasks": {"contacts": {"options": {"train_sizes": [9, 3]}}}},
         "tasks.contacts.options.train_sizes: must be ascending"),
        ({"tasks": ["perplexity", "fold"], "source": "small"}, "fold's small source is not downloaded"),
        ({"tasks": {"fold": {"source": "small"}}}, "say where it lies"),
        ({"runs": None}, "null leaves no model"),
        ({"seeds": [1, 1]}, "must be different numbers"),
        ({"seeds": [-1]}, "none below 0"),
        ({"models": {"x": {"use": "clm"}}}, "downstream.models.x.where: this key is required"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key(section, said):
    with pytest.raises(PlmscaleError) as error:
        load(**section)
    assert said in str(error.value)


def test_released_logs_have_no_weights():
    path = study.PROJECT / "studies/cheng2024-logs.yaml"
    with pytest.raises(PlmscaleError, match="no weights to evaluate"):
        study.load(path, {"downstream": {"tasks": ["fold"], "models": {"x": "hf:a/b"}}})


def test_reading_a_study_imports_nothing_large():
    code = (
        "import sys; from plmscale import snakefile, study; from plmscale.downstream import plan;"
        f"study.load({str(study.PROJECT / 'studies/cheng2024.yaml')!r});"
        "print([m for m in ('torch', 'numpy', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_chosen_runs_are_models_and_a_selection_is_of_the_whole_study():
    assert len(models(load())) == 11
    some = models(load(runs={"objective": "mlm"}))
    assert some and all(model.use == "mlm" for model in some.values())
    name = next(iter(some))
    assert some[name].where == f"results/smoke/runs/{name}" and some[name].run_id == name
    # A part of the study that none of them is in is no mistake.
    assert list(models(load(runs={"objective": "mlm"}), [name])) == [name]
    assert models(load(runs={"objective": "mlm"}), []) == {}
    assert list(models(load(runs=None, models={"x": "hf:a/b"}))) == ["x"]
    with pytest.raises(SystemExit, match="no run has objective 'mlk'"):
        models(load(runs={"objective": "mlk"}))
    with pytest.raises(SystemExit, match="runs have no column 'objectiv'"):
        models(load(runs={"objectiv": "mlm"}))


def test_a_run_of_both_objectives_is_two_models():
    grid = {"m": {"kind": "isoflop", "objectives": ["mixed"], "budgets": [1e9], "sizes": ["3k"]}}
    loaded = study.load(SMOKE, {"grid": grid, "subsets": {}, "downstream": {"tasks": ["fold"]}})
    found = models(loaded)
    (run_id,) = {model.run_id for model in found.values()}
    assert {name: model.use for name, model in found.items()} == {
        f"{run_id}@clm": "clm",
        f"{run_id}@mlm": "mlm",
    }


@pytest.mark.parametrize("name", ["baselines", "x-twin1"])
def test_names_that_files_need_are_taken(name):
    with pytest.raises(SystemExit, match="the name is taken"):
        models(load(models={name: "hf:a/b"}))


def test_the_best_of_each_group_is_that_of_lowest_loss():
    rows = [
        {"run_id": "a", "objective": "clm", "budget": "1", "loss": "2.5"},
        {"run_id": "b", "objective": "clm", "budget": "1", "loss": "2.4"},
        {"run_id": "c", "objective": "clm", "budget": "2", "loss": "9"},
        {"run_id": "d", "objective": "mlm", "budget": "1", "loss": ""},
    ]
    assert plan.best(rows, ["objective"]) == ["b"]
    assert plan.best(rows, ["objective", "budget"]) == ["b", "c"]
    with pytest.raises(PlmscaleError, match="no column 'size'"):
        plan.best(rows, ["size"])


def test_what_is_asked_of_a_task_is_its_own_before_the_sections():
    import json

    from plmscale.downstream.jobs import asked_of
    from plmscale.files import read_json, write_json  # noqa: F401

    own = {"limit": 7, "seeds": [9], "methods": ["probe"], "options": {"steps": 3}}
    loaded = load(tasks={"fold": own, "fitness": {}}, seeds=[4], methods=["zero-shot"], twins=False)
    fold = asked_of(json.loads(plan.task_text(loaded, "fold", "corpus", "shared")))
    assert (fold.limit, fold.seeds, fold.insisted) == (7, (9,), ("probe",))
    assert fold.options == {"steps": 3} and not fold.twins and fold.source == "full"
    assert str(fold.corpus) == "corpus" and str(fold.cache) == "shared/identity"
    assert str(fold.folder) == "results/downstream-data"
    fitness = asked_of(json.loads(plan.task_text(loaded, "fitness", "corpus", "shared")))
    assert (fitness.seeds, fitness.insisted, fitness.methods) == ((4,), (), ("zero-shot",))


def test_mixes_are_those_of_the_runs():
    loaded = load(models={"x": "hf:a/b"})
    runs = {run.run_id: run for run in expand(loaded)}
    found = plan.mixes(plan.models(loaded, runs, runs).values(), runs)
    assert found == [["curated"], ["curated", "diverse"]]


def cluster(partition="cpu", **site):
    known = Site(**{"node_gpus": 4, "node_cpus": 32, "node_gpu_partition": "gpu", **site})
    return SimpleNamespace(allocator=SimpleNamespace(site=known), partition=partition)


def test_an_evaluation_asks_for_one_gpu_where_there_are_some():
    found = {"big": plan.Model("big", "w", n_params=10**9)}
    job = SimpleNamespace(model="big")
    here = plan.resources(None, found)
    assert set(here) == {"mem_mb"} and here["mem_mb"](job) == 3000 + 16000
    there = plan.resources(cluster(), found)
    assert there["gres"] == "gpu:1" and there["slurm_partition"] == "gpu"
    assert there["cpus_per_task"] == 8 and there["runtime"] == 720
    assert plan.resources(cluster(node_walltime=60), found)["runtime"] == 60
    assert plan.threads(cluster(), found["big"]) == 8 and plan.threads(None, found["big"]) == 4
    assert plan.threads(None, plan.Model("tiny", "w", n_params=1000)) == 1
    none = plan.resources(cluster(node_gpus=0), found)
    assert none["gres"] == "" and none["slurm_partition"] == "cpu" and none["gpu_parts"] == 0
    # One machine with GPUs and no Slurm.
    assert set(plan.resources(cluster(partition=""), found)) == {"mem_mb", "gpu_parts"}
