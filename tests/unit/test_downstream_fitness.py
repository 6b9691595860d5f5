"""Variants, metrics and averages of fitness against known answers and other implementations."""

from __future__ import annotations

import gzip
from collections import Counter

import downstream_data_example as example
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from plmscale.downstream.fitness import baselines, variants
from plmscale.downstream.fitness import metrics as of
from plmscale.downstream.fitness.average import TYPES, Assay, averages
from plmscale.downstream.fitness.variants import Variant, read
from plmscale.downstream.statistics import spearman
from plmscale.errors import PlmscaleError

WILD = "MKTAYIAKQR"
small = pytest.mark.skipif(
    not example.SMALL.is_dir(), reason=f"{example.SMALL} (small real data) is not there"
)


@pytest.mark.parametrize(
    ("mutant", "sequence", "mutations", "skipped"),
    [
        ("K2E", "METAYIAKQR", [(1, "K", "E")], ""),
        ("K2E", None, [(1, "K", "E")], ""),
        (None, "METAYIAKQR", [(1, "K", "E")], ""),
        ("R10A:K2E", "METAYIAKQA", [(1, "K", "E"), (9, "R", "A")], ""),
        ("k2e", "METAYIAKQR", [(1, "K", "E")], ""),
        # The wild type itself, and a synonymous mutation: nothing changes.
        ("WT", WILD, [], ""),
        ("", WILD, [], ""),
        ("K2K", WILD, [], ""),
        ("K2K:Q9A", "MKTAYIAKAR", [(8, "Q", "A")], ""),
        ("K2*", None, [], variants.STOP),
        (None, "M*TAYIAKQR", [], variants.STOP),
        # Another letter, beyond the end, the same place twice, another sequence than it says.
        ("A2E", None, [], variants.MISFIT),
        ("K20E", None, [], variants.MISFIT),
        ("K2E:K2A", None, [], variants.MISFIT),
        ("K2E", "MATAYIAKQR", [], variants.MISFIT),
        ("K2X", None, [], variants.NONSTANDARD),
        ("K2U", "MUTAYIAKQR", [], variants.NONSTANDARD),
        (None, "MKTAYIAKQ", [], variants.INDEL),
        ("K2E", "METAYIAKQ", [], variants.INDEL),
        ("p.Lys2Glu", None, [], variants.UNREADABLE),
        ("K0E", None, [], variants.UNREADABLE),
        ("K2", None, [], variants.UNREADABLE),
    ],
)
def test_a_variant_is_read_or_says_why_not(mutant, sequence, mutations, skipped):
    found = read(WILD, mutant, sequence)
    assert (list(found.mutations), found.skipped) == (mutations, skipped)
    if skipped:
        assert found.sequence is None
    else:
        changed = {position: new for position, _, new in mutations}
        assert found.sequence == "".join(changed.get(i, c) for i, c in enumerate(WILD))


def test_an_unknown_residue_of_the_wild_type_only_bars_mutations_of_itself():
    assert read("MXTA", "T3A").sequence == "MXAA"
    assert read("MXTA", "X2A").skipped == variants.NONSTANDARD


def test_an_assay_of_another_protein_is_refused():
    good = [read(WILD, f"K2{letter}") for letter in "ACDEFGHILMNPQRSTVWY"] * 2
    bad = [read(WILD, "A2E")]
    stop = [read(WILD, "K2*")]
    assert variants.check_assay("a", good + bad + stop) == Counter(
        {variants.MISFIT: 1, variants.STOP: 1}
    )
    with pytest.raises(PlmscaleError, match=r"assay a: 3 of 41 variants do not fit.*count from 1"):
        variants.check_assay("a", good + 3 * bad)
    with pytest.raises(PlmscaleError, match=r"assay a: no variant can be scored \(2 stop codon"):
        variants.check_assay("a", stop * 2)
    with pytest.raises(PlmscaleError, match="no variant can be scored"):
        variants.check_assay("a", [])


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_scikit_learn(ties):
    rng = np.random.default_rng(5)
    for n in (11, 57, 400):
        measured = rng.normal(size=n)
        predicted = measured + 2 * rng.normal(size=n)
        if ties:
            predicted = np.round(predicted)
        label = (measured > 0.3).astype(int)
        assert of.auc(label, predicted) == pytest.approx(sklearn.roc_auc_score(label, predicted))
        called = predicted > np.median(predicted)
        expected = sklearn.matthews_corrcoef(label, called)
        assert of.mcc(label, predicted) == pytest.approx(expected)
        gain = (measured - measured.min()) / np.ptp(measured)
        expected = sklearn.ndcg_score([gain], [predicted], k=n // 10)
        assert of.ndcg(measured, predicted) == pytest.approx(expected)


def test_top_recall_by_hand():
    measured = np.arange(20.0)
    # The best two are 18 and 19; the two predicted best are 19 and 0.
    predicted = np.zeros(20)
    predicted[[19, 0]] = 2, 1
    predicted[1:19] = -np.arange(18)
    assert of.top_recall(measured, predicted) == 0.5


def test_perfect_adversarial_and_random_predictors():
    rng = np.random.default_rng(1)
    measured = rng.normal(size=2000)
    label = (measured > np.median(measured)).astype(int)

    def all_of(predicted):
        return [
            spearman(measured, predicted),
            of.auc(label, predicted),
            of.mcc(label, predicted),
            of.ndcg(measured, predicted),
            of.top_recall(measured, predicted),
        ]

    assert all_of(np.exp(measured)) == pytest.approx([1, 1, 1, 1, 1])
    worst = all_of(-measured)
    assert worst[:3] == pytest.approx([-1, 0, -1]) and worst[4] == 0
    # The gains of the worst tenth, in their worst order.
    assert worst[3] < 0.35
    chance = all_of(rng.normal(size=2000))
    assert chance[:3] == pytest.approx([0, 0.5, 0], abs=0.06)
    assert chance[4] == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_predictor_without_an_order_has_no_number(value):
    measured, label = np.arange(30.0), np.arange(30) % 2
    constant = np.full(30, value)
    assert np.isnan(spearman(measured, constant))
    assert np.isnan([of.mcc(label, constant), of.ndcg(measured, constant)]).all()
    assert np.isnan(of.top_recall(measured, constant))
    # All ties: neither class is ahead.
    assert np.isnan(of.auc(label, constant)) if np.isnan(value) else of.auc(label, constant) == 0.5
    assert of.spearman_interval(np.nan, 30) is None and of.spearman_interval(0.2, 3) is None


def test_the_interval_of_a_correlation_covers_as_it_says():
    """Pairs of known rank correlation, 6/pi asin(r/2) for a bivariate normal."""
    rng = np.random.default_rng(3)
    truth = 6 / np.pi * np.arcsin(0.25)
    inside, errors, values = 0, [], []
    for _ in range(1000):
        a, b = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=80).T
        values.append(spearman(a, b))
        se, (low, high) = of.spearman_interval(values[-1], 80)
        inside += low < truth < high
        errors.append(se)
    assert 0.925 < inside / 1000 < 0.975
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_the_average_by_hand():
    assays = [
        # Three assays of one protein weigh as much as the one of the other.
        Assay("a1", "P1", "Activity", 0.3),
        Assay("a2", "P1", "Activity", 0.5),
        Assay("a3", "P1", "Activity", 0.7),
        Assay("a4", "P2", "Activity", 0.1),
        # The same protein in another type is another pair.
        Assay("b1", "P1", "Binding", 0.9),
        Assay("b2", "P3", "Binding", 0.5),
    ]
    found = averages(assays)
    assert found["Activity"].value == pytest.approx((0.5 + 0.1) / 2)
    assert found["Binding"].value == pytest.approx(0.7)
    assert found["average"].value == pytest.approx((0.3 + 0.7) / 2)
    assert [found[k].assays for k in ("Activity", "Binding", "average")] == [4, 2, 6]
    assert [found[k].proteins for k in ("Activity", "Binding", "average")] == [2, 2, 4]
    assert averages(assays[::-1]) == found


def test_an_undefined_assay_leaves_its_averages_undefined():
    assays = [
        Assay("a1", "P1", "Activity", np.nan),
        Assay("a2", "P2", "Activity", 0.9),
        Assay("b1", "P3", "Binding", 0.5),
        Assay("b2", "P4", "Binding", 0.4),
    ]
    found = averages(assays)
    assert np.isnan(found["Activity"].value) and np.isnan(found["average"].value)
    assert found["average"].ci95 is None
    assert found["Binding"].value == pytest.approx(0.45) and found["Binding"].se > 0


@small
def test_the_average_over_all_assays_as_tables_of_groups():
    """ProteinGym's 217 assays with random numbers, averaged by pandas."""
    table = pd.read_csv(example.SMALL / "dms" / "DMS_substitutions_reference.csv.gz")
    table["value"] = np.random.default_rng(2).uniform(-0.2, 0.8, len(table))
    columns = ["DMS_id", "UniProt_ID", "coarse_selection_type", "value"]
    found = averages([Assay(*row) for row in table[columns].itertuples(index=False)])
    pairs = table.groupby(["UniProt_ID", "coarse_selection_type"])["value"].mean()
    types = pairs.groupby(level="coarse_selection_type")
    assert sorted(types.groups) == list(TYPES)
    for name, value in types.mean().items():
        assert found[name].value == pytest.approx(value)
    assert found["average"].value == pytest.approx(types.mean().mean())
    # Error of a mean of means, drawn with replacement: the bootstrap's limit.
    error = np.sqrt((types.var(ddof=0) / types.size()).sum()) / len(TYPES)
    assert found["average"].se == pytest.approx(error, rel=0.03)
    low, high = found["average"].ci95
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.04)
    assert found["average"].proteins == len(pairs) == 200


def test_one_protein_of_a_type_gives_no_interval():
    found = averages([Assay("a", "P", "Binding", 0.5), Assay("b", "Q", "Activity", 0.5)])
    assert all(mean.se is None and mean.ci95 is None for mean in found.values())
    assert averages([]) == {}


@small
def test_the_published_ensemble_of_esm_1v():
    """Meier et al. 2021: 0.703 on beta-lactamase for the mean of five models."""
    path = example.SMALL / "dms" / "BLAT_ECOLX_Ranganathan2015_labeled.csv.gz"
    with gzip.open(path, "rt") as handle:
        table = pd.read_csv(handle)
    ensemble = table[[f"esm1v_t33_650M_UR90_{i}" for i in range(1, 6)]].mean(axis=1)
    found = spearman(table["2500"].to_numpy(), ensemble.to_numpy())
    assert round(found, 3) == 0.703
    assert found == pytest.approx(stats.spearmanr(table["2500"], ensemble).statistic)


def variant(*words):
    return Variant(tuple((int(w[1:-1]) - 1, w[0], w[-1]) for w in words), "")


def test_baselines_by_hand():
    some = [variant("K2E"), variant("K2E", "A4W"), variant(), variant("K2R")]
    assert baselines.mutations(WILD, some, 0).tolist() == [-1, -2, 0, -1]
    # BLOSUM62: K-E 1, A-W -3, K-R 2. Kyte and Doolittle: K -3.9, E -3.5, A 1.8, W -0.9, R -4.5.
    assert baselines.substitution(WILD, some, 0).tolist() == [1, -2, 0, 2]
    assert baselines.hydrophobicity(WILD, some, 0) == pytest.approx([-0.4, -3.1, 0, -0.6])
    # K twice, R once, E and W never; one of each is added.
    expected = [np.log(1 / 3), np.log(1 / 3) + np.log(1 / 3), 0, np.log(2 / 3)]
    assert baselines.frequency(WILD, some, 0) == pytest.approx(expected)
    first, again, other = (baselines.random(WILD, some, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other and len(set(first)) == 4


def test_blosum62_is_the_published_matrix():
    table = baselines.blosum62()
    assert len(table) == 400 and all(table[a, b] == table[b, a] for a, b in table)
    diagonal = dict(zip("ARNDCQEGHILKMFPSTWYV", [4, 5, 6, 6, 9, 5, 5, 6, 8, 4, 4, 5, 5, 6, 7, 4, 5, 11, 7, 4]))  # fmt: skip
    assert {a: table[a, a] for a in diagonal} == diagonal
    # Frequencies of Robinson and Robinson 1991, as BLAST has them.
    background = dict(zip("ARNDCQEGHILKMFPSTWYV", [
        0.07805, 0.05129, 0.04487, 0.05364, 0.01925, 0.04264, 0.06295, 0.07377, 0.02199, 0.05142,
        0.09019, 0.05744, 0.02243, 0.03856, 0.05203, 0.07120, 0.05841, 0.01330, 0.03216, 0.06441,
    ]))  # fmt: skip
    # Karlin and Altschul's lambda of BLOSUM62 without gaps is 0.3176 nats (BLAST).
    total = sum(background[a] * background[b] * np.exp(0.3176 * s) for (a, b), s in table.items())
    assert total == pytest.approx(1, abs=2e-3)
