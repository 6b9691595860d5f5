"""Laws from tables small enough to think through: closed forms, warnings, errors."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmscale.errors import PlmscaleError
from plmscale.laws.bootstrap import Noise, interval, seed_noise
from plmscale.laws.fit import fit_laws
from plmscale.laws.isoflop.methods import ISOFLOP_METHODS
from plmscale.laws.isoflop.powerlaw import fit_linear, fit_loglog

BUDGETS = (1e17, 1e18, 1e19)


def parabolas(bend=0.08, sizes=7, step=0.5, budgets=BUDGETS, noise=0.0, objective="clm", shift=0.0):
    """Profiles that are exact parabolas in ln N around N_opt = 0.02 C^0.5, L_opt = 20 C^-0.05."""
    rng = np.random.default_rng(3)
    rows = []
    for budget in budgets:
        best = np.log(0.02) + 0.5 * np.log(budget)
        for k in range(sizes):
            x = best + step * (k - sizes // 2) + shift
            loss = 20 * budget**-0.05 + bend / 2 * (x - best) ** 2 + rng.normal(0, noise)
            n = np.exp(x)
            rows.append({"run_id": f"{objective}-{budget:.0e}-{k}", "objective": objective,
                         "n_params": n, "tokens": budget / 6 / n, "flops": 1.1 * budget,
                         "budget": budget, "loss": loss})  # fmt: skip
    return pd.DataFrame(rows)


def law_table(theta=(2.0, 400.0, 1200.0, 0.34, 0.28), noise=0.0, objective="clm"):
    e, a, b, alpha, beta = theta
    rng = np.random.default_rng(5)
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    loss = e + a / n**alpha + b / d**beta + rng.normal(0, noise, len(n))
    return pd.DataFrame({"objective": objective, "n_params": n, "tokens": d, "loss": loss})


def fit(table, method, **options):
    return fit_laws(table, methods=[method], **{"n_boot": 200, **options})["laws"]


def text(entry):
    return "\n".join(entry["warnings"])


def test_an_exact_parabola_gives_its_exact_minimum():
    law = fit(parabolas(), "isoflop_parabola", n_boot=0)["clm"]["isoflop_parabola"]
    assert law["N_opt"]["A"] == pytest.approx(0.02, rel=1e-6)
    assert law["N_opt"]["a"] == pytest.approx(0.5, abs=1e-8)
    assert law["D_opt"]["B"] == pytest.approx(1 / 6 / 0.02, rel=1e-6)
    assert law["L_opt"]["K"] == pytest.approx(20, rel=1e-6)
    assert law["L_opt"]["c"] == pytest.approx(0.05, abs=1e-8)
    point = law["points"][1]
    assert point["curvature"] == pytest.approx(0.08, rel=1e-6)
    assert point["loss"] == pytest.approx(20 * 1e18**-0.05, rel=1e-9)
    assert not point["at_edge"] and len(point["runs"]) == 7
    assert point["N_opt"] * point["D_opt"] * 6 == pytest.approx(1e18, rel=1e-6)


def test_raw_minima_pick_the_best_size_of_each_budget():
    laws = fit_laws(parabolas(), n_boot=0)["laws"]["clm"]
    for method in ("isoflop_raw_loglog", "isoflop_raw_linear"):
        assert laws[method]["N_opt"]["a"] == pytest.approx(0.5, abs=1e-6)
        assert laws[method]["N_opt"]["A"] == pytest.approx(0.02, rel=1e-4)


def test_power_law_fits_weigh_points_as_their_space_does():
    x = np.log([1.0, 10.0, 100.0])
    y = np.log([[2.0, 20.0, 200.0], [1.0, 20.0, 200.0]])
    assert fit_loglog(x, y)[1] == pytest.approx([1.0, np.log(200) / np.log(100)])
    log_a, p = fit_linear(x, y)
    assert p[0] == pytest.approx(1.0, abs=1e-9) and np.exp(log_a[0]) == pytest.approx(2.0)
    # In linear space the smallest point hardly counts.
    assert p[1] == pytest.approx(1.0, abs=0.01)


def test_a_noise_free_law_is_found_exactly():
    law = fit(law_table(), "parametric", n_boot=0)["clm"]["parametric"]
    assert law["converged"] and law["objective"] < 1e-12
    found = [law[name] for name in ("E", "alpha", "beta")]
    assert found == pytest.approx([2.0, 0.34, 0.28], rel=1e-3)
    assert [law["A"], law["B"]] == pytest.approx([400, 1200], rel=1e-2)
    assert law["N_opt"]["a"] == pytest.approx(0.28 / 0.62, abs=1e-3)
    assert law["D_opt"]["b"] == pytest.approx(0.34 / 0.62, abs=1e-3)


def test_the_parametric_optimum_is_the_minimum_along_a_budget():
    law = fit(law_table(), "parametric", n_boot=0)["clm"]["parametric"]
    n = np.geomspace(1e6, 1e10, 200_001)
    loss = law["E"] + law["A"] / n ** law["alpha"] + law["B"] / (1e20 / 6 / n) ** law["beta"]
    best = law["N_opt"]["A"] * 1e20 ** law["N_opt"]["a"]
    assert best == pytest.approx(n[loss.argmin()], rel=1e-3)
    assert law["L_opt"]["E"] + law["L_opt"]["K"] * 1e20 ** -law["L_opt"]["c"] == pytest.approx(
        loss.min(), rel=1e-6
    )


def test_one_outlier_hardly_moves_the_huber_fit():
    table = law_table(noise=0.002)
    table.loc[17, "loss"] += 0.3
    law = fit(table, "parametric", n_boot=0)["clm"]["parametric"]
    assert law["N_opt"]["a"] == pytest.approx(0.28 / 0.62, abs=0.02)


def test_intervals_hold_the_estimate_and_repeat_with_the_seed():
    table = pd.concat([parabolas(noise=0.002), parabolas(noise=0.003, objective="mlm")])
    first, again = (fit_laws(table, n_boot=300, seed=4) for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    for entries in first["laws"].values():
        for method in ISOFLOP_METHODS:
            low, high = entries[method]["ci95"]["a"]
            assert low < entries[method]["N_opt"]["a"] < high
            assert entries[method]["ci95"]["N_opt"]["a"] == [low, high]
            assert len(entries[method]["bootstrap"]["rows"]) == 200
        point = entries["isoflop_parabola"]["points"][0]
        assert point["N_opt_ci95"][0] < point["N_opt"] < point["N_opt_ci95"][1]
    assert first["provenance"]["seed"] == 4


def test_one_objective_does_not_change_another():
    both = pd.concat([parabolas(noise=0.002), parabolas(noise=0.003, objective="mlm")])
    alone = fit_laws(parabolas(noise=0.003, objective="mlm"), n_boot=100)
    assert fit_laws(both, n_boot=100)["laws"]["mlm"] == alone["laws"]["mlm"]


def test_the_order_of_rows_does_not_matter():
    table = parabolas(noise=0.002)
    shuffled = table.sample(frac=1, random_state=1)
    one, two = (
        fit_laws(t, n_boot=50)["laws"]["clm"]["isoflop_parabola"] for t in (table, shuffled)
    )
    assert one["N_opt"]["a"] == pytest.approx(two["N_opt"]["a"], rel=1e-9)


def test_budgets_are_found_from_flops_where_the_table_has_none():
    table = parabolas().drop(columns="budget")
    table["tokens"] *= np.tile([1.0, 1.03, 0.99, 1.0, 1.01, 0.98, 1.0], 3)
    entry = fit(table, "isoflop_parabola", n_boot=0)["clm"]["isoflop_parabola"]
    assert len(entry["points"]) == 3
    assert entry["N_opt"]["a"] == pytest.approx(0.5, abs=0.02)
    assert "were grouped" in entry["notes"][0]


def test_exact_flops_move_losses_to_one_compute():
    table = parabolas()
    table["flops"] = table["budget"] * (1 + 2e4 / table["n_params"] ** 0.6)
    entry = fit(table, "isoflop_parabola", n_boot=0, flops_column="flops")["clm"]
    entry = entry["isoflop_parabola"]
    assert "within a budget" in text(entry)
    assert entry["points"][0]["flops"] > 1e17
    assert entry["N_opt"]["a"] == pytest.approx(0.5, abs=0.1)


def test_replicate_seeds_tell_the_noise():
    table = pd.concat([parabolas().assign(seed=s) for s in (1, 2, 3)], ignore_index=True)
    table["loss"] += np.random.default_rng(0).normal(0, 0.004, len(table))
    noise = seed_noise(table.assign(architecture="", corpus="", mask_ratio="", parent=""))
    assert noise.sd == pytest.approx(0.004, rel=0.3) and noise.dof == 42
    entry = fit(table, "isoflop_parabola")["clm"]["isoflop_parabola"]
    assert entry["points"][0]["n_sizes"] == 7 and entry["n_runs"] == 63


def test_noise_draws_are_wider_when_few_residuals_tell_them():
    rng = np.random.default_rng(0)
    few = Noise(1.0, 4.0, "residuals").draw(rng, 20_000, 1)
    many = Noise(1.0, float("inf"), "loss_sd").draw(rng, 20_000, 1)
    assert np.quantile(few, 0.975) > 2.5 and np.quantile(many, 0.975) == pytest.approx(
        1.96, abs=0.1
    )


def test_failed_replicates_widen_an_interval_until_it_is_unbounded():
    values = np.linspace(0, 1, 1001)
    assert interval(values) == pytest.approx([0.025, 0.975])
    assert interval(np.r_[values, np.full(20, np.nan)])[0] < 0.025
    assert interval(np.r_[values, np.full(200, np.nan)]) == [None, None]


# Rows that belong in no law


def test_failed_transferred_and_other_corpus_runs_are_left_out_and_listed():
    table = parabolas().assign(status="done", corpus="mix", parent="", mask_ratio=0.15)
    table["objective"] = "mlm"
    extra = table.iloc[:4].copy()
    extra["run_id"] = ["bad", "child", "other", "mask"]
    extra["status"] = ["diverged", "done", "done", "done"]
    extra["loss"] = [np.nan, 2.0, 2.0, 2.0]
    extra["parent"] = ["", "clm-1", "", ""]
    extra["corpus"] = ["mix", "mix", "curated", "mix"]
    extra["mask_ratio"] = [0.15, 0.15, 0.15, 0.3]
    laws = fit_laws(pd.concat([table, extra]), n_boot=0)
    why = {row["run_id"]: row["why"] for row in laws["excluded"]}
    assert why["bad"] == "status is diverged"
    assert why["child"] == "starts from the weights of clm-1"
    assert why["other"] == "corpus curated where the law's runs have corpus mix"
    assert why["mask"] == "mask ratio 0.3 where the law's runs have mask ratio 0.15"
    assert laws["laws"]["mlm"]["isoflop_parabola"]["N_opt"]["a"] == pytest.approx(0.5)
    assert "4 of 25 runs are in no law" in laws["warnings"][-1]


def test_an_objective_whose_runs_all_failed_is_a_warning():
    laws = fit_laws(parabolas().assign(status="diverged"), n_boot=0)
    assert laws["laws"] == {} and "no run is left" in laws["warnings"][0]


# Warnings


def test_a_minimum_at_the_edge_is_named():
    laws = fit_laws(parabolas(shift=2.0), n_boot=0)["laws"]["clm"]
    raw, curve = laws["isoflop_raw_loglog"], laws["isoflop_parabola"]
    assert all(point["at_edge"] for point in raw["points"])
    assert "clm isoflop_raw_loglog, budget 1e+17: the smallest size has the lowest loss" in text(
        raw
    )
    assert "lies below the smallest fitted size" in text(curve)
    assert curve["N_opt"]["a"] is None


def test_a_concave_profile_is_named_and_not_used():
    table = parabolas()
    one = table["budget"] == 1e18
    table.loc[one, "loss"] = 5 - table.loc[one, "loss"]
    entry = fit(table, "isoflop_parabola", n_boot=0)["clm"]["isoflop_parabola"]
    assert "budget 1e+18: the parabola is concave" in text(entry)
    assert "two budgets only" in text(entry)
    assert [point["used"] for point in entry["points"]] == [True, False, True]


def test_one_budget_gives_points_but_no_law():
    entry = fit(parabolas(budgets=(1e18,)), "isoflop_parabola")["clm"]["isoflop_parabola"]
    assert entry["N_opt"] == {"A": None, "a": None}
    assert entry["points"][0]["N_opt"] == pytest.approx(0.02 * 1e9)
    assert "only one budget (1e+18)" in text(entry)


def test_one_size_gives_no_law():
    table = parabolas().groupby("budget").head(1)
    laws = fit_laws(table, n_boot=10)["laws"]["clm"]
    assert "only 1 size, a profile needs 3" in text(laws["isoflop_parabola"])
    assert "no budget has a usable profile" in text(laws["isoflop_parabola"])
    assert "3 runs are too few for five parameters" in text(laws["parametric"])
    assert laws["parametric"]["E"] is None


def test_noise_larger_than_the_profile_says_nothing():
    table = parabolas(bend=0.02, noise=0.05, sizes=5, budgets=(1e18, 2e18, 4e18))
    entry = fit(table, "isoflop_raw_loglog")["clm"]
    assert "says nothing" in text(entry["isoflop_raw_loglog"])


def test_replicates_without_a_minimum_are_counted():
    table = parabolas(bend=0.02, noise=0.0, sizes=5)
    table["loss_sd"] = 0.03
    # Residuals are zero, so seeds carry the noise here.
    table = pd.concat([table.assign(seed=1), table.assign(seed=2, loss=table["loss"] + 0.06)])
    entry = fit(table, "isoflop_parabola")["clm"]["isoflop_parabola"]
    assert entry["bootstrap"]["failed"] > 0.05 * entry["bootstrap"]["n"]
    assert "have no minimum" in text(entry)


def test_unidentified_parameters_are_named():
    table = law_table(theta=(0.0, 3.4, 7.6, 0.042, 0.099), noise=0.1)
    entry = fit(table, "parametric", n_boot=50)["clm"]["parametric"]
    assert "hardly identified" in text(entry)
    floorless = law_table(theta=(0.0, 3.4, 7.6, 0.042, 0.099))
    entry = fit(floorless, "parametric", n_boot=0)["clm"]["parametric"]
    assert "E ended at zero" in text(entry)
    assert entry["N_opt"]["a"] == pytest.approx(0.099 / 0.141, abs=0.02)


def test_a_single_size_does_not_identify_a_parametric_law():
    table = law_table(noise=0.001)
    table["n_params"] = 1e7
    assert "one size only (1e+07 parameters)" in text(fit(table, "parametric")["clm"]["parametric"])
    table["n_params"] = np.where(table["tokens"] > 1e9, 1e7, 2e7)
    assert "fewer than three different sizes" in text(fit(table, "parametric")["clm"]["parametric"])


def test_many_epochs_are_a_warning():
    laws = fit_laws(parabolas().assign(epochs=9.0), n_boot=0)
    assert "clm: 21 of 21 runs saw a source more than 4 times" in laws["warnings"][0]


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="tokens"), "missing column tokens"),
        (lambda t: t.drop(columns=["loss", "n_params"]), "missing column n_params, loss"),
        (lambda t: t.assign(objective="gpt"), "objective 'gpt' is unknown; allowed: clm, mlm"),
        (lambda t: t.assign(n_params=-1), r"clm-1e\+17-0: n_params -1 is not positive"),
        (lambda t: t.assign(tokens=0), "tokens 0 is not positive"),
        (lambda t: t.assign(tokens=np.nan), r"clm-1e\+17-0: tokens is missing \(so in 20 more\)"),
        (lambda t: t.assign(loss=0.0), "loss 0 is not positive"),
        (lambda t: t.assign(loss=np.nan), "loss is missing"),
        (lambda t: t.assign(loss=np.inf), "loss inf is not a finite number"),
        (lambda t: t.assign(tokens="many"), "tokens 'many' is not a number"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_a_bad_table_is_refused_with_the_row_at_fault(change, message):
    with pytest.raises(PlmscaleError, match=message):
        fit_laws(change(parabolas()), n_boot=0)


def test_a_bad_request_is_refused():
    with pytest.raises(PlmscaleError, match="method 'magic' is unknown"):
        fit_laws(parabolas(), methods=["magic"])
    with pytest.raises(PlmscaleError, match="flops column 'gflops' is unknown"):
        fit_laws(parabolas(), flops_column="gflops")
    with pytest.raises(PlmscaleError, match="missing column flops"):
        fit_laws(parabolas().drop(columns="flops"), flops_column="flops")
    with pytest.raises(PlmscaleError, match="negative"):
        fit_laws(parabolas(), n_boot=-1)


# The paper


def test_the_published_coefficients_come_out_of_the_published_points():
    shared = Path(os.environ.get("PLMSCALE_SHARED", Path(__file__).parents[3] / "shared"))
    points = pd.read_csv(shared / "paper" / "isoflop_points.csv")
    table = pd.DataFrame(
        {
            "objective": points["objective"],
            "n_params": points["n_params"],
            "tokens": points["budget_flops"] / 6 / points["n_params"],
            "budget": points["budget_flops"],
            "loss": points["final_validation_loss"],
        }
    )
    laws = fit_laws(table, methods=ISOFLOP_METHODS, n_boot=300)["laws"]
    # The paper prints three digits, some of them cut and not rounded: one unit of the last.
    for objective, (a_, a, b_, b) in {
        "clm": (1.26e-3, 0.578, 1.23e2, 0.422),
        "mlm": (6.19e-8, 0.776, 2.02e6, 0.230),
    }.items():
        law = laws[objective]["isoflop_raw_linear"]
        assert law["N_opt"]["A"] == pytest.approx(a_, rel=0.01)
        assert law["N_opt"]["a"] == pytest.approx(a, abs=1e-3)
        assert law["D_opt"]["B"] == pytest.approx(b_, rel=0.01)
        assert law["D_opt"]["b"] == pytest.approx(b, abs=1e-3)
    assert laws["clm"]["isoflop_raw_loglog"]["N_opt"]["a"] == pytest.approx(0.571, abs=1e-3)
    assert laws["mlm"]["isoflop_raw_loglog"]["N_opt"]["a"] == pytest.approx(0.767, abs=1e-3)
    low, high = laws["clm"]["isoflop_parabola"]["ci95"]["a"]
    assert low < 0.62 < high
