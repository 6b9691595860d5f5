"""Transfer: effective tokens, L(C), the share of compute, one size for both, advice."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from plmscale.errors import PlmscaleError
from plmscale.laws.bootstrap import generator
from plmscale.laws.worth.equal_size import equal_size
from plmscale.laws.worth.pairs import end_gap, gaps, normalised, rerun_noise
from plmscale.laws.worth.regression import regress, worth_law
from plmscale.laws.worth.surface import fit_surface
from plmscale.laws.worth.transfer import advise_transfer, fit_transfer

SHARED = Path(
    os.environ.get("PLMSCALE_SHARED") or Path(__file__).resolve().parents[2].parent / "shared"
)
LOGS = SHARED / "paper" / "training_logs"
SIZES = (1e7, 3e7, 1e8, 3e8)


def truth(n, d):
    """A loss that the surface can represent, so that a fit without noise must be exact."""
    n, d = np.log(n / 1e8), np.log(d / 1e10)
    return 2.3 - 0.05 * n - 0.08 * d + 0.002 * n * n - 0.012 * n * d + 0.004 * d * d


def row(run_id, n, d, loss, **more):
    return {"run_id": run_id, "objective": "mlm", "n_params": n, "tokens": d, "flops_6nd": 6 * n * d,
            "corpus": "mix", "mask_ratio": 0.15, "parent": "", "status": "done", "loss": loss,
            "loss_sd": 0.002} | more  # fmt: skip


def grid(noise=0.0, rng=None):
    points = [(n, d) for n in np.geomspace(5e6, 1e9, 7) for d in np.geomspace(1e9, 3e11, 7)]
    error = noise * rng.standard_normal(len(points)) if noise else np.zeros(len(points))
    return [row(f"g{i}", n, d, truth(n, d) + e) for i, ((n, d), e) in
            enumerate(zip(points, error, strict=True))]  # fmt: skip


def study(worth, noise=0.0, rng=None, tokens=(5e9, 2e10, 8e10), ratio=lambda i: 0.2):
    """Scratch runs, parents and children whose loss is that of `worth(n, d, p)` tokens more."""
    rng = rng or np.random.default_rng(0)
    rows = grid(noise, rng)
    for i, (n, d) in enumerate((n, d) for n in SIZES for d in tokens):
        p = ratio(i)
        error = noise * rng.standard_normal(3)
        rows += [
            row(f"s{i}", n, d, truth(n, d) + error[0]),
            row(f"p{i}", n, p * d, np.nan, objective="clm", mask_ratio=np.nan, status="missing"),
            row(f"c{i}", n, d, truth(n, d + worth(n, d, p)) + error[1], parent=f"p{i}"),
        ]
        if noise and i % 2:
            rows.append(row(f"r{i}", n, d, truth(n, d) + error[2]))
    return pd.DataFrame(rows)


def hernandez(k, alpha, beta):
    return lambda n, d, p: k * d**alpha * n**beta


def direction(runs, curves=None, **more):
    found = fit_transfer(runs, curves or {}, **more)
    json.dumps(found, allow_nan=False)
    return found["directions"]["clm-then-mlm"]


def test_effective_tokens_come_back_exactly_without_noise():
    found = direction(study(hernandez(2e3, 0.6, 0.15)), n_boot=0)
    law = found["effective_tokens"]["ends"]
    assert law["k"] == pytest.approx(2e3, rel=1e-3)
    assert (law["alpha"], law["beta"]) == pytest.approx((0.6, 0.15), abs=1e-4)
    first = found["pairs"][0]
    assert first["D_E"]["value"] == pytest.approx(5e9 + 2e3 * 5e9**0.6 * SIZES[0] ** 0.15, rel=1e-6)
    assert first["D_t"]["value"] == pytest.approx(first["D_E"]["value"] - first["D_F"])
    assert first["speed_up"]["value"] == pytest.approx(first["D_E"]["value"] / first["D_F"])
    assert first["total_worth"]["value"] == pytest.approx(first["speed_up"]["value"] / 1.2)
    assert first["share"] == pytest.approx(1 / 6)


def test_intervals_of_the_exponents_cover_the_truth():
    inside = {"alpha": 0, "beta": 0}
    trials = 25
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        runs = study(hernandez(2e3, 0.6, 0.15), noise=0.004, rng=rng, tokens=(5e9, 8e10))
        law = direction(runs, n_boot=120)["effective_tokens"]["ends"]
        for name, true in (("alpha", 0.6), ("beta", 0.15)):
            low, high = law["ci95"][name]
            inside[name] += low <= true <= high
    # 23 or 24 of 25 are expected; 20 or fewer have a chance of 3 % at a true coverage of 95 %.
    assert min(inside.values()) > 20, inside
    assert high - low < 0.6


def curve_of(n, end, tokens_worth, seed=None):
    """A curve with 120 points whose learning rate falls to its end, with the jitter of the paper's."""
    d = np.linspace(end / 120, end, 120)
    loss = truth(n, d + tokens_worth(n, d)) + 0.05 * (1 - d / end)
    if seed is not None:
        # Runs of one study validate on the same rows at the same step, so the jitter is shared.
        loss = loss + 0.006 * np.random.default_rng(99).standard_normal(len(d))
        loss = loss + 0.001 * np.random.default_rng(seed).standard_normal(len(d))
    return pd.DataFrame({"step": np.arange(120), "tokens": d, "flops_6nd": 6 * n * d,
                         "split": "valid", "loss": loss})  # fmt: skip


def with_curves(k, alpha, beta, seed=None):
    """One length a size, growing with it: the paper's design."""
    rows, curves = grid(), {}
    for i, n in enumerate(SIZES):
        end = 5e10 * (n / 1e7) ** 0.3
        curves[f"s{i}"] = curve_of(n, end, lambda n, d: 0 * d, seed and seed + i)
        curves[f"c{i}"] = curve_of(n, end, hernandez_2(k, alpha, beta), seed and seed + 50 + i)
        rows += [
            row(f"s{i}", n, end, float(curves[f"s{i}"]["loss"].iloc[-1])),
            row(f"p{i}", n, 0.2 * end, np.nan, objective="clm", status="missing"),
            row(f"c{i}", n, end, float(curves[f"c{i}"]["loss"].iloc[-1]), parent=f"p{i}"),
        ]
    return pd.DataFrame(rows), curves


def hernandez_2(k, alpha, beta):
    return lambda n, d: k * d**alpha * n**beta


@pytest.mark.parametrize("seed", [None, 7])
def test_gaps_along_the_curves_tell_what_collinear_ends_do_not(seed):
    runs, curves = with_curves(1e3, 0.6, 0.15, seed)
    found = direction(runs, curves, n_boot=100)
    law = found["effective_tokens"]["gaps"]
    assert law["alpha"] == pytest.approx(0.6, abs=0.03 if seed is None else 0.08)
    assert law["beta"] == pytest.approx(0.15, abs=0.03 if seed is None else 0.08)
    assert found["effective_tokens"]["ends"]["correlation_D_F_N"] > 0.99
    assert any("do not tell alpha from beta" in text for text in found["warnings"])
    # Reading D_E off the scratch curve compares unequal learning rates, and gives fewer tokens.
    assert found["effective_tokens"]["curves"]["alpha"] < law["alpha"]


def test_jitter_shared_by_both_curves_does_not_reach_the_gain():
    runs, curves = with_curves(1e3, 0.6, 0.15, seed=7)
    exact, _ = with_curves(1e3, 0.6, 0.15)
    table = normalised(runs).set_index("run_id", drop=False)
    true = normalised(exact).set_index("run_id")
    gap, basis = end_gap(table.loc["s1"], table.loc["c1"], curves)
    # The curves' tail is a little earlier than the end, which moves the gap by less than this.
    assert gap == pytest.approx(true.loc["s1", "loss"] - true.loc["c1", "loss"], abs=0.002)
    assert "last tenth" in basis


def test_gaps_pair_points_of_equal_tokens_only():
    first = np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 3.5])
    second = np.array([2.0001, 3.1]), np.array([3.0, 2.0])
    tokens, gap = gaps(first, second)
    assert tokens == pytest.approx([2.0]) and gap == pytest.approx([1.0])


def test_rerun_noise_is_the_spread_of_equal_runs():
    rows = [row(f"r{i}", 1e7, 1e9, 2.0 + e) for i, e in enumerate((0.0, 0.01))]
    rows += [row("same", 1e7, 1e9, 2.0), row("longer", 1e7, 2e9, 1.0)]
    noise = rerun_noise(normalised(pd.DataFrame(rows)), {})
    # Two runs 0.01 apart have sd 0.01 / sqrt(2); the copy and the longer run tell nothing.
    assert noise.sd == pytest.approx(0.01 / math.sqrt(2)) and noise.dof == 1


def test_best_share_is_the_maximum_of_the_worth():
    g, gamma = 0.5, 0.35
    shares = (0.03, 0.1, 0.2, 0.4)
    runs = study(lambda n, d, p: g * p**gamma * d, tokens=(1e10, 2e10, 4e10),
                 ratio=lambda i: (s := shares[i % 4]) / (1 - s))  # fmt: skip
    found = direction(runs, n_boot=50)["share"]
    assert (found["g"], found["gamma"]) == pytest.approx((g, gamma), rel=1e-3)

    def worth(s):
        return (1 - s) * (1 + g * (s / (1 - s)) ** gamma)

    best = minimize_scalar(lambda s: -worth(s), bounds=(0.03, 0.4), method="bounded")
    assert found["best"]["value"] == pytest.approx(best.x, abs=0.003)
    assert found["worth"]["value"] == pytest.approx(worth(best.x), rel=1e-4)
    even = found["break_even"]["value"]
    assert worth(even) == pytest.approx(1.0, abs=1e-3)
    assert not found["at_edge"] and found["tried"] == pytest.approx([0.03, 0.4])


def test_share_and_size_that_go_together_are_named():
    runs = study(lambda n, d, p: 0.3 * d, ratio=lambda i: 0.1 * 2 ** (i // 3))
    found = direction(runs, n_boot=50)
    assert any("may be one of size" in text for text in found["warnings"])
    assert found["share"]["correlation_share_size"] > 0.95


def test_loss_of_compute_in_both_conventions():
    rows = []
    for i, n in enumerate(SIZES):
        d = 20 * n
        c = 6 * n * d
        rows += [row(f"s{i}", n, d, 9.0 * c**-0.03),
                 row(f"p{i}", n, 0.5 * d, np.nan, objective="clm", status="missing"),
                 row(f"c{i}", n, d, 8.0 * (1.5 * c) ** -0.028, parent=f"p{i}")]  # fmt: skip
    laws = direction(pd.DataFrame(rows), n_boot=50)["loss_of_compute"]["ends"]
    assert (laws["scratch"]["A"], laws["scratch"]["a"]) == pytest.approx((9.0, 0.03))
    total, own = laws["with_pretraining"], laws["after_pretraining"]
    assert (total["A"], total["a"]) == pytest.approx((8.0, 0.028))
    assert own["A"] == pytest.approx(8.0 * 1.5**-0.028) and own["a"] == pytest.approx(0.028)


def test_frontier_is_the_lower_envelope_of_the_curves():
    rows, curves = [], {}
    for i, n in enumerate(SIZES):
        # Each curve touches 9 C^-0.03 at its end and lies above it before.
        end = 20 * n
        d = np.geomspace(end / 100, end, 400)
        loss = 9.0 * (6 * n * d) ** -0.03 * (1 + 0.002 * np.log(end / d))
        curves[f"s{i}"] = curves[f"c{i}"] = pd.DataFrame(
            {"step": 1, "tokens": d, "flops_6nd": 6 * n * d, "split": "valid", "loss": loss}
        )
        rows += [row(f"s{i}", n, end, loss[-1]),
                 row(f"p{i}", n, 0.1 * end, np.nan, objective="clm", status="missing"),
                 row(f"c{i}", n, end, loss[-1], parent=f"p{i}")]  # fmt: skip
    law = direction(pd.DataFrame(rows), curves, n_boot=200)["loss_of_compute"]["frontier"][
        "scratch"
    ]
    assert law["a"] == pytest.approx(0.03, abs=0.001)
    low, high = law["ci95"]["a"]
    assert low - 1e-9 <= law["a"] <= high + 1e-9


def test_one_pair_gives_a_table_and_says_what_is_missing():
    rows = [row("s", 1e7, 6e9, 2.45), row("p", 1e7, 1e9, 2.6, objective="clm"),
            row("c", 1e7, 5e9, 2.46, parent="p")]  # fmt: skip
    d = np.linspace(1e8, 6e9, 60)
    curve = pd.DataFrame({"step": 1, "tokens": d, "flops_6nd": 0.0, "split": "valid",
                          "loss": 2.45 + 0.1 * np.log(6e9 / d)})  # fmt: skip
    found = direction(pd.DataFrame(rows), {"s": curve}, n_boot=100)
    pair = found["pairs"][0]
    # The curve has 2.46 where ln(6e9 / D) = 0.1.
    assert pair["D_E"]["value"] == pytest.approx(6e9 * math.exp(-0.1), rel=1e-3)
    assert found["share"] is None and found["effective_tokens"]["ends"] is None
    assert found["loss_of_compute"]["ends"]["scratch"] is None
    text = " ".join(found["warnings"])
    assert "cannot be told from 1 pair" in text and "its own curve" not in text
    assert "own curve, whose learning rate" in text


def test_pair_of_unequal_length_is_carried_along_the_surface():
    extra = 3e9
    rows = [*grid(), row("s", 1e8, 3e10, truth(1e8, 3e10) + 0.01),
            row("p", 1e8, 5e9, 2.6, objective="clm"),
            row("c", 1e8, 2e10, truth(1e8, 2e10 + extra) + 0.01, parent="p")]  # fmt: skip
    pair = direction(pd.DataFrame(rows), n_boot=0)["pairs"][0]
    assert pair["D_t"]["value"] == pytest.approx(extra, rel=1e-3)
    assert pair["runs"]["scratch"] == "s" and "surface" in pair["basis"]


def test_no_transfer_runs_and_unknown_parents():
    assert fit_transfer(pd.DataFrame(grid()), {}) is None
    orphan = pd.DataFrame([*grid(), row("c", 1e8, 2e10, 2.2, parent="gone")])
    found = fit_transfer(orphan, {}, n_boot=0)
    assert found["directions"] == {} and "gone has no row" in found["warnings"][0]


def test_a_loss_no_scratch_run_reached_is_flagged_and_left_out_of_laws():
    runs = study(hernandez(2e3, 0.6, 0.15))
    runs.loc[runs["run_id"] == "c2", "loss"] -= 0.2
    found = direction(runs, n_boot=0)
    flagged = [pair["runs"]["child"] for pair in found["pairs"] if pair["beyond_scratch_runs"]]
    assert flagged == ["c2"]
    assert found["effective_tokens"]["ends"]["n_points"] == len(found["pairs"]) - 1
    assert found["effective_tokens"]["ends"]["alpha"] == pytest.approx(0.6, abs=1e-3)


def test_same_seed_same_result():
    runs = study(hernandez(2e3, 0.6, 0.15), noise=0.004)
    shuffled = runs.sample(frac=1, random_state=1)
    one, two = (fit_transfer(table, {}, n_boot=50, seed=3) for table in (runs, runs.copy()))
    assert one == two
    other = fit_transfer(shuffled, {}, n_boot=0)["directions"]["clm-then-mlm"]
    same = fit_transfer(runs, {}, n_boot=0)["directions"]["clm-then-mlm"]
    assert other["effective_tokens"]["ends"]["k"] == pytest.approx(
        same["effective_tokens"]["ends"]["k"]
    )


def test_surface_worth_inverts_its_value():
    rng = generator(0, "test")
    surface = fit_surface(pd.DataFrame(grid(0.003, rng)), 20, rng)
    drop = np.linspace(-0.05, 0.05, 21)
    step = surface.worth(1e8, 2e10, drop)
    for i in range(21):
        after = surface.value(1e8, 2e10 * math.exp(step[i]))[i]
        assert surface.value(1e8, 2e10)[i] - after == pytest.approx(drop[i], abs=1e-10)
    assert surface.noise.sd == pytest.approx(0.003, rel=0.3)
    assert np.isinf(surface.worth(1e8, 2e10, np.full(21, 5.0))).all()


def test_one_odd_run_does_not_tilt_the_surface():
    rows = pd.DataFrame(grid(0.003, np.random.default_rng(1)))
    odd = rows.copy()
    odd.loc[3, "loss"] += 0.5
    one, two = (fit_surface(table, 0, generator(0)) for table in (rows, odd))
    assert two.slope(1e8, 2e10)[0] == pytest.approx(one.slope(1e8, 2e10)[0], abs=0.001)


def test_worth_law_accepts_a_pair_that_lost():
    design = np.column_stack([np.ones(5), np.linspace(-1, 1, 5)])
    exact = np.log1p(np.exp(design @ [-1.0, 0.7]))
    noisy = exact + np.array([-0.5, 0.1, 0.0, 0.1, 0.0])
    assert noisy[0] < 0
    found = worth_law(design, np.vstack([exact, noisy]))
    assert found[0] == pytest.approx([-1.0, 0.7], abs=1e-6)
    assert np.isfinite(found[1]).all()


def test_regress_is_weighted_least_squares():
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(8), rng.normal(size=8)])
    y, weight = rng.normal(size=(3, 8)), rng.uniform(0.1, 1, size=(3, 8))
    weight[1, 2] = 0
    y[1, 2] = np.nan
    found = regress(design, y, weight)
    for r in range(3):
        keep = weight[r] > 0
        root = np.sqrt(weight[r][keep])
        expected = np.linalg.lstsq(design[keep] * root[:, None], y[r][keep] * root, rcond=None)[0]
        assert found[r] == pytest.approx(expected)
    assert np.isnan(regress(design, y[:1], np.eye(8)[:1])).all()


def entry(big_a, a, big_b, b, spread=0.0):
    rng = np.random.default_rng(0)
    first = np.array([math.log(big_a), a, math.log(big_b), b, math.log(9.0), 0.03])
    rows = first + spread * rng.standard_normal((100, 1)) * np.array([-45, 1, 45, -1, 0, 0])
    return {
        "N_opt": {"A": big_a, "a": a}, "D_opt": {"B": big_b, "b": b},
        "L_opt": {"K": 9.0, "c": 0.03}, "fitted_range": {"flops": [1e18, 1e21]},
        "ci95": {"a": [a - 0.02, a + 0.02]}, "warnings": [], "points": [{}, {}, {}],
        "bootstrap": {"columns": ["log_A", "a", "log_B", "b", "log_K", "c"],
                      "rows": rows.tolist() if spread else [], "n": 100, "failed": 0},
    }  # fmt: skip


CLM = (1.26e-3, 0.578, 1.23e2, 0.422)
MLM = (6.19e-8, 0.776, 2.02e6, 0.230)


def test_equal_size_solves_both_laws():
    found = equal_size(entry(*CLM), entry(*MLM), n_params=1e9)
    for name, (big_a, a, big_b, b) in (("clm", CLM), ("mlm", MLM)):
        flops = found[name]["flops"]["value"]
        assert big_a * flops**a == pytest.approx(1e9)
        assert found[name]["tokens"]["value"] == pytest.approx(big_b * flops**b)
    kappa, q = (found["relation"][name]["value"] for name in ("kappa", "q"))
    assert q == pytest.approx(0.578 / 0.776)
    assert kappa * found["clm"]["flops"]["value"] ** q == pytest.approx(
        found["mlm"]["flops"]["value"]
    )
    back = equal_size(
        entry(*CLM), entry(*MLM),
        flops=found["clm"]["flops"]["value"] + found["mlm"]["flops"]["value"],
    )  # fmt: skip
    assert back["n_params"]["value"] == pytest.approx(1e9)


def test_equal_size_interval_and_errors():
    found = equal_size(entry(*CLM, spread=0.005), entry(*MLM), flops=1e21)
    low, high = found["n_params"]["ci95"]
    assert low < found["n_params"]["value"] < high
    assert "outside the fitted" in equal_size(entry(*CLM), entry(*MLM), flops=1e24)["warnings"][0]
    for wrong in ({}, {"n_params": 1e9, "flops": 1e21}, {"flops": -1.0}):
        with pytest.raises(PlmscaleError, match="one positive number"):
            equal_size(entry(*CLM), entry(*MLM), **wrong)
    broken = entry(*CLM) | {"N_opt": {"A": None, "a": None}}
    with pytest.raises(PlmscaleError, match="gave no law"):
        equal_size(broken, entry(*MLM), flops=1e21)


def laws(transfer):
    return {"laws": {"mlm": {"isoflop_parabola": entry(*MLM, spread=0.005)}}, "transfer": transfer}


def test_advice_shares_out_what_the_same_loss_takes_from_scratch():
    g, gamma = 0.5, 0.35
    shares = (0.03, 0.1, 0.2, 0.4)
    transfer = fit_transfer(
        study(lambda n, d, p: g * p**gamma * d, tokens=(1e10, 2e10, 4e10),
              ratio=lambda i: (s := shares[i % 4]) / (1 - s)), {}, n_boot=50,
    )  # fmt: skip
    # Inside the fitted range of both the laws and the pairs.
    low, high = transfer["directions"]["clm-then-mlm"]["fitted_range"]["flops"]
    flops = math.sqrt(low * high)
    found = advise_transfer(laws(transfer), flops)
    json.dumps(found, allow_nan=False)
    worth, share = found["worth"]["value"], found["pretrain"]["share"]["value"]
    assert worth > 1 and share == pytest.approx(0.1, abs=0.05)
    assert found["n_params"]["value"] == pytest.approx(MLM[0] * (flops * worth) ** MLM[1])
    total = found["tokens"]["value"] + found["pretrain"]["tokens"]["value"]
    assert found["pretrain"]["tokens"]["value"] == pytest.approx(share * total)
    assert total * worth == pytest.approx(MLM[2] * (flops * worth) ** MLM[3])
    assert found["loss"]["value"] < found["scratch_loss"]["value"]
    assert found["pretrain"]["flops"]["value"] == pytest.approx(share * flops)
    assert found["pretrain"]["objective"] == "clm"
    low, high = found["n_params"]["ci95"]
    assert low < found["n_params"]["value"] < high
    assert not any("assumed, not measured" in text for text in found["warnings"])
    far = advise_transfer(laws(transfer), 1e24)
    assert any("assumed, not measured" in text for text in far["warnings"])


def test_advice_from_one_pair_takes_its_share_and_says_so():
    rows = [*grid(), row("s", 1e8, 3e10, truth(1e8, 3e10)),
            row("p", 1e8, 5e9, 2.6, objective="clm"),
            row("c", 1e8, 2e10, truth(1e8, 2e10), parent="p")]  # fmt: skip
    found = advise_transfer(laws(fit_transfer(pd.DataFrame(rows), {}, n_boot=0)), 1e19)
    assert found["pretrain"]["share"]["value"] == pytest.approx(0.2)
    assert found["worth"]["value"] == pytest.approx(0.8, rel=1e-3)
    text = " ".join(found["warnings"])
    assert "worked best in 1 pair" in text and "do not show that pre-training pays" in text


def test_advice_without_transfer_runs_is_an_error():
    with pytest.raises(PlmscaleError, match="no transfer runs for 'clm-then-mlm'"):
        advise_transfer(laws(None), 1e20)


def paper_curve(name, n_params):
    found = list((LOGS / "transfer_valid" / "mlm" / "tokens").glob(f"{name}.csv"))
    assert len(found) == 1, f"{LOGS}: expected one {name}.csv"
    log = pd.read_csv(found[0])
    return pd.DataFrame({"step": range(len(log)), "tokens": log["Step"].astype(float),
                         "flops_6nd": 6 * n_params * log["Step"], "split": "valid",
                         "loss": log["Value"]})  # fmt: skip


def test_the_papers_mlm_after_clm_is_worth_a_third_more_tokens():
    points = pd.read_csv(SHARED / "paper" / "isoflop_points.csv")
    points = points[points["objective"] == "MLM"]
    rows = [row(f"i{i}", a, c / (6 * a), float(loss)) for i, (a, c, loss) in
            enumerate(zip(points["n_params"].astype(float), points["budget_flops"],
                          points["final_validation_loss"], strict=True))]  # fmt: skip
    curves = {}
    pairs = {"85M_3e19": (85_068_288, "_clm_pretrain_5.2e18"),
             "200M_1e20": (202_562_290, "_clm_pretrain_2.3e19"),
             "470M_3e20": (472_271_344, "_clm_pretrain_1e20"),
             "1.2B_1e21": (1_208_618_992, "_clm_pretrain_5.3e20")}  # fmt: skip
    for name, (size, suffix) in pairs.items():
        curves[name] = paper_curve(name, size)
        curves[name + suffix] = paper_curve(name + suffix, size)
        spent = float(suffix.rsplit("_", 1)[1])
        end = float(curves[name]["tokens"].iloc[-1])
        losses = [float(curves[k]["loss"].iloc[-5:].mean()) for k in (name, name + suffix)]
        rows += [row(name, size, end, losses[0]),
                 row("p" + name, size, spent / (6 * size), np.nan, objective="clm",
                     status="missing"),
                 row(name + suffix, size, end, losses[1], parent="p" + name)]  # fmt: skip
    found = direction(pd.DataFrame(rows), curves, n_boot=200)
    gain = [pair["gain"]["value"] for pair in found["pairs"]]
    assert gain == pytest.approx([0.0220, 0.0256, 0.0250, 0.0340], abs=0.0005)
    speed = [pair["speed_up"]["value"] for pair in found["pairs"]]
    assert all(1.2 < value < 1.6 for value in speed)
    # The more was spent on pre-training, the less each FLOP of it was worth.
    worth = [pair["total_worth"]["value"] for pair in found["pairs"]]
    assert worth[0] > 1.05 and worth[-1] < 1.0 and worth[-1] == min(worth)
    laws = found["loss_of_compute"]["ends"]
    assert laws["after_pretraining"]["a"] > laws["scratch"]["a"]
