"""The smoke study, for real: every stage, from FASTA to report."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from plmscale.tables import CURVE_COLUMNS, RUNS_COLUMNS

pytestmark = pytest.mark.slow


def folder(finished):
    return finished.folder / "results/smoke"


def test_runs_table_is_the_contract(finished):
    runs = pd.read_csv(folder(finished) / "runs.csv")
    assert list(runs.columns) == RUNS_COLUMNS
    assert set(runs["status"]) == {"done"}
    assert runs["loss"].between(2.0, 5.0).all()
    assert (runs["flops"] > runs["flops_6nd"]).all()
    assert (runs["flops_6nd"] == 6 * runs["n_params"] * runs["tokens"]).all()
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder(finished) / "runs.parquet").astype({"loss": float})[
            ["loss", "tokens"]
        ],
        runs[["loss", "tokens"]],
    )


def test_every_run_writes_what_it_promises(finished):
    for run in (folder(finished) / "runs").iterdir():
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["status"] == "done"
        for key in ("loss_se", "train_seconds", "tokens_per_second", "peak_memory_bytes", "versions",
                    "git", "corpus_sha256", "recipe_sha256", "weights_sha256"):  # fmt: skip
            assert metrics[key] is not None, key
        curve = pd.read_csv(run / "curve.csv")
        assert list(curve.columns) == CURVE_COLUMNS
        last = curve[curve["split"] == "valid"].iloc[-1]
        assert last["tokens"] == metrics["tokens"]
        rows = pd.read_csv(run / "validation.csv")
        assert metrics["loss"] == pytest.approx(rows["nll"].sum() / rows["tokens"].sum())
        some = rows.head(json.loads((run / "recipe.json").read_text())["validation"]["curve_rows"])
        assert last["loss"] == pytest.approx(some["nll"].sum() / some["tokens"].sum())
        assert list((run / "tensorboard").iterdir())
        assert (run / "model.safetensors").stat().st_size > 4 * metrics["n_params"]


def test_split_was_proven_by_a_search(finished):
    check = json.loads((folder(finished) / "corpus/split/check.json").read_text())
    assert check["violations"] == 0 and check["valid_sequences"] > 100


def test_laws_and_report(finished):
    laws = json.loads((folder(finished) / "laws/laws.json").read_text())
    assert laws["schema"] == 1 and "clm" in laws["laws"]
    report = (folder(finished) / "report.html").read_text()
    assert "<svg" in report or "data:image" in report
    # Two budgets and three sizes say little, and the report must say so.
    assert "warning" in report.lower()


def test_figures_are_there_as_svg_and_png(finished):
    figures = folder(finished) / "figures"
    for name in (
        "isoflop",
        "frontiers",
        "learning_curves",
        "repetition",
        "transfer",
        "corpus_lengths",
    ):
        assert (figures / f"{name}.svg").stat().st_size > 2000
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_transfer_child_starts_from_its_parent(finished):
    for path in (folder(finished) / "runs").glob("mlm-after-clm-*/recipe.json"):
        recipe = json.loads(path.read_text())
        parent = json.loads(
            (path.parents[1] / recipe["parent"]["run_id"] / "recipe.json").read_text()
        )
        assert parent["fingerprint"] == recipe["parent"]["fingerprint"]


def test_advise_answers_from_the_study_s_laws(finished):
    laws = folder(finished) / "laws/laws.json"
    done = subprocess.run(
        [sys.executable, "-m", "plmscale.cli", "advise", "--laws", laws, "--objective", "clm",
         "--flops", "1e12"],
        capture_output=True, text=True, env=finished.environment,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "decades outside" in done.stdout or "error" in done.stderr


def test_snakemake_s_own_report(finished):
    finished.snakemake("--report", "snakemake-report.html")
    assert (finished.folder / "snakemake-report.html").stat().st_size > 100_000


def test_status_and_plan_of_a_finished_study(finished):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "plmscale.cli", *words],
            cwd=finished.folder, env=finished.environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert "100 % of the FLOPs done" in run("status", "studies/smoke.yaml")
    plan = json.loads(run("plan", "studies/smoke.yaml", "--json"))
    assert plan["groups"][-1]["to_train"] == 0
