"""Several runs on one device at once: results of each as if it were alone."""

import json
import signal
import subprocess
import sys
import time

import pytest
from training_fixtures import (
    digests,
    environment,
    job,
    launch,
    make_corpus,
    make_recipe,
    metrics,
    write_run,
)

from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.training.pack import read_jobs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def pack(path, runs, *more):
    write_json(path, {"runs": runs})
    args = [sys.executable, "-m", "plmscale.training.pack", str(path), *more]
    return subprocess.Popen(
        args, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_packed_runs_equal_runs_alone_and_a_failure_is_its_own(tmp_path, corpus):
    clm = make_recipe(steps=40)
    child = make_recipe(
        objective="mlm",
        steps=20,
        parent={"run_id": clm["run_id"], "fingerprint": clm["fingerprint"]},
    )
    recipes = {"a": clm, "b": make_recipe(objective="mlm", steps=30, seed=3)}
    alone = {}
    for name, recipe in recipes.items():
        run_dir = write_run(tmp_path / "alone" / name, recipe)
        assert launch(run_dir, corpus).returncode == 0
        alone[name] = run_dir
    runs = [
        # Before its parent in the list: it waits.
        job(tmp_path / "child", corpus, child, parent_dir=str(tmp_path / "a" / "run"), threads=1),
        job(tmp_path / "broken", corpus, make_recipe(steps=0)),
        *(job(tmp_path / name, corpus, recipe) for name, recipe in recipes.items()),
    ]
    process = pack(tmp_path / "jobs.json", runs, "--at-once=2", f"--json={tmp_path / 'out.json'}")
    said, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    told = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["exit_code"] for run in told] == [0, 2, 0, 0]
    assert "FAILED with exit code 2" in said and "[4/4]" in said
    assert "too small for one step" in (tmp_path / "broken/checkpoint/train.log").read_text()
    for name in recipes:
        assert digests(tmp_path / name / "run") == digests(alone[name])
    assert metrics(tmp_path / "child/run")["parent"]["run_id"] == clm["run_id"]
    again = pack(tmp_path / "jobs.json", runs, "--at-once=4")
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 1 and said.count("done") == 0


def test_a_stopped_pack_saves_and_goes_on(tmp_path, corpus):
    recipes = [make_recipe(steps=600, seed=seed) for seed in (1, 2)]
    runs = [
        job(tmp_path / str(n), corpus, recipe, checkpoint_seconds=0.05)
        for n, recipe in enumerate(recipes)
    ]
    process = pack(tmp_path / "jobs.json", runs, "--at-once=2")
    deadline = time.monotonic() + 60
    while not all((tmp_path / str(n) / "checkpoint/latest.json").exists() for n in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    process = pack(tmp_path / "jobs.json", runs, "--at-once=2")
    process.communicate(timeout=120)
    assert process.returncode == 0
    for n, recipe in enumerate(recipes):
        assert metrics(tmp_path / str(n) / "run")["resumed"] == 1
        run_dir = write_run(tmp_path / f"alone{n}", recipe)
        assert launch(run_dir, corpus).returncode == 0
        assert digests(tmp_path / str(n) / "run") == digests(run_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "at least one run"),
        ({"runs": [{"recipe": "x"}]}, "run 1: corpus, run_dir, checkpoint_dir missing"),
        ({"runs": [{"recipes": "x"}]}, "run 1: unknown key recipes"),
    ],
)
def test_a_bad_jobs_file_is_told(tmp_path, content, message):
    write_json(tmp_path / "jobs.json", content)
    with pytest.raises(PlmscaleError, match=message):
        read_jobs(tmp_path / "jobs.json")
