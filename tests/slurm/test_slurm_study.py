"""The smoke study on a cluster, through the profile as shipped."""

import pytest


def same_as_alone(project, prepared):
    # Small runs shared a job, and each ended to the last digit as it does alone.
    assert project.losses() == prepared.losses("smoke")
    assert len(list((project.results() / "packs").glob("*.done.json"))) == 1


@pytest.mark.slow
def test_a_grid_ends_as_on_one_machine(project, prepared):
    project.run("grid", timeout=300)
    same_as_alone(project, prepared)
    assert "Nothing to be done" in project.run("grid", "-n")


@pytest.mark.rehearsal
def test_a_study_from_its_files_to_the_report(fresh, prepared):
    fresh.run(timeout=580)
    assert (fresh.results() / "report.html").exists()
    same_as_alone(fresh, prepared)
    assert "Nothing to be done" in fresh.run("-n")
