"""The study of the paper's released logs, from the logs to the report, as a user starts it."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from conftest import PROJECT, Checkout

pytestmark = pytest.mark.slow

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or PROJECT.parent / "shared")
LOGS = f"logs={SHARED / 'paper' / 'training_logs'}"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("logs") / "plmscale")
    checkout.snakemake("--config", LOGS, study="cheng2024-logs")
    return checkout


def test_every_table_law_figure_and_the_report_are_there(study):
    out = study.folder / "results" / "cheng2024-logs"
    runs = pd.read_csv(out / "runs.csv")
    assert len(pd.read_csv(out / "audit.csv")) == 294
    done = runs[runs["status"] == "done"]
    assert all((out / "curves" / f"{name}.csv").is_file() for name in done["run_id"])
    laws = json.loads((out / "laws" / "laws.json").read_text())
    for objective in ("clm", "mlm"):
        assert laws["laws"][objective]["isoflop_joint"]["N_opt"]["a"] is not None
        assert laws["laws"][objective]["envelope"]["N_opt"]["a"] is not None
    assert {"transfer", "repetition"} <= set(laws)
    report = (out / "report.html").read_text()
    for words in ("What of the paper comes out again", "Does it hold?", "Audit of the logs"):
        assert words in report
    figures = {path.stem for path in (out / "figures").glob("*.svg")}
    assert {"isoflop", "sensitivity", "holdout", "transfer_curves", "mask_ratio"} <= figures


def test_published_numbers_come_out_again(study):
    out = study.folder / "results" / "cheng2024-logs"
    rows = json.loads((out / "reproduction.json").read_text())["rows"]
    table = [row["verdict"] for row in rows if row["group"].startswith("The table of N_opt")]
    assert table == ["reproduced to 3 digits"] * 8
    letters = {"E", "A", "B", "alpha", "beta"}
    parametric = [row["verdict"] for row in rows if row["quantity"] in letters]
    assert parametric == ["reproduced to 2 digits"] * 10


def test_a_second_start_does_nothing(study):
    done = study.snakemake("-n", "--config", LOGS, study="cheng2024-logs")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_missing_folder_of_logs_is_named(study):
    done = study.snakemake(
        "-n", "--config", "logs=/nowhere/logs", "results=new", study="cheng2024-logs", check=False
    )
    assert done.returncode != 0
    assert "/nowhere/logs" in done.stdout + done.stderr
