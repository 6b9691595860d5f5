"""E + A / N^alpha + B / D^beta: against scipy, brute force and closed forms."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2

from plmscale.files import finite
from plmscale.laws.bootstrap import generator
from plmscale.laws.parametric.descent import descend
from plmscale.laws.parametric.entry import parametric_entry
from plmscale.laws.parametric.fit import best_fit, centred, optimum, refit, uncentred
from plmscale.laws.parametric.hoffmann import (
    DELTA,
    HIGH,
    LOW,
    decrement,
    huber,
    jacobian,
    log_prediction,
    terms,
)
from plmscale.laws.parametric.landscape import identified, profiles, rejection_rise
from plmscale.laws.parametric.lbfgs import hoffmann_grid, lbfgs_stop, objective_and_gradient

LAW = (2.0, 400.0, 1200.0, 0.34, 0.28)
FLOORLESS = (0.0, 3.4, 7.6, 0.042, 0.099)


def table(law=LAW, noise=0.0, sizes=6, seed=5):
    """A grid of sizes and token counts, noise relative to the loss."""
    e, a, b, alpha, beta = law
    rng = np.random.default_rng(seed)
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, sizes),
                                           np.geomspace(1e8, 1e11, sizes)))  # fmt: skip
    loss = (e + a / n**alpha + b / d**beta) * np.exp(rng.normal(0, noise, len(n)))
    return pd.DataFrame({"run_id": [f"r{i}" for i in range(len(n))], "n_params": n, "tokens": d,
                         "c": 6 * n * d, "loss": loss, "loss_sd": np.nan})  # fmt: skip


def data_of(rows):
    return centred(*(np.log(rows[k].to_numpy()) for k in ("n_params", "tokens", "loss")))


def tight(data, start, fixed=()):
    """Minimise with scipy, scaled so that its stopping rules bite late; an independent solver."""
    start = np.asarray(start, float)
    free = [i for i in range(5) if i not in fixed]

    def scaled(x):
        theta = start.copy()
        theta[free] = x
        parts = terms(theta[None], data.u, data.v)
        residual = np.log(parts[2][0]) - data.log_loss
        slope = jacobian(*parts, data.u, data.v)[0] @ np.clip(residual, -DELTA, DELTA)
        return huber(residual) * 1e6, slope[free] * 1e6

    options = {"maxiter": 4000, "maxfun": 8000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
    found = minimize(scaled, start[free], jac=True, method="L-BFGS-B",
                     bounds=[(LOW[i], HIGH[i]) for i in free], options=options)  # fmt: skip
    return found.fun * 1e-6


def spread_starts(data, fixed=None):
    """Starts that split the mean loss in several ways between the three terms."""
    mean = np.exp(data.log_loss).mean()
    fixed = fixed or {}
    for e, share, alpha, beta in itertools.product((0.0, 0.4, 0.8), (0.3, 0.7), (0.04, 0.4),
                                                   (0.04, 0.4)):  # fmt: skip
        floor = fixed.get(2, e * mean)
        left = max(mean - floor, 1e-3)
        theta = np.array([np.log(left * share), np.log(left * (1 - share)), floor, alpha, beta])
        for i, value in fixed.items():
            theta[i] = value
        yield theta


# Model and solver


def test_derivatives_match_differences():
    data = data_of(table(noise=0.01))
    theta = np.array([-0.3, -0.6, 1.5, 0.3, 0.2])
    slopes = jacobian(*terms(theta[None], data.u, data.v), data.u, data.v)[0]
    for i in range(5):
        step = np.eye(5)[i] * 1e-6
        ends = log_prediction(np.array([theta + step, theta - step]), data.u, data.v)
        assert slopes[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_huber_is_a_parabola_inside_delta_and_a_line_outside():
    assert huber(np.array([0.5 * DELTA])) == pytest.approx(0.125 * DELTA**2)
    assert huber(np.array([-3 * DELTA])) == pytest.approx(2.5 * DELTA**2)


def test_a_descent_never_rises_and_ends_where_scipy_ends():
    data = data_of(table(noise=0.004, sizes=5))
    starts = np.array(list(spread_starts(data)))
    ends, values = descend(starts, data.u, data.v, data.log_loss, tolerance=1e-12)
    before = huber(log_prediction(starts, data.u, data.v) - data.log_loss)
    assert (values <= before).all()
    assert values == pytest.approx(huber(log_prediction(ends, data.u, data.v) - data.log_loss))
    assert values.min() <= min(tight(data, s) for s in starts[::4]) * (1 + 1e-7)
    assert decrement(ends[values.argmin()], data.u, data.v, data.log_loss) < 1e-6


@pytest.mark.parametrize(("hold", "value"), [("E", 1.2), ("alpha", 0.2), ("beta", 0.5),
                                             ("a", 0.7)])  # fmt: skip
def test_what_is_held_does_not_move(hold, value):
    data = data_of(table(noise=0.004))
    start = np.array([[-0.5, -0.5, 1.0, 0.3, 0.3]])
    if hold == "a":
        start[0, 3:] = 0.3, 0.7
    else:
        start[0, {"E": 2, "alpha": 3, "beta": 4}[hold]] = value
    end, lower = descend(start, data.u, data.v, data.log_loss, hold=hold)
    found = {
        "E": end[0, 2],
        "alpha": end[0, 3],
        "beta": end[0, 4],
        "a": end[0, 4] / end[0, 3:].sum(),
    }
    assert found[hold] == pytest.approx(value, rel=1e-9)
    assert lower < huber(log_prediction(start, data.u, data.v) - data.log_loss)


@pytest.mark.parametrize("law", [LAW, FLOORLESS, (1.9, 2e3, 1e9, 0.4, 0.95)])
def test_the_law_behind_noise_free_losses_comes_back(law):
    data = data_of(table(law))
    theta, value = best_fit(data)
    log_a, log_b, log_e, alpha, beta = uncentred(theta[None], data.centre)[0]
    assert value < 1e-12
    assert [alpha, beta] == pytest.approx(law[3:], rel=2e-3)
    assert [log_a, log_b] == pytest.approx(np.log(law[1:3]), abs=0.02)
    assert np.exp(log_e) == pytest.approx(law[0], abs=0.02)


@pytest.mark.parametrize("law", [LAW, FLOORLESS])
def test_the_search_is_no_worse_than_the_grid_of_starts(law):
    rows = table(law, noise=0.003, sizes=5)
    data = data_of(rows)
    logs = data.u + data.centre[0], data.v + data.centre[1], data.log_loss
    grid = [lbfgs_stop(start, *logs).objective for start in hoffmann_grid()[::41]]
    others = [tight(data, start) for start in itertools.islice(spread_starts(data), 0, None, 3)]
    assert best_fit(data)[1] <= min(*grid, *others) * (1 + 1e-8)


def test_every_replicate_finds_its_own_global_optimum():
    data = data_of(table(FLOORLESS, noise=0.003, sizes=5))
    theta, _ = best_fit(data)
    rng = np.random.default_rng(1)
    noisy = log_prediction(theta[None], data.u, data.v) + rng.normal(0, 0.003, (6, 25))
    found = refit(theta, noisy, data)
    for row, log_loss in zip(found, noisy, strict=True):
        one = data.__class__(data.u, data.v, log_loss, data.centre)
        value = huber(log_prediction(row[None], data.u, data.v) - log_loss)[0]
        starts = itertools.islice(spread_starts(one), 0, None, 3)
        assert value <= min(tight(one, start) for start in starts) * (1 + 1e-5)


def test_the_grid_of_hoffmann_has_its_4500_starts():
    grid = hoffmann_grid()
    assert grid.shape == (4500, 5) and len(np.unique(grid, axis=0)) == 4500
    assert [sorted(set(column)) for column in grid.T] == [
        [0, 5, 10, 15, 20, 25], [0, 5, 10, 15, 20, 25], [-1, -0.5, 0, 0.5, 1],
        [0, 0.5, 1, 1.5, 2], [0, 0.5, 1, 1.5, 2],
    ]  # fmt: skip


def test_the_gradient_given_to_scipy_is_the_objectives():
    rows = table(noise=0.01)
    logs = [np.log(rows[k].to_numpy()) for k in ("n_params", "tokens", "loss")]
    theta = np.array([5.5, 6.8, 0.5, 0.33, 0.29])
    gradient = objective_and_gradient(theta, *logs)[1]
    for i in range(5):
        step = np.eye(5)[i] * 1e-6
        ends = [objective_and_gradient(theta + s, *logs)[0] for s in (step, -step)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-9)


def test_the_optimum_is_the_minimum_along_one_compute():
    theta = np.log([400.0, 1200.0, 2.0, 1, 1])
    theta[3:] = 0.34, 0.28
    law = {name: value[0] for name, value in optimum(theta[None], 6.3).items()}
    n = np.geomspace(1e6, 1e11, 400_001)
    loss = 2.0 + 400 / n**0.34 + 1200 / (1e21 / 6.3 / n) ** 0.28
    assert law["log_A"] + law["a"] * np.log(1e21) == pytest.approx(
        np.log(n[loss.argmin()]), abs=1e-3
    )
    assert np.exp(law["log_K"] - law["c"] * np.log(1e21)) == pytest.approx(loss.min() - 2.0)


# What the data identify


def test_profiles_match_brute_force():
    data = data_of(table(FLOORLESS, noise=0.003, sizes=5))
    theta, value = best_fit(data)
    cut = rejection_rise(0.003, 25)
    found = profiles(theta, value, data, cut)
    for name, index in (("E", 2), ("alpha", 3), ("beta", 4)):
        profile = found[name]
        assert profile.rise.min() == 0.0
        near = np.flatnonzero((profile.rise > 0.02) & (profile.rise < 15))
        for i in near[:: max(len(near) // 2, 1)]:
            starts = spread_starts(data, {index: profile.values[i]})
            least = min(tight(data, s, (index,)) for s in itertools.islice(starts, 0, None, 3))
            assert profile.rise[i] == pytest.approx((least - value) / cut, rel=0.01, abs=1e-3)
        low, high = profile.range
        inside = profile.values[profile.rise <= 1.0]
        assert low <= inside.min() and inside.max() <= high


def test_the_profile_of_the_exponent_of_n_opt_matches_brute_force():
    data = data_of(table(noise=0.003, sizes=5))
    theta, value = best_fit(data)
    profile = profiles(theta, value, data, rejection_rise(0.003, 25))["a"]
    i = int(np.argmin(np.abs(profile.rise - 3.0)))
    ratio = profile.values[i] / (1 - profile.values[i])
    cut = rejection_rise(0.003, 25)

    def least(alpha):
        return tight(data, [theta[0], theta[1], theta[2], alpha, alpha * ratio], (3, 4))

    alphas = np.linspace(0.15, 0.6, 61)
    coarse = min(alphas, key=least)
    finest = min(least(x) for x in np.linspace(coarse - 0.0075, coarse + 0.0075, 31))
    assert profile.rise[i] == pytest.approx((finest - value) / cut, rel=0.01)


def test_the_cut_is_chi_squared_for_small_errors_and_grows_slower_for_large_ones():
    many = 10**9
    assert rejection_rise(DELTA / 50, many) == pytest.approx(
        chi2.ppf(0.95, 1) / 2 * (DELTA / 50) ** 2, rel=1e-6
    )
    errors = np.random.default_rng(0).normal(0, 3 * DELTA, 2_000_000)
    psi = np.clip(errors, -DELTA, DELTA)
    share = (np.abs(errors) <= DELTA).mean()
    assert rejection_rise(3 * DELTA, many) == pytest.approx(
        chi2.ppf(0.95, 1) / 2 * (psi**2).mean() / share, rel=0.01
    )


def test_profile_ranges_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(40):
        data = data_of(table(noise=0.003, sizes=6, seed=seed))
        theta, value = best_fit(data)
        cut = rejection_rise(0.003, 36)
        start = theta.copy()
        start[3] = LAW[3]
        at_truth = descend(start[None], data.u, data.v, data.log_loss, hold="alpha")[1][0]
        held.append(at_truth <= value + cut)
    # 95 % of 40 is 38; fewer than 33 or all the time by a wide cut would both be wrong.
    assert 33 <= sum(held) <= 40


def test_what_the_data_do_not_tell_is_named():
    rows = table(FLOORLESS, noise=0.01, sizes=5)
    entry = parametric_entry("mlm", rows, 50, generator(0, "x"))
    assert entry["identified"]["E"] is False
    text = " ".join(entry["warnings"])
    assert ("E ended at zero" in text) == (entry["E"] < 0.01 * rows["loss"].min())
    assert ("E is hardly identified" in text) != ("E ended at zero" in text)
    sure = parametric_entry("clm", table(noise=1e-4, sizes=8), 50, generator(0, "x"))
    assert sure["identified"] == {"E": True, "alpha": True, "beta": True, "a": True}
    for name, index in (("E", 0), ("alpha", 3), ("beta", 4)):
        low, high = sure["profile_range"][name]
        width = high - low
        assert low < sure[name] < high and width < 0.05 * LAW[index]
        # Twice as wide, the range of one table all but surely holds the truth.
        assert low - width / 2 < LAW[index] < high + width / 2


def test_identified_needs_two_ends():
    data = data_of(table(noise=0.003, sizes=5))
    theta, value = best_fit(data)
    # A cut so high that nothing is rejected leaves every range at the bounds of the search.
    assert not any(identified(profiles(theta, value, data, 1e3)).values())


# The entry


def test_the_entry_is_plain_json_and_repeats_with_the_seed():
    rows = table(noise=0.004)
    first, again = (parametric_entry("clm", rows, 100, generator(3, "x")) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(again)
    assert finite(first) == first
    low, high = first["ci95"]["a"]
    assert low < first["N_opt"]["a"] < high
    assert len(first["bootstrap"]["rows"]) == 100
    best, stop = first["optima"][0], first["optima"][-1]
    assert best["objective"] == first["objective"] and best["stationary"]
    assert 0 < best["starts"] <= best["of"]
    assert "Cheng" in stop["search"]
    assert first["profiles"]["alpha"][0][1] > 1 > min(r for _, r in first["profiles"]["alpha"]) == 0


def test_too_few_runs_give_an_entry_without_a_law():
    entry = parametric_entry("clm", table().head(6), 50, generator(0, "x"))
    assert entry["E"] is None and entry["optima"] == [] and entry["N_opt"]["a"] is None
    assert "6 runs are too few" in entry["warnings"][0]


def test_seven_runs_give_a_law_and_a_warning():
    rows = table(noise=0.003).iloc[[0, 7, 14, 21, 28, 35, 5]]
    entry = parametric_entry("clm", rows, 20, generator(0, "x"))
    assert json.dumps(entry, allow_nan=False)
    assert entry["N_opt"]["a"] is not None and "only 7 runs" in " ".join(entry["warnings"])


def test_one_size_leaves_the_exponents_open_without_failing():
    entry = parametric_entry("clm", table(noise=0.001).assign(n_params=1e7), 20, generator(0, "x"))
    assert "fewer than three different sizes" in " ".join(entry["warnings"])
