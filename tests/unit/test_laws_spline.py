"""Akima minima: the curve's true minimum, few sizes, repeated sizes, edges."""

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import Akima1DInterpolator

from plmscale.laws.bootstrap import generator
from plmscale.laws.isoflop.methods import fit_isoflop
from plmscale.laws.isoflop.profiles import Profile
from plmscale.laws.isoflop.spline import spline_minima
from plmscale.laws.table.select import select


def profile(log_n):
    log_n = np.asarray(log_n, dtype=float)
    ones = np.ones_like(log_n)
    return Profile(1e18, 1e18, log_n, ones, np.log(1e18 / 6) - log_n, ones, (), ones * np.nan)


def table(sizes=9, noise=0.0, budgets=(1e17, 1e18, 1e19), step=0.4, skew=0.6):
    """Asymmetric profiles around N_opt = 0.02 C^0.6."""
    rng = np.random.default_rng(1)
    rows = []
    for budget in budgets:
        u = step * (np.arange(sizes) - (sizes - 1) / 2) + rng.uniform(-0.1, 0.1)
        n = 0.02 * budget**0.6 * np.exp(u)
        loss = 20 * budget**-0.05 + 0.08 * (np.exp(skew * u) - 1 - skew * u) / skew**2
        rows.append(
            pd.DataFrame({"objective": "clm", "n_params": n, "tokens": budget / 6 / n,
                          "budget": budget, "loss": loss + rng.normal(0, noise, sizes)})
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def spline(runs, n_boot=0):
    rows = select(runs).runs
    return fit_isoflop("clm", rows, ["isoflop_spline"], n_boot, generator(0, "t"))["isoflop_spline"]


def test_the_minimum_is_that_of_the_curve_on_a_fine_grid():
    rng = np.random.default_rng(4)
    log_n = np.sort(rng.uniform(10, 15, 8))
    losses = (log_n - 12.3) ** 2 / 10 + rng.normal(0, 0.05, (40, 8))
    found = spline_minima(profile(log_n), losses)
    grid = np.linspace(log_n[0], log_n[-1], 200_001)
    for i, row in enumerate(losses):
        values = Akima1DInterpolator(log_n, row)(grid)
        assert found.loss[i] == pytest.approx(values.min(), abs=1e-9)
        assert found.log_n[i] == pytest.approx(grid[values.argmin()], abs=5e-5)


def test_a_straight_slope_has_its_minimum_at_the_end():
    log_n = np.arange(10.0, 16.0)
    found = spline_minima(profile(log_n), np.vstack([log_n, -log_n]))
    assert found.log_n == pytest.approx([10, 15]) and found.loss == pytest.approx([10, -15])


def test_dense_asymmetric_profiles_give_their_law():
    entry = spline(table(sizes=21, step=0.15))
    assert entry["N_opt"]["a"] == pytest.approx(0.6, abs=2e-3)
    assert entry["N_opt"]["A"] * 1e18 ** entry["N_opt"]["a"] == pytest.approx(
        0.02 * 1e18**0.6, rel=5e-3
    )
    assert entry["D_opt"]["b"] == pytest.approx(0.4, abs=2e-3)
    assert entry["points"][0]["curvature"] == pytest.approx(0.08, rel=0.2)


def test_few_sizes_fall_back_to_a_parabola_and_say_so():
    entry = spline(table(sizes=4))
    assert "budget 1e+17: 4 sizes are too few for an Akima curve (5 needed)" in entry["notes"][0]
    assert len(entry["notes"]) == 3 and entry["warnings"] == []
    assert entry["N_opt"]["a"] == pytest.approx(0.6, abs=0.03)
    assert spline(table(sizes=3))["N_opt"]["a"] == pytest.approx(0.6, abs=0.05)


def test_runs_of_one_size_are_averaged():
    runs = table()
    pairs = pd.concat([runs.assign(seed=1, loss=runs["loss"] + 0.01),
                       runs.assign(seed=2, loss=runs["loss"] - 0.01)])  # fmt: skip
    assert spline(pairs)["N_opt"]["a"] == pytest.approx(spline(runs)["N_opt"]["a"], rel=1e-9)


def test_intervals_are_those_of_noise_and_hold_the_estimate():
    quiet, loud = (spline(table(noise=noise), n_boot=300) for noise in (0.001, 0.006))
    widths = []
    for entry in (quiet, loud):
        low, high = entry["ci95"]["a"]
        assert low < entry["N_opt"]["a"] < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]
    assert quiet["noise"]["components"]["minimum"]["source"] == "found again in every replicate"


def test_a_minimum_at_the_edge_is_named():
    runs = table(sizes=13)
    runs = runs[~((runs["budget"] == 1e19) & (runs["n_params"] > 0.02 * 1e19**0.6))]
    entry = spline(runs)
    assert "budget 1e+19: the largest size has the lowest loss" in "\n".join(entry["warnings"])
