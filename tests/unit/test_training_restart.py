"""Runs that are stopped, killed, moved to other devices or out of space, against undisturbed ones."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from training_fixtures import (
    command,
    curve,
    digests,
    environment,
    finish,
    launch,
    make_corpus,
    make_recipe,
    metrics,
    wait_for,
    write_run,
)

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.training import checkpoint, lock
from plmscale.training.data import NO_SAMPLE, training_samples
from plmscale.training.layout import Plan
from plmscale.training.lock import LOCK, owned
from plmscale.training.objectives import examples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def two_layers(**changes):
    validation = {"rows": 16, "evaluations": 4, "curve_rows": 16, "seed": 7}
    return make_recipe(
        **{"objective": "mlm", "architecture": {"n_layers": 2}, "validation": validation, **changes}
    )


@pytest.mark.slow  # about 40 s
@pytest.mark.parametrize(("devices", "stage"), [(1, 1), (2, 3)])
def test_killed_at_random_moments_again_and_again(tmp_path, corpus, devices, stage):
    """SIGKILL falls anywhere: in a step, in a save, at the start, between two files at the end."""
    recipe = two_layers(steps=300)
    options = (
        f"--devices={devices}",
        f"--zero-stage={stage}",
        "--checkpoint-seconds=0.02",
    )
    whole = finish(tmp_path / "whole", corpus, recipe, *options)
    folder = tmp_path / "killed"
    run_dir = write_run(folder, recipe)
    rng = random.Random(devices * 10 + stage)
    kills = reached = 0
    lock, latest = folder / "checkpoint" / LOCK, folder / "checkpoint/latest.json"
    while kills < 4 and not (run_dir / "metrics.json").exists():
        process = subprocess.Popen(
            command(run_dir, corpus, *options), env=environment(), stdout=subprocess.DEVNULL
        )
        before = lock.read_text() if lock.exists() else ""
        wait_for(lambda p=process, b=before: p.poll() is not None or _changed(lock, b))
        if kills % 2:
            # Every other kill comes after a new checkpoint, so that the run gets on.
            wait_for(
                lambda p=process, n=reached: (
                    p.poll() is not None or (latest.exists() and read_json(latest)["step"] > n)
                )
            )
        time.sleep(rng.uniform(0.0, 0.4))
        if process.poll() is None:
            os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
            kills += 1
        process.wait(60)
        reached = read_json(latest)["step"] if latest.exists() else reached
    assert kills >= 3 and (reached > 0 or (run_dir / "metrics.json").exists())
    done = launch(run_dir, corpus, *options)
    assert done.returncode == 0, done.stderr
    assert digests(run_dir) == digests(whole)


def _changed(lock, before):
    return lock.exists() and lock.read_text() not in ("", before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("warm", ["auto", "never"])
def test_a_signal_saves_and_leaves_with_its_code(tmp_path, corpus, number, warm):
    recipe = two_layers(steps=300)
    whole = finish(tmp_path / "whole", corpus, recipe)
    run_dir, folder = write_run(tmp_path / "stopped", recipe), tmp_path / "stopped"
    args = command(run_dir, corpus, "--checkpoint-seconds=0.05", f"--warm={warm}")
    process = subprocess.Popen(args, env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (folder / "checkpoint/latest.json").exists())
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    # The launcher hands SIGUSR1 on as SIGTERM: both mean save and leave.
    assert process.returncode in (128 + number, 128 + signal.SIGTERM)
    step = read_json(folder / "checkpoint/latest.json")["step"]
    assert f"stopped at step {step}" in said and "saved" in said
    done = launch(run_dir, corpus)
    assert f"resumed at step {step}" in done.stdout
    assert digests(run_dir) == digests(whole)


def stop_after(folder, corpus, recipe, *options):
    """Start a run and stop it by SIGTERM after its first checkpoint; return the step."""
    run_dir = write_run(folder, recipe)
    args = command(run_dir, corpus, "--checkpoint-seconds=0.02", *options)
    process = subprocess.Popen(args, env=environment(), stdout=subprocess.DEVNULL)
    wait_for(lambda: (folder / "checkpoint/latest.json").exists())
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    return run_dir, read_json(folder / "checkpoint/latest.json")["step"]


@pytest.mark.slow  # about 30 s
def test_goes_on_at_other_ranks_and_stages(tmp_path, corpus):
    recipe = two_layers(precision="fp32", steps=240)
    whole = finish(tmp_path / "whole", corpus, recipe)
    run_dir, step = stop_after(tmp_path / "moved", corpus, recipe, "--devices=2", "--zero-stage=1")
    seen, latest = [step], tmp_path / "moved/checkpoint/latest.json"
    for devices, stage in ((1, 3), (3, 2), (2, 3), (1, 1)):
        args = command(
            run_dir,
            corpus,
            "--checkpoint-seconds=0.02",
            f"--devices={devices}",
            f"--zero-stage={stage}",
        )
        process = subprocess.Popen(args, env=environment(), stdout=subprocess.PIPE, text=True)
        wait_for(lambda p=process: p.poll() is not None or read_json(latest)["step"] > seen[-1])
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert f"resumed at step {seen[-1]}" in said
        if (run_dir / "metrics.json").exists():
            break
        seen.append(read_json(latest)["step"])
    done = launch(run_dir, corpus, "--devices=2", "--zero-stage=2")
    assert done.returncode == 0, done.stderr
    assert len(seen) >= 3
    assert curve(run_dir, "valid") == pytest.approx(curve(whole, "valid"), abs=2e-5)


@pytest.mark.slow  # about 20 s
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_stages_learn_the_same_at_any_number_of_ranks(tmp_path, corpus, precision):
    """Also where the rows of a batch do not divide among the ranks (4 rows, 3 ranks)."""
    recipe = two_layers(precision=precision, steps=30)
    expected = curve(finish(tmp_path / "one", corpus, recipe, "--zero-stage=1"), "valid")
    cases = [(1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (4, 1)]
    for devices, stage in cases:
        checkpointing = "on" if devices == 2 else "off"
        run_dir = finish(
            tmp_path / f"{devices}-{stage}",
            corpus,
            recipe,
            f"--devices={devices}",
            f"--zero-stage={stage}",
            f"--activation-checkpointing={checkpointing}",
        )
        result = metrics(run_dir)
        assert (result["devices"], result["zero_stage"]) == (devices, stage)
        tolerance = 2e-6 if precision == "fp32" else 1e-2
        assert curve(run_dir, "valid") == pytest.approx(expected, abs=tolerance), (devices, stage)


def test_data_and_masks_are_the_same_at_any_number_of_ranks(corpus):
    recipe = two_layers(batch_rows=6)
    samples = training_samples(corpus, recipe)

    def seen(world, micro, accumulation):
        """Rows of steps 1 to 3 by their sample, as all ranks together see them."""
        rows = {}
        for step in (1, 2, 3):
            for rank in range(world):
                numbers = Plan(rank, world, micro, accumulation).samples(step, 6)
                made = samples.batch(numbers)
                counted = [max(0, n) for n in numbers]
                inputs, targets = examples(recipe, made, counted, recipe["data_seed"])
                for number, x, y in zip(numbers, inputs, targets, strict=True):
                    if number == NO_SAMPLE:
                        assert (y == -100).all()
                    else:
                        assert number not in rows
                        rows[number] = (x.tobytes(), y.tobytes())
        return rows

    expected = seen(1, 6, 1)
    assert sorted(expected) == list(range(18))
    for layout in ((1, 2, 3), (2, 3, 1), (3, 1, 2), (4, 2, 1), (4, 1, 2), (5, 2, 1)):
        assert seen(*layout) == expected, layout


def test_a_full_disk_while_saving_costs_only_the_checkpoint(tmp_path, corpus):
    """Files of this process may not grow over 60 kB: checkpoints fail, results fit."""
    recipe = two_layers(steps=60)
    whole = finish(tmp_path / "whole", corpus, recipe, "--warm=never")
    run_dir = write_run(tmp_path / "full", recipe)
    size = (whole / "model.safetensors").stat().st_size
    limit = 2 * size
    args = command(run_dir, corpus, "--checkpoint-seconds=0.01", "--warm=never")
    done = subprocess.run(
        args,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    assert "was not written" in done.stdout and "the one before stays" in done.stdout
    result = metrics(run_dir)
    assert result["checkpoints"]["failed"] > 0 and result["checkpoints"]["written"] == 0
    assert digests(run_dir) == digests(whole)
    assert not list((tmp_path / "full/checkpoint").glob("*step-*"))


def test_saving_is_reported(tmp_path, corpus):
    run_dir = finish(tmp_path, corpus, two_layers(steps=100), "--checkpoint-seconds=0.02")
    saves = metrics(run_dir)["checkpoints"]
    params = metrics(run_dir)["n_params"] + 2 * 32 * 16
    assert saves["written"] >= 2 and saves["failed"] == 0
    # Three fp32 numbers a parameter; the rest is the file's header.
    assert 12 * (params - 32 * 16) <= saves["bytes"] < 12 * params + 20_000
    assert 0 < saves["blocked_seconds"] <= saves["writing_seconds"] + 10


def test_a_damaged_checkpoint_is_told(tmp_path, corpus):
    run_dir, step = stop_after(tmp_path, corpus, two_layers(steps=2000))
    path = tmp_path / f"checkpoint/step-{step}/rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    done = launch(run_dir, corpus)
    assert done.returncode == 2
    assert "is damaged; remove the checkpoint folder" in done.stderr
    path.write_bytes(data[:1000])
    done = launch(run_dir, corpus)
    assert done.returncode == 2 and "cannot be loaded" in done.stderr


def test_the_previous_checkpoint_stays_until_the_next_is_verified(tmp_path, monkeypatch):
    saver = checkpoint.Saver(tmp_path, 0, 1, None, set())
    tensors = {"weight/a": torch.arange(5.0)}
    places = [{"name": "a", "start": 0, "numel": 5}]
    for step in (1, 2):
        (tmp_path / f".tmp-step-{step}").mkdir()
        saver._write(tmp_path / f".tmp-step-{step}", step, tensors, places, {"ranks": 1})
        assert checkpoint.latest(tmp_path) == tmp_path / f"step-{step}"
    assert not (tmp_path / "step-1").exists()

    def rotten(_tensors, path):
        path.write_bytes((tmp_path / "step-2/rank-00000.safetensors").read_bytes()[:-4] + b"oops")

    monkeypatch.setattr(checkpoint, "save_file", rotten)
    (tmp_path / ".tmp-step-3").mkdir()
    saver._write(tmp_path / ".tmp-step-3", 3, tensors, places, {"ranks": 1})
    assert checkpoint.latest(tmp_path) == tmp_path / "step-2"
    assert saver.report.failed == 1 and "reads back otherwise" in saver.report.errors[0]
    stored = checkpoint.Stored(tmp_path / "step-2", 1)
    assert torch.equal(stored.read("weight", "a", 1, 3), torch.tensor([1.0, 2.0, 3.0]))


def test_stretches_are_read_across_ranks(tmp_path):
    whole = torch.randn(23, generator=torch.manual_seed(0))
    for rank, (first, last) in enumerate(((0, 10), (10, 17), (17, 23))):
        places = [{"name": "a", "start": first, "numel": last - first}]
        checkpoint._write_rank(tmp_path, rank, {"weight/a": whole[first:last].clone()}, places)
    stored = checkpoint.Stored(tmp_path, 3)
    for start, numel in ((0, 23), (3, 5), (8, 12), (16, 2), (22, 1)):
        assert torch.equal(stored.read("weight", "a", start, numel), whole[start : start + numel])
    with pytest.raises(PlmscaleError, match="a is incomplete"):
        stored.read("weight", "a", 20, 5)


def test_heartbeat_of_another_machine_is_waited_for(tmp_path):
    """No kernel tells whether a process elsewhere lives: its mark must stand still for a while."""
    other = {"mark": "other", "pid": 7, "host": "elsewhere", "job": "12", "time": time.time()}
    write_json(tmp_path / LOCK, other)
    start = time.monotonic()
    with owned(tmp_path, patience=0.1, beat=0.1) as mine:
        assert time.monotonic() - start >= 0.6
        assert read_json(tmp_path / LOCK)["mark"] == mine.mark
    assert read_json(tmp_path / LOCK)["mark"] == ""


@pytest.mark.parametrize("clock", [0, -7200, 7200])
def test_an_owner_that_beats_elsewhere_keeps_the_run(tmp_path, clock):
    """Whatever its clock says."""
    beating = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import json, os, sys, time\n"
            "for n in range(400):\n"
            f"    open({str(tmp_path / LOCK)!r} + '.new', 'w').write(json.dumps("
            "{'mark': 'other', 'pid': 7, 'host': 'elsewhere', 'time': time.time() + "
            f"{clock}}}))\n"
            f"    os.rename({str(tmp_path / LOCK)!r} + '.new', {str(tmp_path / LOCK)!r})\n"
            "    time.sleep(0.05)",
        ]
    )
    try:
        wait_for(lambda: (tmp_path / LOCK).exists())
        with (
            pytest.raises(PlmscaleError, match=r"another process .*pid 7 on elsewhere"),
            owned(tmp_path, patience=1.0, beat=0.2),
        ):
            pass
    finally:
        beating.kill()
        beating.wait()


def test_a_mark_of_long_ago_is_not_waited_for(tmp_path, monkeypatch):
    write_json(tmp_path / LOCK, {"mark": "other", "pid": 7, "host": "elsewhere", "time": 0})
    os.utime(tmp_path / LOCK, (1, 1))
    naps = []
    monkeypatch.setattr(lock.time, "sleep", naps.append)
    with owned(tmp_path, patience=0.1, beat=2.0) as mine:
        assert read_json(tmp_path / LOCK)["mark"] == mine.mark
    # Only the one after the takeover.
    assert naps in ([], [1.0])


def test_an_owner_that_was_replaced_leaves(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from plmscale.training.lock import owned\n"
        f"with owned(Path({str(tmp_path)!r}), beat=0.1):\n"
        "    print('mine', flush=True); time.sleep(30); print('still mine', flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "mine\n"
    new = {"mark": "new", "pid": 9, "host": "elsewhere", "job": "", "time": time.time()}
    # In place: the lock's file is never replaced by a run.
    with open(tmp_path / LOCK, "r+") as handle:
        handle.write(json.dumps(new).ljust(400))
    said, error = process.communicate(timeout=30)
    assert process.returncode == 1 and "still mine" not in said
    assert "was taken over by pid 9 on elsewhere" in error


def test_two_torchrun_nodes_train_one_run(tmp_path, corpus):
    """Two agents on this machine stand for two nodes; their ranks are told by the environment."""
    recipe = two_layers(precision="fp32", steps=20)
    one = finish(tmp_path / "one", corpus, recipe)
    run_dir = write_run(tmp_path / "two", recipe)
    rest = command(run_dir, corpus, "--zero-stage=2", "--devices=2")[3:]
    agents = []
    for node in range(2):
        args = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        args += [f"--node-rank={node}", "--master-addr=127.0.0.1", "--master-port=29671", "-m"]
        args += ["plmscale.training.launch", *rest]
        agents.append(subprocess.Popen(args, env=environment(), stderr=subprocess.DEVNULL))
    assert [agent.wait(120) for agent in agents] == [0, 0]
    assert metrics(run_dir)["devices"] == 2
    assert curve(run_dir, "valid") == pytest.approx(curve(one, "valid"), abs=2e-6)


def test_srun_tasks_train_one_run(tmp_path, corpus):
    recipe = two_layers(precision="fp32", steps=20)
    one = finish(tmp_path / "one", corpus, recipe)
    run_dir = write_run(tmp_path / "two", recipe)
    tasks = []
    for task in range(2):
        env = {
            "SLURM_JOB_ID": "4242",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task),
            "SLURM_STEP_NODELIST": "localhost",
        }
        args = command(run_dir, corpus, "--zero-stage=1")
        tasks.append(subprocess.Popen(args, env=environment(**env)))
    assert [task.wait(120) for task in tasks] == [0, 0]
    assert metrics(run_dir)["devices"] == 2
    assert curve(run_dir, "valid") == pytest.approx(curve(one, "valid"), abs=2e-6)


def test_a_lost_rank_ends_the_others(tmp_path, corpus):
    recipe = two_layers(steps=100_000)
    run_dir = write_run(tmp_path, recipe)
    args = command(run_dir, corpus, "--devices=2", "--checkpoint-seconds=0.1")
    process = subprocess.Popen(
        args, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_for(lambda: (tmp_path / "checkpoint/latest.json").exists())
    os.kill(read_json(tmp_path / "checkpoint" / LOCK)["pid"], signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 137
    assert "Traceback" not in error


def test_weights_are_gathered_alike_whatever_the_stage(tmp_path, corpus):
    """Sharded or not, the file is the same: one step at rate 0 leaves the initial weights."""
    from safetensors.numpy import load_file

    recipe = two_layers(precision="fp32", steps=1)
    recipe["optimizer"] = {**recipe["optimizer"], "lr": 0.0}
    files = []
    for devices, stage in ((1, 1), (2, 1), (2, 2), (3, 3)):
        folder = tmp_path / f"{devices}{stage}"
        run_dir = finish(folder, corpus, recipe, f"--devices={devices}", f"--zero-stage={stage}")
        files.append(load_file(run_dir / "model.safetensors"))
    for other in files[1:]:
        assert other.keys() == files[0].keys()
        assert all(np.array_equal(other[name], files[0][name]) for name in other)
