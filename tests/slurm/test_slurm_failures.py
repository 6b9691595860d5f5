"""What happens to runs on a cluster: each must end as if nothing had happened."""

import os
import signal
import time

import pytest
from minicluster import wait_for


def train(project, study, **arguments):
    return project.start("--until", "train", study=study, **arguments)


def only_run(prepared, study):
    """Return id and undisturbed loss of a study's only run."""
    ((run_id, loss),) = prepared.losses(study).items()
    return run_id, loss


@pytest.mark.rehearsal
def test_two_nodes_are_one_run(project, prepared):
    project.write_profile(node_gpus=1, node_cpus=1, node_packs=0)
    run_id, loss = only_run(prepared, "two")
    project.finish(train(project, "two"))
    metrics = project.metrics(run_id, "two")
    assert metrics["devices"] == 2
    # Sums over ranks are added up in another order than on one machine with one rank.
    assert metrics["loss"] == pytest.approx(loss, rel=1e-3)
    log = project.train_log(run_id, "two")
    assert "resumed" not in log


@pytest.mark.rehearsal
def test_scontrol_requeue(project, prepared, cluster):
    project.write_profile(node_packs=0)
    run_id, loss = only_run(prepared, "long")
    workflow = train(project, "long")
    project.wait_for_checkpoint(run_id, "long")
    job = cluster.running_job(run_id)
    cluster.run("scontrol", "requeue", job)
    cluster.release(job)
    project.finish(workflow)
    assert project.metrics(run_id, "long")["loss"] == loss
    assert project.metrics(run_id, "long")["resumed"] == 1


@pytest.mark.rehearsal
def test_scancel(project, prepared, cluster):
    project.write_profile(node_packs=0)
    run_id, loss = only_run(prepared, "long")
    workflow = train(project, "long")
    project.wait_for_checkpoint(run_id, "long")
    first = cluster.running_job(run_id)
    cluster.run("scancel", first)
    project.finish(workflow)
    assert project.metrics(run_id, "long")["loss"] == loss
    assert project.metrics(run_id, "long")["resumed"] == 1


@pytest.mark.rehearsal
def test_a_node_is_lost(project, prepared, cluster):
    project.write_profile(node_packs=0)
    run_id, loss = only_run(prepared, "long")
    workflow = train(project, "long")
    project.wait_for_checkpoint(run_id, "long")
    job = cluster.running_job(run_id)
    node = cluster.run("squeue", "-h", "-j", job, "-o", "%N")
    cluster.crash(node)
    try:
        cluster.release(job)
        project.finish(workflow)
    finally:
        cluster.start_node(node)
        cluster.wait_idle([node])
    assert project.metrics(run_id, "long")["loss"] == loss
    assert project.metrics(run_id, "long")["resumed"] == 1


@pytest.mark.rehearsal
def test_walltime_ends_twice(project, prepared, cluster):
    project.write_profile(node_packs=0, node_walltime=1, node_signal_seconds=20)
    run_id, loss = only_run(prepared, "longer")
    workflow = train(project, "longer")
    for number in (1, 2):
        wait_for(
            lambda n=number: project.train_log(run_id, "longer").count("into the queue") == n,
            150,
            f"end of walltime {number}",
        )
        job = wait_for(lambda: held(cluster, run_id), 60, "requeued job")
        cluster.release(job)
    project.finish(workflow, 400)
    assert project.metrics(run_id, "longer")["loss"] == loss
    assert project.metrics(run_id, "longer")["resumed"] >= 2


def held(cluster, run_id):
    return next((j for j, s, k in cluster.jobs() if run_id in k and s == "PENDING"), None)


@pytest.mark.slow
def test_snakemake_is_killed_and_started_again(project, prepared, cluster):
    """The second workflow must neither train beside the first one's job nor begin anew."""
    project.write_profile(node_packs=0)
    run_id, loss = only_run(prepared, "long")
    workflow = train(project, "long")
    project.wait_for_checkpoint(run_id, "long")
    job = cluster.running_job(run_id)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    project.run("--unlock", study="long")
    again = train(project, "long")
    newcomer = wait_for(
        lambda: next((j for j, s, k in cluster.jobs() if run_id in k and j != job), None),
        60,
        "the new workflow's job",
    )
    while cluster.run("squeue", "-h", "-j", job, "-o", "%T", "-t", "R"):
        # Both live: the newer one waits in the queue and takes no GPU.
        assert cluster.run("squeue", "-h", "-j", newcomer, "-o", "%T|%r") == "PENDING|Dependency"
        time.sleep(1)
    project.finish(again)
    metrics = project.metrics(run_id, "long")
    assert metrics["loss"] == loss and metrics["resumed"] == 0
    assert project.train_log(run_id, "long").count("already trained by another job") == 1


@pytest.mark.rehearsal
def test_the_controller_is_away(project, prepared, cluster):
    project.write_profile(node_packs=0)
    run_id, loss = only_run(prepared, "long")
    workflow = train(project, "long")
    project.wait_for_checkpoint(run_id, "long")
    cluster.stop_controller()
    time.sleep(30)
    cluster.start_controller(fresh=False)
    project.finish(workflow)
    metrics = project.metrics(run_id, "long")
    assert metrics["loss"] == loss and metrics["resumed"] == 0


@pytest.mark.rehearsal
def test_preemption(project, prepared, cluster):
    """Jobs of a partition of higher rank take all GPUs; the run goes on when they have left."""
    project.write_profile(node_packs=0)
    run_id, loss = only_run(prepared, "long")
    workflow = train(project, "long")
    project.wait_for_checkpoint(run_id, "long")
    job = cluster.running_job(run_id)
    words = ["sbatch", "--parsable", "-p", "urgent", "-N", 4, "--exclusive", "-t", 5]
    other = cluster.run(*words, "--output=/dev/null", "--wrap", "sleep 8")
    cluster.release(job)
    project.finish(workflow)
    metrics = project.metrics(run_id, "long")
    assert metrics["loss"] == loss and metrics["resumed"] == 1
    assert other not in {number for number, *_ in cluster.jobs() if _[0] == "RUNNING"}
