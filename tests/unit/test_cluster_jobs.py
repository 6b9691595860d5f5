"""Resources of jobs: worked out from one look at a job's files, and again at the next attempt."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from plmscale.cluster import jobs as cluster_jobs
from plmscale.cluster import notes
from plmscale.cluster.jobs import Jobs
from plmscale.cluster.packs import Packs
from plmscale.cluster.site import Allocator, read_site
from plmscale.grid import expand
from plmscale.study import load

PROJECT = Path(__file__).resolve().parents[2]
H100 = {"node_gpus": 8, "node_gpu": "H100 SXM", "node_most": 4}


@pytest.fixture
def clock(monkeypatch):
    """The clock of cluster.jobs, which stands until `passed` is raised."""
    clock = SimpleNamespace(passed=0.0)
    monkeypatch.setattr(cluster_jobs.time, "monotonic", lambda: 1000.0 + clock.passed)
    return clock


@pytest.fixture
def jobs(tmp_path):
    study = load(PROJECT / "studies/smoke.yaml")
    runs = {run.run_id: run for run in expand(study)}
    allocator = Allocator(study, read_site(H100))
    packs = Packs(tmp_path, runs, runs, allocator)
    return Jobs(allocator, runs, packs, tmp_path, "", inside=False)


def resources(functions, **wildcards):
    return {name: value(SimpleNamespace(**wildcards)) for name, value in functions.items()}


def test_a_jobs_files_are_looked_at_once_for_all_its_resources(jobs, clock, monkeypatch):
    seen = []
    read = notes.read
    monkeypatch.setattr(notes, "read", lambda folder: seen.append(folder.name) or read(folder))
    first, second, *_ = jobs.runs
    for name in (first, second):
        resources(jobs.train(), run_id=name)
        assert jobs.threads(name) > 0
    assert seen == [first, second]
    pack = next(iter(jobs.packs.new))
    resources(jobs.pack(), pack=pack)
    assert seen == [first, second, f"pack-{pack}"]


def test_the_next_attempt_sees_what_the_last_one_has_noted(jobs, clock):
    name = next(iter(jobs.runs))
    before = resources(jobs.train(), run_id=name)
    notes.write(jobs.checkpoints(name), host_memory=1)
    # No attempt begins and ends within so short a time.
    assert resources(jobs.train(), run_id=name) == before
    clock.passed = 1.0
    after = resources(jobs.train(), run_id=name)
    assert after["mem_mb"] == pytest.approx(1.5 * before["mem_mb"], abs=2)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"mem_mb"}


def test_runs_that_are_asked_for_in_turn_are_not_taken_for_one_another(jobs, clock):
    names = [*jobs.runs][:2]
    notes.write(jobs.checkpoints(names[1]), host_memory=2)
    train = jobs.train()
    turns = [train["mem_mb"](SimpleNamespace(run_id=name)) for name in (*names, *names)]
    assert turns[:2] == turns[2:] and turns[0] < turns[1]
