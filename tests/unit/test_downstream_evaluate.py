"""`plmscale evaluate`: any model, without a study."""

import json
import shutil

import pandas as pd
import pytest
from downstream_data_example import SMALL
from hub_example import esm2

from plmscale.cli import main
from plmscale.downstream import cli

needs_data = pytest.mark.skipif(
    not SMALL.is_dir(), reason=f"the small downstream data are not at {SMALL}"
)


def evaluate(*words):
    return main(["evaluate", *map(str, words)])


def test_the_list_shows_every_task(capsys):
    assert evaluate("--list") == 0
    text = capsys.readouterr().out
    assert "12,312 / 736 / 3,244" in text and "spearman" in text
    assert evaluate("--list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 7 and rows[0]["full"] == "the corpus"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a model and --out DIR"),
        (["somewhere"], "give a model and --out DIR"),
        (["a/x", "b/x", "--out", "o"], "two models have this name"),
        (["x", "--out", "o", "--option", "fold.steps"], "expected TASK.KEY=VALUE"),
        (["x", "--out", "o", "--option", "folds.steps=1"], "expected TASK.KEY=VALUE"),
        (["x", "--out", "o", "--seeds", "0"], "give at least 1"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(*words) == 2
    assert said in capsys.readouterr().err


@needs_data
def test_a_hugging_face_folder_and_one_that_is_none(tmp_path, capsys):
    model = esm2(tmp_path / "esm")
    # Libraries greet on standard output when they are first imported.
    capsys.readouterr()
    words = ["--task", "fitness", "--source", "small", "--data", SMALL, "--limit", 20, "--out"]
    names = [f"tiny={model}", f"lost={tmp_path / 'nowhere'}", *words, tmp_path / "out"]
    names += ["--option", "fitness.mlm=wt-marginals", "fitness.replicates=50"]
    assert evaluate(*names, "--json") == 0
    out, told = capsys.readouterr()
    found = json.loads(out)
    assert "lost: failed" in told and "no such folder" in found["failures"][0]["reason"]
    own = [row for row in found["metrics"] if row["model"] == "tiny"]
    assert {row["metric"] for row in own} == {"spearman"}
    assert all(row["random"] is not None and row["verdict"] for row in own)
    metrics = pd.read_csv(tmp_path / "out/metrics.csv", keep_default_na=False)
    assert set(metrics["model"]) == {"tiny", *(f"baseline:{name}" for name in (
        "random", "mutations", "frequency", "hydrophobicity", "substitution"))}  # fmt: skip
    # A hub model's leakage is not known.
    assert set(metrics["leakage"]) == {""}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    shutil.rmtree(tmp_path / "esm")
    # The model is gone now: its row is a failure, what was made stays.
    assert evaluate(*names) == 0
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/predictions").rglob("*.parquet")}
    assert again == {p: t for p, t in before.items() if "predictions" in p.parts}
    assert "trained minus random" in capsys.readouterr().err


def test_nothing_to_evaluate_is_told_by_the_exit_code(tmp_path, capsys):
    code = evaluate(
        tmp_path / "none", "--task", "fold", "--source", "small", "--data", tmp_path, "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 1
    out, told = capsys.readouterr()
    assert "nothing could be evaluated" in out and "missing" in told
    failures = pd.read_csv(tmp_path / "out/failures.csv")
    assert failures["task"].tolist() == ["fold"]


def test_rows_of_one_metric_are_told_apart_in_the_terminal():
    def row(definition, **more):
        return {"task": "contacts", "model": "m", "method": "probe", "seed": 1, "split": "test",
                "group": "", "metric": "P@L/5", "definition": definition, **more}  # fmt: skip

    rows = [row(f"|i-j|>={apart}, macro, L=sequence") for apart in (6, 24)]
    rows.append({**rows[0], "model": "baseline:random", "method": "baseline:random"})
    found = cli.named(rows)
    assert [r["metric"] for r in found] == [
        "P@L/5, |i-j|>=6",
        "P@L/5, |i-j|>=24",
        "P@L/5, |i-j|>=6",
    ]
    assert [r["method"] for r in found] == ["probe", "probe", ""]
