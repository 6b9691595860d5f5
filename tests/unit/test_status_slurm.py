"""Slurm's word on runs: commands that answer, are empty, fail, hang, or are not there."""

import os
import signal
import subprocess
import time

import pytest
from status_example import Commands, checkpoint, finish, load, log, own, progress

from plmscale.files import write_json
from plmscale.status import rows, slurm


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load("results")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    return Commands(tmp_path / "bin", monkeypatch)


def found(smoke):
    loaded, runs = smoke
    table, problem = rows.collect(loaded, runs)
    return [table[i] for i in range(len(runs))], problem


def comment(run, rule="train"):
    return f"rule_{rule}_wildcards_{run.run_id}"


def test_queued_and_starting_jobs_are_found_by_their_comments(smoke, commands, tmp_path):
    _, runs = smoke
    commands.queue(
        ("11", "PENDING", "Priority", tmp_path, comment(runs[0])),
        ("12", "PENDING", "(Nodes | down)", tmp_path, comment(runs[1])),
        ("13", "RUNNING", "None", tmp_path, comment(runs[2])),
        ("14", "COMPLETED", "None", tmp_path, comment(runs[3])),
        ("15", "PENDING", "None", tmp_path, "something of another's"),
        ("16", "PENDING", "None", tmp_path, ""),
    )
    table, problem = found(smoke)
    assert problem == ""
    assert [r["status"] for r in table[:5]] == ["queued", "queued", "running", "waiting", "waiting"]
    assert table[0]["detail"] == "job 11: Priority"
    assert table[1]["detail"] == "job 12: (Nodes | down)" and table[1]["job"] == "12"
    assert table[2]["detail"] == "job 13 starts"
    asked = (tmp_path / "bin/asked").read_text().splitlines()
    assert asked[asked.index("--user") + 1] == str(os.getuid())


def test_of_two_jobs_of_a_run_the_running_one_counts(smoke, commands, tmp_path):
    _, runs = smoke
    waits = ("11", "PENDING", "Dependency", tmp_path, comment(runs[0]))
    works = ("12", "RUNNING", "None", tmp_path, comment(runs[0], "train_large"))
    for order in ((waits, works), (works, waits)):
        commands.queue(*order)
        row = found(smoke)[0][0]
        assert (row["status"], row["job"]) == ("running", "12")


def test_runs_that_share_a_job_are_found_by_their_packs_list(smoke, commands, tmp_path):
    loaded, runs = smoke
    members = {run.run_id: run.recipe for run in runs[:4]}
    write_json(loaded.folder / "packs/p-12ab.runs.json", {"runs": members})
    (loaded.folder / "packs/p-torn.runs.json").write_text('{"runs": {"x')
    commands.queue(("21", "PENDING", "Resources", tmp_path, "rule_pack_wildcards_p-12ab"))
    table, _ = found(smoke)
    assert [row["status"] for row in table[:5]] == ["queued"] * 4 + ["waiting"]
    commands.queue(("21", "RUNNING", "None", tmp_path, "rule_pack_wildcards_p-12ab"))
    own(loaded, runs[0], job="21")
    log(loaded, runs[1], "ValueError: bad")
    finish(loaded, runs[2])
    table, _ = found(smoke)
    assert [row["status"] for row in table[:5]] == [
        "running", "failed", "done", "queued", "waiting",
    ]  # fmt: skip
    assert table[3]["detail"] == "job 21: waits for its turn in the pack"
    assert table[1]["error"] == "ValueError: bad"


def test_a_job_of_another_checkout_is_not_ours(smoke, commands, tmp_path):
    _, runs = smoke
    other = tmp_path / "other"
    other.mkdir()
    commands.queue(
        ("11", "PENDING", "Priority", other, comment(runs[0])),
        # A folder that only the compute nodes see cannot be judged.
        ("12", "PENDING", "Priority", "/no/such/folder", comment(runs[1])),
    )
    table, _ = found(smoke)
    assert [row["status"] for row in table[:2]] == ["waiting", "queued"]


def test_a_failed_run_that_is_queued_again_is_queued(smoke, commands, tmp_path):
    loaded, runs = smoke
    own(loaded, runs[0], age=900, job="3")
    log(loaded, runs[0], progress(runs[0], 3), "ValueError: bad")
    commands.queue(("11", "PENDING", "BeginTime", tmp_path, comment(runs[0])))
    assert found(smoke)[0][0]["status"] == "queued"
    commands.queue()
    assert found(smoke)[0][0]["status"] == "failed"


def test_a_job_without_a_fresh_heartbeat_runs_as_long_as_slurm_says_so(smoke, commands, tmp_path):
    loaded, runs = smoke
    own(loaded, runs[0], age=900, job="31")
    commands.queue(("31", "RUNNING", "None", tmp_path, "no comment of ours"))
    row = found(smoke)[0][0]
    assert row["status"] == "running" and row["detail"].startswith("not heard for 90")
    # A run that was let go is over, whatever else the job goes on with.
    own(loaded, runs[0], mark="", age=900, job="31")
    assert found(smoke)[0][0]["status"] == "stopped"


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("TIMEOUT|0:0", "stopped", "job 9: timeout"),
        ("CANCELLED by 1000|0:15", "stopped", "job 9: cancelled"),
        ("NODE_FAIL|0:0", "stopped", "job 9: node fail"),
        ("PREEMPTED|0:0", "stopped", "job 9: preempted"),
        ("OUT_OF_MEMORY|0:125", "failed", "job 9: the job ran out of memory (exit code 0:125)"),
        ("FAILED|137:0", "failed", "job 9: the job failed (exit code 137:0)"),
    ],
)
def test_accounting_tells_how_a_lost_job_ended(smoke, commands, end, status, words):
    loaded, runs = smoke
    checkpoint(loaded, runs[0], 5)
    own(loaded, runs[0], age=900, job="9")
    log(loaded, runs[0], progress(runs[0], 6))
    commands.queue()
    # A requeued job has several ends; the last one counts.
    commands.accounts("9|NODE_FAIL|0:0|2026-01-01T00:00:00", f"9|{end}|2026-01-01T00:00:00")
    row = found(smoke)[0][0]
    assert row["status"] == status
    assert words in (row["error"] or row["detail"])


def test_the_runs_own_error_says_more_than_failed(smoke, commands):
    loaded, runs = smoke
    own(loaded, runs[0], age=900, job="9")
    log(loaded, runs[0], progress(runs[0], 6), "KeyError: 'x'")
    commands.queue()
    commands.accounts("9|FAILED|1:0|x")
    assert found(smoke)[0][0]["error"] == "KeyError: 'x'"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "squeue: slurm_load_jobs error: Unable to contact slurm controller"),
        ("exit 3", "squeue: exit code 3"),
        ("exit 0", ""),
        ("echo 'a line of some other version'", ""),
        ("printf '\\377\\376 \\037\\037\\037\\037\\037\\037\\n'", ""),
    ],
)  # fmt: skip
def test_a_slurm_that_fails_leaves_states_to_files(smoke, commands, script, problem):
    loaded, runs = smoke
    own(loaded, runs[0], job="5")
    own(loaded, runs[1], age=900, job="6")
    commands.put("squeue", script)
    commands.put("sacct", script)
    table, said = found(smoke)
    assert said == problem
    assert [row["status"] for row in table[:3]] == ["running", "stopped", "waiting"]


@pytest.mark.parametrize(
    "script", ["sleep {n}", "sleep {n} & wait", "trap '' TERM; sleep {n} & sleep {n}"]
)
def test_a_slurm_that_hangs_does_not_hang_us_and_leaves_no_process(
    smoke, commands, monkeypatch, script
):
    monkeypatch.setattr(slurm, "TIMEOUT", 0.5)
    # A number of seconds that no other process sleeps.
    sleeping = f"sleep {600_000 + os.getpid()}"
    commands.put("squeue", script.replace("sleep {n}", sleeping))
    # A watchdog ends the test where a pipe held open would keep it for days.
    signal.signal(signal.SIGALRM, _hung)
    signal.alarm(60)
    try:
        table, problem = found(smoke)
        assert problem == "squeue gave no answer within 0.5 s"
        assert {row["status"] for row in table} == {"waiting"}
        while _processes(sleeping):
            time.sleep(0.05)
    finally:
        signal.alarm(0)
        for pid in _processes(sleeping):
            os.kill(pid, signal.SIGKILL)


def _hung(_number, _frame):
    raise AssertionError("hung")


def _processes(words):
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    return [int(x.split()[0]) for x in listed.splitlines() if x.split(maxsplit=1)[1] == words]


def test_a_hanging_accounting_costs_its_limit_only(smoke, commands, monkeypatch):
    loaded, runs = smoke
    monkeypatch.setattr(slurm, "TIMEOUT", 0.5)
    own(loaded, runs[0], age=900, job="9")
    commands.queue()
    commands.put("sacct", "sleep 600")
    table, problem = found(smoke)
    assert (table[0]["status"], problem) == ("stopped", "")


def test_without_slurm_nothing_is_asked(smoke, tmp_path, monkeypatch):
    loaded, runs = smoke
    monkeypatch.setenv("PATH", str(tmp_path))
    own(loaded, runs[0], age=900, job="9")
    assert slurm.ask_queue() is None and slurm.ask_ends(["9"]) is None
    table, problem = found(smoke)
    assert (table[0]["status"], problem) == ("stopped", "")


def test_a_command_that_cannot_be_started_is_told(smoke, commands, tmp_path):
    commands.put("squeue", "exit 0")
    (tmp_path / "bin/squeue").write_text("#!/no/such/interpreter\n")
    assert found(smoke)[1] == "squeue cannot be started"
