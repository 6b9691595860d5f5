"""Kills between two file operations, full disks, failed saves, results that must not be lost."""

from pathlib import Path

import pytest
import torch
from fault_bench import WSD, Bench, curve, recipe_of, stop_at
from training_fixtures import (
    command,
    digests,
    finish,
    make_corpus,
    make_recipe,
    metrics,
    write_run,
)

from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.training import checkpoint


@pytest.fixture(scope="module")
def bench():
    with Bench() as server:
        yield server


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


# What a run does with its files, in order: a kill may fall before any of it.
_KILL = """
import os, shutil
from plmscale.training import checkpoint, results, records
count = 0
def dying(function):
    def inner(*args, **kwargs):
        global count
        count += 1
        if count == {at}:
            os._exit(77)
        return function(*args, **kwargs)
    return inner
checkpoint.write_json = dying(checkpoint.write_json)
checkpoint.save_file = dying(checkpoint.save_file)
checkpoint.flush = dying(checkpoint.flush)
checkpoint.shutil = type("S", (), {"rmtree": staticmethod(dying(shutil.rmtree))})
checkpoint.os = type("O", (), {k: getattr(os, k) for k in dir(os) if not k.startswith("__")})
checkpoint.os.rename = staticmethod(dying(os.rename))
for name in ("save_model", "write_json", "write_validation"):
    setattr(results, name, dying(getattr(results, name)))
records.Curve.write = dying(records.Curve.write)
# Each save is waited for, so that operations come in one order.
_save = checkpoint.Saver.save
def save(self, *args):
    _save(self, *args)
    self.wait()
checkpoint.Saver.save = save
"""


@pytest.mark.slow  # about 50 s
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_kill_between_any_two_file_operations_costs_nothing(tmp_path, bench, corpus, schedule):
    """Three saves, the last of them of the trunk, then the results."""
    recipe = recipe_of(steps=4) if schedule == "cosine" else recipe_of(steps=4, schedule=WSD)
    clean = write_run(tmp_path / "whole", recipe)
    assert bench.run(clean, corpus)[0] == 0
    killed = 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        run_dir = write_run(folder, recipe)
        patch = _KILL.replace("{at}", str(at))
        code, said = bench.run(run_dir, corpus, "--checkpoint-seconds=0", patch=patch)
        assert code in (0, 77), (at, said)
        written = (folder / "checkpoint/latest.json").exists()
        if code == 0 and not written:
            break
        killed = at
        if code:
            code, said = bench.run(run_dir, corpus, "--checkpoint-seconds=0")
            assert code == 0, (at, said)
            assert ("resumed at step" in said) == written, (at, said)
        assert digests(run_dir) == digests(clean), at
    assert killed > 30


def test_sums_that_are_not_finite_do_not_spoil_a_checkpoint(tmp_path, bench, corpus):
    """A loss of NaN between two logged points, then a stop: the next start must get on."""
    recipe = recipe_of(steps=1000)  # a logged point every 10 steps
    run_dir = write_run(tmp_path, recipe)
    patch = stop_at(8) + (
        "_losses = trainer.row_losses\n"
        "def row_losses(engine, *rest):\n"
        "    found = _losses(engine, *rest)\n"
        "    return found * float('nan') if engine.global_steps == 6 else found\n"
        "trainer.row_losses = row_losses\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 143 and "stopped at step 8" in said
    code, said = bench.run(run_dir, corpus)
    assert "Traceback" not in said
    assert code == 0 and metrics(run_dir)["status"] == "diverged"


def test_a_stop_while_results_are_written_is_no_failure(tmp_path, bench, corpus):
    """The checkpoint is gone then: were the outputs deleted for the exit code, all would be lost."""
    run_dir = write_run(tmp_path, recipe_of(steps=10))
    patch = (
        "import os, signal, time\n"
        "from plmscale.training import results\n"
        "_save = results.save_model\n"
        "def save_model(*args):\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    time.sleep(0.5)\n"
        "    return _save(*args)\n"
        "results.save_model = save_model\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert (run_dir / "metrics.json").exists(), said
    assert code == 0, said


def test_a_child_of_a_lost_parent_ends_well_on_two_ranks(tmp_path, bench, corpus):
    clm = make_recipe()
    lost = {"run_id": "p", "fingerprint": clm["fingerprint"], "status": "diverged"}
    write_json(tmp_path / "parent/metrics.json", lost)
    child = make_recipe(parent={"run_id": "p", "fingerprint": clm["fingerprint"]})
    run_dir = write_run(tmp_path / "child", child)
    code, said = bench.run(run_dir, corpus, f"--parent-dir={tmp_path / 'parent'}", "--devices=2")
    assert metrics(run_dir)["status"] == "parent_failed"
    assert code == 0, said


def test_no_rank_leaves_before_the_checkpoint_of_a_stop_is_there(tmp_path, bench, corpus):
    """A launcher kills the others some time after the first has left."""
    run_dir = write_run(tmp_path, recipe_of())
    patch = stop_at(3) + (
        "import time\n"
        "from plmscale.training import checkpoint, ranks\n"
        f"folder = {str(tmp_path)!r}\n"
        "_commit, _exit = checkpoint.Saver._commit, os._exit\n"
        "def commit(*args):\n"
        "    time.sleep(1.0)\n"
        "    _commit(*args)\n"
        "    open(folder + '/committed', 'w').write(str(time.time()))\n"
        "def leave(code):\n"
        "    open(folder + '/left' + os.environ['RANK'], 'w').write(str(time.time()))\n"
        "    _exit(code)\n"
        "checkpoint.Saver._commit = commit\n"
        "ranks.os = type('O', (), {k: getattr(os, k) for k in dir(os) if k[:2] != '__'})\n"
        "ranks.os._exit = staticmethod(leave)\n"
    )
    code, said = bench.run(run_dir, corpus, "--devices=2", patch=patch)
    assert code == 143 and "stopped at step 3" in said, said
    committed = float((tmp_path / "committed").read_text())
    assert float((tmp_path / "left1").read_text()) >= committed


def test_a_part_damaged_on_any_rank_is_told(tmp_path, bench, corpus):
    run_dir = write_run(tmp_path, recipe_of())
    code, said = bench.run(run_dir, corpus, "--devices=2", patch=stop_at(3))
    assert code == 143, said
    path = tmp_path / "checkpoint/step-3/rank-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    code, said = bench.run(run_dir, corpus, "--devices=2")
    assert "rank-00001.safetensors" in said and "is damaged; remove the checkpoint folder" in said
    assert code == 2


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_logged_losses_are_right_after_a_change_of_ranks(tmp_path, bench, corpus, before, after):
    recipe = recipe_of(steps=200, precision="fp32")  # a point every second step
    recipe["validation"] = {**recipe["validation"], "evaluations": 1}
    clean = write_run(tmp_path / "whole", recipe)
    assert bench.run(clean, corpus)[0] == 0
    run_dir = write_run(tmp_path / "moved", recipe)
    code, said = bench.run(run_dir, corpus, f"--devices={before}", patch=stop_at(9))
    assert code == 143, said
    assert bench.run(run_dir, corpus, f"--devices={after}", patch=stop_at(30))[0] == 143
    assert bench.run(run_dir, corpus)[0] == 0
    expected, got = curve(clean, "train"), curve(run_dir, "train")
    assert [got[n] for n in (8, 10, 12, 30, 32)] == pytest.approx(
        [expected[n] for n in (8, 10, 12, 30, 32)], abs=1e-4
    )


def test_a_run_that_another_process_finished_meanwhile_is_left_alone(tmp_path, bench, corpus):
    """Two starts at once: the second waits for the lock and finds the results."""
    run_dir = write_run(tmp_path, recipe_of(steps=10))
    args = command(run_dir, corpus, "--warm=never")
    patch = (
        "import os, subprocess\n"
        "from plmscale.training import lock\n"
        "_acquire = lock._acquire\n"
        "def acquire(*args):\n"
        "    env = {k: v for k, v in os.environ.items() if 'RANK' not in k and 'ELASTIC' not in k}\n"
        f"    subprocess.run({args!r}, check=True, env=env)\n"
        f"    os.utime({str(run_dir / 'metrics.json')!r}, (1, 1))\n"
        "    return _acquire(*args)\n"
        "lock._acquire = acquire\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 0 and "already finished" in said, said
    assert (run_dir / "metrics.json").stat().st_mtime == 1


def test_a_save_that_works_after_one_that_failed_is_told_as_saved(tmp_path, bench, corpus):
    run_dir = write_run(tmp_path, recipe_of())
    patch = stop_at(30) + (
        "from plmscale.training import checkpoint\n"
        "_save = checkpoint.save_file\n"
        "def save_file(*args):\n"
        "    checkpoint.save_file = _save\n"
        "    raise OSError(28, 'No space left on device')\n"
        "checkpoint.save_file = save_file\n"
    )
    code, said = bench.run(run_dir, corpus, "--checkpoint-seconds=0.001", patch=patch)
    assert code == 143 and "was not written" in said, said
    assert checkpoint.latest(tmp_path / "checkpoint").name == "step-30"
    assert "stopped at step 30 by SIGTERM, saved" in said


def test_a_disk_full_to_the_last_byte_costs_only_the_checkpoint(tmp_path, monkeypatch, capsys):
    """Not even the note that a rank has failed can be written."""

    def full(*_args):
        raise PlmscaleError("no space left on the disk")

    def short(_tensors, path):
        Path(path).write_bytes(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    monkeypatch.setattr(checkpoint, "save_file", short)
    folder = tmp_path / ".tmp-step-1"
    folder.mkdir()
    saver = checkpoint.Saver(tmp_path, 0, 1, None, set())
    saver._write(folder, 1, {"weight/a": torch.ones(2)}, [], {})
    assert saver.report.failed == 1 and not folder.exists()
    assert "was not written" in capsys.readouterr().out
    # Another rank must at least free what it took.
    other = checkpoint.Saver(tmp_path, 1, 2, None, set())
    folder.mkdir()
    other._write(folder, 1, {"weight/a": torch.ones(2)}, [], {})
    assert other.report.failed == 1 and not list(folder.glob("*.safetensors"))


def test_results_wait_for_room_on_the_disk(tmp_path, bench, corpus):
    """A trained model is not lost because the disk is full when it ends."""
    whole = finish(tmp_path / "whole", corpus, recipe_of())
    run_dir = write_run(tmp_path, recipe_of())
    patch = (
        "import os\n"
        "from safetensors import SafetensorError\n"
        "from plmscale.model import loading\n"
        "from plmscale.training import results\n"
        "results.RETRY_SECONDS = 0.05\n"
        "_save, left = loading.save_file, [2]\n"
        "def save_file(*args, **more):\n"
        "    if left[0]:\n"
        "        left[0] -= 1\n"
        "        raise SafetensorError('I/O error: No space left on device (os error 28)')\n"
        "    return _save(*args, **more)\n"
        "loading.save_file = save_file\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 0, said
    assert said.count("trained, but") == 1 and "trying again every 0.05 s for 20 minutes" in said
    assert digests(run_dir) == digests(whole)


@pytest.mark.parametrize("told", [False, True])
def test_results_do_not_wait_for_room_for_ever(tmp_path, bench, corpus, told):
    """Until the time is up, or the run is told to stop; what is there is never called finished."""
    run_dir = write_run(tmp_path, recipe_of())
    patch = (
        "import os, signal\n"
        "from plmscale import files\n"
        "from plmscale.training import results\n"
        f"results.PATIENCE = {1e9 if told else 0.3}\n"
        f"results.RETRY_SECONDS = {1e9 if told else 0.05}\n"
        "def full(*args):\n"
        f"    if {told}: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    raise files.DiskFull('no space left')\n"
        "results.write_validation = full\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 2 and "error: no space left" in said, said
    assert not (run_dir / "metrics.json").exists()


def test_leavings_of_killed_writes_are_removed(tmp_path, bench, corpus):
    run_dir = write_run(tmp_path, recipe_of())
    left = [run_dir / ".model.safetensors.7.tmp", tmp_path / "checkpoint/.latest.json.x1.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a part")
    code, said = bench.run(run_dir, corpus)
    assert code == 0, said
    assert not [path for path in left if path.exists()]


def test_a_save_that_dies_of_anything_is_counted(tmp_path, monkeypatch):
    def dies(*_args):
        raise MemoryError("no memory")

    monkeypatch.setattr(checkpoint, "save_file", dies)
    folder = tmp_path / ".tmp-step-1"
    folder.mkdir()
    saver = checkpoint.Saver(tmp_path, 0, 1, None, set())
    saver._write(folder, 1, {"weight/a": torch.ones(2)}, [], {})
    assert saver.report.failed == 1 and not folder.exists()


def test_a_log_on_a_full_disk_does_not_end_a_run(tmp_path, bench, corpus):
    """Lines are lost, steps are not."""
    run_dir = write_run(tmp_path, recipe_of(steps=300))
    patch = "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    code, _ = bench.run(run_dir, corpus, patch=patch)
    assert code == 0 and metrics(run_dir)["status"] == "done"


def test_events_on_a_full_disk_do_not_end_a_run(tmp_path, bench, corpus):
    run_dir = write_run(tmp_path, recipe_of(steps=300))
    patch = (
        "from torch.utils.tensorboard import writer\n"
        "from tensorboard.summary.writer import record_writer\n"
        "def full(*args):\n"
        "    raise OSError(28, 'No space left on device')\n"
        "record_writer.RecordWriter.write = full\n"
    )
    code, said = bench.run(run_dir, corpus, patch=patch)
    assert code == 0, said
    assert metrics(run_dir)["status"] == "done"
