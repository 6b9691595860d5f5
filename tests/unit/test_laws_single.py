"""L(N), L(D) and L(C): recovered where the truth is known, and used only where they may be."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

from plmscale.laws.bootstrap import generator
from plmscale.laws.estimators import holds_law
from plmscale.laws.fit import fit_laws
from plmscale.laws.single import SINGLE_LAWS, fit_single, floored_law, power_law
from plmscale.laws.table.select import select

E, A, B, ALPHA, BETA = 2.0, 400.0, 1200.0, 0.34, 0.28
BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21)


def best_size(flops):
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return ratio * (flops / 6) ** (BETA / (ALPHA + BETA))


def grid(noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for budget in BUDGETS:
        for factor in np.geomspace(1 / 8, 8, 9):
            n = best_size(budget) * factor
            d = budget / 6 / n
            loss = E + A / n**ALPHA + B / d**BETA + rng.normal(0, noise)
            rows.append({"objective": "clm", "n_params": n, "tokens": d, "loss": loss})
    return pd.DataFrame(rows)


def fit(table, which, optimum=None, boot=200, seed=0):
    rows = select(table).runs
    return fit_single("clm", rows, which, boot, generator(seed, which), optimum)


def test_a_power_law_comes_back_exactly():
    table = pd.DataFrame({"objective": "clm", "n_params": np.geomspace(1e6, 1e9, 6),
                          "tokens": 1e10})  # fmt: skip
    table["loss"] = 7.0 * table["n_params"] ** -0.05
    entry = fit(table, "loss_n", boot=0)
    assert entry["law"]["K"] == pytest.approx(7.0) and entry["law"]["c"] == pytest.approx(0.05)
    assert entry["with_floor"]["E"] == 0.0
    assert entry["fitted_range"] == {"n_params": pytest.approx([1e6, 1e9])}


def test_a_floor_is_found_where_there_is_one():
    x = np.geomspace(1e8, 1e11, 8)
    found = floored_law(np.log(x), (1.5 + 900 * x**-0.35)[None])
    assert found["E"][0] == pytest.approx(1.5, abs=0.01)
    assert found["c"][0] == pytest.approx(0.35, abs=0.005)


def test_the_floored_fit_is_the_least_squares_one():
    rng = np.random.default_rng(1)
    u = np.linspace(0, 6, 9)
    loss = 1.8 + 0.9 * np.exp(-0.3 * u) + rng.normal(0, 0.003, (5, 9))
    found = floored_law(u, loss)
    for i, row in enumerate(loss):
        (e, k, c), _ = curve_fit(lambda x, e, k, c: e + k * np.exp(-c * x), u, row, (1.5, 1, 0.2))
        assert found["E"][i] == pytest.approx(e, abs=5e-3)
        assert found["c"][i] == pytest.approx(c, rel=0.01)
        assert np.exp(found["log_K"][i]) == pytest.approx(k, abs=5e-3)


def test_a_floor_is_never_negative():
    u = np.linspace(0, 6, 7)
    loss = (3.0 - 0.2 * u)[None]
    assert floored_law(u, loss)["E"][0] == 0.0
    assert floored_law(u, loss)["c"][0] == pytest.approx(power_law(u, loss)["c"][0])


def test_runs_are_used_where_the_other_factor_does_not_limit():
    table = grid()
    laws = fit_laws(table, methods=["isoflop_parabola", *SINGLE_LAWS], n_boot=0)["laws"]["clm"]
    law = laws["isoflop_parabola"]["N_opt"]
    by_id = table.assign(best=law["A"] * (6 * table["n_params"] * table["tokens"]) ** law["a"])
    by_id.index = [f"row {i + 1}" for i in range(len(table))]
    small = [name for point in laws["loss_n"]["points"] for name in point["runs"]]
    large = [name for point in laws["loss_d"]["points"] for name in point["runs"]]
    assert small and (by_id.loc[small, "n_params"] <= by_id.loc[small, "best"] / 2).all()
    assert large and (by_id.loc[large, "n_params"] >= by_id.loc[large, "best"] * 2).all()
    sizes = [point["n_params"] for point in laws["loss_n"]["points"]]
    assert min(np.diff(np.log(sizes))) > 0
    # A run that no other of its size outlasts, but that is short for its size, has no place.
    assert all(point["tokens"] > point["n_params"] for point in laws["loss_n"]["points"])


def test_the_loss_of_compute_is_that_of_the_minima():
    laws = fit_laws(grid(), methods=["isoflop_parabola", "loss_c"], n_boot=0)["laws"]["clm"]
    minima = [point["loss"] for point in laws["isoflop_parabola"]["points"]]
    assert [point["loss"] for point in laws["loss_c"]["points"]] == minima
    gamma = ALPHA * BETA / (ALPHA + BETA)
    assert laws["loss_c"]["with_floor"]["E"] == pytest.approx(E, abs=0.05)
    assert laws["loss_c"]["with_floor"]["c"] == pytest.approx(gamma, abs=0.01)


def test_intervals_hold_the_truth():
    gamma = ALPHA * BETA / (ALPHA + BETA)
    held = []
    for seed in range(20):
        entry = fit_laws(grid(0.004, seed), methods=["loss_c"], n_boot=150, seed=seed)
        low, high = entry["laws"]["clm"]["loss_c"]["ci95"]["with_floor"]["c"]
        held.append(low <= gamma <= high)
    # 95 % intervals hold it in 16 of 20 or more, but for one set of tables in four hundred.
    assert sum(held) >= 16


def test_one_token_count_tells_sizes_and_one_size_tells_tokens():
    n = np.geomspace(1e6, 1e9, 6)
    sizes = pd.DataFrame({"objective": "clm", "n_params": n, "tokens": 1e10,
                          "loss": 2 + 400 / n**0.34})  # fmt: skip
    assert holds_law(fit(sizes, "loss_n")) and not holds_law(fit(sizes, "loss_d"))
    tokens = sizes.assign(n_params=1e8, tokens=n * 1e3)
    assert holds_law(fit(tokens, "loss_d")) and not holds_law(fit(tokens, "loss_n"))


def test_too_few_points_and_short_ranges_are_told():
    n = np.geomspace(1e6, 3e6, 4)
    table = pd.DataFrame({"objective": "clm", "n_params": n, "tokens": 1e10,
                          "loss": 7 * n**-0.05})  # fmt: skip
    assert "the sizes span a factor 3 only" in fit(table, "loss_n")["warnings"][0]
    assert "3 points for this law, 4 are needed" in fit(table.iloc[:3], "loss_n")["warnings"][0]
    assert "0 points" in fit(table, "loss_c")["warnings"][0]
