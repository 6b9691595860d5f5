"""Small runs that share a job: what is killed, added or changed costs no other run anything."""

import json
import os
import re
import signal

import pytest
from minicluster import wait_for

pytestmark = pytest.mark.rehearsal


def trained(project, study):
    """Return the runs that a dry run would give a job of their own, and the number of packs."""
    text = project.run("-n", "--until", "train", study=study)
    runs = set(re.findall(r"rule train:\n(?:.*\n)*?\s+output: \S*/runs/([^/]+)/", text))
    return runs, text.count("rule pack:")


def result(project, study):
    (path,) = (project.results(study) / "packs").glob("*.done.json")
    return json.loads(path.read_text())["runs"]


def test_a_killed_member_and_runs_added_later(project, prepared):
    alone = prepared.losses("packed")
    workflow = project.start("--until", "train", study="packed")
    victim = next(iter(alone))
    project.wait_for_checkpoint(victim, "packed", seconds=240)
    lock = project.results("packed") / f"checkpoints/{victim}/owner.lock"
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    project.finish(workflow)
    codes = result(project, "packed")
    assert codes.pop(victim) == 137 and set(codes.values()) == {0}
    assert project.losses("packed") == alone
    # The killed one went on from its checkpoint in a job of its own; the others were not touched.
    resumed = {name: project.metrics(name, "packed")["resumed"] for name in alone}
    assert resumed == {**dict.fromkeys(alone, 0), victim: 1}

    assert trained(project, "packed") == (set(), 0)
    study = project.folder / "studies/packed.yaml"
    study.write_text(study.read_text().replace("budgets: [", "budgets: [1.0e+9, "))
    added, packs = trained(project, "packed")
    assert len(added) == len(alone) and not added & set(alone) and packs == 1
    study.write_text(study.read_text() + "training: {seed: 7}\n")
    changed, packs = trained(project, "packed")
    assert len(changed) == 2 * len(alone) and not changed & (added | set(alone)) and packs == 1


def test_a_cancelled_pack_goes_on(project, prepared, cluster):
    alone = prepared.losses("packed")
    workflow = project.start("--until", "train", study="packed")
    for run_id in alone:
        project.wait_for_checkpoint(run_id, "packed", seconds=240)
    (pack,) = (project.results("packed") / "packs").glob("*.runs.json")
    first = cluster.running_job(pack.name.split(".")[0])
    cluster.run("scancel", first)
    wait_for(lambda: cluster.running_job(pack.name.split(".")[0]) != first, 90, "a second job")
    project.finish(workflow)
    assert project.losses("packed") == alone
    assert {project.metrics(name, "packed")["resumed"] for name in alone} == {1}
