"""Precision of contacts: against plain loops, and on predictors whose precision is known."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from contacts_example import example, naive_precision, protein, random_protein

from plmscale.downstream.base import Example, Predictions
from plmscale.downstream.contacts import record, summary
from plmscale.downstream.contacts.metrics import FRACTIONS, LENGTHS, RANGES, count, top_hits
from plmscale.downstream.contacts.pairs import (
    known,
    labels,
    n_pairs,
    pair_index,
    proteins,
    with_structure,
)
from plmscale.downstream.tasks import contacts
from plmscale.errors import PlmscaleError

RNG = np.random.default_rng(4)
# Short ones lack pairs of the longer ranges, one has no structure at all.
SOME = [random_protein(RNG, n, name=f"p{n}") for n in (5, 6, 7, 12, 20, 31, 50, 77)]
SOME += [random_protein(RNG, 40, missing=1.0, name="dark"), protein(40, [(0, 30)], name="one")]
SCORES = [RNG.permutation(n_pairs(len(p))) / 7 for p in SOME]


def predictions(found=SOME, scores=SCORES, size=9):
    return Predictions(record.table(zip(found, scores, strict=True), size), {})


def metrics_of(made, no_contacts, replicates):
    return list(
        contacts.score(made, contacts.Options(no_contacts=no_contacts, replicates=replicates))
    )


def differences_of(first, second, replicates):
    return contacts.differences(first, second, contacts.Options(replicates=replicates))


def each_protein(made, name="P@L/5"):
    """Precision of each protein at >= 6."""
    wanted = (name, "|i-j|>=6, macro, L=sequence")
    (case,) = [c for c in summary.cases(made, "zero") if (c.metric, c.definition) == wanted]
    return case.values[0]


def metric(found, name, definition, group=""):
    (one,) = [m for m in found if (m.metric, m.definition, m.group) == (name, definition, group)]
    return one


@pytest.mark.parametrize("length", [0, 1, 6, 7, 25])
def test_pairs_stand_row_by_row(length):
    expected = [(i, j) for i in range(length) for j in range(i + 6, length)]
    i, j = pair_index(length)
    assert list(zip(i.tolist(), j.tolist())) == expected
    assert n_pairs(length) == len(expected)
    contacts = [(i, j) for i, j in itertools.combinations(range(length), 2) if (i * j) % 3 == 1]
    found = labels(np.asarray(contacts, np.int64).reshape(-1, 2), length)
    assert found.tolist() == [pair in contacts for pair in expected]


@pytest.mark.parametrize("which", range(len(SOME)))
def test_counts_are_those_of_plain_loops(which):
    p, scores = SOME[which], SCORES[which]
    chosen, hits, there = count(scores, p.contacts, p.resolved)
    for r, (low, high) in enumerate(RANGES.values()):
        for (n, rule), (f, part) in itertools.product(
            enumerate(LENGTHS), enumerate(FRACTIONS.values())
        ):
            expected = naive_precision(scores, p, low, high, part, rule)
            if expected is None:
                assert chosen[r, n, f] == 0
            else:
                assert (hits[r, n, f], chosen[r, n, f], there[r]) == expected


def test_equal_scores_count_as_the_mean_over_all_orders():
    scores = np.array([3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    contact = np.array([True, True, False, True, False, True, False])
    for top in range(1, 8):
        means = []
        for order in itertools.permutations(range(7)):
            ranked = sorted(order, key=lambda k: -scores[k])  # stable: equal ones as in `order`
            means.append(contact[ranked[:top]].sum())
        assert top_hits(scores, contact, [top])[0] == pytest.approx(np.mean(means))


def test_a_perfect_predictor_finds_all_and_an_adversary_nothing():
    # So many contacts in each range that L can be right, and as many that are none.
    p = random_protein(RNG, 90, rate=0.5, missing=0)
    truth = labels(p.contacts, 90).astype(float)
    for scores, expected in ((truth, 1.0), (-truth, 0.0)):
        for m in metrics_of(predictions([p, p], [scores, scores]), "zero", 10):
            assert m.value == expected, m


def test_a_constant_predictor_gets_the_rate_of_contacts():
    p = random_protein(RNG, 60, rate=0.1)
    found = metrics_of(predictions([p], [np.full(n_pairs(60), -2.5)]), "zero", 10)
    i, j = pair_index(60)
    for low in (6, 12, 24):
        inside = known(p.resolved) & (j - i >= low)
        rate = labels(p.contacts, 60)[inside].mean()
        for part in ("P@L", "P@L/5"):
            m = metric(found, part, f"|i-j|>={low}, macro, L=sequence")
            assert m.value == pytest.approx(rate)


def test_a_random_predictor_comes_near_that_rate():
    many = [random_protein(RNG, 80, rate=0.1, name=f"r{k}") for k in range(60)]
    scores = [RNG.standard_normal(n_pairs(80)) for _ in many]
    m = metric(
        metrics_of(predictions(many, scores), "zero", 300),
        "P@L",
        "|i-j|>=6, macro, L=sequence",
    )
    assert abs(m.value - 0.1) < 4 * m.se and m.se < 0.01
    assert m.ci95[0] < m.value < m.ci95[1]


def test_near_and_unresolved_pairs_cannot_be_won_with():
    """Contacts of neighbours, of helices and of residues without coordinates bring nothing."""
    p = protein(60, [(0, 4), (3, 9), (10, 17), (20, 50)], unresolved=[20])
    i, j = pair_index(60)
    greedy = -(j - i).astype(float)
    greedy[(i == 20) & (j == 50)] = 99
    found = metrics_of(predictions([p], [greedy]), "zero", 10)
    assert metric(found, "P@L/5", "|i-j|>=24, macro, L=sequence").value == 0
    assert metric(found, "P@L/5", "|i-j|>=6, macro, L=sequence").value > 0


def test_micro_pools_pairs_and_macro_averages_proteins():
    small, large = protein(30, [(0, 10)], name="a"), protein(60, [(0, 10)], name="b")
    scores = [labels(small.contacts, 30), -labels(large.contacts, 60).astype(float)]
    found = metrics_of(predictions([small, large], scores), "zero", 10)
    assert metric(found, "P@L/5", "|i-j|>=6, macro, L=sequence").value == pytest.approx(1 / 12)
    assert metric(found, "P@L/5", "|i-j|>=6, micro, L=sequence").value == pytest.approx(1 / 18)


def test_length_is_that_of_the_sequence_or_of_what_is_resolved():
    p = protein(50, [(0, 40), (1, 40), (2, 40)], unresolved=range(10, 30))
    found = metrics_of(predictions([p], [labels(p.contacts, 50)]), "zero", 10)
    assert metric(found, "P@L/5", "|i-j|>=6, macro, L=sequence").value == pytest.approx(3 / 10)
    assert metric(found, "P@L/5", "|i-j|>=6, macro, L=resolved").value == pytest.approx(3 / 6)


def test_proteins_without_contacts_count_as_0_or_not_at_all():
    with_, without = protein(30, [(0, 10)], name="a"), protein(30, [(0, 3)], name="b")
    both = predictions([with_, without], [labels(p.contacts, 30) for p in (with_, without)])
    zero = metric(metrics_of(both, "zero", 10), "P@L/5", "|i-j|>=6, macro, L=sequence")
    skip = metric(
        metrics_of(both, "skip", 10),
        "P@L/5",
        "|i-j|>=6, macro, L=sequence, proteins without a contact left out",
    )
    assert (zero.value, zero.n) == (pytest.approx(1 / 12), 2)
    assert (skip.value, skip.n) == (pytest.approx(1 / 6), 1)
    assert skip.se is None and skip.ci95 is None


def test_chains_too_short_for_a_range_are_left_out():
    found = metrics_of(predictions(), "zero", 10)
    for where, n in (("|i-j|>=6", 7), ("|i-j|>=24", 4), ("6<=|i-j|<=11", 7)):
        assert metric(found, "P@L", f"{where}, macro, L=sequence").n == n
    short = [p for p in SOME if len(p) <= 20 and p.id != "dark"]
    only = metrics_of(predictions(short, SCORES[: len(short)]), "zero", 10)
    assert not [m for m in only if ">=24" in m.definition]


def test_primary_are_the_three_separations():
    shown = [(m.metric, m.definition) for m in metrics_of(predictions(), "zero", 10) if m.primary]
    assert shown == [("P@L/5", f"|i-j|>={low}, macro, L=sequence") for low in (6, 12, 24)]


def test_the_interval_is_that_of_a_mean():
    """Bootstrap of a mean: its error is the standard deviation over the root of n."""
    many = [random_protein(RNG, 60, rate=0.2, name=f"r{k}") for k in range(80)]
    scores = [RNG.standard_normal(n_pairs(60)) for _ in many]
    made = predictions(many, scores)
    each = each_protein(made)
    m = metric(metrics_of(made, "zero", 1500), "P@L/5", "|i-j|>=6, macro, L=sequence")
    assert m.value == pytest.approx(each.mean())
    assert m.se == pytest.approx(each.std() / np.sqrt(80), rel=0.08)
    assert m.ci95 == pytest.approx((m.value - 1.96 * m.se, m.value + 1.96 * m.se), abs=0.25 * m.se)


def test_the_largest_training_set_is_the_result_and_each_is_a_point():
    p = random_protein(RNG, 60, rate=0.3)
    truth = labels(p.contacts, 60).astype(float)
    tables = [
        record.table([(p, sign * truth)], size) for size, sign in ((9, 1), (100, 1), (20, -1))
    ]
    found = metrics_of(Predictions(pa.concat_tables(tables), {}), "zero", 10)
    definition = "|i-j|>=6, macro, L=sequence"
    points = {m.group: m.value for m in found if (m.metric, m.definition) == ("P@L/5", definition)}
    assert points == {"": 1.0, "train=9": 1.0, "train=20": 0.0, "train=100": 1.0}
    tables[1], tables[2] = (record.table([(p, s * truth)], n) for n, s in ((100, -1), (20, 1)))
    found = metrics_of(Predictions(pa.concat_tables(tables), {}), "zero", 10)
    assert metric(found, "P@L/5", definition).value == 0
    sizes = {summary.curve_size(m.group) for m in found}
    assert sizes == {None, 9, 20, 100}
    # A curve has the three primary definitions; all others are of the result alone.
    assert len([m for m in found if m.group == "train=20"]) == 3


def test_differences_are_paired():
    """Models alike but for a constant gain a protein: the gain is certain, each model is not."""
    many = [random_protein(RNG, 60, rate=0.2, name=f"r{k}") for k in range(40)]
    scores = [RNG.standard_normal(n_pairs(60)) for _ in many]
    first = predictions(many, scores)
    again = differences_of(first, predictions(many, scores), 200)
    assert all((m.value, m.se, m.ci95) == (0, 0, (0, 0)) for m in again)
    better = [s + 0.5 * labels(p.contacts, 60) for p, s in zip(many, scores)]
    definition = "|i-j|>=6, macro, L=sequence"
    gain = metric(differences_of(predictions(many, better), first, 400), "P@L", definition)
    one, two = (each_protein(made, "P@L") for made in (predictions(many, better), first))
    assert gain.value == pytest.approx((one - two).mean())
    assert gain.se == pytest.approx((one - two).std() / np.sqrt(40), rel=0.15)


def test_differences_refuse_other_test_sets():
    made = predictions()
    fewer = predictions(SOME[:-1], SCORES[:-1])
    shorter = [*SOME[:-1], protein(30, name="one")]
    cropped = predictions(shorter, [*SCORES[:-1], np.zeros(n_pairs(30))])
    for other in (fewer, cropped):
        with pytest.raises(PlmscaleError, match="of other examples"):
            differences_of(made, other, 10)


def test_a_baseline_is_compared_without_the_points_of_a_learning_curve():
    curve = predictions()
    both = Predictions(pa.concat_tables([predictions(size=5).table, curve.table]), {})
    with pytest.raises(PlmscaleError, match="of other examples"):
        differences_of(both, Predictions(curve.table, {"model": {"kind": "mlm"}}), 10)
    made = differences_of(both, Predictions(curve.table, {"model": None}), 10)
    assert {m.group for m in made} == {""} and all(m.value == 0 for m in made)


def test_a_baseline_is_cropped_as_the_model_is():
    whole = [random_protein(RNG, length, name=f"p{length}") for length in (40, 50, 60)]
    short = proteins([example(p, "test") for p in whole], [max(0, len(p) - 45) for p in whole])
    baseline = [RNG.standard_normal((60, 60)) for _ in whole]
    model = [RNG.standard_normal((60, 60)) for _ in whole]

    def of(found, scores, **about):
        rows = [s[pair_index(len(p.resolved))] for p, s in zip(found, scores)]
        return Predictions(predictions(found, rows).table, about)

    first = of(short, model, model={"kind": "mlm"})
    made = differences_of(first, of(whole, baseline, model=None), 50)
    # The same baseline made of the crops, taken for another model: then nothing is cropped.
    expected = differences_of(first, of(short, baseline, model={"kind": "mlm"}), 50)
    assert made == expected and any(m.value for m in made)


def test_the_file_gives_back_what_was_written(tmp_path):
    made = predictions()
    made.write(tmp_path / "p.parquet")
    read = Predictions.read(tmp_path / "p.parquet")
    for p, scores, row in zip(SOME, SCORES, record.records(read), strict=True):
        assert (row.id, row.split, row.train_size, row.uncropped) == (p.id, "test", 9, len(p))
        assert np.array_equal(row.scores, scores.astype(np.float16))
        assert np.array_equal(row.contacts, p.contacts)
        assert np.array_equal(row.resolved, p.resolved)
    assert metrics_of(read, "zero", 50) == metrics_of(made, "zero", 50)


def test_scores_that_are_no_numbers_are_refused():
    bad = SCORES[5].copy()
    bad[3] = np.nan
    with pytest.raises(PlmscaleError, match="p31: scores hold NaN"):
        predictions([SOME[5]], [bad])


def test_files_of_another_form_are_refused():
    made = predictions()
    with pytest.raises(PlmscaleError, match="lack the column resolved"):
        metrics_of(Predictions(made.table.drop_columns(["resolved"]), {}), "zero", 10)
    at = made.table.column_names.index("prediction")
    empty = pa.array([[]] * len(SOME), pa.list_(pa.float16()))
    with pytest.raises(PlmscaleError, match="p7: 0 scores, expected 1 of 7"):
        metrics_of(Predictions(made.table.set_column(at, "prediction", empty), {}), "zero", 10)
    with pytest.raises(PlmscaleError, match="no protein"):
        metrics_of(Predictions(made.table.slice(0, 0), {}), "zero", 10)


def test_long_proteins_are_cropped_to_their_first_residues():
    example = Example("long", "ACDEFGHIKL" * 3, "test", np.array([(0, 8), (5, 19), (5, 20), (21, 29)]),
                      extra={"resolved": np.arange(30) != 4})  # fmt: skip
    (p,) = proteins([example], [10])
    assert (p.sequence, p.uncropped, len(p)) == ("ACDEFGHIKL" * 2, 30, 20)
    assert p.contacts.tolist() == [[0, 8], [5, 19]]
    assert p.resolved.tolist() == [k != 4 for k in range(20)]
    assert proteins([example], [0])[0].sequence == example.sequence


def test_data_that_do_not_fit_are_told():
    def one(target, resolved=None):
        extra = {} if resolved is None else {"resolved": resolved}
        return [Example("x", "A" * 10, "test", target, extra=extra)]

    for wrong in ([(0, 10)], [(5, 5)], [(7, 3)], [(-1, 7)]):
        with pytest.raises(PlmscaleError, match=r"x: contact .* is not a pair i < j"):
            proteins(one(wrong), [0])
    with pytest.raises(PlmscaleError, match="mask of 9 residues for a sequence of 10"):
        proteins(one([(0, 9)], np.ones(9, bool)), [0])
    # Without a mask all is resolved; without contacts there is nothing to find.
    (whole,) = proteins(one([]), [0])
    assert whole.resolved.all() and whole.contacts.shape == (0, 2)
    assert [p.id for p in with_structure(SOME)] == [p.id for p in SOME if known(p.resolved).any()]
    assert "dark" not in [p.id for p in with_structure(SOME)]
