"""Half of the runs are finished and the others train: the report of what is there, beside it all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

LAWS = ("laws", "findings", "holdout", "sensitivity")


def report(checkout, *options):
    done = subprocess.run(
        [sys.executable, "-m", "plmscale.cli", "report", "studies/smoke.yaml", *options],
        cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(folder, *besides):
    """Return every file below a folder with its time of change, but for parts named in `besides`."""
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not set(besides) & set(path.relative_to(folder).parts)
    }


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.fixture
def half(copy):
    """The smoke study as it is when five of its eleven runs are finished, without any view."""
    results = copy.folder / "results/smoke"
    for path in results.iterdir():
        if path.name not in ("runs", "checkpoints", "logs", "corpus", "epochs.csv"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (results / "runs").iterdir():
        if path.name.startswith(("clm-3k-2e9", "clm-7k-2e9", "mlm")):
            shutil.rmtree(path)
            shutil.rmtree(results / "checkpoints" / path.name)
    assert len(list(results.glob("runs/*/metrics.json"))) == 5
    return copy


def test_the_report_so_far_trains_nothing_and_leaves_the_whole_study_as_it_is(half):
    results = half.folder / "results/smoke"
    before = contents(results)
    records = contents(half.folder / ".snakemake")
    text = report(half)
    assert "5 of 11 runs have ended" in text and "profile at 2e9 FLOPs" in text
    assert contents(results, "so-far") == before
    assert contents(half.folder / ".snakemake") == records
    page = (results / "so-far/report.html").read_text()
    assert "Not finished: 5 of 11 runs have ended" in page
    assert "1 of 3 sizes" in page and "3k, 7k waiting" in page
    assert len(pd.read_csv(results / "so-far/runs.csv")) == 5

    # Beside a workflow that trains: it has the lock, and stands still while the report is made.
    workflow = subprocess.Popen(
        half.command(cores=1), cwd=half.folder, env=half.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: len(list(results.glob("checkpoints/*/owner.lock"))) > 5)
        os.kill(workflow.pid, signal.SIGSTOP)
        assert list((half.folder / ".snakemake/locks").iterdir())
        told = json.loads(report(half, "--json"))
        assert told["counts"]["done"] >= 5 and sum(told["counts"].values()) == 11
        os.kill(workflow.pid, signal.SIGCONT)
        assert workflow.wait(timeout=900) == 0
    finally:
        if workflow.poll() is None:
            os.killpg(workflow.pid, signal.SIGKILL)
    old = {path for path in before if path.parts[0] == "runs"}
    after = contents(results, "so-far")
    assert all(after[path] == before[path] for path in old), "a finished run was touched"
    assert half.jobs() == {}
    assert "Not finished" not in (results / "report.html").read_text()

    # Made again of the whole study it is what the workflow made, to the last byte.
    assert "All 11 runs have ended" in report(half)
    assert contents(results, "so-far") == after
    again = results / "so-far"
    for name in ("runs.csv", "study.yaml", "report.html", *(f"laws/{law}.json" for law in LAWS)):
        assert (again / name).read_bytes() == (results / name).read_bytes(), name
    for folder in ("curves", "figures"):
        # Snakemake marks its folders with a hidden file.
        own, whole = (
            {p.name: f[1] for p, f in contents(r / folder).items() if not p.name.startswith(".")}
            for r in (again, results)
        )
        assert own.keys() == whole.keys()
        assert [name for name in own if own[name] != whole[name]] == []
