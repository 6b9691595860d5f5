"""Tables from predictions: what stands in them, what is computed again, what is told."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from downstream_run_example import Made, Model

from plmscale.downstream import collect, jobs, plan, run
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json


def asked(**changes):
    return run.Asked("fold", "small", **{"seeds": (1, 2), **changes})


def tables(out, outcomes, options=None, leaks=None, runs=None):
    paths = []
    for number, outcome in enumerate(outcomes):
        paths.append(out / f"done{number}.json")
        write_json(paths[-1], outcome.to_dict())
    return collect.collect(paths, out, out / "tables", options or {}, leaks or {}, runs)


def evaluated(out, **model):
    return run.evaluate(asked(), "m", lambda: Model(**model), out)


def test_a_trained_model_stands_beside_its_twin_and_the_baseline(tmp_path, monkeypatch):
    Made(monkeypatch)
    found = tables(tmp_path, [evaluated(tmp_path), run.baselines(asked(), tmp_path)])
    metrics, gains = found["metrics"], found["gains"]
    # Three groups; two methods and seeds, trained and random, and one baseline.
    assert len(metrics) == 3 * (2 * 2 * 2 + 1)
    assert list(metrics.columns) == collect.METRICS and list(gains.columns) == collect.GAINS
    one = metrics[(metrics["method"] == "probe") & (metrics["seed"] == 1) & metrics["primary"]]
    trained, random = (one[one["twin"] == twin].iloc[0] for twin in (False, True))
    assert trained["value"] == pytest.approx(0.9, abs=0.06) and trained["model"] == "m"
    assert random["value"] == pytest.approx(0.5, abs=0.1) and random["model"] == "m"
    assert trained["ci95_low"] < trained["value"] < trained["ci95_high"]
    base = metrics[metrics["origin"] == "baseline"]
    assert set(base["model"]) == {"baseline:none"} and set(base["method"]) == {"baseline:none"}
    over, gains = (gains[gains["against"] == name] for name in ("baseline:none", "random twin"))
    assert len(gains) == len(over) == 3 * 2 * 2
    ahead = over[(over["method"] == "probe") & (over["seed"] == 1) & over["primary"]].iloc[0]
    assert ahead["trained"] == trained["value"]
    assert ahead["other"] == pytest.approx(base[base["primary"]]["value"].item())
    gain = gains[(gains["method"] == "probe") & (gains["seed"] == 1) & gains["primary"]].iloc[0]
    assert gain["gain"] == pytest.approx(trained["value"] - random["value"])
    assert (gain["trained"], gain["other"]) == (trained["value"], random["value"])
    assert gain["verdict"] == "better" and gain["against"] == "random twin"
    # What is written is what is returned, in both forms.
    again = pd.read_csv(tmp_path / "tables/metrics.csv", keep_default_na=False)
    assert again["value"].tolist() == metrics["value"].tolist()
    parquet = pd.read_parquet(tmp_path / "tables/metrics.parquet")
    assert parquet["value"].tolist() == metrics["value"].tolist()


def test_a_model_is_compared_with_the_strongest_baseline(tmp_path, monkeypatch):
    Made(monkeypatch, baselines={"weak": 0.4, "strong": 0.99, "middle": 0.7})
    found = tables(tmp_path, [evaluated(tmp_path), run.baselines(asked(), tmp_path)])
    gains = found["gains"]
    assert set(gains["against"]) == {"random twin", "baseline:strong"}
    over = gains[(gains["against"] == "baseline:strong") & gains["primary"]]
    assert set(over["verdict"]) == {"worse"} and (over["ci95_high"] < 0).all()


def test_what_a_job_scored_is_not_scored_again_by_the_tables(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcomes = [evaluated(tmp_path), run.baselines(asked(), tmp_path)]
    for outcome in outcomes:
        assert jobs.scored(outcome, asked(), tmp_path) == outcome.to_dict()
    before, made.scored = made.scored, 0
    assert before == 2 * 2 * 2 + 1
    found = tables(tmp_path, outcomes)
    assert made.scored == 0 and len(found["metrics"]) == 3 * before


def test_a_job_whose_predictions_cannot_be_scored_ends_well(tmp_path, monkeypatch, capsys):
    made = Made(monkeypatch)
    outcome = evaluated(tmp_path)

    def broken(predictions, options):
        raise RuntimeError("no such statistic")

    object.__setattr__(made.task, "score", broken)
    assert jobs.scored(outcome, asked(), tmp_path)["predictions"]
    assert "no such statistic" in capsys.readouterr().err


def test_a_baseline_of_other_examples_is_told_and_the_rest_stands(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcome = evaluated(tmp_path)
    made.data = replace(made.data, examples=made.data.examples[:-1])
    found = tables(tmp_path, [outcome, run.baselines(asked(), tmp_path)])
    assert set(found["gains"]["against"]) == {"random twin"} and len(found["metrics"])
    told = found["failures"]
    assert set(told["status"]) == {"not applicable"} and len(told) == 4
    assert told["reason"].str.contains("cannot be compared with baseline:none").all()


def test_a_model_that_learnt_nothing_is_not_resolved(tmp_path, monkeypatch):
    Made(monkeypatch, n=40)
    gains = tables(tmp_path, [evaluated(tmp_path, skill=0.52)])["gains"]
    assert len(gains) and set(gains["verdict"]) == {"not resolved"}


@pytest.mark.parametrize(
    ("low", "high", "higher", "said"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, True, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.2, True, "not resolved"),
        (0.0, 0.2, True, "not resolved"),
        (None, None, True, "not resolved"),
        (float("nan"), float("nan"), False, "not resolved"),
    ],
)
def test_verdict(low, high, higher, said):
    metric = {"ci95_low": low, "ci95_high": high, "higher_is_better": higher}
    assert collect.verdict(metric) == said


def test_only_what_is_new_is_scored_and_other_definitions_score_all_again(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    first = evaluated(tmp_path)
    before = tables(tmp_path, [first])["metrics"]
    assert made.scored == 8
    pd.testing.assert_frame_equal(tables(tmp_path, [first])["metrics"], before)
    assert made.scored == 8
    tables(tmp_path, [first, run.baselines(asked(), tmp_path)])
    assert made.scored == 9
    calls = len(made.calls)
    tables(tmp_path, [first], options={"fold": {"replicates": 50}})
    assert made.scored == 17 and len(made.calls) == calls
    monkeypatch.setattr(collect, "definitions", lambda task: "changed")
    tables(tmp_path, [first], options={"fold": {"replicates": 50}})
    assert made.scored == 25 and len(made.calls) == calls


def test_predictions_made_again_are_scored_again(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    tables(tmp_path, [evaluated(tmp_path)])
    metrics = tables(tmp_path, [evaluated(tmp_path, digest="d2", skill=0.7)])["metrics"]
    # Those of the trained model; its twin is the same as before.
    assert made.scored == 8 + 4
    own = metrics[~metrics["twin"] & metrics["primary"]]
    assert own["value"].mean() == pytest.approx(0.7, abs=0.06)


def test_leakage_and_loss_stand_beside_trained_runs_alone(tmp_path, monkeypatch):
    Made(monkeypatch)
    leak = tmp_path / "fold.json"
    summary = {"a": {"": {"n": 200, "leaked": 0.25, "hit": 0.5},
                     "one": {"n": 100, "leaked": 0.1, "hit": 0.2}}}  # fmt: skip
    failure = {"task": "fold", "model": "leakage", "method": "", "status": "failed", "reason": "x"}
    write_json(leak, {"task": "fold", "summary": summary, "failures": [failure]})
    runs = tmp_path / "runs.csv"
    row = {"run_id": "m", "loss": 2.5, "flops_6nd": 1e9, "flops": 2e9}
    pd.DataFrame([row]).to_csv(runs, index=False)
    outcomes = [evaluated(tmp_path), run.baselines(asked(), tmp_path)]
    found = tables(tmp_path, outcomes, leaks={"fold": leak}, runs=runs)
    metrics = found["metrics"]
    own = metrics[~metrics["twin"] & (metrics["origin"] == "run")]
    shares = own.groupby("group")["leakage"].first().to_dict()
    # A group of its own where it is known, else the whole test set's.
    assert shares == {"": 0.25, "one": 0.1, "two": 0.25}
    assert set(own["leakage_any"]) == {0.5, 0.2} and set(own["loss"]) == {2.5}
    others = metrics.drop(own.index)
    assert others["leakage"].isna().all() and others["loss"].isna().all()
    assert found["failures"]["model"].tolist() == ["leakage"]


def test_predictions_that_cannot_be_scored_or_compared_are_told(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcome = evaluated(tmp_path)
    (tmp_path / outcome.predictions[0]["path"]).write_bytes(b"nothing")
    found = tables(tmp_path, [outcome])
    reasons = found["failures"]["reason"].tolist()
    assert len(reasons) == 2 and "cannot be scored" in reasons[0]
    assert "cannot be compared with its twin" in reasons[1]
    assert len(found["metrics"]) == 3 * 7 and len(found["gains"]) == 3 * 3

    def refuse(*_):
        raise PlmscaleError("of other examples")

    object.__setattr__(made.task, "differences", refuse)
    monkeypatch.setattr(collect, "definitions", lambda task: "changed")
    found = tables(tmp_path, [outcome])
    assert len(found["gains"]) == 0 and len(found["failures"]) == 5


def test_a_study_where_everything_failed_has_empty_tables(tmp_path, monkeypatch):
    Made(monkeypatch, fails={m: PlmscaleError("no") for m in ("probe", "lora")})
    found = tables(tmp_path, [evaluated(tmp_path)])
    assert len(found["metrics"]) == 0 and len(found["failures"]) == 8
    assert pd.read_csv(tmp_path / "tables/metrics.csv").columns.tolist() == collect.METRICS


def test_an_undefined_value_is_kept_as_unknown(tmp_path, monkeypatch):
    made = Made(monkeypatch, n=1)
    outcome = evaluated(tmp_path)
    found = tables(tmp_path, [outcome])
    # One example has no interval.
    assert found["metrics"]["ci95_low"].isna().all()
    assert set(found["gains"]["verdict"]) == {"not resolved"}
    kept = tmp_path / outcome.predictions[0]["path"].replace(".parquet", ".metrics.json")
    assert json.loads(kept.read_text())["rows"][0]["ci95_low"] is None
    assert read_json(kept)["key"] and made.scored == 8


def test_definitions_change_with_the_code_of_metrics_alone(tmp_path):
    for name in ("base.py", "cases.py", "statistics.py", "lora.py", "tasks/fold.py", "tasks/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    before = plan.definitions("fold", tmp_path)
    for name in ("lora.py", "tasks/x.py"):
        (tmp_path / name).write_text("2")
    assert plan.definitions("fold", tmp_path) == before
    (tmp_path / "statistics.py").write_text("2")
    assert plan.definitions("fold", tmp_path) != before
