"""The smoke study on a cluster, through the profile as shipped."""

import pytest

pytestmark = pytest.mark.slow


def test_the_study_ends_as_on_one_machine(fresh, prepared):
    alone = prepared.losses("smoke")
    fresh.run(timeout=500)
    assert (fresh.results() / "report.html").exists()
    # Small runs shared a job, and each ended to the last digit as it does alone.
    assert fresh.losses() == alone
    packs = list((fresh.results() / "packs").glob("*.done.json"))
    assert len(packs) == 1
    assert "Nothing to be done" in fresh.run("-n")
