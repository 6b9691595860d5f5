"""Packs whose members fail, wait for each other, or are killed with it."""

import os
import signal

import pytest
from fault_bench import Bench, child_of, recipe_of
from training_fixtures import alive, job, make_corpus, make_recipe, wait_for

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.training.lock import LOCK
from plmscale.training.pack import Member, Pack, read_jobs


@pytest.fixture(scope="module")
def bench():
    with Bench() as server:
        yield server


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


# A test must not wait for ever where a pack would.
ALARM = "import signal; signal.alarm({seconds})\n"


def test_a_pack_whose_runs_wait_for_each_other_ends(tmp_path, bench, corpus):
    one, two = make_recipe(steps=5), make_recipe(steps=5, seed=2)
    runs = [
        job(tmp_path / "a", corpus, child_of(two), parent_dir=str(tmp_path / "b/run")),
        job(tmp_path / "b", corpus, child_of(one), parent_dir=str(tmp_path / "a/run")),
        job(tmp_path / "c", corpus, one),
    ]
    code, said = bench.pack(tmp_path, runs, patch=ALARM.format(seconds=6))
    assert code in (1, 2), said
    assert "wait for each other" in said


def test_the_number_of_runs_at_once_must_be_one(tmp_path, bench, corpus):
    runs = [job(tmp_path / "a", corpus, make_recipe(steps=5))]
    code, said = bench.pack(tmp_path, runs, "--at-once=-1", patch=ALARM.format(seconds=6))
    assert code == 2 and "--at-once" in said


def test_a_child_of_a_packed_run_that_failed_says_so(tmp_path, bench, corpus):
    broken = make_recipe(steps=0)
    runs = [
        job(tmp_path / "child", corpus, child_of(broken), parent_dir=str(tmp_path / "a/run")),
        job(tmp_path / "a", corpus, broken),
    ]
    code, said = bench.pack(tmp_path, runs)
    assert code == 1 and said.count("FAILED with exit code 2") == 2, said
    log = tmp_path / "child/checkpoint/train.log"
    assert "parent" in said + (log.read_text() if log.exists() else "")


def test_a_parent_is_known_by_any_path_to_it(tmp_path, bench, corpus):
    """A child that does not find its parent in the pack starts too early."""
    clm = make_recipe(steps=30)
    (tmp_path / "other").symlink_to(tmp_path)
    parent = str(tmp_path / "other/a/run")
    runs = [
        job(tmp_path / "child", corpus, child_of(clm), parent_dir=parent),
        job(tmp_path / "a", corpus, clm),
    ]
    code, said = bench.pack(tmp_path, runs, "--at-once=2")
    assert code == 0, said


def test_a_member_that_cannot_start_leaves_the_others_alone(tmp_path, bench, corpus):
    """Its metrics.json cannot be read, or its folder is a file."""
    runs = [
        job(tmp_path / name, corpus, make_recipe(steps=60, seed=n)) for n, name in enumerate("abc")
    ]
    for name in ("curve.csv", "validation.csv", "model.safetensors", "config.json"):
        (tmp_path / "b/run" / name).write_text("x")
    (tmp_path / "b/run/metrics.json").write_text("{half")
    (tmp_path / "c/checkpoint").write_text("a file")
    code, said = bench.pack(tmp_path, runs, "--at-once=2")
    assert code == 1, said
    assert (tmp_path / "a/run/metrics.json").exists()
    assert said.count("FAILED") == 2 and "Traceback" not in said
    assert "metrics.json: not valid JSON" in said


def test_the_runs_of_a_killed_pack_save_and_end(tmp_path, bench, corpus):
    run = job(tmp_path / "a", corpus, recipe_of(steps=100_000), checkpoint_seconds=0.05)
    write_json(tmp_path / "jobs.json", {"runs": [run]})
    pid = bench.start("pack", [str(tmp_path / "jobs.json")], tmp_path / "said")
    wait_for(lambda: (tmp_path / "a/checkpoint/latest.json").exists())
    rank = read_json(tmp_path / "a/checkpoint" / LOCK)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert bench.wait() == -signal.SIGKILL
    try:
        wait_for(lambda: not alive(rank), seconds=10)
    finally:
        if alive(rank):
            os.kill(rank, signal.SIGTERM)
            wait_for(lambda: not alive(rank))


def test_a_pack_stopped_while_it_starts_a_run_stops_that_too(tmp_path, bench, corpus):
    """The signal falls after the fork and before the pack knows its child."""
    patch = (
        "import os, signal, time\n"
        "from plmscale.training import pack\n"
        "_spawn = pack.Pack._spawn\n"
        "def spawn(self, options):\n"
        "    pid = _spawn(self, options)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return pid\n"
        "pack.Pack._spawn = spawn\n"
    )
    run = job(tmp_path / "a", corpus, recipe_of(steps=3000))
    code, said = bench.pack(tmp_path, [run], patch=patch)
    assert code == 143, said
    assert not (tmp_path / "a/run/metrics.json").exists()


def test_a_shared_checkpoint_folder_is_refused(tmp_path, corpus):
    runs = [job(tmp_path / name, corpus, make_recipe()) for name in "ab"]
    runs[1]["checkpoint_dir"] = runs[0]["checkpoint_dir"]
    write_json(tmp_path / "jobs.json", {"runs": runs})
    with pytest.raises(PlmscaleError, match="two runs share a checkpoint_dir"):
        read_jobs(tmp_path / "jobs.json")


@pytest.mark.parametrize("run", [3, "text", {"devices": "two"}])
def test_a_job_that_is_none_is_told(tmp_path, run):
    base = dict.fromkeys(("recipe", "corpus", "run_dir", "checkpoint_dir"), "x")
    runs = [{**base, **run} if isinstance(run, dict) else run]
    write_json(tmp_path / "jobs.json", {"runs": runs})
    with pytest.raises(PlmscaleError, match="run 1: "):
        read_jobs(tmp_path / "jobs.json")


def test_looking_for_a_run_to_start_is_quick_in_a_large_pack(tmp_path):
    """Counted, not timed: members looked at while all of 400 wait for one."""
    from plmscale.training.options import Options

    def options(n, **more):
        folder = tmp_path / str(n)
        return Options(folder / "r", folder, folder / "run", folder / "checkpoint", **more)

    members = [Member(options(0), pid=1)]
    members += [Member(options(n, parent_dir=tmp_path / "0/run")) for n in range(1, 400)]
    pack, looked = Pack(members, 8), 0
    waits = pack._waits

    def counted(member):
        nonlocal looked
        looked += 1
        return waits(member)

    pack._waits = counted
    pack._start()
    assert looked == 399 and not any(m.pid for m in members[1:])
