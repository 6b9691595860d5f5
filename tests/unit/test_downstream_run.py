"""One task with one model: what is made once, made again, and told when it fails."""

from dataclasses import replace

import pytest
from downstream_run_example import Made, Model

from plmscale.downstream import plan, run, tasks
from plmscale.downstream.base import Predictions
from plmscale.errors import PlmscaleError

ALL = [("d1", "probe", 1), ("d1", "lora", 1), ("random1", "probe", 1), ("random1", "lora", 1)]


def asked(**changes):
    return run.Asked("fold", "small", **{"seeds": (1,), **changes})


def evaluate(out, model=None, **changes):
    return run.evaluate(asked(**changes), "m", lambda: model or Model(), out)


def test_each_method_and_seed_is_made_once_for_the_model_and_its_twin(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcome = evaluate(tmp_path)
    assert made.calls == ALL and not outcome.failures
    assert [(e["method"], e["seed"], e["twin"]) for e in outcome.predictions] == [
        ("probe", 1, False), ("lora", 1, False), ("probe", 1, True), ("lora", 1, True),
    ]  # fmt: skip
    paths = [e["path"] for e in outcome.predictions]
    assert paths[0] == "predictions/fold/m/probe-s1.parquet"
    assert paths[2] == "predictions/fold/m-twin1/probe-s1.parquet"
    assert Predictions.read(tmp_path / paths[0]).table.num_rows == 200
    again = evaluate(tmp_path)
    assert made.calls == ALL and again.predictions == outcome.predictions


def test_a_new_seed_adds_its_own_and_a_dropped_one_is_no_longer_named(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    evaluate(tmp_path)
    outcome = evaluate(tmp_path, seeds=(2, 1))
    assert sorted(made.calls[4:]) == sorted((d, m, 2) for d, m, _ in ALL)
    assert {e["seed"] for e in outcome.predictions} == {1, 2}
    assert {e["seed"] for e in evaluate(tmp_path, seeds=(2,)).predictions} == {2}
    assert len(made.calls) == 8


def test_other_weights_data_or_options_make_predictions_again_and_metrics_do_not(
    tmp_path, monkeypatch
):
    made = Made(monkeypatch)
    evaluate(tmp_path)
    evaluate(tmp_path, options={"replicates": 77})
    assert len(made.calls) == 4
    evaluate(tmp_path, model=Model(digest="d2"))
    # The twin is drawn, not trained: other weights leave it as it was.
    assert made.calls[4:] == [("d2", "probe", 1), ("d2", "lora", 1)]


@pytest.mark.parametrize(
    "change", [{"options": {"strength": 2.0}}, {"limit": 5}, "data", "sources"]
)
def test_what_else_decides_predictions_makes_them_again(tmp_path, monkeypatch, change):
    made = Made(monkeypatch)
    evaluate(tmp_path, twins=False)
    model, changes = Model(), change
    if change == "data":
        made.data, changes = replace(made.data, sha256="other"), {}
    if change == "sources":
        # The same weights beside another corpus: bins of identity are others.
        model, changes = Model(sources=("a", "b")), {}
    evaluate(tmp_path, model=model, twins=False, **changes)
    assert len(made.calls) == 4
    evaluate(tmp_path, model=model, twins=False, **changes)
    assert len(made.calls) == 4


def test_a_damaged_prediction_is_made_again(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcome = evaluate(tmp_path, twins=False)
    (tmp_path / outcome.predictions[1]["path"]).write_bytes(b"PAR1 and no more")
    evaluate(tmp_path, twins=False)
    assert made.calls[2:] == [("d1", "lora", 1)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PlmscaleError("no GPU here"), "no GPU here"),
        (RuntimeError("CUDA out of memory\nmore"), "RuntimeError: CUDA out of memory"),
        (ValueError(), "ValueError: "),
    ],
)
def test_a_method_that_fails_is_told_and_the_rest_goes_on(
    tmp_path, monkeypatch, capsys, error, reason
):
    made = Made(monkeypatch, fails={"probe": error})
    outcome = evaluate(tmp_path)
    assert made.calls == ALL
    assert [(e["method"], e["twin"]) for e in outcome.predictions] == [
        ("lora", False), ("lora", True),
    ]  # fmt: skip
    assert outcome.failures[0] == {
        "task": "fold", "model": "m", "method": "probe", "reason": reason, "status": "failed",
    }  # fmt: skip
    assert outcome.failures[1]["model"] == "m-twin1" and outcome.failed
    assert f"fold, m probe: failed: {reason}" in capsys.readouterr().err


def test_what_failed_is_tried_again_and_what_did_not_is_not(tmp_path, monkeypatch):
    assert plan.attempt(tmp_path, "fold", "m") == 1
    made = Made(monkeypatch, fails={"lora": PlmscaleError("later")})
    evaluate(tmp_path, twins=False)
    assert plan.attempt(tmp_path, "fold", "m") == 2
    evaluate(tmp_path, twins=False)
    assert plan.attempt(tmp_path, "fold", "m") == 3
    made.fails.clear()
    assert not evaluate(tmp_path, twins=False).failures
    # As it was when the last attempt started: nothing is to be done.
    assert plan.attempt(tmp_path, "fold", "m") == 3
    assert [method for _, method, _ in made.calls] == ["probe", "lora", "lora", "lora"]


def test_an_interrupt_ends_it(tmp_path, monkeypatch):
    Made(monkeypatch, fails={"probe": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path)


def test_a_model_that_cannot_be_opened_is_one_row(tmp_path, monkeypatch):
    made = Made(monkeypatch)

    def gated():
        raise PlmscaleError("hf:a/b: is gated; accept its terms")

    outcome = run.evaluate(asked(), "gated", gated, tmp_path)
    assert [(f["model"], f["method"], f["reason"]) for f in outcome.failures] == [
        ("gated", "", "hf:a/b: is gated; accept its terms")
    ]
    assert made.calls == [] and outcome.predictions == []


def test_a_model_of_the_wrong_kind_is_no_failure(tmp_path, monkeypatch):
    made = Made(monkeypatch, kinds=("clm",))
    outcome = evaluate(tmp_path)
    assert outcome.failures[0]["status"] == "not applicable" and not outcome.failed
    assert outcome.failures[0]["reason"] == "for clm, this is mlm"
    assert made.calls == [] and plan.attempt(tmp_path, "fold", "m") == 1


def test_a_method_asked_for_by_name_that_the_task_lacks_is_told(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcome = evaluate(tmp_path, insisted=("attention", "probe"), twins=False)
    assert made.calls == [("d1", "probe", 1)]
    assert "has no method attention; it has probe, lora" in outcome.failures[0]["reason"]


def test_zero_shot_draws_nothing_and_is_done_once(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    object.__setattr__(made.task, "methods", ("zero-shot", "probe"))
    evaluate(tmp_path, seeds=(3, 4), twins=False)
    assert made.calls == [("d1", "zero-shot", 3), ("d1", "probe", 3), ("d1", "probe", 4)]


def test_a_task_that_cannot_be_loaded_is_not_run_by_name(tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'tmtools'")

    monkeypatch.setattr(tasks, "task", absent)
    outcome = evaluate(tmp_path)
    assert outcome.failures[0]["reason"].startswith("not run: fold cannot be loaded (No module")


def test_wrong_options_name_the_key(tmp_path, monkeypatch):
    Made(monkeypatch)
    reason = evaluate(tmp_path, options={"strengh": 1}).failures[0]["reason"]
    assert reason.startswith("fold: option strengh: ")


def test_missing_data_are_one_row(tmp_path):
    outcome = run.evaluate(asked(folder=tmp_path / "nowhere"), "m", Model, tmp_path)
    assert len(outcome.failures) == 1 and "no such folder" in outcome.failures[0]["reason"]


def test_baselines_have_no_model(tmp_path, monkeypatch):
    made = Made(monkeypatch)
    outcome = run.baselines(asked(seeds=(5, 6)), tmp_path)
    assert made.calls == [(None, "baseline:none", 5)]
    assert outcome.predictions[0]["path"] == "predictions/fold/baselines/baseline-none-s5.parquet"


def test_fetching_tells_what_is_missing(tmp_path):
    outcome = run.fetched(asked(folder=tmp_path), tmp_path / "out")
    assert outcome.failed and outcome.task == "fold"
    assert plan.attempt(tmp_path / "out", "fetch", "fold") == 2
    # Tasks on the corpus have nothing to bring in.
    assert not run.fetched(run.Asked("perplexity"), tmp_path / "out").failures
