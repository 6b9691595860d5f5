"""Readouts against scikit-learn."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from plmscale.downstream.probe import Moments, logistic, ridge
from plmscale.errors import PlmscaleError

RNG = np.random.default_rng(6)


@pytest.fixture(autouse=True)
def _same_numbers():
    """Each test draws the same, whichever others run."""
    RNG.bit_generator.state = np.random.default_rng(6).bit_generator.state


SPREAD = np.array([0.01, 1, 3, 100, 1, 5, 0.2])
SLOPE = np.random.default_rng(0).normal(size=(7, 2))


def regression(n=90, noise=2.0):
    x = RNG.normal(size=(n, 7)) * SPREAD + 5
    y = x / SPREAD @ SLOPE + noise * RNG.normal(size=(n, 2))
    return x, y


def of_sklearn(x, y, penalty):
    scaler = StandardScaler().fit(x)
    model = Ridge(alpha=penalty).fit(scaler.transform(x), y)
    return lambda new: model.predict(scaler.transform(new))


@pytest.mark.parametrize("penalty", [0.1, 30.0, 1e4])
def test_ridge_is_that_of_scikit_learn(penalty):
    (x, y), (new, _) = regression(), regression(20)
    sums = Moments()
    sums.add(x, y)
    (readout,) = sums.path([penalty])
    assert np.allclose(readout(new), of_sklearn(x, y, penalty)(new), rtol=1e-8)


def test_ridge_of_more_columns_than_rows():
    x, y = RNG.normal(size=(15, 40)), RNG.normal(size=(15, 1))
    sums = Moments()
    sums.add(x, y)
    (readout,) = sums.path([2.0])
    assert np.allclose(readout(x)[:, 0], of_sklearn(x, y[:, 0], 2.0)(x), rtol=1e-6)


def test_strength_is_the_best_in_validation():
    (x, y), (new, truth) = regression(25, noise=4), regression(40, noise=4)
    penalties = [0.01, 1, 10, 100, 1e3, 1e5]
    errors = [((of_sklearn(x, y, p)(new) - truth) ** 2).mean() for p in penalties]
    readout = ridge([(x, y)], [(new, truth)], penalties)
    assert readout.penalty == penalties[int(np.argmin(errors))]
    assert readout.valid_loss == pytest.approx(min(errors))
    assert penalties[0] < readout.penalty < penalties[-1]


def test_blocks_are_one_matrix():
    (x, y), (new, truth) = regression(), regression(30)
    whole = ridge([(x, y)], [(new, truth)])
    cut = ridge([(x[:50], y[:50]), (x[50:], y[50:])], [(new[:1], truth[:1]), (new[1:], truth[1:])])
    assert whole.penalty == cut.penalty
    assert np.allclose(whole(new), cut(new), rtol=1e-9)
    assert whole.valid_loss == pytest.approx(cut.valid_loss)


def test_sparse_rows_are_dense_rows():
    x = (RNG.random((80, 12)) < 0.2).astype(float)
    x[:, 3] = 1  # a column that never varies
    y = RNG.normal(size=(80, 1))
    for standardise in (True, False):
        dense = ridge([(x, y)], [(x, y)], [1.0], standardise)
        rare = ridge([(sparse.csr_matrix(x), y)], [(sparse.csr_matrix(x), y)], [1.0], standardise)
        assert np.allclose(dense(x), rare(sparse.csr_matrix(x)))
        assert rare.weight[3] == 0
    plain = Ridge(alpha=1.0).fit(x, y[:, 0])
    assert np.allclose(dense(x)[:, 0], plain.predict(x))


def test_states_far_from_zero_keep_their_digits():
    # Networks have coordinates whose mean is a thousand times their spread; states are float32.
    x = (RNG.normal(size=(500, 7)) + 1e3).astype(np.float32)
    y = (x[:, :1] - 1e3).astype(np.float64)
    readout = ridge([(x[:300], y[:300]), (x[300:], y[300:])], [(x, y)], [1e-3])
    assert np.abs(readout(x) - y).max() < 1e-3


def test_a_constant_column_is_left_out_even_if_rounded():
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    x[:, 1] = np.float32(0.1) * np.float32(3) + np.float32(1e-8) * RNG.integers(0, 2, 50)
    readout = ridge([(x, x[:, :1].astype(float))], [(x, x[:, :1].astype(float))])
    assert readout.weight[1, 0] == 0


def classes(n, k=4, spread=1.5):
    y = np.arange(n) % k
    centres = np.random.default_rng(1).normal(size=(k, 6)) * spread
    return centres[y] + RNG.normal(size=(n, 6)) * 2, y


@pytest.mark.parametrize("k", [2, 4])
def test_logistic_is_that_of_scikit_learn(k):
    (x, y), (new, truth) = classes(120, k), classes(80, k)
    penalties = [1000.0, 100.0, 10.0, 1.0, 0.1]
    scaler = StandardScaler().fit(x)
    losses, models = {}, {}
    for penalty in penalties:
        model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000)
        models[penalty] = model.fit(scaler.transform(x), y)
        losses[penalty] = log_loss(truth, model.predict_proba(scaler.transform(new)))
    readout, notes = logistic(x, y, new, truth, penalties)
    best = min(losses, key=losses.get)
    assert readout.penalty == best and notes == []
    assert readout.valid_loss == pytest.approx(losses[best], rel=1e-3)
    scores = readout(new)
    odds = np.exp(scores - scores.max(1, keepdims=True))
    expected = models[best].predict_proba(scaler.transform(new))
    assert np.allclose(odds / odds.sum(1, keepdims=True), expected, atol=0.01)


def test_logistic_tells_when_it_did_not_converge(monkeypatch):
    from plmscale.downstream import probe

    monkeypatch.setattr(probe, "_MAX_ITERATIONS", 2)
    (x, y), (new, truth) = classes(120), classes(40)
    _, notes = logistic(x, y, new, truth, [1e-3])
    assert notes == ["logistic: not converged after 2 iterations"]


def test_bad_input():
    x, y = regression()
    x[3, 2] = np.nan
    with pytest.raises(PlmscaleError, match="NaN or infinity"):
        ridge([(x, y)], [(x, y)])
    with pytest.raises(PlmscaleError, match="NaN or infinity"):
        logistic(x, np.arange(90) % 2, x, np.arange(90) % 2)
    good, _ = regression()
    with pytest.raises(PlmscaleError, match="two classes"):
        logistic(good, np.zeros(90, int), good, np.zeros(90, int))
