"""The scaling question on studies whose answer is known, and on hardly anything."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from downstream_tables_example import (
    FITNESS,
    FOLD,
    by_loss,
    metric_row,
    runs_table,
    tables,
    write,
)
from scipy import stats

from plmscale.downstream import tasks, transfers, trends
from plmscale.downstream.base import Predictions
from plmscale.downstream.scaling import AGAINST, main, points, read_tables, scaling, usable_runs


def asked(runs, found, **more):
    return scaling(found["metrics"], found["gains"], runs, replicates=400, **more)


def of(result, **wanted):
    return [r for r in result["trends"] if all(r[k] == v for k, v in wanted.items())]


# Trends.


def test_rank_correlation_and_exact_permutation_agree_with_scipy():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 6))
    found = trends.trend(x, y, replicates=500)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    exact = stats.permutation_test(
        (x,), lambda a: stats.spearmanr(a, y).statistic, permutation_type="pairings",
        n_resamples=np.inf,
    )  # fmt: skip
    assert found.p == pytest.approx(exact.pvalue)


def test_perfect_order_of_five_is_resolved_and_of_four_is_too_few():
    five = trends.trend(range(5), range(5))
    assert five.rho == pytest.approx(1) and five.p == pytest.approx(2 / 120) and five.resolved
    four = trends.trend(range(4), range(4))
    assert four.ci95 is None and four.p is None and not four.resolved


def test_intervals_of_unrelated_numbers_hold_zero_as_often_as_they_say():
    rng = np.random.default_rng(0)
    wrong = sum(
        trends.trend(*rng.normal(size=(2, 10)), replicates=300).resolved for _ in range(200)
    )
    # 5 % would be 10; both conditions together are stricter than one.
    assert wrong <= 16


def test_noise_of_the_test_set_widens_the_interval():
    x = np.arange(8.0)
    sure, unsure = (trends.trend(x, x, np.full(8, se)) for se in (1e-6, 3.0))
    assert sure.ci95[0] > 0.9
    assert unsure.ci95[0] < 0.3 and unsure.rho == sure.rho


def test_a_constant_metric_has_no_correlation():
    found = trends.trend(range(7), [0.3] * 7)
    assert math.isnan(found.rho) and not found.resolved


# Laws.


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ("linear", lambda u: 0.2 + 0.4 * u),
        ("saturating", lambda u: 0.6 - 0.5 * np.exp(-4 * u)),
        ("logistic", lambda u: 0.1 + 0.6 / (1 + np.exp(-(u - 0.5) / 0.08))),
    ],
)
def test_a_law_finds_its_shape_and_foretells(shape, rule):
    x = np.linspace(3, 7, 20)
    rng = np.random.default_rng(2)
    found = trends.law(x, rule((x - 3) / 4) + rng.normal(0, 0.005, 20))
    assert found.shape == shape and found.skill > 0.9 and found.skill_ci95[0] > 0.8
    between = np.linspace(3, 7, 50)
    assert np.abs(found.at(between) - rule((between - 3) / 4)).max() < 0.02


def test_the_error_on_models_left_out_is_that_of_refitting():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, 9)
    y = 2 - 3 * x + rng.normal(0, 0.3, 9)
    squares = []
    for i in range(9):
        keep = np.arange(9) != i
        squares.append((np.polyval(np.polyfit(x[keep], y[keep], 1), x[i]) - y[i]) ** 2)
    assert trends.law(x, y).error == pytest.approx(math.sqrt(np.mean(squares)))


def test_noise_is_no_law():
    rng = np.random.default_rng(8)
    found = [trends.law(np.arange(12.0), rng.normal(size=12), replicates=300) for _ in range(60)]
    assert sum(law is not None for law in found) <= 6


# Studies.


def test_a_metric_that_follows_the_loss_is_found_for_each_objective():
    runs = runs_table()
    result = asked(runs, tables(runs, {FOLD: by_loss}))
    assert result["models"] == {"clm": 10, "mlm": 10}
    rows = of(result, against="loss", of="gain")
    assert [r["objective"] for r in rows] == ["clm", "mlm"]
    for row in rows:
        assert row["verdict"] == "better" and row["rho"] < -0.9 and row["ci95"][1] < 0
        slope = row["law"]["b"] / row["law"]["width"]
        assert row["law"]["shape"] == "linear" and slope == pytest.approx(-0.4, abs=0.05)
    assert {r["verdict"] for r in of(result, against="compute")} == {"better"}


def test_a_metric_that_does_not_follow_is_not_resolved():
    runs = runs_table()
    result = asked(runs, tables(runs, {FOLD: lambda run: 0.3}))
    assert {r["verdict"] for r in result["trends"]} == {"not resolved"}
    assert all(r["law"] is None and r["why"] for r in result["trends"])


def test_an_error_that_grows_with_the_loss_is_better_with_lower_loss():
    runs = runs_table(objectives=("clm",))
    found = tables(runs, {FOLD: lambda run: run["loss"]})
    for name in ("metrics", "gains"):
        found[name]["higher_is_better"] = False
    assert {r["verdict"] for r in of(asked(runs, found), against="loss")} == {"better"}
    worse = tables(runs, {FOLD: lambda run: run["loss"]})
    assert {r["verdict"] for r in of(asked(runs, worse), against="loss")} == {"worse"}


def test_one_model_is_too_few_and_nothing_breaks():
    runs = runs_table(1, ("clm",))
    result = asked(runs, tables(runs, {FOLD: by_loss}))
    assert {r["verdict"] for r in result["trends"]} == {"too few models"}
    assert all("are needed" in r["why"] for r in result["trends"])
    json.dumps(result, allow_nan=False)


def test_diverged_and_unknown_runs_are_left_out_with_the_reason():
    runs = runs_table(7, ("mlm",))
    found = tables(runs, {FOLD: by_loss})
    runs.loc[0, ["loss", "status"]] = [np.nan, "diverged"]
    runs.loc[1, "mask_ratio"] = 0.4
    runs = runs[runs["run_id"] != "mlm-2"]
    result = asked(runs, found)
    assert result["models"] == {"mlm": 4}
    why = {row["run_id"]: row["why"] for row in result["left_out"]}
    assert "diverged" in why["mlm-0"] and "0.4" in why["mlm-1"] and "runs table" in why["mlm-2"]


def test_without_baselines_twins_or_any_rows_there_is_an_answer():
    runs = runs_table(6)
    found = tables(runs, {FOLD: by_loss}, baselines=False)
    found["metrics"] = found["metrics"][~found["metrics"]["twin"].astype(bool)]
    found["gains"] = found["gains"].iloc[:0]
    assert {r["of"] for r in asked(runs, found)["trends"]} == {"metric"}
    found["metrics"] = found["metrics"].iloc[:0]
    assert asked(runs, found)["trends"] == []


def test_seeds_of_one_model_are_one_point_and_their_scatter_counts():
    runs = runs_table(6, ("clm",))
    found = tables(runs, {FOLD: by_loss}, seeds=(1, 2, 3))
    usable, _ = usable_runs(runs, found["metrics"])
    table = points(found["metrics"], found["gains"], usable)
    assert len(table) == 12 and set(table["seeds"]) == {3}
    one = found["metrics"].query("model == 'clm-3' and not twin")
    expected = math.hypot(0.004, one["value"].std(ddof=1) / math.sqrt(3))
    assert table.query("model == 'clm-3' and of == 'metric'")["se"].item() == pytest.approx(
        expected
    )


def test_compute_counts_all_ancestors():
    runs = runs_table(3, ("clm",))
    runs.loc[1, "parent"], runs.loc[2, "parent"] = "clm-0", "clm-1"
    usable, _ = usable_runs(runs, tables(runs, {FOLD: by_loss})["metrics"])
    assert usable["compute"].tolist() == pytest.approx(runs["flops_6nd"].cumsum().tolist())
    runs.loc[2, "parent"] = "gone"
    usable, _ = usable_runs(runs, tables(runs, {FOLD: by_loss})["metrics"])
    assert math.isnan(usable.loc["clm-2", "compute"])


def test_a_run_of_both_objectives_is_not_mixed_with_others():
    runs = runs_table(2, ("clm",))
    runs.loc[1, "objective"] = "mixed"
    found = tables(runs.assign(objective="clm"), {FOLD: by_loss})
    usable, _ = usable_runs(runs, found["metrics"])
    assert set(points(found["metrics"], found["gains"], usable)["objective"]) == {
        "clm", "mixed as clm",
    }  # fmt: skip


# Transfer.


def transfer_runs():
    runs = runs_table(2, ("clm", "mlm"))
    child = runs.iloc[2].to_dict() | {"run_id": "child", "parent": "clm-0", "tokens": 3_000_000}
    scratch = child | {"run_id": "scratch", "parent": "", "tokens": 5_000_000}
    rows = [
        row | {"flops_6nd": 6.0 * row["n_params"] * row["tokens"]}
        for row in (child, scratch)
    ]  # fmt: skip
    return pd.concat([runs, pd.DataFrame(rows)], ignore_index=True)


def predictions(folder, model, right):
    """Write fold predictions of 40 proteins, of which the first `right` are right."""
    n = 40
    table = pa.table({
        "id": [f"p{i}" for i in range(n)], "split": ["test"] * n, "group": ["fold"] * n,
        "target": list(range(n)),
        "prediction": [i if i < right else i + 1 for i in range(n)], "trained": [True] * n,
    })  # fmt: skip
    Predictions(table, {"method": "probe", "seed": 1, "model": None}).write(
        folder / "predictions" / "fold" / model / "probe-s1.parquet"
    )


def test_transfer_is_compared_with_scratch_of_equal_total_compute(tmp_path):
    runs = transfer_runs()
    rows = []
    task = tasks.task("fold")
    for model, right in (("child", 30), ("scratch", 12)):
        predictions(tmp_path, model, right)
        made = task.score(
            Predictions.read(tmp_path / "predictions" / "fold" / model / "probe-s1.parquet"),
            task.options(),
        )
        run = runs.set_index("run_id", drop=False).loc[model]
        rows += [
            metric_row(run, ("fold", "probe", m.split, m.group, m.metric, m.definition), m.value,
                       primary=m.primary)
            for m in made
        ]  # fmt: skip
    found, notes = transfers.compare(pd.DataFrame(rows), runs, tmp_path, {})
    assert not notes
    accuracy = [r for r in found if r["metric"] == "accuracy"]
    assert accuracy and {(r["transferred"], r["scratch"]) for r in found} == {("child", "scratch")}
    for row in accuracy:
        assert row["difference"] == pytest.approx(18 / 40) and row["verdict"] == "better"
        # 18 of 40 proteins differ, all to one side: a binomial's interval.
        se = math.sqrt(0.45 * 0.55 / 40)
        assert row["ci95"] == pytest.approx((0.45 - 1.96 * se, 0.45 + 1.96 * se), abs=0.03)
        assert row["total_flops"] == pytest.approx(
            runs.set_index("run_id").loc[["child", "clm-0"], "flops_6nd"].sum()
        )


def test_without_predictions_transfer_is_not_resolved_and_a_missing_run_is_told(tmp_path):
    runs = transfer_runs()
    both = runs[runs["run_id"].isin(["child", "scratch"])]
    found = tables(both, {FOLD: by_loss})
    result = asked(runs, found)
    assert [r["verdict"] for r in result["transfer"]] == ["not resolved"]
    result = asked(runs, found, out=tmp_path)
    assert (
        result["transfer"][0]["ci95"] is None
        and "child against scratch, fold" in result["notes"][0]
    )
    alone = {n: t[t["model"] != "scratch"] for n, t in found.items()}
    assert any("scratch was not evaluated" in note for note in asked(runs, alone)["notes"])


# The command.


def test_the_command_writes_what_the_function_gives(tmp_path, capsys):
    runs = runs_table(6)
    folder = write(tmp_path, runs, tables(runs, {FOLD: by_loss, FITNESS: lambda run: 0.3}))
    words = ["--tables", str(folder), "--runs", str(tmp_path / "runs.csv"), "--out"]
    assert main([*words, str(tmp_path / "scaling.json")]) == 0
    told = json.loads((tmp_path / "scaling.json").read_text())
    assert {r["against"] for r in told["trends"]} == set(AGAINST)
    assert {r["verdict"] for r in told["trends"] if r["task"] == "fold"} == {"better"}
    assert not {r["verdict"] for r in told["trends"] if r["task"] == "fitness"} - {"not resolved"}
    tables_again = read_tables(folder)
    assert tables_again["metrics"]["twin"].dtype == bool
    (folder / "gains.csv").unlink()
    assert main([*words, str(tmp_path / "x.json")]) == 2
    assert "gains.csv" in capsys.readouterr().err
