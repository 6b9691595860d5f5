"""How rules and runs find each other: what a parse imports, runs by name, runs that have left."""

import re
import subprocess

import pytest
from conftest import Checkout


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A checkout in which nothing has run."""
    return Checkout(tmp_path_factory.mktemp("empty") / "plmscale")


def test_planning_the_full_study_imports_no_torch(empty):
    command = empty.command("-n", "--quiet", study="cheng2024")
    command[1:1] = ["-X", "importtime"]
    done = subprocess.run(
        command, cwd=empty.folder, env=empty.environment, capture_output=True, text=True, check=True
    )
    modules = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.M)
    tops = {name.partition(".")[0] for name in modules}
    # The pattern has seen the imports of this process, those of the rules among them.
    assert {"snakemake", "plmscale"} <= tops
    assert not tops & {"torch", "deepspeed", "transformers", "safetensors"}


@pytest.mark.parametrize("name", ["recipe.json", "metrics.json", "curve.csv"])
def test_a_file_of_a_run_that_the_study_lacks_ends_with_one_line(empty, name):
    done = empty.snakemake("-n", f"results/smoke/runs/clm-3k-2e9-mix-000000/{name}", check=False)
    assert done.returncode != 0 and "Traceback" not in done.text
    told = [line for line in done.text.splitlines() if "error" in line.lower()]
    assert len(told) == 1
    start = "plmscale: error: this study has no run 'clm-3k-2e9-mix-000000'; did you mean "
    assert told[0].startswith(start) and "clm-3k-2e9-mix-" in told[0].removeprefix(start)


@pytest.mark.slow
def test_a_finished_run_stays_when_the_run_it_went_on_from_leaves_the_study(copy):
    text = (
        "overlays: smoke.yaml\nstudy: left\ntraining: {schedule: wsd, warmup_steps: 5}\n"
        "grid:\n  isoflop: {kind: isoflop, objectives: [clm], budgets: [1.0e+9, 2.0e+9], sizes: [3k]}\n"
    )
    copy.write_study("left", text)
    copy.snakemake("grid", study="left")
    # Another budget in its place: the longer run would now go on from that one.
    copy.write_study("left", text.replace("1.0e+9, 2.0e+9", "1.5e+9, 2.0e+9"))
    new = copy.trained("grid", study="left")
    assert len(new) == 1 and "-1.5e9-" in new.pop()
