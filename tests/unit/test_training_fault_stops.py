"""Stops at special steps, what a resumed or lost run says, trunks in whatever state."""

import json
import time

import pytest
from fault_bench import (
    WSD,
    Bench,
    curve,
    recipe_of,
    stop_at,
)
from training_fixtures import digests, make_corpus, make_recipe, metrics, write_run

from plmscale.files import sha256_file
from plmscale.schedule import decay_start
from plmscale.training.lock import LOCK


@pytest.fixture(scope="module")
def bench():
    with Bench() as server:
        yield server


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(bench, corpus, tmp_path_factory):
    """The undisturbed run of `recipe_of()`."""
    run_dir = write_run(tmp_path_factory.mktemp("whole"), recipe_of())
    code, said = bench.run(run_dir, corpus)
    assert code == 0, said
    return run_dir


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_stop_at_any_special_step_changes_nothing(tmp_path, bench, corpus, schedule):
    """Steps 10, 20, 30 and 40 are evaluated, 30 is the last of the trunk, 39 and 40 are the end."""
    recipe = recipe_of() if schedule == "cosine" else recipe_of(schedule=WSD)
    clean = write_run(tmp_path / "whole", recipe)
    assert bench.run(clean, corpus)[0] == 0
    run_dir = write_run(tmp_path / "stopped", recipe)
    stops = (1, 10, 20, 30, 39)
    for step in stops:
        code, said = bench.run(run_dir, corpus, patch=stop_at(step))
        assert code == 143 and f"stopped at step {step} by SIGTERM, saved" in said, said
    # At the last step there is nothing left to stop.
    code, said = bench.run(run_dir, corpus, patch=stop_at(40))
    assert code == 0, said
    assert digests(run_dir) == digests(clean)
    result, plain = metrics(run_dir), metrics(clean)
    assert result["resumed"] == len(stops)
    for key in ("loss", "loss_se", "flops_6nd_spent", "tokens", "steps_refused", "loss_spikes"):
        assert result[key] == plain[key], key
    assert result["wall_seconds"] >= result["train_seconds"] + result["valid_seconds"]


def test_a_run_keeps_its_precision_on_another_machine(tmp_path, bench, corpus):
    """`auto` is bf16 where the processor has it; what has begun goes on as it is."""
    patch = "from plmscale.training import engine\nengine.cpu_has_bf16 = lambda: {}\n"
    new, old = patch.format(True), patch.format(False)
    recipe = recipe_of(schedule=WSD)
    clean, run_dir = write_run(tmp_path / "whole", recipe), write_run(tmp_path / "moved", recipe)
    assert bench.run(clean, corpus, patch=new)[0] == 0
    assert bench.run(run_dir, corpus, patch=new + stop_at(10))[0] == 143
    assert bench.run(run_dir, corpus, patch=old)[0] == 0
    assert metrics(run_dir)["precision"] == "bf16" and digests(run_dir) == digests(clean)
    # A trunk in bf16 is none for a run in fp32.
    long = write_run(tmp_path / "long", recipe_of(schedule=WSD, steps=60))
    option = f"--trunk-dir={tmp_path / 'whole/checkpoint'}"
    assert bench.run(long, corpus, option, patch=old)[0] == 0
    assert metrics(long)["precision"] == "fp32" and metrics(long)["trunk"] is None


def test_a_replaced_process_writes_no_metrics(tmp_path, bench, corpus):
    """It finds out while it writes the weights, between two looks of its watching thread."""
    run_dir = write_run(tmp_path, recipe_of(steps=5))
    new = json.dumps({"mark": "new", "pid": 9, "host": "elsewhere", "time": time.time()})
    patch = (
        "from plmscale.training import results\n"
        "_save = results.save_model\n"
        "def save_model(*args):\n"
        f"    with open({str(tmp_path / 'checkpoint' / LOCK)!r}, 'r+') as handle:\n"
        f"        handle.write({new!r}.ljust(400))\n"
        "    return _save(*args)\n"
        "results.save_model = save_model\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 1 and "was taken over by pid 9 on elsewhere" in said, said
    assert not (run_dir / "metrics.json").exists()


def test_a_stop_during_validation_changes_nothing(tmp_path, bench, corpus, whole):
    run_dir = write_run(tmp_path, recipe_of())
    patch = (
        "import os, signal\n"
        "from plmscale.training import evaluate\n"
        "_run = evaluate.Validator.run\n"
        "def run(*args):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return _run(*args)\n"
        "evaluate.Validator.run = run\n"
    )
    for step in (10, 20, 30):
        code, said = bench.run(run_dir, corpus, patch=patch)
        assert code == 143 and f"stopped at step {step} " in said, said
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 0 and digests(run_dir) == digests(whole), said


def test_the_time_of_a_lost_run_is_counted(tmp_path, bench, corpus):
    recipe = recipe_of(steps=300, optimizer={**make_recipe()["optimizer"], "lr": 1e6})
    run_dir = write_run(tmp_path, recipe)
    code, said = bench.run(run_dir, corpus)
    result = metrics(run_dir)
    assert code == 0 and result["status"] == "diverged", said
    assert result["train_seconds"] > 0 and result["tokens_per_second"] is not None


def test_a_trunk_is_kept_beside_a_kept_checkpoint(tmp_path, bench, corpus):
    short, long = (recipe_of(steps=n, schedule=WSD) for n in (20, 40))
    first = write_run(tmp_path / "short", short)
    code, said = bench.run(first, corpus, "--keep-checkpoint")
    assert code == 0, said
    second = write_run(tmp_path / "long", long)
    code, said = bench.run(second, corpus, f"--trunk-dir={tmp_path / 'short/checkpoint'}")
    assert code == 0 and "goes on from step 15" in said, said


@pytest.mark.parametrize("kill", ["unlinked", "half a trunk"])
def test_a_trunk_survives_a_kill_at_the_end_of_its_run(tmp_path, bench, corpus, kill):
    """metrics.json is there, so the short run is never started again."""
    short, long = (recipe_of(steps=n, schedule=WSD) for n in (20, 40))
    first = write_run(tmp_path / "short", short)
    patch = {
        "unlinked": "import os\nfrom plmscale.training import checkpoint\n"
        "checkpoint.Saver._let_go = lambda *a: os._exit(77)",
        "half a trunk": "",
    }[kill]
    code, said = bench.run(first, corpus, patch=patch)
    assert code in ((0, 77) if patch else (0,)), said
    folder = tmp_path / "short/checkpoint"
    if not patch:
        (folder / "trunk/step-15/state.json").unlink()
    second = write_run(tmp_path / "long", long)
    code, said = bench.run(second, corpus, f"--trunk-dir={folder}")
    assert code == 0, said
    assert ("goes on from step 15" in said) == (kill == "unlinked")
    alone = write_run(tmp_path / "alone", long)
    assert bench.run(alone, corpus)[0] == 0
    assert sha256_file(second / "model.safetensors") == sha256_file(alone / "model.safetensors")


def test_a_branch_that_is_stopped_counts_what_it_computed(tmp_path, bench, corpus):
    short, long = (recipe_of(steps=n, schedule=WSD) for n in (20, 40))
    assert bench.run(write_run(tmp_path / "short", short), corpus)[0] == 0
    run_dir = write_run(tmp_path / "long", long)
    option = f"--trunk-dir={tmp_path / 'short/checkpoint'}"
    for step in (16, 30):
        assert bench.run(run_dir, corpus, option, patch=stop_at(step))[0] == 143
    # Its own checkpoint goes before the trunk, and needs it no more.
    assert bench.run(run_dir, corpus)[0] == 0
    result = metrics(run_dir)
    assert result["trunk"] == {"run_id": short["run_id"], "step": 15}
    assert result["flops_6nd_spent"] == result["flops_6nd"] * 25 / 40
    assert (tmp_path / "long/checkpoint/trunk/step-30").is_dir()


@pytest.mark.parametrize("fraction", [1.0, 0.001])
def test_a_trunk_of_no_use_is_passed_over(tmp_path, bench, corpus, fraction):
    """A run that decays from its first step has none; one that never decays has all but the last."""
    schedule = {**WSD, "decay_fraction": fraction}
    short, long = (recipe_of(steps=n, schedule=schedule) for n in (10, 20))
    assert bench.run(write_run(tmp_path / "short", short), corpus)[0] == 0
    run_dir = write_run(tmp_path / "long", long)
    code, said = bench.run(run_dir, corpus, f"--trunk-dir={tmp_path / 'short/checkpoint'}")
    assert code == 0
    start = decay_start(10, schedule)
    assert (f"goes on from step {start}" in said) == (start > 0) and start in (0, 9)
    assert len(curve(run_dir, "train")) == 20


def test_a_branch_of_more_ranks_than_its_trunk(tmp_path, bench, corpus):
    short, long = (recipe_of(steps=n, schedule=WSD, precision="fp32") for n in (20, 30))
    assert bench.run(write_run(tmp_path / "short", short), corpus, "--devices=2")[0] == 0
    options = [f"--trunk-dir={tmp_path / 'short/checkpoint'}", "--devices=3", "--zero-stage=3"]
    run_dir = write_run(tmp_path / "long", long)
    code, said = bench.run(run_dir, corpus, *options)
    assert code == 0 and "goes on from step 15" in said
    alone = write_run(tmp_path / "alone", long)
    assert bench.run(alone, corpus)[0] == 0
    assert metrics(run_dir)["loss"] == pytest.approx(metrics(alone)["loss"], abs=2e-5)


def test_a_lost_run_stays_lost(tmp_path, bench, corpus):
    recipe = recipe_of(optimizer={**make_recipe()["optimizer"], "lr": 1e6})
    run_dir = write_run(tmp_path, recipe)
    assert bench.run(run_dir, corpus)[0] == 0
    assert metrics(run_dir)["status"] == "diverged"
    code, said = bench.run(run_dir, corpus)
    assert code == 0 and "already finished" in said


def test_a_validation_that_is_not_finite_ends_a_run(tmp_path, bench, corpus):
    run_dir = write_run(tmp_path, recipe_of())
    patch = (
        "from plmscale.training import evaluate\n"
        "_sums = evaluate.Validator._sums\n"
        "evaluate.Validator._sums = lambda *a: _sums(*a) * float('nan')\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    result = json.loads((run_dir / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert code == 0 and result["status"] == "diverged" and result["loss"] is None, said
    assert "validation loss is not finite at step 10" in result["status_detail"]
