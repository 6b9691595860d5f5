"""Contacts from attention maps: the correction, the regression, and planted maps."""

import numpy as np
import pytest
import torch
from contacts_example import Planted, protein, random_protein
from sklearn.linear_model import LogisticRegression

from plmscale.downstream.base import Predictions
from plmscale.downstream.contacts import attention, record, sparse_logistic
from plmscale.downstream.contacts.pairs import known, labels, n_pairs, pair_index
from plmscale.downstream.tasks import contacts
from plmscale.errors import PlmscaleError

RNG = np.random.default_rng(8)
# Lengths differ, so that batches have padding.
SOME = [random_protein(RNG, n, rate=0.05, name=f"p{n}") for n in (45, 30, 61, 52, 33, 40)]


def test_apc_takes_off_what_rows_and_columns_explain():
    maps = torch.from_numpy(RNG.random((3, 9, 9)))
    found = attention.corrected(maps).numpy()
    for raw, done in zip(maps.numpy(), found):
        both = raw + raw.T
        expected = [
            [both[i, j] - both[i].sum() * both[:, j].sum() / both.sum() for j in range(9)]
            for i in range(9)
        ]
        assert np.allclose(done, expected)
        assert np.allclose(done, done.T) and np.allclose(done.sum(0), 0)
    # Independent rows and columns leave nothing.
    flat = torch.outer(*torch.rand(2, 9, dtype=torch.float64))
    assert attention.corrected((flat + flat.T)[None] * 0 + 2.0).abs().max() < 1e-12


def test_a_map_that_is_empty_stays_empty():
    assert torch.equal(attention.corrected(torch.zeros(2, 5, 5)), torch.zeros(2, 5, 5))


def test_a_causal_map_gives_each_pair_its_one_value():
    lower = torch.rand(1, 8, 8).tril()
    full = lower + lower.transpose(1, 2) - torch.diag_embed(lower.diagonal(0, 1, 2))
    # The same map as of a model that looks both ways with half the weight, diagonal aside.
    half = full / 2 + torch.diag_embed(lower.diagonal(0, 1, 2)) / 2
    assert torch.allclose(attention.corrected(lower), attention.corrected(half), atol=1e-6)


@pytest.mark.parametrize("c", [0.002, 0.02, 1.0])
def test_the_regression_is_scikit_learns(c):
    """Against liblinear; a large constant column makes its penalty of the intercept small."""
    x = RNG.standard_normal((6000, 12)).astype(np.float32) * np.geomspace(0.02, 1, 12)
    x = x.astype(np.float32)
    weights = np.where(np.arange(12) % 2, 0.0, 1.5)
    y = RNG.random(6000) < 1 / (1 + np.exp(-(x @ weights - 2)))
    found, intercept = sparse_logistic.fit(torch.from_numpy(x), torch.from_numpy(y), c)
    reference = LogisticRegression(
        l1_ratio=1, C=c, solver="liblinear", intercept_scaling=1e3, tol=1e-8, max_iter=5000
    ).fit(x, y)
    assert np.allclose(found, reference.coef_[0], atol=2e-3 * np.abs(reference.coef_).max())
    assert np.array_equal(found != 0, reference.coef_[0] != 0)
    assert intercept == pytest.approx(reference.intercept_[0], abs=2e-3)
    if c < 0.01:
        assert (found == 0).sum() > 3


def test_the_regression_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        sparse_logistic.fit(torch.zeros(5, 2), torch.zeros(5, dtype=torch.bool), 1.0)


def test_equal_and_empty_columns_do_no_harm():
    x = RNG.standard_normal((3000, 1)).astype(np.float32)
    y = torch.from_numpy(RNG.random(3000) < 1 / (1 + np.exp(-x[:, 0])))
    one, b = sparse_logistic.fit(torch.from_numpy(x), y, 1.0)
    wide = np.concatenate([x, x, 0 * x], 1)
    more, b2 = sparse_logistic.fit(torch.from_numpy(wide), y, 1.0)
    assert more[:2].sum() == pytest.approx(one[0], rel=1e-3) and more[2] == 0
    assert b2 == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize("causal", [False, True], ids=["mlm", "clm"])
def test_a_head_that_looks_at_contacts_is_found(causal):
    model = Planted(SOME, causal)
    readout = attention.fit(model, SOME[:3], 20)
    assert readout.weights[1] > 10 * abs(readout.weights[0])
    test = SOME[3:]
    made = Predictions(record.table(attention.scores(model, readout, test), 3), {})
    # In each protein the highest scores are the contacts, all of them.
    for row in record.records(made):
        touching = labels(row.contacts, len(row.resolved))
        assert touching.sum() > 5
        assert row.scores[touching].min() > row.scores[~touching].max()
    found = [m.value for m in contacts.score(made, contacts.Options()) if m.primary]
    assert found[:2] == [1.0, 1.0]  # beyond 24 there are fewer contacts than places


def test_scores_are_the_regression_on_the_corrected_maps():
    """Weighing maps and then taking pairs is what the regression does pair by pair."""
    model = Planted(SOME[:1])
    (p,) = SOME[:1]
    readout = attention.Readout(np.array([0.7, -1.3]), -2.0)
    ((_, found),) = attention.scores(model, readout, [p])
    maps = model.attentions(model.encode([p.sequence]))[0][:, 1:-1, 1:-1]
    i, j = pair_index(len(p))
    columns = attention.corrected(maps)[:, i, j].numpy()
    assert np.allclose(found, readout.weights @ columns - 2.0, atol=1e-5)


def test_batches_do_not_matter(monkeypatch):
    """One protein a batch gives what many give."""
    model = Planted(SOME)
    together = attention.fit(model, SOME, 1.0)
    first = {p.id: s for p, s in attention.scores(model, together, SOME)}
    # The noise map differs from batch to batch; the planted one does not.
    readout = attention.Readout(np.array([0.0, 1.0]), 0.0)
    many = {p.id: s for p, s in attention.scores(model, readout, SOME)}
    monkeypatch.setattr(attention, "_BATCH_ENTRIES", {"cpu": 1, "cuda": 1})
    sizes = [len(batch) for batch in attention._batches(model, SOME)]
    assert sizes == [1] * len(SOME)
    alone = {p.id: s for p, s in attention.scores(model, readout, SOME)}
    assert set(first) == set(many) == set(alone)
    for p in SOME:
        touching = labels(p.contacts, len(p))
        assert many[p.id].shape == (n_pairs(len(p)),)
        assert np.corrcoef(many[p.id], alone[p.id])[0, 1] > 0.9
        assert many[p.id][touching].min() > alone[p.id][~touching].max()


def test_only_resolved_pairs_are_learnt_from():
    """Contacts of residues without coordinates are no contacts to learn from."""
    p = SOME[0]
    dark = protein(len(p), p.contacts, range(len(p)), name="dark")
    with pytest.raises(PlmscaleError, match="no contact"):
        attention.fit(Planted([dark]), [dark], 0.15)
    assert known(p.resolved).any()


def test_what_cannot_be_used_is_told():
    model = Planted(SOME, wrong=float("nan"))
    with pytest.raises(PlmscaleError, match="planted: its attention maps hold NaN"):
        attention.fit(model, SOME, 0.15)
    readout = attention.Readout(np.array([1.0, 1.0]), 0.0)
    with pytest.raises(PlmscaleError, match="planted: its attention maps hold NaN"):
        list(attention.scores(model, readout, SOME))
    pieces = Planted(SOME)
    pieces.letterwise = False
    with pytest.raises(PlmscaleError, match="use the method probe or lora"):
        attention.fit(pieces, SOME, 0.15)
