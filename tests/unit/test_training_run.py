"""Whole runs, started as the workflow starts them."""

import csv
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from training_fixtures import (
    alive,
    command,
    curve,
    environment,
    finish,
    launch,
    make_corpus,
    make_recipe,
    metrics,
    wait_for,
    write_run,
)

from plmscale.files import read_json, write_json
from plmscale.model import Transformer, decay_groups, load
from plmscale.schedule import learning_rate
from plmscale.training import checkpoint
from plmscale.training.data import training_samples
from plmscale.training.evaluate import Validation, row_losses
from plmscale.training.lock import owned
from plmscale.training.objectives import IGNORED, examples
from plmscale.training.records import DivergenceRule

RESULTS = ("curve.csv", "validation.csv", "model.safetensors", "config.json")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def same_results(one, two):
    return [name for name in RESULTS if (one / name).read_bytes() != (two / name).read_bytes()]


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_a_run_learns_and_writes_what_it_promises(tmp_path, corpus, objective):
    recipe = make_recipe(objective=objective, steps=150, context=128)
    run_dir = finish(tmp_path, corpus, recipe)
    result = metrics(run_dir)
    assert result["status"] == "done"
    assert result["tokens"] == recipe["tokens"] == 150 * 4 * 128
    assert result["flops_6nd"] == recipe["flops_6nd"] and result["flops"] == recipe["flops"]
    assert result["precision"] in ("bf16", "fp32") and result["resumed"] == 0
    losses = curve(run_dir, "valid")
    assert len(losses) == 2 and losses[-1] == result["loss"] < losses[0]
    assert curve(run_dir, "train")[0] == pytest.approx(np.log(32), abs=0.05)
    with open(run_dir / "validation.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 16 and sum(r["source"] == "curated" for r in rows) in (4, 5)
    total = sum(float(r["nll"]) for r in rows) / sum(int(r["tokens"]) for r in rows)
    assert total == pytest.approx(result["loss"])
    assert 0 < result["loss_se"] < 0.5 and set(result["loss_by_source"]) == {"curated", "diverse"}
    assert load(run_dir).arch.n_params == recipe["n_params"]
    assert list((run_dir / "tensorboard").glob("events.*"))
    left = {p.name for p in (tmp_path / "checkpoint").iterdir()}
    assert left == {"recipe.json", "owner.lock"}


def test_the_curve_is_validated_on_fewer_rows(tmp_path, corpus):
    validation = {"rows": 16, "evaluations": 3, "curve_rows": 6, "seed": 7}
    run_dir = finish(tmp_path, corpus, make_recipe(validation=validation))
    with open(run_dir / "validation.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 16
    first = sum(float(r["nll"]) for r in rows[:6]) / sum(int(r["tokens"]) for r in rows[:6])
    assert curve(run_dir, "valid")[-1] == pytest.approx(first)


def test_a_tiny_set_is_learnt_by_heart(tmp_path):
    """Four proteins shown again and again: the training loss falls far below what is new."""
    corpus = make_corpus(tmp_path / "corpus", proteins=6, shards=1)
    recipe = make_recipe(
        steps=300,
        architecture={"d_model": 64, "n_layers": 2, "d_ff": 128},
        corpus={
            "key": "test",
            "name": "one",
            "mix": {"curated": 1.0},
            "valid_mix": {"curated": 1.0},
        },
        validation={"rows": 1, "evaluations": 1, "curve_rows": 16, "seed": 7},
    )
    run_dir = finish(tmp_path, corpus, recipe)
    assert curve(run_dir, "train")[-1] < 0.3 < metrics(run_dir)["loss"]


def plain_losses(recipe, corpus):
    """The recipe trained by plain PyTorch in fp32: the reference for DeepSpeed's trajectory."""
    from plmscale.architecture import Architecture

    model = Transformer(Architecture.from_dict(recipe["architecture"]))
    model.initialize(recipe["seed"])
    settings = recipe["optimizer"]
    optimizer = torch.optim.AdamW(
        decay_groups(model, settings["weight_decay"]),
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
    )
    samples, losses = training_samples(corpus, recipe), []
    for step in range(1, recipe["steps"] + 1):
        numbers = list(range((step - 1) * recipe["batch_rows"], step * recipe["batch_rows"]))
        inputs, targets = examples(recipe, samples.batch(numbers), numbers, recipe["data_seed"])
        loss = row_losses(
            model,
            recipe["packing"],
            recipe["objective"] == "clm",
            torch.from_numpy(inputs).long(),
            torch.from_numpy(targets),
        ).sum() / int((targets != IGNORED).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe["steps"], settings["lr"], recipe["schedule"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_deepspeed_follows_plain_pytorch(tmp_path, corpus, precision, tolerance):
    recipe = make_recipe(precision=precision, objective="mlm", steps=60)
    expected = plain_losses(recipe, corpus)
    got = curve(finish(tmp_path, corpus, recipe), "train")
    assert len(got) == 60
    assert np.abs(np.subtract(got, expected)).max() < tolerance


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 3e-2)])
def test_two_ranks_learn_what_one_does(tmp_path, corpus, precision, tolerance):
    recipe = make_recipe(precision=precision, objective="mlm", steps=30)
    one = finish(tmp_path / "one", corpus, recipe)
    two = finish(tmp_path / "two", corpus, recipe, "--devices=2")
    assert metrics(two)["devices"] == 2
    for split in ("train", "valid"):
        assert curve(two, split) == pytest.approx(curve(one, split), abs=tolerance)


def test_small_micro_batches_add_up_to_the_batch(tmp_path, corpus):
    """32 rows are two micro batches; the reference takes them at once."""
    recipe = make_recipe(precision="fp32", objective="mlm", steps=12, batch_rows=32)
    expected = plain_losses(recipe, corpus)
    got = curve(finish(tmp_path, corpus, recipe), "train")
    assert got == pytest.approx(expected, abs=1e-4)


def test_fork_server_and_cold_start_give_equal_files(tmp_path, corpus):
    recipe = make_recipe()
    warm = finish(tmp_path / "warm", corpus, recipe)
    cold = finish(tmp_path / "cold", corpus, recipe, "--warm=never")
    assert same_results(warm, cold) == []


def owner(folder):
    return read_json(folder / "checkpoint/owner.lock")["pid"]


@pytest.mark.parametrize("warm", ["auto", "never"])
def test_a_killed_run_ends_with_the_same_numbers(tmp_path, corpus, warm):
    recipe = make_recipe(
        steps=400, validation={"rows": 16, "evaluations": 4, "curve_rows": 16, "seed": 7}
    )
    whole = finish(tmp_path / "whole", corpus, recipe)
    run_dir = write_run(tmp_path / "killed", recipe)
    folder = tmp_path / "killed"
    args = command(run_dir, corpus, "--checkpoint-seconds=0.1", f"--warm={warm}")
    for _ in range(2):
        steps = {p.name for p in (folder / "checkpoint").glob("step-*")}
        process = subprocess.Popen(args, env=environment())
        wait_for(lambda seen=steps: {p.name for p in (folder / "checkpoint").glob("step-*")} - seen)
        time.sleep(0.05)
        rank = owner(folder)
        os.kill(rank, signal.SIGKILL)
        assert process.wait(60) != 0
        assert not (run_dir / "metrics.json").exists()
    done = launch(run_dir, corpus, "--checkpoint-seconds=0.1", f"--warm={warm}")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stdout
    assert same_results(whole, run_dir) == []
    assert metrics(run_dir)["resumed"] == 2


def test_sigterm_saves_and_leaves_with_an_error(tmp_path, corpus):
    recipe = make_recipe(steps=400)
    whole = finish(tmp_path / "whole", corpus, recipe)
    run_dir, folder = write_run(tmp_path / "stopped", recipe), tmp_path / "stopped"
    process = subprocess.Popen(
        command(run_dir, corpus, "--checkpoint-seconds=0.1"), env=environment()
    )
    wait_for(lambda: (folder / "checkpoint/latest.json").exists())
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    step = read_json(folder / "checkpoint/latest.json")["step"]
    done = launch(run_dir, corpus)
    assert f"resumed at step {step}" in done.stdout
    assert same_results(whole, run_dir) == []


def test_a_run_ends_when_its_client_is_killed(tmp_path, corpus):
    run_dir = write_run(tmp_path, make_recipe(steps=100_000))
    process = subprocess.Popen(
        command(run_dir, corpus, "--checkpoint-seconds=0.1"), env=environment()
    )
    wait_for(lambda: (tmp_path / "checkpoint/latest.json").exists())
    rank = owner(tmp_path)
    assert alive(rank)
    process.kill()
    process.wait()
    wait_for(lambda: not alive(rank))


def test_two_processes_never_train_one_run(tmp_path):
    with owned(tmp_path):
        code = (
            "from pathlib import Path; from plmscale.training.lock import owned\n"
            f"with owned(Path({str(tmp_path)!r}), patience=0.3): print('mine')"
        )
        other = subprocess.run(
            [os.sys.executable, "-c", code], env=environment(), capture_output=True, text=True
        )
    assert other.returncode != 0 and "mine" not in other.stdout
    assert f"another process trains this run (pid {os.getpid()}" in other.stderr


def test_a_checkpoint_of_another_recipe_is_refused_by_field(tmp_path, corpus):
    run_dir = write_run(tmp_path, make_recipe())
    checkpoint.claim(tmp_path / "checkpoint", make_recipe(seed=2, optimizer={"lr": 1}))
    done = launch(run_dir, corpus)
    assert done.returncode == 2
    assert "holds a checkpoint of another recipe; differing: " in done.stderr
    assert "seed: 2 -> 1" in done.stderr and "optimizer.lr: 1 -> 0.01" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_of_a_recipe_may_change(tmp_path):
    checkpoint.claim(tmp_path, make_recipe(study="one"))
    checkpoint.claim(tmp_path, make_recipe(study="two", experiment="other"))


def test_a_lost_run_ends_with_a_status(tmp_path, corpus):
    recipe = make_recipe(steps=60)
    recipe["optimizer"] = {**recipe["optimizer"], "lr": 1e6}
    run_dir = finish(tmp_path, corpus, recipe)
    result = metrics(run_dir)
    assert result["status"] == "diverged" and result["status_detail"]
    assert result["steps"] < 60
    assert all((run_dir / name).exists() for name in RESULTS)


def test_divergence_needs_a_lasting_rise_or_a_nan():
    rule = DivergenceRule()
    assert [rule.judge(1, x) for x in (3.4, 9.0, 9.0, 3.0, 9.0, 9.0)] == [None] * 6
    assert "over 1.0 nats above" in rule.judge(7, 9.0)
    assert "not finite" in DivergenceRule().judge(1, float("nan"))


def test_transfer_starts_from_the_parents_weights(tmp_path, corpus):
    clm = make_recipe(steps=100)
    parent_dir = finish(tmp_path / "parent", corpus, clm)
    parent = {"run_id": clm["run_id"], "fingerprint": clm["fingerprint"]}
    child = make_recipe(objective="mlm", steps=20, parent=parent)
    run_dir = finish(tmp_path / "child", corpus, child, f"--parent-dir={parent_dir}")
    scratch = finish(tmp_path / "scratch", corpus, make_recipe(objective="mlm", steps=20))
    assert metrics(run_dir)["loss"] < metrics(scratch)["loss"] - 0.1
    other = make_recipe(objective="mlm", parent={"run_id": "x", "fingerprint": "0" * 64})
    refused = launch(write_run(tmp_path / "other", other), corpus, f"--parent-dir={parent_dir}")
    assert refused.returncode == 2 and "the recipe starts from x" in refused.stderr


def test_a_child_of_a_lost_parent_is_marked(tmp_path, corpus):
    clm = make_recipe()
    write_json(
        tmp_path / "metrics.json",
        {"run_id": "p", "fingerprint": clm["fingerprint"], "status": "diverged"},
    )
    child = make_recipe(parent={"run_id": "p", "fingerprint": clm["fingerprint"]})
    run_dir = finish(tmp_path / "child", corpus, child, f"--parent-dir={tmp_path}")
    assert metrics(run_dir)["status"] == "parent_failed"
    assert all((run_dir / name).exists() for name in RESULTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "recipe.steps: 0; the budget is too small for one step"),
        ({"objective": "both"}, "recipe.objective: 'both'; allowed: clm, mlm, mixed"),
    ],
)
def test_an_impossible_recipe_is_told_in_one_line(tmp_path, corpus, changes, message):
    done = launch(write_run(tmp_path, make_recipe(**changes)), corpus)
    assert done.returncode == 2
    assert done.stderr.startswith(f"plmscale: error: {message}") and "\n" not in done.stderr.strip()


def test_a_corrupt_shard_ends_the_run_with_its_name(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    shard = corpus / "shards/curated.train.00000.bin"
    shard.write_bytes(shard.read_bytes()[::-1])
    done = launch(write_run(tmp_path, make_recipe()), corpus)
    assert done.returncode == 2
    assert "curated.train.00000.bin: shard is corrupt" in done.stderr


def test_a_finished_run_is_left_alone(tmp_path, corpus):
    run_dir = finish(tmp_path, corpus, make_recipe(steps=5))
    before = (run_dir / "metrics.json").stat().st_mtime_ns
    done = launch(run_dir, corpus)
    assert done.returncode == 0 and "already finished" in done.stdout
    assert (run_dir / "metrics.json").stat().st_mtime_ns == before


def test_the_standard_error_is_that_of_a_ratio():
    rng = np.random.default_rng(1)
    tokens = rng.integers(20, 60, 4000)
    means = rng.normal(2.8, 0.2, 4000)
    losses = [
        Validation(
            ["a"] * 200,
            tokens[i : i + 200],
            (tokens * means)[i : i + 200],
            ["clm"] * 200,
            {"clm": 1.0},
        )
        for i in range(0, 4000, 200)
    ]
    spread = np.std([v.loss for v in losses], ddof=1)
    assert np.mean([v.standard_error for v in losses]) == pytest.approx(spread, rel=0.4)
