"""Whole runs on a GPU through the launcher: every objective, stopped and resumed, packed."""

import json
import signal
import subprocess
import sys
import time

import pytest
from gpu_example import DEVICE, on_gpu
from training_fixtures import (
    command,
    environment,
    launch,
    make_corpus,
    make_recipe,
    metrics,
    write_run,
)

from plmscale.files import write_json

pytestmark = on_gpu
# Heads of 32: flex attention takes them.
SHAPE = {"n_layers": 2, "d_model": 64, "n_heads": 2, "d_ff": 170}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def recipe_of(objective="mlm", steps=2, **more):
    if objective == "mixed":
        more |= {"clm_share": 0.5, "mask_ratio": 0.15}
    return make_recipe(objective=objective, architecture=SHAPE, steps=steps, context=128, **more)


@pytest.mark.parametrize("objective", ["clm", "mlm", "mixed"])
def test_two_steps_end_well(tmp_path, corpus, objective):
    run_dir = write_run(tmp_path, recipe_of(objective))
    done = launch(run_dir, corpus, "--micro-rows=3")  # a partial micro batch, too
    assert done.returncode == 0, done.stderr
    found = metrics(run_dir)
    assert found["status"] == "done" and 2.5 < found["loss"] < 4.0
    assert found["steps_refused"] == {"nonfinite": 0, "spikes": 0}
    assert (found["device"] == "cpu") == (DEVICE == "cpu")
    assert found["precision"] == "bf16" or DEVICE == "cpu"


def test_a_stopped_run_goes_on(tmp_path, corpus):
    steps = 400
    recipe = recipe_of(steps=steps)
    whole = write_run(tmp_path / "whole", recipe)
    assert launch(whole, corpus).returncode == 0
    run_dir = write_run(tmp_path / "stopped", recipe)
    words = command(run_dir, corpus, "--checkpoint-seconds=0.1")
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    latest, deadline = tmp_path / "stopped/checkpoint/latest.json", time.monotonic() + 240
    while not latest.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    saved = json.loads(latest.read_text())["step"]
    assert 0 < saved < steps
    assert launch(run_dir, corpus).returncode == 0
    found = metrics(run_dir)
    assert found["resumed"] == 1 and found["steps"] == steps
    # Sums on a GPU have no fixed order, so not to the last bit.
    assert found["loss"] == pytest.approx(metrics(whole)["loss"], abs=0.02)


def test_four_runs_share_the_device(tmp_path, corpus):
    jobs = []
    for seed in range(4):
        run_dir = write_run(tmp_path / str(seed), recipe_of(steps=20, seed=seed))
        job = {"recipe": run_dir / "recipe.json", "corpus": corpus, "run_dir": run_dir}
        job["checkpoint_dir"] = tmp_path / str(seed) / "checkpoint"
        jobs.append({key: str(value) for key, value in job.items()})
    write_json(tmp_path / "jobs.json", {"runs": jobs})
    words = [sys.executable, "-m", "plmscale.training.pack", str(tmp_path / "jobs.json")]
    done = subprocess.run(
        [*words, "--at-once=4"], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [metrics(tmp_path / str(seed) / "run") for seed in range(4)]
    assert [one["status"] for one in found] == ["done"] * 4
    assert len({one["loss"] for one in found}) == 4
