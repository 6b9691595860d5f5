"""Sentences of the report on clear, unresolved and odd results."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from plmscale.figures.findview import Difference, differences
from plmscale.figures.lawview import PowerLaw
from plmscale.report import words

INF = math.inf


def law(exponent, interval, spread=0.01):
    rng = np.random.default_rng(0)
    sample = np.column_stack([np.ones(200), rng.normal(exponent, spread, 200)])
    return PowerLaw(1.0, exponent, interval, sample)


@pytest.mark.parametrize(
    ("interval", "answer"),
    [
        ((0.4, 0.8), True), ((-0.2, 0.3), True), ((-0.4, 0.7), False), ((0.1, INF), False),
        ((-INF, INF), False), (None, False),
    ],
)  # fmt: skip
def test_an_interval_is_resolved_when_bounded_and_narrow(interval, answer):
    assert words.resolved(interval) is answer


def test_a_clear_exponent():
    text = words.exponent_sentence("clm", law(0.58, (0.4, 0.8)), law(0.42, (0.2, 0.6)))
    assert text == (
        "The best CLM size grows as C^0.58 (95 % interval 0.40 to 0.80), "
        "the best number of tokens as C^0.42 (0.20 to 0.60)."
    )
    growth = words.growth_sentence(law(0.58, (0.4, 0.8)))
    assert growth == "Ten times the compute asks for 3.8 times the size (2.5 to 6.3)."


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((-3.5, 0.62), "95 % interval −3.50 to 0.62"), ((-INF, 0.62), "at most 0.62"),
        ((-INF, INF), "unbounded"), (None, "no interval could be given"),
    ],
)  # fmt: skip
def test_an_interval_that_says_nothing_is_no_result(interval, said):
    text = words.exponent_sentence("mlm", law(0.57, interval), None)
    assert "not resolved" in text
    assert said in text
    assert "grows as" not in text
    assert words.growth_sentence(law(0.57, interval)) == ""


def test_an_unresolved_interval_above_zero_still_shows_growth():
    text = words.exponent_sentence("mlm", law(0.8, (0.7, 4.5)), None)
    assert "not resolved" in text
    assert "no more than that the size grows" in text


def test_an_interval_that_holds_zero_shows_no_growth():
    assert "is not shown" in words.growth_sentence(law(0.1, (-0.1, 0.3)))


def test_no_law_points_to_the_warnings():
    assert "No law could be fitted for CLM" in words.exponent_sentence("clm", None, None)
    assert words.growth_sentence(None) == ""


def test_an_optimum_at_an_edge_is_said_to_be_one():
    point = {"budget": 1e12, "N_opt": 5e4, "D_opt": 3.3e6, "loss": 2.8, "at_edge": True,
             "used": True, "N_opt_ci95": [4e4, 6e4]}  # fmt: skip
    text = words.optimum_sentence("clm", {"points": [point]})
    assert "10¹² FLOPs" in text
    assert "50k parameters" in text
    assert "40k to 60k" in text
    assert "may lie beyond" in text
    edges = words.edges_sentence("clm", {"points": [point]})
    assert "1 of the 1 CLM minima lies" in edges
    assert "not bracketed" in edges


def test_an_interval_below_one_parameter_has_no_lower_end():
    point = {"budget": 6e10, "N_opt": 2900.0, "D_opt": 3.4e6, "loss": 2.87, "used": True}
    point |= {"at_edge": False, "N_opt_ci95": [3.4e-10, 13_000.0]}
    text = words.optimum_sentence("clm", {"points": [point]})
    assert "(95 % of the size: at most 13k)" in text


def test_optima_that_the_law_left_out_are_no_answer():
    outside = {"budget": 1e12, "N_opt": 9e9, "D_opt": 1.0, "at_edge": True, "used": False}
    inside = {"budget": 1e11, "N_opt": 2e4, "D_opt": 8e5, "at_edge": False, "used": True}
    entry = {"points": [outside, inside]}
    assert "10¹¹ FLOPs" in words.optimum_sentence("clm", entry)
    assert "through the other 1 only" in words.edges_sentence("clm", entry)
    assert words.optimum_sentence("clm", None) == ""
    assert words.edges_sentence("clm", {"points": [inside]}) == ""


def _entry(exponent, low, high):
    return {"N_opt": {"A": 1.0, "a": exponent}, "ci95": {"N_opt": {"a": [low, high]}}}


def test_methods_that_disagree_beyond_their_intervals():
    entries = {"isoflop_parabola": _entry(0.4, 0.35, 0.45), "parametric": _entry(0.9, 0.85, 0.95)}
    text = words.agreement_sentence("clm", entries)
    assert "0.40 (parabola in log N) to 0.90 (parametric L(N, D))" in text
    assert "choice of method" in text
    assert words.agreement_sentence("clm", {"parametric": entries["parametric"]}) == ""


def test_methods_that_agree_make_no_fuss():
    entries = {"isoflop_parabola": _entry(0.4, 0.2, 0.6), "parametric": _entry(0.5, 0.4, 0.6)}
    assert "choice of method" not in words.agreement_sentence("clm", entries)


def test_objectives_compared_by_their_bootstraps():
    clear = words.objectives_sentence(law(0.5, (0.48, 0.52)), law(0.8, (0.78, 0.82)))
    assert "grows faster for MLM than for CLM" in clear
    reverse = words.objectives_sentence(law(0.8, (0.78, 0.82)), law(0.5, (0.48, 0.52)))
    assert "more slowly" in reverse
    assert "unlike what the paper found" in reverse
    unclear = words.objectives_sentence(law(0.5, (0.3, 0.7), 0.2), law(0.6, (0.4, 0.8), 0.2))
    assert "not resolved" in unclear
    assert words.objectives_sentence(None, law(0.5, None)) == ""


def test_the_paper_beside_an_interval():
    assert "inside" in words.published_sentence("clm", law(0.6, (0.5, 0.7)))
    assert "outside" in words.published_sentence("mlm", law(0.6, (0.5, 0.7)))
    unresolved = words.published_sentence("mlm", law(0.6, (-2.0, 3.0)))
    assert "neither confirmed nor contradicted" in unresolved
    assert words.published_sentence("mlm", None) == ""


def test_the_distance_to_the_paper_is_told_from_the_losses():
    grid = pd.DataFrame({"objective": "clm", "budget": [1e11, 1e12], "loss": [2.86, 2.84]})
    text = words.distance_sentence(grid)
    assert "10⁶ times the largest one here" in text
    assert "no more than 0.020 nats per token (CLM)" in text
    assert words.distance_sentence(grid.assign(budget=[1e18, 1e19])) == ""
    assert words.distance_sentence(grid.head(0)) == ""


def difference(delta, interval, **more):
    return Difference("a", "b", "mlm", 98_000, delta, interval, **more)


def test_repetition_that_costs_and_that_cannot_be_told():
    more = {"corpora": ("curated", "mix"), "epochs": (10.0, 1.7)}
    clear = words.repetition_sentence(difference(0.031, (0.022, 0.040), **more))
    assert "on “curated” (10 epochs) instead of “mix” (1.7 epochs) raises the loss" in clear
    assert "0.031 nats per token at 98k parameters (95 % +0.022 to +0.040)" in clear
    unclear = words.repetition_sentence(difference(0.006, (-0.004, 0.016), **more))
    assert "no difference that this comparison could see" in unclear
    assert "raises" not in unclear


def test_transfer_that_helps_and_one_without_an_interval():
    more = {"source": "clm", "share": 0.2}
    clear = words.transfer_sentence(difference(-0.011, (-0.019, -0.003), **more))
    assert "spending 20 % of it on CLM first" in clear
    assert "lowers the loss by 0.011" in clear
    assert "this is no finding" in words.transfer_sentence(difference(-0.011, None, **more))


def test_differences_are_read_from_findings():
    item = {"runs": ["a", "b"], "difference": 0.1, "ci95": [None, None], "objective": "clm"}
    found = differences({"repetition": [item, {"difference": None}]}, "repetition")
    assert [(d.run, d.baseline, d.interval) for d in found] == [("a", "b", None)]
    assert differences({}, "transfer") == []


def test_runs_are_counted_by_how_they_ended():
    assert words.runs_sentence(["done", ""], 0) == "2 models were trained."
    text = words.runs_sentence(["done", "diverged", "parent_failed"], 2)
    assert text.startswith("Of 3 runs 1 ended well, 1 diverged, 1 parent failed; 2 enter no law")
    assert words.runs_sentence([], 0) == "There are no runs."


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5.0 s"), (75, "1.2 min"), (5400, "1.5 h"), (172_800, "2.0 d")]
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


def test_time_in_training_steps():
    text = words.time_sentence({"train_seconds": 60.0, "valid_seconds": 40.0})
    assert "60 % of it inside training steps" in text
    assert words.time_sentence({}) == "No timings were recorded."


@pytest.mark.parametrize(
    ("budgets", "text"),
    [
        ([1e11, 3e12, 1e11], "with budgets from 10¹¹ to 3×10¹² FLOPs"),
        ([1e11], "at the single budget of 10¹¹ FLOPs"), ([], "with these runs"),
    ],
)  # fmt: skip
def test_budgets(budgets, text):
    assert words.budgets_phrase(budgets) == text
