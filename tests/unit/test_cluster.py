"""What jobs on a cluster ask for, how they end, which runs share one."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plmscale.cluster import devices, kept, notes, step
from plmscale.cluster.check import check, gpus_of, minutes_of, partitions
from plmscale.cluster.packs import Packs
from plmscale.cluster.site import Allocator, Site, read_site
from plmscale.errors import PlmscaleError
from plmscale.grid import expand
from plmscale.study import load as load_study
from plmscale.training.launch import OUTPUTS

PROJECT = Path(__file__).resolve().parents[2]
H100 = {"node_gpus": 8, "node_gpu": "H100 SXM", "node_most": 4}


@pytest.fixture(scope="module")
def grid():
    study = load_study(PROJECT / "studies/cheng2024.yaml")
    return study, {run.run_id: run for run in expand(study)}


@pytest.fixture
def small(tmp_path):
    """The smoke study's runs, and an allocator on whose GPUs all of them are small."""
    study = load_study(PROJECT / "studies/smoke.yaml")
    return Allocator(study, read_site(H100)), {run.run_id: run for run in expand(study)}, tmp_path


def finish(out, run_id, fingerprint="f"):
    folder = out / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        (folder / name).write_text(json.dumps({"fingerprint": fingerprint}))
    return folder


# What a site is.


def test_no_entries_no_site_and_wrong_ones_are_named():
    assert read_site({"mem_mb": 1000, "slurm_partition": "x"}) is None
    assert read_site(H100 | {"node_cpus": "'64'"}).node_cpus == 64
    with pytest.raises(PlmscaleError, match="node_gpuss: unknown entry; did you mean node_gpus"):
        read_site(H100 | {"node_gpuss": 8})
    with pytest.raises(PlmscaleError, match="node_gpus: 'many' is not a whole number"):
        read_site({"node_gpus": "many"})
    with pytest.raises(PlmscaleError, match="node_gpus is missing"):
        read_site({"node_gpu": "H100"})


def test_profiles_as_shipped_are_sites():
    yaml = pytest.importorskip("yaml")
    for name in ("slurm", "server"):
        text = (PROJECT / f"profiles/{name}/profile.yaml").read_text()
        site = read_site(yaml.safe_load(text)["default-resources"])
        assert site.machine.gpu.name == "H100 SXM" and site.node_gpus == 8


def test_large_runs_take_nodes_and_small_ones_a_part(grid, tmp_path):
    study, runs = grid
    allocator = Allocator(study, read_site(H100))
    needs = {name: allocator.need(run.recipe, tmp_path / name) for name, run in runs.items()}
    for name, need in needs.items():
        assert need.tasks == need.gpus * need.nodes and need.gpus <= 8
        assert need.runtime <= allocator.site.node_walltime
        assert need.mem_mb <= allocator.site.node_mem_mb, name
        # All of a node's GPUs or, within one node, as many as it takes.
        assert need.nodes == 1 or need.gpus == 8
    largest = max(runs.values(), key=lambda run: run.recipe["flops"])
    assert needs[largest.run_id].tasks >= 8
    smallest = min(runs.values(), key=lambda run: run.recipe["n_params"])
    assert needs[smallest.run_id].tasks == 1 and allocator.sized(smallest.recipe).slots > 1


def test_the_next_attempt_asks_for_more_only_where_memory_was_short(grid, tmp_path):
    study, runs = grid
    allocator = Allocator(study, read_site(H100))
    recipe = max(
        (run.recipe for run in runs.values() if run.recipe["n_params"] < 2e8),
        key=lambda recipe: recipe["n_params"],
    )
    before = allocator.need(recipe, tmp_path)
    notes.write(tmp_path, requeued_at=5)
    assert allocator.need(recipe, tmp_path) == before
    notes.write(tmp_path, host_memory=1)
    after = allocator.need(recipe, tmp_path)
    assert after.mem_mb == pytest.approx(1.5 * before.mem_mb, abs=2) and after.tasks == before.tasks
    notes.write(tmp_path, device_memory=1)
    assert allocator.need(recipe, tmp_path).tasks == 2 * before.tasks


def test_nodes_without_gpus(small):
    _, runs, out = small
    study = load_study(PROJECT / "studies/smoke.yaml")
    need = Allocator(study, Site(node_gpus=0)).need(next(iter(runs.values())).recipe, out)
    assert (need.nodes, need.tasks, need.gpus, need.cpus) == (1, 1, 0, 1)


# Whether a profile fits a cluster.

SINFO = "cpu|(null)|64|250000|2-00:00:00\ngpu|gpu:h100:8(S:0-1),shard:16|96+|1000000+|1-00:00:00\n"


def test_sinfo_is_read():
    assert gpus_of("gpu:2") == 2 and gpus_of("gpu:a100:4,gpu:h100:8(S:0-1)") == 12
    assert gpus_of("(null)") == 0 and gpus_of("shard:gpu:3") == 3
    assert minutes_of("1-02:03:00") == 1563 and minutes_of("30:00") == 30
    assert minutes_of("infinite") is None
    assert partitions(SINFO)["gpu"].gpus == 8 and partitions(SINFO)["gpu"].cpus == 96


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            {"node_gpu_partition": "gppu"},
            "node_gpu_partition: the cluster has no partition 'gppu'; did",
        ),
        ({"node_gpus": 16}, "node_gpus: 16, but partition 'gpu' has at most 8 GPUs a node"),
        (
            {"node_walltime": 2000},
            "node_walltime: 2000, but partition 'gpu' has at most 1440 minutes",
        ),
        (
            {"node_mem_mb": 2000000},
            "node_mem_mb: 2000000, but partition 'gpu' has at most 1000000 MB",
        ),
        ({}, None),
    ],
)
def test_a_profile_that_does_not_fit_names_its_entry(tmp_path, monkeypatch, entries, said):
    fake(tmp_path, monkeypatch, sinfo=f"cat <<'E'\n{SINFO}E")
    site = read_site(H100 | {"node_gpu_partition": "gpu"} | entries)
    if said is None:
        assert check(site, "cpu") is None
    else:
        with pytest.raises(PlmscaleError, match=said):
            check(site, "cpu")


def fake(folder, monkeypatch, **programs):
    """Put shell scripts in the place of Slurm's commands."""
    there = folder / "bin"
    there.mkdir(exist_ok=True)
    for name, text in programs.items():
        (there / name).write_text(f"#!/bin/sh\n{text}\n")
        (there / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{there}:{os.environ['PATH']}")


# Which runs share a job.


def test_packs_hold_runs_of_one_depth_and_have_stable_names(small):
    allocator, runs, out = small
    packs = Packs(out, runs, runs, allocator)
    (members,) = packs.new.values()
    child = next(run for run in runs.values() if run.parent)
    assert set(members) == set(runs) - {child.run_id}
    assert packs.marker(child.run_id) is None
    assert Packs(out, dict(reversed(runs.items())), runs, allocator).new == packs.new


def listed(packs, out):
    ((name, _),) = packs.new.items()
    (out / "packs").mkdir()
    (out / f"packs/{name}.runs.json").write_text(json.dumps(packs.list_of(name)))
    return name


def test_a_run_added_later_changes_no_pack(small):
    allocator, runs, out = small
    names = list(runs)
    first = {name: runs[name] for name in names[:4]}
    old = listed(Packs(out, first, first, allocator), out)
    packs = Packs(out, runs, runs, allocator)
    assert {packs.marker(name) for name in first} == {f"{out}/packs/{old}.done.json"}
    assert old not in packs.new and not set(first) & set(packs.of_new)
    assert [run.run_id for run in packs.members(old)] == list(packs.list_of(old)["runs"])


def test_a_failed_member_gets_a_job_of_its_own_and_a_finished_one_nothing(small):
    allocator, runs, out = small
    packs = Packs(out, runs, runs, allocator)
    name = listed(packs, out)
    failed, *others = packs.new[name]
    for run_id in others:
        finish(out, run_id)
    (out / f"packs/{name}.done.json").write_text(
        json.dumps({"runs": {failed: 1, **dict.fromkeys(others, 0)}})
    )
    again = Packs(out, runs, runs, allocator)
    assert again.new == {}
    # The input of its recipe stays what it was, so nothing is made again.
    assert {again.marker(run) for run in (failed, *others)} == {f"{out}/packs/{name}.done.json"}


def test_runs_finished_elsewhere_are_in_no_pack(small):
    allocator, runs, out = small
    for run_id in runs:
        finish(out, run_id)
    packs = Packs(out, runs, runs, allocator)
    assert packs.new == {} and not any(packs.marker(run_id) for run_id in runs)


def test_a_changed_study_drops_members_it_no_longer_has(small):
    allocator, runs, out = small
    packs = Packs(out, runs, runs, allocator)
    name = listed(packs, out)
    gone = packs.new[name][0]
    left = {run_id: run for run_id, run in runs.items() if run_id != gone}
    assert gone not in Packs(out, left, left, allocator).list_of(name)["runs"]


# Results that Snakemake cannot delete.


def test_kept_results_come_back_only_for_their_recipe(tmp_path):
    run_dir = finish(tmp_path, "r", "abc")
    checkpoints = tmp_path / "checkpoints/r"
    assert not kept.restore({"fingerprint": "abc"}, run_dir, checkpoints)
    kept.keep(run_dir, checkpoints)
    first = (run_dir / "metrics.json").stat().st_ino
    for name in OUTPUTS:
        (run_dir / name).unlink()
    assert not kept.restore({"fingerprint": "other"}, run_dir, checkpoints)
    assert not (run_dir / "metrics.json").exists()
    assert kept.restore({"fingerprint": "abc"}, run_dir, checkpoints)
    assert (run_dir / "metrics.json").stat().st_ino == first
    assert sorted(p.name for p in run_dir.iterdir()) == sorted(OUTPUTS)


def test_half_kept_results_are_none(tmp_path):
    run_dir = finish(tmp_path, "r", "abc")
    checkpoints = tmp_path / "checkpoints/r"
    kept.keep(run_dir, checkpoints)
    (checkpoints / "finished/model.safetensors").unlink()
    assert not kept.restore({"fingerprint": "abc"}, tmp_path / "other", checkpoints)


# How a job ends.


def attempt(folder, command, *options, slurm=True, monkeypatch=None):
    words = ["--checkpoint-dir", str(folder / "checkpoint"), *options, "--", "sh", "-c", command]
    if slurm:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        words.insert(0, "--srun")
    else:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return step.main(words)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An srun that runs its command here, and a scontrol that writes down what it is asked."""
    fake(
        tmp_path,
        monkeypatch,
        srun='for w; do case "$w" in --*) shift;; *) break;; esac; done; exec "$@"',
        squeue="echo RUNNING",
        scontrol=f'echo "$@" >> {tmp_path}/asked',
    )
    monkeypatch.setattr(step, "_REQUEUE_SECONDS", 0)
    return tmp_path


def saved(folder, number):
    (folder / "checkpoint").mkdir(exist_ok=True)
    (folder / "checkpoint/latest.json").write_text(json.dumps({"step": number, "tag": "t"}))


@pytest.mark.parametrize("code", [138, 143])
def test_a_job_whose_time_is_up_goes_back_while_it_gets_on(slurm, monkeypatch, capfd, code):
    saved(slurm, 10)
    assert attempt(slurm, f"exit {code}", monkeypatch=monkeypatch) == code
    assert (slurm / "asked").read_text() == "requeue 7\n"
    saved(slurm, 20)
    attempt(slurm, f"exit {code}", monkeypatch=monkeypatch)
    assert (slurm / "asked").read_text() == "requeue 7\n" * 2
    # Nothing was saved since: no third time.
    attempt(slurm, f"exit {code}", monkeypatch=monkeypatch)
    assert (slurm / "asked").read_text() == "requeue 7\n" * 2
    assert "no step was saved since the last time" in capfd.readouterr().out


def test_a_cancelled_job_stays_cancelled(slurm, monkeypatch):
    fake(slurm, monkeypatch, squeue="echo CANCELLED")
    saved(slurm, 10)
    assert attempt(slurm, "exit 143", monkeypatch=monkeypatch) == 143
    assert not (slurm / "asked").exists()


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("kill -9 $$", "host_memory"),
        ("echo 'slurmstepd: error: Detected 1 oom_kill event'; exit 1", "host_memory"),
        ("echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1", "device_memory"),
        ("echo 'a plain mistake'; exit 1", None),
        ("echo 'out of memory' was not the end", None),
    ],
)
def test_short_memory_is_noted(slurm, monkeypatch, command, key):
    attempt(slurm, command, monkeypatch=monkeypatch)
    found = notes.read(slurm / "checkpoint")
    assert [found["host_memory"], found["device_memory"]] == [
        int(key == "host_memory"),
        int(key == "device_memory"),
    ]


def test_ranks_of_several_nodes_learn_where_the_first_one_is(slurm, monkeypatch, capfd):
    fake(
        slurm,
        monkeypatch,
        squeue="echo 'node[3-4]'",
        scontrol="echo NodeName=$4 NodeAddr=10.0.0.3 Port=1",
    )
    attempt(slurm, "echo at $MASTER_ADDR", "--tasks", "2", "--nodes", "2", monkeypatch=monkeypatch)
    assert "at 10.0.0.3" in capfd.readouterr().out


def test_a_run_that_another_job_finished_is_not_trained_again(slurm, monkeypatch, capfd):
    run_dir = finish(slurm, "r", "abc")
    (run_dir / "recipe.json").write_text(json.dumps({"fingerprint": "abc"}))
    kept.keep(run_dir, slurm / "checkpoint")
    (run_dir / "metrics.json").unlink()
    code = attempt(slurm, "echo trained", "--run-dir", str(run_dir), monkeypatch=monkeypatch)
    assert code == 0 and (run_dir / "metrics.json").exists()
    assert "trained\n" not in capfd.readouterr().out.replace("already trained", "")


# GPUs without Slurm.


def test_gpus_are_shared_by_small_runs_and_not_by_large_ones(tmp_path):
    names = ["0", "1"]
    with (
        devices.taken(1, 8, names, tmp_path) as first,
        devices.taken(1, 4, names, tmp_path) as second,
    ):
        # Small ones gather, so that whole GPUs stay free.
        assert first == second
        with devices.taken(1, 1, names, tmp_path) as whole:
            assert whole != first
    with devices.taken(2, 1, names, tmp_path) as both:
        assert sorted(both) == names


def test_a_run_waits_until_there_is_room(tmp_path):
    order = []

    def small():
        with devices.taken(1, 2, ["0"], tmp_path):
            order.append("small")

    with devices.taken(1, 1, ["0"], tmp_path):
        thread = threading.Thread(target=small)
        thread.start()
        time.sleep(0.3)
        order.append("large ends")
    thread.join(20)
    assert order == ["large ends", "small"]


def test_a_killed_process_frees_its_gpu(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from plmscale.cluster import devices\n"
        f"with devices.taken(1, 1, ['0'], Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with devices.taken(1, 1, ["0"], tmp_path) as taken:
        assert taken == ["0"]
