"""The lock of a run on file systems of all kinds, and launchers that set half of what they should."""

import subprocess
import sys
import time

import pytest
from training_fixtures import command, environment, make_corpus, make_recipe, write_run

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.training import lock, places
from plmscale.training.lock import LOCK, owned


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_live_owner_keeps_its_run_where_the_file_system_knows_no_locks(tmp_path, monkeypatch):
    """The second start on the same machine must be refused, not throw the first out."""
    code = (
        "import fcntl, sys, time; from pathlib import Path; from plmscale.training import lock\n"
        "def flock(*a): raise OSError(37, 'No locks available')\n"
        "fcntl.flock = flock\n"
        f"with lock.owned(Path({str(tmp_path)!r}), beat=0.1):\n"
        "    print('mine', flush=True); time.sleep(4); print('still mine', flush=True)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "mine\n"

    def flock(*_args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    try:
        with (
            pytest.raises(PlmscaleError, match=f"another process trains this run .pid {first.pid}"),
            owned(tmp_path, patience=1.0, beat=0.1),
        ):
            pass
        assert first.stdout.readline() == "still mine\n"
        assert first.wait(30) == 0
    finally:
        first.kill()
        first.wait()
    # It has said that it left.
    with owned(tmp_path, patience=1.0, beat=0.1):
        pass


def test_a_dead_owner_on_a_file_system_without_locks_is_not_waited_for_long(tmp_path, monkeypatch):
    def flock(*_args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    owner = {"mark": "x", "pid": dead.pid, "host": lock.socket.gethostname(), "time": time.time()}
    write_json(tmp_path / LOCK, owner)
    with owned(tmp_path, patience=0.2, beat=0.1) as mine:
        assert read_json(tmp_path / LOCK)["mark"] == mine.mark


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mark": 1}', '{"mark": "a", "time": "x"}'])
def test_an_unreadable_lock_is_no_lock(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with owned(tmp_path, patience=2.0, beat=0.05) as mine:
        assert read_json(tmp_path / LOCK)["mark"] == mine.mark


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def refused(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock.os, "open", refused)
    with pytest.raises(PlmscaleError, match=r"owner.lock: .*Permission denied"), owned(tmp_path):
        pass


def test_two_starts_at_the_same_moment_give_one_owner(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from plmscale.training.lock import owned\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        f"with owned(Path({str(tmp_path)!r}), patience=0.2, beat=0.1):\n"
        "    print('mine', flush=True); time.sleep(2)"
    )
    at = str(time.time() + 1.5)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, at],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=30)[0] for process in both]
    assert sorted(said) == ["", "", "mine\n"]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[01-02,05]", "node01"),
        ("a,b", "a"),
        ("gpu-a-[3-4]x", "gpu-a-3x"),
        ("gpu[03-05,9],x", "gpu03"),
        ("rack[1-2]node[3-4]", "rack1node3"),
        ("10.0.0.[7-9]", "10.0.0.7"),
        ("single", "single"),
    ],
)
def test_the_first_node_of_a_slurm_list(nodes, first):
    assert places.first_node(nodes) == first


def test_half_an_environment_is_told():
    with pytest.raises(PlmscaleError, match="SLURM_LOCALID not set"):
        places.from_slurm({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"})
    assert places.resolve("auto", {"TORCHELASTIC_RUN_ID": "x"}) == "local"
    assert places.resolve("auto", {"SLURM_STEP_ID": "0"}) == "local"


def test_a_port_that_is_taken_is_told(tmp_path, corpus):
    import socket

    run_dir = write_run(tmp_path, make_recipe(steps=5))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        env["MASTER_PORT"] = str(taken.getsockname()[1])
        done = subprocess.run(
            command(run_dir, corpus, "--launcher=env"),
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert env["MASTER_PORT"] in done.stderr and "MASTER_PORT" in done.stderr
