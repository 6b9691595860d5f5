"""Statistics of generated proteins, against scipy, by hand, by simulation; and searches."""

from __future__ import annotations

import math
from collections import Counter

import heldout_example as example
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, norm

from plmscale.corpus.alphabet import STANDARD
from plmscale.downstream.generation import estimates, searches, substrings, tables

RNG = np.random.default_rng(21)


def drawn(n, replicates=400, seed=1):
    return estimates.draws(n, replicates, seed)


def test_bootstrap_samples_have_as_many_proteins_as_the_set():
    found = drawn(7, 500)
    assert found.shape == (500, 7) and (found.sum(1) == 7).all()
    assert found.mean() == 1 and found[:, 0].std() == pytest.approx(math.sqrt(6 / 7), rel=0.15)
    assert (found == drawn(7, 500)).all() and (found != drawn(7, 500, seed=2)).any()


@pytest.mark.parametrize("ties", [False, True])
def test_kolmogorov_smirnov_is_that_of_scipy(ties):
    first, second = RNG.normal(0, 1, 37), RNG.normal(0.6, 1, 81)
    if ties:
        first, second = first.round(), second.round()
    found = estimates.kolmogorov_smirnov(first, second, drawn(37), drawn(81, seed=2))
    assert found.value == pytest.approx(ks_2samp(first, second).statistic, abs=1e-12)
    # One bootstrap sample, made by copying rows, gives what its counts give.
    rows = [
        np.repeat(x, d[3].astype(int)) for x, d in ((first, drawn(37)), (second, drawn(81, 400, 2)))
    ]
    assert found.again[3] == pytest.approx(ks_2samp(*rows).statistic, abs=1e-12)
    same = estimates.kolmogorov_smirnov(first, first, drawn(37), drawn(37, seed=2))
    apart = estimates.kolmogorov_smirnov(first, first + 99, drawn(37), drawn(37, seed=2))
    assert same.value == 0 and apart.value == 1 and apart.ci95 == (1, 1)


def test_jensen_shannon_is_that_of_scipy_before_chance_is_taken_off():
    first, second = RNG.poisson(3.0, (30, 20)), RNG.poisson(np.linspace(1, 6, 20), (40, 20))
    plain = estimates.divergence(first, second)
    assert plain == pytest.approx(jensenshannon(first.sum(0), second.sum(0)) ** 2, abs=1e-12)
    found = estimates.jensen_shannon(first, second, drawn(30), drawn(40, seed=2))
    low, high = found.ci95
    assert low < found.value < high and 0 < plain - found.value < plain
    # The basic interval about the divergence as it is, from samples made by copying rows.
    copies = [
        estimates.divergence(*(np.repeat(x, d.astype(int), axis=0)
                               for x, d in ((first, one), (second, other))))
        for one, other in zip(drawn(30), drawn(40, seed=2))
    ]  # fmt: skip
    assert (low, high) == pytest.approx(2 * plain - np.quantile(copies, (0.975, 0.025)))
    assert found.value == pytest.approx(2 * plain - np.mean(copies))
    half = np.zeros((9, 20))
    half[:, :10] = 1
    assert estimates.divergence(half, 1 - half) == pytest.approx(math.log(2))
    assert math.isnan(estimates.divergence(half, 0 * half))
    assert math.isnan(estimates.jensen_shannon(half, 0 * half, drawn(9), drawn(9)).value)


def test_chance_is_taken_off_a_divergence():
    """Sets of one kind: as it is, the divergence is far above 0; less chance it is not."""
    weights = RNG.dirichlet(np.ones(400))
    plain, less = [], []
    for seed in range(30):
        sets = [RNG.multinomial(60, weights, size=n) for n in (20, 80)]
        plain.append(estimates.divergence(*sets))
        less.append(estimates.jensen_shannon(*sets, drawn(20, 100, seed), drawn(80, 100, 99)).value)
    assert np.mean(plain) > 0.02
    assert abs(np.mean(less)) < 0.3 * np.mean(plain)


def test_intervals_of_a_mean_and_a_share():
    values = RNG.normal(5, 2, 400)
    found = estimates.ratio(values, np.ones(400), drawn(400, 2000))
    assert found.value == pytest.approx(values.mean())
    assert found.se == pytest.approx(values.std() / 20, rel=0.1)
    # Newcombe 1998, table I: 81 of 263.
    share = estimates.share(np.arange(263) < 81)
    assert share.value == 81 / 263 and share.ci95 == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = estimates.share(np.zeros(20, bool))
    assert none.ci95 == pytest.approx((0, 0.1611), abs=5e-5) and none.se == 0
    assert math.isnan(estimates.share(np.zeros(0, bool)).value)
    alone = estimates.ratio(np.ones(1), np.ones(1), drawn(1))
    assert alone.value == 1 and alone.ci95 is None and alone.se is None


def test_differences():
    # Newcombe 1998 (Statistics in Medicine 17, 873), table II, method 10: 56/70 - 48/80.
    one, other = (estimates.share(np.arange(n) < k) for k, n in ((56, 70), (48, 80)))
    found = estimates.minus(one, other)
    assert found.value == pytest.approx(0.2) and found.ci95 == pytest.approx(
        (0.0524, 0.3339), abs=5e-5
    )
    shared = RNG.normal(size=50)
    twice = estimates.ratio(shared, np.ones(50), drawn(50))
    assert estimates.minus(twice, twice).ci95 == (0, 0)
    assert estimates.minus(estimates.Estimate(math.nan, 0), one).ci95 is None


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12])
def test_expected_clusters_are_those_of_drawing(count):
    sizes = np.array([5, 3, 1, 1, 2])
    labels = np.repeat(np.arange(5), sizes)
    rng = np.random.default_rng(count)
    found = [len(set(rng.choice(labels, count, replace=False))) for _ in range(4000)]
    estimate = estimates.expected_clusters(sizes, count)
    assert estimate.value == pytest.approx(np.mean(found), abs=4 * np.std(found) / 63 + 1e-9)
    assert estimate.n == 12 and (estimate.ci95 is None) == (count == 12)


def test_clusters_at_the_ends_and_their_error():
    assert estimates.expected_clusters(np.ones(30, int), 10).value == pytest.approx(10)
    assert estimates.expected_clusters(np.array([30]), 10).value == pytest.approx(1)
    assert math.isnan(estimates.expected_clusters(np.array([3]), 4).value)
    assert math.isnan(estimates.expected_clusters(np.zeros(0, int), 4).value)
    # The jackknife's error is that of many sets of one population.
    population = norm.cdf(np.linspace(-2, 2, 15)) + 0.05
    population /= population.sum()
    values, errors = [], []
    for _ in range(300):
        found = estimates.expected_clusters(RNG.multinomial(60, population), 8)
        values.append(found.value)
        errors.append(found.se)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_residues_and_dipeptides_are_counted():
    sequences = ["ACCA", "", "W", "AXCB", example.protein(RNG, 90)]
    rows = pd.DataFrame({"sequence": sequences})
    pairs = [a + b for a in STANDARD for b in STANDARD]
    one, two = tables.residue_counts(rows), tables.dipeptide_counts(rows)
    for i, text in enumerate(sequences):
        assert one[i].tolist() == [text.count(c) for c in STANDARD]
        there = Counter(text[j : j + 2] for j in range(len(text) - 1))
        assert two[i].tolist() == [there[pair] for pair in pairs]


def test_what_is_within_a_training_protein(tmp_path):
    train = [example.protein(RNG, int(n)) for n in RNG.integers(15, 400, 200)]
    folder = example.write_corpus(
        tmp_path, {"one": {"train": train[:150]}, "two": {"train": train[150:]}}
    )
    queries = {
        train[3]: True,
        train[7][2:14]: True,
        train[9][2:13]: False,  # Eleven residues: by chance.
        train[149][-12:]: True,
        train[11][-8:] + train[12][:8]: False,  # Neighbours in the file, no protein.
        train[5][:12] + "W" * 9: False,
        train[160][1:]: False,  # Of the other source.
        "": False,
    }  # fmt: skip
    found = substrings.copied(list(queries), folder, ["one"])
    assert dict(zip(queries, found.tolist())) == queries
    assert substrings.copied([train[160][1:]], folder, ["one", "two"]).tolist() == [True]
    assert not substrings.copied(["MK", ""], folder, ["one"]).any()


def test_clusters_of_relatives():
    heads = [example.protein(RNG, 120) for _ in range(3)]
    near = [example.mutated(head, 36, RNG) for head in heads]  # 70 %
    far = [example.mutated(head, 84, RNG) for head in heads]  # 30 %
    part = heads[0][:80]  # Identical, but two thirds of the other.
    sequences = [*heads, *near, *far, part, "MKV", heads[0]]
    of = np.array([0] * 11 + [1])
    found = searches.clusters(sequences, of)
    assert found[:3].tolist() == found[3:6].tolist() and len(set(found[:3])) == 3
    assert len(set(found[[0, 1, 2, 6, 7, 8, 9]])) == 7
    # Too short; and of another set.
    assert found[10] == -1 and found[11] == 11
