"""Optima per budget: what each weighs, how they scatter, and the paper's table of power laws."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmscale.laws.bootstrap import Noise, choose_noise, generator, noise_parts
from plmscale.laws.isoflop.methods import ISOFLOP_METHODS, fit_isoflop
from plmscale.laws.isoflop.powerlaw import fit_loglog, scatter
from plmscale.laws.isoflop.profiles import Profile, parabola_minima
from plmscale.laws.table.select import select


def paper_points(objective: str, top: float = 1e21) -> pd.DataFrame:
    """Return the selected rows of the paper's IsoFLOP figure; the file has to be there."""
    root = Path(os.environ.get("PLMSCALE_SHARED", Path(__file__).parents[3] / "shared"))
    points = pd.read_csv(root / "paper" / "isoflop_points.csv")
    points = points[(points["objective"] == objective.upper()) & (points["budget_flops"] <= top)]
    table = pd.DataFrame(
        {"objective": objective, "n_params": points["n_params"],
         "tokens": points["budget_flops"] / 6 / points["n_params"],
         "budget": points["budget_flops"], "loss": points["final_validation_loss"]}
    )  # fmt: skip
    return select(table).runs


def fit(objective, method, n_boot=0, **options):
    rows = paper_points(objective)
    rng = generator(0, objective)
    return fit_isoflop(objective, rows, [method], n_boot, rng, **options)[method]


def printed(value: float, digits: str) -> bool:
    """Say whether `digits` is `value` rounded or cut to three significant digits."""
    shown = float(digits)
    unit = 10.0 ** (math.floor(math.log10(shown)) - 2)
    return shown - unit / 2 <= value < shown + unit


@pytest.mark.parametrize(
    ("objective", "published"),
    [
        ("clm", ("1.26e-3", "0.578", "1.23e2", "0.422")),
        ("mlm", ("6.19e-8", "0.776", "2.02e6", "0.230")),
    ],
)
def test_the_published_table_comes_out_of_the_published_points(objective, published):
    law = fit(objective, "isoflop_raw_linear")
    values = (*law["N_opt"].values(), *law["D_opt"].values())
    for value, digits in zip(values, published, strict=True):
        assert printed(value, digits), (value, digits)


def test_the_papers_mlm_parabolas_give_an_interval_that_says_something():
    # One nearly flat profile (3e18 FLOPs) has minima anywhere; it must not drag the law along.
    for objective, expected in (("clm", 0.626), ("mlm", 0.731)):
        entry = fit(objective, "isoflop_parabola", n_boot=500)
        low, high = entry["ci95"]["a"]
        assert entry["N_opt"]["a"] == pytest.approx(expected, abs=0.005)
        assert low < expected < high and high - low < 0.25
        assert entry["bootstrap"]["failed"] == 0
        assert 0 < entry["noise"]["scatter"]["sd"] < 0.3


def test_a_vertex_weighs_one_over_its_variance():
    log_n = np.linspace(10, 13, 9)
    ones = np.ones(9)
    profile = Profile(1e18, 1e18, log_n, 3 + 0.05 * (log_n - 11.4) ** 2, np.log(1e18 / 6) - log_n,
                      ones, (), ones * np.nan)  # fmt: skip
    draws = profile.loss + np.random.default_rng(0).normal(0, 0.001, (20_000, 9))
    weight = parabola_minima(profile, profile.loss[None], 0.001).weight[0]
    assert 1 / weight == pytest.approx(parabola_minima(profile, draws).log_n.var(), rel=0.05)
    assert parabola_minima(profile, -profile.loss[None], 0.001).weight[0] == 0


def test_weighted_regression_is_that_of_numpy():
    rng = np.random.default_rng(1)
    x, y, w = rng.random(6), rng.random(6), rng.random(6)
    intercept, slope = fit_loglog(x, y[None], w[None])
    assert [slope[0], intercept[0]] == pytest.approx(np.polyfit(x, y, 1, w=np.sqrt(w)))
    assert fit_loglog(x, y[None])[1][0] == pytest.approx(np.polyfit(x, y, 1)[0])


def test_scatter_is_what_errors_do_not_explain():
    rng = np.random.default_rng(2)
    x, error = np.linspace(0, 7, 400), rng.uniform(0.05, 0.2, 400)
    y = 1 + 0.6 * x + rng.normal(0, error)
    assert scatter(x, y, 1 / error**2) < 0.05
    strayed = y + rng.normal(0, 0.3, 400)
    assert scatter(x, strayed, 1 / error**2) == pytest.approx(0.3, rel=0.1)
    assert scatter(x[:2], strayed[:2], 1 / error[:2] ** 2) == 0.0


def test_the_largest_noise_counts_and_every_part_is_told():
    jitter = np.array([0.02, np.nan, 0.02])
    seeds = Noise(0.004, 3.0, "replicate seeds")
    # Residuals of 0.003; jitter is no floor, since most of it is common to all runs.
    assert choose_noise(seeds, 9e-5, 10, jitter).source == "replicate seeds"
    assert choose_noise(seeds, 9e-5, 10, jitter, given=0.01).sd == 0.01
    assert choose_noise(None, 9e-5, 10, jitter).sd == pytest.approx(0.003)
    assert choose_noise(None, 0.0, 0, jitter).sd == pytest.approx(0.02)
    assert not choose_noise(None, 0.0, 0, jitter * np.nan).known
    assert set(noise_parts(seeds, 9e-5, 10, jitter, 0.01)) == {
        "seed", "residual", "given", "jitter"
    }  # fmt: skip


@pytest.mark.parametrize("method", ISOFLOP_METHODS)
def test_a_known_noise_widens_every_methods_interval(method):
    own, known = (fit("clm", method, n_boot=300, noise_sd=sd) for sd in (None, 0.012))
    assert known["noise"]["source"] == "given by the user"
    assert {"residual", "given", "minimum"} <= set(known["noise"]["components"])
    narrow, wide = (e["ci95"]["D_opt"]["b"][1] - e["ci95"]["D_opt"]["b"][0] for e in (own, known))
    assert wide > 1.1 * narrow
