"""States of runs by their files: every state, torn and damaged files, a real run that trains."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from status_example import checkpoint, finish, load, log, own, progress
from training_fixtures import command, environment, make_corpus, make_recipe

from plmscale import grid
from plmscale.files import write_json
from plmscale.status import logs, rows
from plmscale.status.evidence import gather
from plmscale.status.reading import read_object, read_tail
from plmscale.training.lock import owned


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    # Logs of jobs are looked for where Snakemake runs.
    monkeypatch.chdir(tmp_path)
    return load(tmp_path / "results")


def found(smoke):
    loaded, runs = smoke
    table, _ = rows.collect(loaded, runs, ask=False)
    return {row["run_id"]: row for row in table}


def test_every_state_by_its_evidence(smoke):
    loaded, runs = smoke
    finish(loaded, runs[0])
    finish(loaded, runs[1], status="diverged", loss=None, status_detail="not finite", steps=3)
    finish(loaded, runs[2], status="parent_failed", loss=None, steps=0)
    own(loaded, runs[3])
    log(loaded, runs[3], progress(runs[3], 10, 2.75, 4321))
    checkpoint(loaded, runs[4], 20)
    own(loaded, runs[4], mark="")
    log(loaded, runs[4], progress(runs[4], 21), f"{runs[4].run_id}: stopped at step 22 by SIGTERM, saved")  # fmt: skip
    own(loaded, runs[5], age=500)
    log(loaded, runs[5], progress(runs[5], 2), "plmscale: error: corpus: shard is damaged")
    states = found(smoke)
    assert [states[run.run_id]["status"] for run in runs[:7]] == [
        "done", "diverged", "parent_failed", "running", "stopped", "failed", "waiting",
    ]  # fmt: skip
    assert states[runs[0].run_id]["loss"] == 2.9 and states[runs[0].run_id]["share"] == 1
    assert states[runs[1].run_id]["detail"] == "not finite"
    running = states[runs[3].run_id]
    assert running["step"] == 10 and running["loss"] == 2.75
    assert running["tokens_per_second"] == 4321 and running["host"] == "node7"
    assert running["tokens"] == 10 * runs[3].recipe["tokens"] / runs[3].recipe["steps"]
    stopped = states[runs[4].run_id]
    assert stopped["step"] == 22 and stopped["detail"] == "stopped by SIGTERM"
    assert states[runs[5].run_id]["error"] == "plmscale: error: corpus: shard is damaged"
    assert states[runs[6].run_id]["error"] == states[runs[6].run_id]["detail"] == ""


def test_kept_results_count_where_snakemake_has_removed_the_outputs(smoke):
    loaded, runs = smoke
    folder = finish(loaded, runs[0])
    kept = loaded.folder / "checkpoints" / runs[0].run_id / "finished"
    shutil.copytree(folder, kept)
    (folder / "metrics.json").unlink()
    row = found(smoke)[runs[0].run_id]
    assert row["status"] == "done" and row["loss"] == 2.9


def test_without_a_log_the_checkpoint_tells_step_loss_and_speed(smoke):
    loaded, runs = smoke
    checkpoint(loaded, runs[0], 10, wall=50.0, ranks=2)
    own(loaded, runs[0])
    row = found(smoke)[runs[0].run_id]
    assert (row["status"], row["step"], row["loss"], row["devices"]) == ("running", 10, 2.8, 2)
    per_step = runs[0].recipe["tokens"] / runs[0].recipe["steps"]
    assert row["tokens_per_second"] == pytest.approx(10 * per_step / 25.0)
    assert 50.0 <= row["wall_seconds"] < 60.0


def test_a_progress_file_is_used_where_there_is_one(smoke):
    loaded, runs = smoke
    folder = checkpoint(loaded, runs[0], 10)
    own(loaded, runs[0])
    write_json(folder / "progress.json", {
        "step": 15, "loss": 2.6, "valid_loss": 2.7, "tokens_per_second": 77.0, "devices": 4,
        "device": "NVIDIA H100 80GB HBM3", "wall_seconds": 90.0, "time": time.time(), "at_once": 2,
    })  # fmt: skip
    row = found(smoke)[runs[0].run_id]
    assert (row["step"], row["loss"], row["tokens_per_second"]) == (15, 2.6, 77.0)
    assert (row["devices"], row["at_once"]) == (4, 2) and 90 <= row["wall_seconds"] < 95


@pytest.mark.parametrize(
    ("mark", "age", "here", "alive_process", "expected"),
    [
        ("m", 5, False, None, "running"),
        ("m", 59, False, None, "running"),
        ("m", 90, False, None, "stopped"),
        ("", 5, False, None, "stopped"),
        # On this machine the process table knows: a dead one is dead before six beats are missed,
        # a silent one is alive.
        ("m", 40, True, False, "stopped"),
        ("m", 40, True, True, "running"),
        ("m", 300, True, True, "running"),
        ("m", 7200, True, True, "stopped"),
    ],
)
def test_an_owner_lives_by_heartbeat_and_process(
    smoke, monkeypatch, mark, age, here, alive_process, expected
):
    loaded, runs = smoke
    monkeypatch.setattr("socket.gethostname", lambda: "me")
    ended = subprocess.Popen(["true"])
    ended.wait()
    pid = os.getpid() if alive_process else ended.pid
    own(loaded, runs[0], mark=mark, age=age, host="me" if here else "other", pid=pid)
    row = found(smoke)[runs[0].run_id]
    assert row["status"] == expected
    assert ("not heard" in row["detail"]) == (expected == "running" and age > 60)


def test_a_clock_that_is_wrong_on_a_node_does_not_make_a_run_dead(smoke):
    loaded, runs = smoke
    path = own(loaded, runs[0], age=900)
    os.utime(path)
    assert found(smoke)[runs[0].run_id]["status"] == "running"


GOOD = "r: step 5/9, loss 2.0000, 7 tokens/s, 1 s left"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([GOOD], ""),
        ([GOOD, "Traceback (most recent call last):", "  File x", "ValueError: bad value"], "ValueError: bad value"),
        ([GOOD, "torch.OutOfMemoryError: CUDA out of memory. Tried", "plmscale: rank 1 lost another rank"], "torch.OutOfMemoryError: CUDA out of memory. Tried"),
        ([GOOD, "RuntimeError: CUDA error: an illegal memory access", "srun: error: n1: task 0: Exited with exit code 1"], "RuntimeError: CUDA error: an illegal memory access"),
        ([GOOD, "srun: error: n1: task 0: Exited with exit code 137"], "srun: error: n1: task 0: Exited with exit code 137"),
        ([GOOD, "slurmstepd: error: Detected 1 oom_kill event in StepId=3.0."], "slurmstepd: error: Detected 1 oom_kill event in StepId=3.0."),
        ([GOOD, "bash: line 1: 71 Killed  python -m plmscale.training.launch"], "bash: line 1: 71 Killed  python -m plmscale.training.launch"),
        # What was repaired is past.
        (["plmscale: error: no space left", "r: resumed at step 4", GOOD], ""),
        (["ValueError: old", "r: stopped at step 5 by SIGTERM, saved"], ""),
        # The end of a job's time asks for no repair, an error of the run itself does.
        ([GOOD, "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***"], ""),
        ([GOOD, "KeyError: 'x'", "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026 ***"], "KeyError: 'x'"),
        (["plmscale: warning: checkpoint of step 9 was not written: disk", GOOD], ""),
    ],
)  # fmt: skip
def test_the_most_telling_error_of_a_log(lines, error):
    assert logs.understand(lines).error == error


def test_a_log_tells_speed_and_step_of_lines_and_of_a_copied_terminal(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        "x: step 1,000/2,000, loss 3.0000, 5 tokens/s, 9 s left\r"
        "x: step 1,500/2,000, loss 2.5000, 81,000 tokens/s, 1,009 s left, loss spike\x1b[K"
    )
    said = logs.understand(read_tail(path)[0])
    assert (said.step, said.loss, said.tokens_per_second) == (1500, 2.5, 81000)


def test_a_long_log_is_read_from_its_end(tmp_path):
    path = tmp_path / "log"
    with open(path, "w") as handle:
        for step in range(200_000):
            handle.write(f"x: step {step:,}/200,000, loss 2.5000, 81 tokens/s, 9 s left\n")
    lines, _ = read_tail(path)
    assert len(lines) < 2000 and lines[0].startswith("x: step ")
    assert logs.understand(lines).step == 199_999


def test_damaged_files_are_told_and_end_nothing(smoke):
    loaded, runs = smoke
    folder = finish(loaded, runs[0])
    (folder / "metrics.json").write_text('{"status": "do')
    finish(loaded, runs[1], fingerprint="0" * 64)
    lost = checkpoint(loaded, runs[2], 10)
    shutil.rmtree(lost / "step-10")
    torn = checkpoint(loaded, runs[3], 10)
    (torn / "step-10/state.json").write_text("[1, 2")
    own(loaded, runs[3])
    (own(loaded, runs[4])).write_bytes(b"\xff\xfe{")
    (loaded.folder / "checkpoints" / runs[5].run_id).mkdir(parents=True)
    log(loaded, runs[6], "plmscale: error: x/step-9: checkpoint cannot be loaded (E: e); remove the checkpoint folder to train from the start")  # fmt: skip
    states = found(smoke)
    by = [states[run.run_id] for run in runs[:7]]
    assert [row["status"] for row in by] == [
        "failed", "failed", "failed", "running", "waiting", "waiting", "failed",
    ]  # fmt: skip
    assert "not valid JSON" in by[0]["error"] and "another recipe" in by[1]["error"]
    assert "cannot be read" in by[2]["error"] and by[2]["damaged"] and by[6]["damaged"]
    assert by[3]["step"] == 10


@pytest.mark.parametrize("value", [None, "x", [], {"a": 1}, True, float("nan"), -1e400])
def test_values_of_any_type_in_json_files_end_nothing(smoke, value):
    loaded, runs = smoke
    names = ("steps", "loss", "tokens_per_second", "wall_seconds", "devices", "status_detail")
    keys = dict.fromkeys((*names, "flops_6nd_spent", "at_once", "n_params"), value)
    folder = loaded.folder / "runs" / runs[0].run_id
    folder.mkdir(parents=True)
    metrics = {**keys, "status": "done", "fingerprint": runs[0].recipe["fingerprint"]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    there = checkpoint(loaded, runs[1], 10)
    state = dict.fromkeys(("step", "ranks", "clocks", "curve", "trunk"), value)
    (there / "step-10/state.json").write_text(json.dumps(state))
    (there / "owner.lock").write_text(json.dumps(dict.fromkeys(("mark", "pid", "time"), value)))
    (there / "progress.json").write_text(json.dumps(dict.fromkeys(("step", "loss"), value)))
    states = found(smoke)
    assert states[runs[0].run_id]["status"] == "done"
    assert states[runs[1].run_id]["status"] in ("stopped", "failed", "running")


def test_files_replaced_all_the_time_are_never_seen_torn(smoke):
    """A checkpoint that is renamed, named and removed as the trainer does it, thousands of times."""
    loaded, runs = smoke
    folder = checkpoint(loaded, runs[0], 1)
    own(loaded, runs[0])
    stop, problems, seen = threading.Event(), [], []

    def replace():
        step = 1
        while not stop.is_set():
            temporary = folder / f".tmp-step-{step + 1}"
            write_json(temporary / "state.json", {"step": step + 1, "curve": [], "ranks": 1})
            os.rename(temporary, folder / f"step-{step + 1}")
            write_json(folder / "latest.json", {"tag": f"step-{step + 1}", "step": step + 1})
            shutil.rmtree(folder / f"step-{step}")
            step += 1

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            one = gather(loaded.folder, runs[0].run_id, "", time.time())
            problems.append(one.checkpoint_problem)
            seen.append(one.checkpoint_step)
    finally:
        stop.set()
        writer.join()
    assert not any(problems)
    assert None not in seen and seen == sorted(seen) and seen[-1] > seen[0]


def test_a_cut_file_is_no_object_and_a_missing_one_is_not_there(tmp_path):
    path = tmp_path / "x.json"
    assert not read_object(path).there
    whole = '{"a": {"b": [1, 2, 3]}}'
    for length in range(len(whole)):
        path.write_text(whole[:length])
        assert read_object(path).there and read_object(path).value is None
    path.write_text(whole)
    assert read_object(path).value == {"a": {"b": [1, 2, 3]}}


def test_a_file_met_in_the_middle_of_a_write_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_text('{"a"')
    monkeypatch.setattr("time.sleep", lambda _seconds: path.write_text('{"a": 1}'))
    assert read_object(path).value == {"a": 1}


def test_jobs_logs_of_the_executor_tell_what_a_run_could_not(smoke, tmp_path):
    loaded, runs = smoke
    own(loaded, runs[0], age=400, job="7")
    log(loaded, runs[0], progress(runs[0], 3))
    there = tmp_path / ".snakemake/slurm_logs/rule_train" / runs[0].run_id
    there.mkdir(parents=True)
    (there / "7.log").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0\n")
    row = found(smoke)[runs[0].run_id]
    assert row["status"] == "failed" and "oom_kill" in row["error"]
    # A log of an earlier job, before the run went on, is past.
    os.utime(there / "7.log", (time.time() - 3600,) * 2)
    assert found(smoke)[runs[0].run_id]["status"] == "stopped"


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def test_the_lock_of_training_itself(smoke):
    loaded, runs = smoke
    folder = loaded.folder / "checkpoints" / runs[0].run_id
    with owned(folder):
        row = found(smoke)[runs[0].run_id]
        assert row["status"] == "running" and row["host"] == socket.gethostname()
    assert found(smoke)[runs[0].run_id]["status"] == "stopped"


@pytest.mark.slow
def test_a_real_run_from_start_to_stop_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded, _ = load(tmp_path / "results")
    recipe = make_recipe(steps=3000)
    run = grid.Run(recipe, ["isoflop"])
    corpus = make_corpus(tmp_path / "corpus")
    there, saved = (loaded.folder / part / recipe["run_id"] for part in ("runs", "checkpoints"))
    write_json(there / "recipe.json", recipe)
    saved.mkdir(parents=True)
    words = command(there, corpus, f"--checkpoint-dir={saved}", "--checkpoint-seconds=0.2", "--warm=never")  # fmt: skip

    def state():
        (row,), _ = rows.collect(loaded, [run], ask=False)
        return row

    def start():
        with open(saved / "train.log", "a") as handle:
            return subprocess.Popen(words, env=environment(), stdout=handle, stderr=handle)

    assert state()["status"] == "waiting"
    process = start()
    try:
        row = wait_for(lambda: (r := state())["step"] and r["loss"] and r)
        assert row["status"] == "running" and 0 < row["share"] < 1 and row["tokens_per_second"] > 0
        assert row["wall_seconds"] > 0
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        row = state()
        assert row["status"] == "stopped" and row["detail"] == "stopped by SIGTERM"
        at = row["step"]
        process = start()
        row = wait_for(lambda: (r := state())["status"] == "running" and r)
        assert row["step"] >= at
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
    row = state()
    assert row["status"] == "done" and row["share"] == 1 and row["loss_of"] == "valid"


def test_three_hundred_runs_in_a_moment(tmp_path, monkeypatch):
    """No file is read twice and none is read whole that grows: counted, not timed."""
    monkeypatch.chdir(tmp_path)
    loaded, runs = load(tmp_path / "results")
    many = [
        grid.Run({**runs[0].recipe, "run_id": f"r-{i}", "fingerprint": "f"}, ["x"])
        for i in range(300)
    ]
    rng = random.Random(1)
    for run in many:
        if rng.random() < 0.5:
            finish(loaded, run)
        else:
            checkpoint(loaded, run, 10)
            own(loaded, run)
            log(loaded, run, *[progress(run, step) for step in range(2000)])
    opened, real = [], open

    def counting(path, *more, **words):
        opened.append(str(path))
        return real(path, *more, **words)

    monkeypatch.setattr("builtins.open", counting)
    table, _ = rows.collect(loaded, many, ask=False)
    assert {row["status"] for row in table} == {"done", "running"}
    assert len(opened) == len(set(opened)) and len(opened) <= 6 * len(many)
