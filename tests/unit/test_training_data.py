"""Samples, masks, shards and schedule: all pure functions of a recipe."""

import itertools
from collections import Counter

import numpy as np
import pytest
from training_fixtures import laid_out, make_corpus, make_recipe

from plmscale.corpus.alphabet import BOS, EOS, MASK
from plmscale.errors import PlmscaleError
from plmscale.schedule import evaluation_steps, learning_rate
from plmscale.training.data import NO_SAMPLE, training_samples, validation_samples
from plmscale.training.mixture import Mixture
from plmscale.training.objectives import IGNORED, causal_targets, masked


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("weights", [[1.0], [0.3, 0.7], [0.085, 0.195, 0.195, 0.525]])
def test_mixture_counts_are_exact_at_every_prefix(weights):
    mixture = Mixture({f"s{i}": w for i, w in enumerate(weights)})
    seen = Counter()
    for sample in range(2000):
        source, index = mixture.locate(sample)
        assert index == seen[source], "indices of a source run on without a gap"
        seen[source] += 1
        assert mixture.count(sample + 1) == {s: seen[s] for s in mixture.sources}
        for i, weight in enumerate(weights):
            assert abs(seen[f"s{i}"] - weight * (sample + 1)) < len(weights)


def test_mixture_stays_exact_far_out():
    mixture = Mixture({"a": 0.3, "b": 0.7})
    far = 10**15
    source, index = mixture.locate(far)
    assert mixture.count(far)[source] == index
    assert mixture.count(far)["a"] == far * mixture.weights[0] // 2**32


def test_an_epoch_holds_every_protein_once(corpus):
    samples = training_samples(corpus, make_recipe())
    rows = samples.rows["curated"]
    for epoch in range(2):
        first = epoch * rows.rows_per_epoch
        stream = np.concatenate([rows.row(first + k) for k in range(rows.rows_per_epoch)])
        ends = np.flatnonzero(stream == EOS)
        starts = np.flatnonzero(stream == BOS)
        found = Counter(stream[s + 1 : e].tobytes() for s, e in zip(starts, ends))
        there = Counter(rows.proteins.residues(i).tobytes() for i in range(len(rows.proteins)))
        assert rows.tokens_per_epoch - len(stream) < rows.context
        assert not found - there
        assert sum((there - found).values()) <= 3, "only the dropped last row's proteins miss"


def test_epochs_and_seeds_are_ordered_differently(corpus):
    rows = training_samples(corpus, make_recipe()).rows["curated"]
    other = training_samples(corpus, make_recipe(data_seed=1)).rows["curated"]
    assert not np.array_equal(rows.row(0), rows.row(rows.rows_per_epoch))
    assert not np.array_equal(rows.row(0), other.row(0))


def test_a_row_can_be_had_without_those_before(corpus):
    one, two = (training_samples(corpus, make_recipe()) for _ in range(2))
    forward = [one.row(k) for k in range(400)]
    for k in reversed(range(400)):
        assert np.array_equal(two.row(k), forward[k])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_batch_is_the_same_at_any_number_of_ranks(world):
    plans = [laid_out(64, 1024, rank, world) for rank in range(world)]
    rows = sorted(n for plan in plans for n in plan.samples(3, 64))
    assert rows == list(range(128, 192))
    assert {p.micro_rows * p.accumulation * world for p in plans} == {64}


def test_ranks_that_do_not_divide_a_batch_get_padding(corpus):
    plans = [laid_out(8, 64, rank, 3) for rank in range(3)]
    rows = [n for plan in plans for n in plan.samples(2, 8)]
    assert sorted(n for n in rows if n != NO_SAMPLE) == list(range(8, 16))
    assert rows.count(NO_SAMPLE) == len(rows) - 8 > 0
    samples = training_samples(corpus, make_recipe(batch_rows=8))
    last = plans[2].samples(2, 8)
    made = samples.batch(last)
    assert last[-1] == NO_SAMPLE and not made[-1].any()
    assert np.array_equal(made[0], samples.row(last[0]))


def test_causal_targets_stop_at_each_protein():
    rows = np.array([[7, EOS, BOS, 8, 9, EOS, 0, 0]], np.uint8)
    expected = [EOS, IGNORED, 8, 9, EOS, IGNORED, IGNORED, IGNORED]
    assert causal_targets(rows).tolist() == [expected]


def test_masks_follow_80_10_10_and_spare_special_tokens():
    rng = np.random.default_rng(0)
    rows = rng.integers(4, 29, (400, 256)).astype(np.uint8)
    rows[:, ::50] = EOS
    rows[:, 1::50] = BOS
    inputs, targets = masked(rows, list(range(400)), seed=5, ratio=0.15)
    chosen = targets != IGNORED
    residues = rows >= 4
    assert not (chosen & ~residues).any()
    assert chosen.sum() / residues.sum() == pytest.approx(0.15, abs=0.004)
    assert np.array_equal(targets[chosen], rows[chosen])
    assert np.array_equal(inputs[~chosen], rows[~chosen])
    share = (inputs[chosen] == MASK).mean()
    assert share == pytest.approx(0.8, abs=0.012)
    replaced = chosen & (inputs != MASK) & (inputs != rows)
    # A random letter equals the old one in about one case of 25.
    assert replaced.sum() / chosen.sum() == pytest.approx(0.1 * 24 / 25, abs=0.01)
    letters = np.bincount(inputs[replaced], minlength=32)
    assert letters[4:24].min() > 0 and letters[24:].sum() == 0


def test_masks_depend_on_seed_and_sample_alone():
    rows = np.full((4, 64), 9, np.uint8)
    inputs, _ = masked(rows, [10, 11, 12, 13], seed=5, ratio=0.15)
    alone, _ = masked(rows[:1], [12], seed=5, ratio=0.15)
    other, _ = masked(rows[:1], [12], seed=6, ratio=0.15)
    assert np.array_equal(inputs[2], alone[0])
    assert not np.array_equal(inputs[2], inputs[1])
    assert not np.array_equal(alone, other)


def test_validation_rows_ignore_what_training_changes(corpus):
    one = validation_samples(corpus, make_recipe())
    two = validation_samples(corpus, make_recipe(data_seed=3, seed=8, objective="mlm", steps=7))
    assert np.array_equal(one.batch(list(range(16))), two.batch(list(range(16))))


def test_too_many_validation_rows_are_refused(corpus):
    recipe = make_recipe(
        validation={"rows": 100_000, "evaluations": 1, "curve_rows": 16, "seed": 7}
    )
    with pytest.raises(PlmscaleError, match=r"validation\.rows: .* ask for at most \d+ rows"):
        validation_samples(corpus, recipe)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b"\x05" + p.read_bytes()[1:]), "shard is corrupt"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "shard is corrupt"),
        (lambda p: p.unlink(), "shard is missing"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, damage, message):
    corpus = make_corpus(tmp_path)
    shard = corpus / "shards/diverse.train.00001.bin"
    damage(shard)
    with pytest.raises(PlmscaleError, match=f"diverse.train.00001.bin: {message}"):
        training_samples(corpus, make_recipe())


def test_another_corpus_is_refused(corpus):
    recipe = make_recipe()
    recipe["corpus"]["key"] = "other"
    with pytest.raises(PlmscaleError, match="the corpus has key 'test', the recipe asks for"):
        training_samples(corpus, recipe)


def test_schedule_points():
    """Peak after 2.5 % of the run, a tenth of it at the last step, half way in between."""
    schedule = {"name": "cosine", "warmup_fraction": 0.025, "final_fraction": 0.1}
    rate = [learning_rate(step, 1000, 1e-3, schedule) for step in range(1, 1001)]
    assert rate[0] == pytest.approx(1e-3 / 25)
    assert max(rate) == rate[24] == 1e-3
    assert rate[-1] == pytest.approx(1e-4)
    assert learning_rate(25 + 488, 1000, 1e-3, schedule) == pytest.approx(5.5e-4, rel=2e-3)
    assert all(a > b for a, b in itertools.pairwise(rate[24:]))
    assert learning_rate(1, 1, 1e-3, schedule) == 1e-3


def test_evaluations_end_with_the_last_step():
    assert evaluation_steps(100, 4) == [25, 50, 75, 100]
    assert evaluation_steps(3, 10) == [1, 2, 3]
    assert evaluation_steps(600, 1) == [600]
