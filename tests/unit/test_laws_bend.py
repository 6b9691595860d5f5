"""A frontier that is no power law is told, and widens the intervals of a loss, and only then."""

import numpy as np
import pytest

from plmscale.laws.advice.advise import advise
from plmscale.laws.isoflop.bend import bend_error, find_bend

LOG_C = np.log(10.0) * np.array([18, 18.5, 19, 19.5, 20, 20.5, 21])


def test_a_power_law_does_not_bend_whatever_its_noise():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(200):
        sd = np.full(7, 1e-3)
        y = 2.0 - 0.03 * LOG_C + rng.normal(0, sd)
        false += find_bend(LOG_C, y, sd, 0.03, 2.0) is not None
    # Three standard errors: one in 370.
    assert false <= 3


def test_a_quadratic_is_found_with_its_local_exponents():
    middle = LOG_C.mean()
    y = 1.0 - 0.02 * (LOG_C - middle) - 0.0015 * (LOG_C - middle) ** 2
    line = np.polyfit(LOG_C, y, 1)
    bend = find_bend(LOG_C, y, np.full(7, 1e-4), -line[0], line[1])
    half = np.ptp(LOG_C) / 2
    assert bend["c_low"] == pytest.approx(0.02 - 2 * 0.0015 * half)
    assert bend["c_high"] == pytest.approx(0.02 + 2 * 0.0015 * half)
    assert bend["slope_error"] == pytest.approx(2 * 0.0015 * half)
    assert bend["misfit"] == pytest.approx(np.std(y - np.polyval(line, LOG_C)))


def test_three_budgets_cannot_tell():
    assert find_bend(LOG_C[:3], np.array([1.0, 0.5, 0.4]), np.full(3, 1e-6), 0.1, 1.0) is None


def entry(**more):
    rows = [[1.0, 0.6, 1.0, 0.4, 2.0 + e, 0.03] for e in np.linspace(-1e-3, 1e-3, 101)]
    return {
        "N_opt": {"A": 1.0, "a": 0.5}, "D_opt": {"B": 1.0, "b": 0.5},
        "L_opt": {"K": float(np.exp(2)), "c": 0.03}, "ci95": {"a": [0.4, 0.6]}, "warnings": [],
        "bootstrap": {"columns": ["log_A", "a", "log_B", "b", "log_K", "c"], "rows": rows,
                      "n": 101, "failed": 0},
        "fitted_range": {"flops": [1e18, 1e21]}, **more,
    }  # fmt: skip


def width(of, flops):
    answer = advise({"laws": {"clm": {"isoflop_joint": of}}}, "clm", flops)
    low, high = answer["loss"]["ci95"]
    return np.log(high / low)


def test_intervals_of_a_loss_widen_with_the_distance_beyond_the_budgets():
    bend = {"misfit": 0.004, "slope_error": 0.01}
    straight, bent = entry(), entry(bend=bend)
    assert width(straight, 1e23) == pytest.approx(width(straight, 1e20), rel=0.01)
    inside, beyond = width(bent, 1e20), width(bent, 1e23)
    # Two-sided 95 % of a normal with the stated standard deviation, by 101 draws.
    assert inside == pytest.approx(2 * 1.96 * 0.004, rel=0.3)
    assert beyond == pytest.approx(2 * 1.96 * np.hypot(0.004, 0.01 * np.log(100)), rel=0.3)
    assert bend_error(bent, 1e16) == pytest.approx(np.hypot(0.004, 0.01 * np.log(100)))
    assert bend_error(straight, 1e23) == 0
