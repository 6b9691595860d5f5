"""Statistics against scipy and scikit-learn, and intervals against what is known of them."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from plmscale.downstream.statistics import (
    bootstrap,
    f1_of_counts,
    macro_f1,
    macro_f1_of_targets,
    mean,
    paired_difference,
    ratio,
    spearman,
)

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def _same_numbers():
    """Each test draws the same, whichever others run."""
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def tied(n, levels):
    return RNG.integers(0, levels, n).astype(float)


@pytest.mark.parametrize("levels", [3, 20, 10**9])
def test_spearman_is_that_of_scipy_with_and_without_ties(levels):
    a = tied(200, levels)
    b = a + tied(200, levels) * 2
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_of_perfect_reversed_and_random_predictors():
    target = RNG.normal(size=4000)
    assert spearman(target, np.exp(target)) == pytest.approx(1)
    assert spearman(target, -(target**3)) == pytest.approx(-1)
    # The standard error of a correlation of nothing is 1 / sqrt(n - 1).
    assert abs(spearman(target, RNG.normal(size=4000))) < 4 / math.sqrt(3999)


def test_an_undefined_correlation_is_nan_and_not_zero():
    target = RNG.normal(size=10)
    assert math.isnan(spearman(target, np.full(10, 2.5)))
    assert math.isnan(spearman([1.0], [2.0]))
    assert math.isnan(spearman([1.0, 2.0, np.nan], [1.0, 2.0, 3.0]))
    assert math.isnan(spearman([], []))
    assert bootstrap(target, np.full(10, 2.5), statistic=spearman) == (None, None)


def test_macro_f1_is_that_of_scikit_learn():
    target, guess = RNG.integers(0, 9, 300), RNG.integers(3, 14, 300)
    expected = f1_score(target, guess, average="macro", zero_division=0)
    assert macro_f1(target, guess) == pytest.approx(expected)
    seen = np.unique(target)
    expected = f1_score(target, guess, labels=seen, average="macro", zero_division=0)
    assert macro_f1_of_targets(target, guess) == pytest.approx(expected)
    assert macro_f1(target, target) == 1
    assert macro_f1(target, target + 100) == 0


def test_no_prediction_is_no_class():
    target, guess = RNG.integers(0, 4, 100), RNG.integers(-1, 5, 100)
    labels = np.unique(np.concatenate([target, guess[guess >= 0]]))
    expected = f1_score(target, guess, labels=labels, average="macro", zero_division=0)
    assert macro_f1(target, guess) == pytest.approx(expected)
    assert macro_f1(target, np.full(100, -1)) == 0


def test_f1_of_counts_is_f1_of_what_was_counted():
    target, guess = RNG.integers(0, 3, 90), RNG.integers(0, 3, 90)
    rows = np.repeat(np.arange(9), 10)
    counts = np.zeros((3, 9, 3))
    for row, a, b in zip(rows, target, guess):
        counts[0, row, a] += a == b
        counts[1, row, a] += 1
        counts[2, row, b] += 1
    expected = f1_score(target, guess, average="macro")
    assert f1_of_counts(*counts) == pytest.approx(expected)


def test_standard_error_of_a_mean():
    values = RNG.normal(3, 2, 2000)
    se, (low, high) = bootstrap(values, statistic=mean, replicates=2000)
    assert se == pytest.approx(values.std() / math.sqrt(2000), rel=0.1)
    assert high - low == pytest.approx(2 * 1.96 * se, rel=0.1)
    assert low < values.mean() < high


@pytest.mark.parametrize("statistic", [spearman, ratio])
def test_counting_draws_is_the_same_as_copying_rows(statistic):
    a, b = tied(60, 7), tied(60, 5) + 1

    def copied(*columns):
        return statistic(*columns)

    fast = bootstrap(a, b, statistic=statistic, replicates=200, seed=3)
    slow = bootstrap(a, b, statistic=copied, replicates=200, seed=3)
    assert fast[0] == pytest.approx(slow[0])
    assert fast[1] == pytest.approx(slow[1])


def test_rows_of_one_cluster_are_drawn_together():
    # Ten residues of a protein that are all right or all wrong are worth one observation.
    right = RNG.random(150) < 0.6
    se, _ = bootstrap(10 * right, np.full(150, 10), statistic=ratio, replicates=2000)
    assert se == pytest.approx(math.sqrt(right.mean() * (1 - right.mean()) / 150), rel=0.1)


def test_f1_of_rare_classes_stays_in_its_interval():
    # A class that a replicate misses must not raise the mean over the others, and one of two
    # examples is right or wrong as a whole more often in a replicate.
    target = np.arange(1600) % 800
    for guess in (np.zeros(1600, int), np.where(RNG.random(1600) < 0.5, target, 0)):
        value = macro_f1(target, guess)
        _, (low, high) = bootstrap(target, guess, statistic=macro_f1, replicates=300)
        assert low < value < high
        assert abs((low + high) / 2 - value) < 0.2 * (high - low)
    # Nothing is uncertain of a predictor that is always right.
    assert bootstrap(target, target, statistic=macro_f1, replicates=50) == (0, (1, 1))


def test_too_little_for_an_interval():
    assert bootstrap([1.0], statistic=mean) == (None, None)
    # One row in a hundred varies: a third of the replicates never draws it.
    values = np.zeros(100)
    values[0] = 1
    assert bootstrap(values, RNG.normal(size=100), statistic=spearman) == (None, None)


def test_pairs_cancel_what_both_find_hard():
    hard = RNG.normal(0, 5, 400)
    one, two = hard + RNG.normal(0, 0.5, 400) + 0.3, hard + RNG.normal(0, 0.5, 400)
    found = paired_difference([one], [two], statistic=mean)
    apart = math.hypot(bootstrap(one, statistic=mean)[0], bootstrap(two, statistic=mean)[0])
    assert found.value == pytest.approx(one.mean() - two.mean())
    assert found.se == pytest.approx((one - two).std() / 20, rel=0.15)
    assert found.se < apart / 5
    assert found.resolved and found.ci95[0] > 0


def test_the_same_predictor_twice_is_not_resolved():
    target, guess = RNG.normal(size=50), RNG.normal(size=50)
    found = paired_difference([target, guess], [target, guess], statistic=spearman)
    assert (found.value, found.ci95, found.resolved) == (0, (0, 0), False)
    constant = paired_difference([target, guess], [target, 0 * guess], statistic=spearman)
    assert math.isnan(constant.value) and constant.ci95 is None and not constant.resolved


def test_equal_predictors_are_told_apart_at_the_rate_the_interval_promises():
    rng, wrong, trials = np.random.default_rng(8), 0, 200
    for _ in range(trials):
        target = rng.normal(size=80)
        one, two = (target + rng.normal(size=80) for _ in range(2))
        made = paired_difference([target, one], [target, two], statistic=spearman, replicates=200)
        wrong += made.resolved
    # 5 % promised; binomial bounds at four standard deviations, and percentile intervals are a
    # little too short at this size.
    assert 1 <= wrong <= trials * 0.05 + 4 * math.sqrt(trials * 0.05 * 0.95)


def test_columns_must_fit():
    with pytest.raises(ValueError, match="expected equal"):
        spearman([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="same examples"):
        paired_difference([[1.0, 2]], [[1.0]], statistic=mean)
