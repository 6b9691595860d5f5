"""Held-out budgets and sensitivity on simulated tables whose law is known."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmscale.cli import main
from plmscale.errors import PlmscaleError
from plmscale.laws.holdout import holdout
from plmscale.laws.sensitivity import sensitivity

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from simulated_laws import LAWS, Design, simulate

LAW = LAWS["clm"]
DESIGN = Design((1e11, 3e11, 1e12, 3e12), (7, 7), 0.001)
METHODS = ["isoflop_raw_loglog", "isoflop_parabola", "parametric"]


@pytest.fixture(scope="module")
def runs():
    return simulate(LAW, DESIGN, np.random.default_rng(5))


def truth(n, flops):
    """Return the loss without noise of a model of size `n` for a compute."""
    floor, k, decay = LAW.level
    c = np.log(flops / LAW.middle)
    return floor + k * np.exp(-decay * c) + LAW.rise(np.log(n) - LAW.optimum(flops), c)


def test_a_true_law_foretells_the_budget_it_has_not_seen(runs):
    found = holdout(runs, up_to=1e12, methods=METHODS, n_boot=200)
    part = found["objectives"]["clm"]
    assert part["budgets_fitted"] == [1e11, 3e11, 1e12]
    (target,) = part["targets"]
    n = np.exp(LAW.optimum(3e12))
    loss = truth(n, 3e12)
    assert target["n_params"]["value"] == pytest.approx(n, rel=0.1)
    for item in target["predictions"]:
        assert item["n_inside"] is True, item
        if item["method"] != "isoflop_raw_loglog":
            assert item["n_params"]["value"] == pytest.approx(n, rel=0.2)
        # This law has a floor: the form with one foretells the loss, a power law without falls short.
        right = item["method"] == "parametric"
        assert (abs(item["loss"]["value"] - loss) < 0.005) == right, item
        assert item["n_ratio"] == pytest.approx(
            item["n_params"]["value"] / target["n_params"]["value"]
        )


def test_a_law_that_breaks_is_seen_to_break(runs):
    """Beyond 1e12 the optimum is moved eightfold: no interval may claim to have known."""
    broken = runs.copy()
    far = broken["budget"] == 3e12
    broken.loc[far, "n_params"] = (broken.loc[far, "n_params"] * 8).astype(int)
    broken.loc[far, "tokens"] = broken.loc[far, "flops"] / 6 / broken.loc[far, "n_params"]
    found = holdout(broken, up_to=1e12, methods=["isoflop_parabola"], n_boot=200)
    (item,) = found["objectives"]["clm"]["targets"][0]["predictions"]
    assert item["n_inside"] is False
    assert item["n_ratio"] == pytest.approx(1 / 8, rel=0.3)


def test_a_large_run_beyond_the_grid_is_asked_for_its_loss(runs):
    n, d = 4e5, 3e7
    big = pd.DataFrame(
        [{"run_id": "big", "objective": "clm", "n_params": n, "tokens": d, "flops": 6 * n * d,
          "loss": truth(n, 6 * n * d)}]
    )  # fmt: skip
    both = pd.concat([runs.assign(run_id=[f"r{i}" for i in range(len(runs))]), big])
    found = holdout(both, up_to=1e12, methods=["parametric"], n_boot=100)
    target = found["objectives"]["clm"]["targets"][-1]
    assert (target["kind"], target["run_id"]) == ("run", "big")
    (item,) = target["predictions"]
    assert item["loss_of"] == "this N and D"
    assert abs(item["loss_error"]) < 0.01


def test_by_default_the_largest_budget_is_held_out(runs):
    assert holdout(runs, methods=["isoflop_raw_loglog"], n_boot=20)["up_to"] == 1e12


def test_too_few_budgets_are_a_note_and_a_wrong_limit_an_error(runs):
    one = runs[runs["budget"] == 1e11]
    assert "two budgets" in holdout(one)["note"]
    with pytest.raises(PlmscaleError, match="no runs above 1e\\+13"):
        holdout(runs, up_to=1e13)
    with pytest.raises(PlmscaleError, match="no runs up to 1e\\+08"):
        holdout(runs, up_to=1e8)


def test_a_part_of_a_study_may_lie_on_one_side_of_the_limit(runs):
    for limit, said in ((1e13, "no runs above 1e+13"), (1e8, "no runs up to 1e+08")):
        found = holdout(runs, up_to=limit, allow_empty=True)
        assert found["objectives"] == {} and said in found["note"]


def test_sensitivity_tells_the_choice_that_matters(runs):
    """A table whose sizes are wrong by a power of C moves the exponent by just that power."""
    shifted = runs.assign(n_params=runs["n_params"] * (runs["flops"] / LAW.middle) ** 0.2)
    shifted["tokens"] = shifted["flops"] / 6 / shifted["n_params"]
    found = sensitivity(runs, variants={"wrong sizes": shifted}, n_boot=40)
    effect = found["effects"]["clm"]
    levels = effect["choices"]["table"]["levels"]
    # The parametric form cannot follow sizes that are wrong; the profiles can.
    assert levels["wrong sizes"] - levels["as given"] == pytest.approx(0.2, abs=0.1)
    assert effect["choices"]["table"]["range"] > 5 * effect["data_sd"]
    assert effect["choices"]["table"]["sd"] > effect["choices"]["flops"]["sd"]
    by_name = {(r["table"], r["flops"], r["budgets"], r["method"]): r["a"] for r in found["rows"]}
    assert by_name["wrong sizes", "flops_6nd", "all", "isoflop_parabola"] - by_name[
        "as given", "flops_6nd", "all", "isoflop_parabola"
    ] == pytest.approx(0.2, abs=0.02)
    assert {r["budgets"] for r in found["rows"]} == {"all", "without 1e11", "without 3e12"}


def test_equal_tables_have_no_effect(runs):
    found = sensitivity(runs, variants={"again": runs}, n_boot=20)
    assert found["effects"]["clm"]["choices"]["table"]["sd"] == 0


def test_commands_write_their_files_and_print_tables(runs, tmp_path, capsys):
    table = tmp_path / "runs.csv"
    runs.assign(run_id=[f"r{i}" for i in range(len(runs))]).to_csv(table, index=False)
    out = tmp_path / "holdout.json"
    assert main(["holdout", str(table), "--out", str(out), "--boot", "30"]) == 0
    assert "Fitted to budgets up to 1e+12" in capsys.readouterr().out
    assert json.loads(out.read_text())["objectives"]["clm"]["targets"]
    out = tmp_path / "sensitivity.json"
    words = ["sensitivity", str(table), "--out", str(out), "--boot", "20"]
    assert main([*words, "--variant", f"same={table}"]) == 0
    assert "method" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"]
    assert main([*words, "--variant", "nothing"]) == 2
    assert "expected NAME=RUNS.csv" in capsys.readouterr().err
