"""The supervised tasks on the small real data: measured numbers come out.

The bands were measured elsewhere, by other programs on the same data (the issue's facts); where ours
differ by more than chance it is said.
"""

import numpy as np
import pytest
import torch
from downstream_data_example import SMALL
from scipy.stats import spearmanr
from unirep_example import UniRepAdapter

from plmscale.downstream import registry, tasks
from plmscale.downstream.probe import Moments
from plmscale.downstream.store import Store

ALL = {"max_train": 0, "max_valid": 0, "max_test": 0}
LEVELS = ("fold", "superfamily", "family")
pytestmark = pytest.mark.skipif(not SMALL.is_dir(), reason=f"no small real data at {SMALL}")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source():
    """Return the data of a task, read once."""
    read = {}

    def of(name):
        if name not in read:
            read[name] = registry.data(name, "small", SMALL)
        return read[name]

    return of


def values(name, data, method, model=None, seed=0, store=None, **options):
    """Return the metrics' values by group, metric and definition."""
    task = tasks.task(name)
    made = task.predict(data, model, method, seed, task.options(**options), store)
    found = task.score(made, task.options(replicates=2))
    return {(m.group, m.metric, m.definition): m.value for m in found}


def accuracies(found):
    return [found[level, "accuracy", "all domains"] for level in LEVELS]


def parts_of(found):
    words = ("all variants", "variants without stop", "bright: log brightness >= 2.5",
             "dark: log brightness < 2.5")  # fmt: skip
    return [found["", "spearman", word] for word in words]


@pytest.mark.parametrize(
    "baseline, measured",
    [("composition", (0.038, 0.074, 0.167)), ("dipeptides", (0.059, 0.074, 0.201))],
)
def test_fold_from_composition(source, baseline, measured):
    found = values("fold", source("fold"), f"baseline:{baseline}", **ALL)
    # One more or less of 372, 649 or 359 domains is 0.003.
    assert accuracies(found) == pytest.approx(measured, abs=0.006)


@pytest.mark.bands
def test_fold_of_the_most_similar_domain(source):
    found = values("fold", source("fold"), "baseline:top-hit", **ALL)
    assert accuracies(found) == pytest.approx((0.013, 0.119, 0.677), abs=0.012)


@pytest.mark.bands
def test_brightness_from_one_hot_letters(source):
    gfp = source("fluorescence")
    minus = values("fluorescence", gfp, "baseline:mutations", **ALL)
    assert parts_of(minus)[0] == pytest.approx(0.340, abs=0.001)
    found = values("fluorescence", gfp, "baseline:one-hot", **ALL)
    assert parts_of(found) == pytest.approx((0.680, 0.695, 0.684, 0.049), abs=0.01)


@pytest.mark.bands
def test_brightness_from_few_variants(source):
    # Measured: 0.664, of one draw of 1,500 rows and an unknown part of the test set. Ours: 0.638 to
    # 0.647 over three draws; no penalty gives more than 0.647.
    gfp = source("fluorescence")
    options = {**ALL, "max_train": 1500}
    found = [
        parts_of(values("fluorescence", gfp, "baseline:one-hot", seed=seed, **options))[0]
        for seed in range(2)
    ]
    assert found == pytest.approx([0.65, 0.65], abs=0.02)
    assert found[0] != found[1]


@pytest.mark.bands
def test_structure_from_letters(source):
    flip = source("secondary_structure")
    micro = ("", "accuracy", "Q3, micro: over residues")
    # Helix is the most frequent in training (0.3868, coil 0.3861), coil in the test set: 0.386.
    found = values("secondary_structure", flip, "baseline:majority", **ALL)
    assert found[micro] == pytest.approx(0.386, abs=0.003)
    # Measured: 0.576, which is what some 15 training proteins give; all of them give more.
    found = values("secondary_structure", flip, "baseline:window", **ALL)
    assert found[micro] == pytest.approx(0.624, abs=0.003)
    few = [
        values("secondary_structure", flip, "baseline:window", seed=s, **{**ALL, "max_train": 15})
        for s in range(4)
    ]
    assert np.mean([one[micro] for one in few]) == pytest.approx(0.576, abs=0.02)


@pytest.mark.bands
@pytest.mark.parametrize(
    "seed, measured",
    [(None, (0.081, 0.129, 0.284)), (1, (0.038, 0.085, 0.184))],
    ids=["trained", "random"],
)
def test_fold_from_unirep(source, seed, measured):
    """Ridge on UniRep's means as measured; the task's logistic regression finds more in them."""
    model, data, store = UniRepAdapter(64, seed), source("fold"), Store()

    def means(split):
        return store.means(model, [e.sequence[:1024] for e in data.split(split)])

    classes, numbers = np.unique([e.target for e in data.split("train")], return_inverse=True)
    sums = Moments()
    sums.add(means("train"), np.eye(len(classes))[numbers])
    (readout,) = sums.path([10.0])
    test = data.split("test")
    told = classes[readout(means("test")).argmax(axis=1)]
    right = [np.mean([t == e.target for t, e in zip(told, test) if e.group == g]) for g in LEVELS]
    # A standard error is 0.013 to 0.024, and the penalty of the measured ones is not known.
    assert right == pytest.approx(measured, abs=0.03)
    if seed is None:
        probe = values("fold", data, "probe", model, store=store, **ALL)
        assert all(more > known for more, known in zip(accuracies(probe), measured))
        assert accuracies(probe) == pytest.approx((0.110, 0.160, 0.340), abs=0.02)


@pytest.mark.bands
def test_brightness_from_unirep():
    data = registry.data("fluorescence", "small", SMALL, limit=1500)
    task, model = tasks.task("fluorescence"), UniRepAdapter(64)
    made = task.predict(data, model, "probe", 0, task.options(**ALL))
    target, told = (made.table[name].to_numpy() for name in ("target", "prediction"))
    # 1,500 variants of the test set: a standard error of 0.02.
    assert spearmanr(target, told).statistic == pytest.approx(0.457, abs=0.04)
