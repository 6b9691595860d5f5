"""Metrics of constructed predictors of the supervised tasks, and differences of two."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score
from supervised_example import MADE, predict, predictions, scores, small_run

from plmscale.downstream import tasks
from plmscale.downstream.base import Predictions
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


def test_fold_scores_of_constructed_predictors():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 6, 300)
    group = rng.choice(["fold", "superfamily", "family"], 300)
    wrong = (target + 1) % 6
    for guess in (target, wrong, rng.integers(-1, 8, 300)):
        columns = {"target": target, "prediction": guess, "group": group, "trained": target < 5}
        found = scores("fold", predictions(columns))
        for level in ("", "fold", "superfamily", "family"):
            at = (group == level) | (level == "")
            got = found[level, "accuracy", "all domains"]
            assert got.value == pytest.approx(accuracy_score(target[at], guess[at]))
            assert (got.n, got.primary) == (at.sum(), True)
            own = at & (target < 5)
            got = found[level, "accuracy", "domains of classes in training"]
            assert got.value == pytest.approx(accuracy_score(target[own], guess[own]))
            assert got.n == own.sum()
            labels = np.unique(np.concatenate([target[at], guess[at][guess[at] >= 0]]))
            got = found[level, "macro_f1", "classes in labels or predictions"].value
            known = {"average": "macro", "zero_division": 0}
            assert got == pytest.approx(f1_score(target[at], guess[at], labels=labels, **known))
    assert found["", "accuracy", "all domains"].ci95[0] < 1 / 7 < 0.25


def test_fluorescence_scores_of_constructed_predictors():
    rng = np.random.default_rng(1)
    bright = rng.random(400) < 0.4
    target = np.where(bright, rng.normal(3.6, 0.2, 400), rng.normal(1.3, 0.05, 400))
    stop = ~bright & (rng.random(400) < 0.2)
    # Knows which variants are bright and nothing else: ranks well over all, not within a mode.
    modes = np.where(bright, 1.0, 0.0) + 0.1 * rng.random(400)
    for guess in (target, -target, rng.normal(size=400), modes):
        made = predictions({"target": target, "prediction": guess, "stop": stop})
        found = {key[2]: m for key, m in scores("fluorescence", made).items()}
        for words, at in (
            ("all variants", bright | ~bright),
            ("variants without stop", ~stop),
            ("bright: log brightness >= 2.5", bright),
            ("dark: log brightness < 2.5", ~bright),
        ):
            expected = spearmanr(target[at], guess[at]).statistic
            assert found[words].value == pytest.approx(expected)
            assert found[words].n == at.sum()
            low, high = found[words].ci95
            assert low - 1e-9 <= expected <= high + 1e-9
    assert found["all variants"].value > 0.7
    assert abs(found["bright: log brightness >= 2.5"].value) < 0.25
    other = scores("fluorescence", made, bright_from=3.6)
    assert other["", "spearman", "bright: log brightness >= 3.6"].n == (target >= 3.6).sum()


def test_structure_scores_of_constructed_predictors():
    rng = np.random.default_rng(2)
    lengths = rng.integers(5, 60, 40)
    target = ["".join(rng.choice(list("HEC"), n)) for n in lengths]
    resolved = [rng.random(n) < 0.8 for n in lengths]
    worst = [t.translate(str.maketrans("HEC", "ECH")) for t in target]
    some = ["".join(rng.choice(list("HEC"), n)) for n in lengths]
    for guess in (target, worst, some):
        columns = {
            "target": target,
            "prediction": guess,
            "resolved": [r.tolist() for r in resolved],
        }
        found = scores("secondary_structure", predictions(columns))
        pairs = [
            (np.array(list(t))[r], np.array(list(g))[r]) for t, g, r in zip(target, guess, resolved)
        ]
        true, told = (np.concatenate(part) for part in zip(*pairs))
        micro = found["", "accuracy", "Q3, micro: over residues"]
        assert micro.value == pytest.approx(accuracy_score(true, told))
        assert (micro.n, micro.primary) == (len(true), True)
        macro = found["", "accuracy", "Q3, macro: mean over proteins"]
        assert macro.value == pytest.approx(np.mean([(t == g).mean() for t, g in pairs]))
        assert macro.n == 40
        f1 = found["", "macro_f1", "over the three states, of all residues"]
        assert f1.value == pytest.approx(f1_score(true, told, average="macro", zero_division=0))
        # What is not resolved does not count, whatever is said of it.
        masked = ["".join(c if r else "H" for c, r in zip(g, m)) for g, m in zip(guess, resolved)]
        again = scores("secondary_structure", predictions({**columns, "prediction": masked}))
        assert again["", "accuracy", "Q3, micro: over residues"].value == micro.value
    assert micro.value == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("name", MADE)
def test_a_model_less_itself_is_nothing(name, model):
    task, made = tasks.task(name), predict(name, "probe", model)
    found = list(task.differences(made, made, task.options(replicates=50)))
    assert len(found) == len(scores(name, made))
    assert all(metric.value == 0 and metric.ci95 == (0, 0) for metric in found)


def test_differences_are_those_of_the_values(model):
    task = tasks.task("fold")
    made, other = predict("fold", "probe", model), predict("fold", "baseline:majority")
    one, two = scores("fold", made), scores("fold", other)
    for metric in task.differences(made, other, task.options(replicates=50)):
        key = (metric.group, metric.metric, metric.definition)
        assert metric.value == pytest.approx(one[key].value - two[key].value)
    gain = metric  # the last one, of a level
    assert gain.ci95[0] <= gain.value <= gain.ci95[1]


def test_other_test_sets_cannot_be_compared(model):
    for name in MADE:
        task = tasks.task(name)
        made = predict(name, "probe", model)
        less = predict(name, "probe", model, max_test=4)
        ids = made.table["id"].to_pylist()
        column = made.table.column_names.index("id")
        named = made.table.set_column(column, "id", [["other", *ids[1:]]])
        for other in (less, Predictions(named, made.about)):
            with pytest.raises(PlmscaleError, match="of other examples; make both from the same"):
                task.differences(made, other, task.options(replicates=50))
