"""How much of a test set stands in the pre-training corpus: searched for real, by MMseqs2."""

import json

import numpy as np
import pandas as pd
import pytest
from heldout_example import mutated, protein, write_corpus

from plmscale.downstream import leakage, run
from plmscale.downstream.base import Data, Example
from plmscale.downstream.data.fluorescence import WILD_TYPE

RNG = np.random.default_rng(0)
KNOWN = [protein(RNG, 120) for _ in range(6)]
FAR = [protein(RNG, 120) for _ in range(2)]


def data(examples, task="fold"):
    return Data(task, "small", tuple(examples), "sha")


def example(name, sequence, group="", split="test", **extra):
    return Example(name, sequence, split, 0, group, extra)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    more = [protein(RNG, 100) for _ in range(20)]
    parts = {"a": {"train": KNOWN[:3] + more}, "b": {"train": KNOWN[3:] + more}}
    return write_corpus(tmp_path_factory.mktemp("corpus"), parts)


TEST = [
    example("copy", KNOWN[0], "near"),
    example("near", mutated(KNOWN[1], 12, RNG), "near"),
    example("other", KNOWN[3], "near"),
    example("half", mutated(KNOWN[2], 75, RNG), "far"),
    example("far", FAR[0], "far"),
    example("trained", KNOWN[5], split="train"),
]


def test_shares_are_of_test_proteins_by_group_and_of_what_each_mix_holds(corpus, tmp_path):
    mixes = [("a",), ("b", "a"), ("a",)]
    table, found = leakage.leakage(data(TEST), corpus, mixes, tmp_path)
    assert set(found) == {"a", "a+b"}
    # 0.9 identity and a copy; the relative at 0.375 is a hit, and no leak.
    near, far, whole = (found["a"][group] for group in ("near", "far", ""))
    assert near["leaked"] == pytest.approx(2 / 3) and near["n"] == 3
    assert far["leaked"] == 0 and far["hit"] == 0.5
    assert whole == {"n": 5, "leaked": 0.4, "hit": 0.6}
    assert found["a+b"]["near"]["leaked"] == 1 and found["a+b"][""]["leaked"] == 0.6
    # The training split is not searched; what was found is there to look at.
    assert KNOWN[5] not in set(table["sequence"]) and len(table) == 2 * 5
    own = table[(table["sources"] == "a") & (table["sequence"] == KNOWN[0])].iloc[0]
    assert own["identity"] == 1 and own["target"] == "a:0"


def test_of_variants_their_protein_is_searched_once():
    examples = [example(f"v{i}", mutated(KNOWN[0], 1, RNG), target_seq=KNOWN[0]) for i in range(5)]
    assert list(leakage.searched(data(examples, "fitness")).values()) == [KNOWN[0]]
    bright = [example(f"g{i}", mutated(WILD_TYPE, i + 4, RNG)) for i in range(3)]
    assert list(leakage.searched(data(bright, "fluorescence")).values()) == [WILD_TYPE]


def test_each_example_counts_however_often_a_sequence_stands_there(corpus, tmp_path):
    examples = [*(example(f"c{i}", KNOWN[0]) for i in range(3)), example("far", FAR[1])]
    _, found = leakage.leakage(data(examples), corpus, [("a",)], tmp_path)
    assert found["a"][""] == {"n": 4, "leaked": 0.75, "hit": 0.75}


def test_what_is_unknown_is_not_called_none():
    table = pd.DataFrame({"status": ["unknown"] * 5, "identity": np.nan})
    assert leakage.summary(data(TEST), table) == {}
    assert leakage.of_group({}, ("a",), "near") == {}
    assert leakage.of_group({"a": {}}, ("a",), "near") == {}
    assert leakage.of_group({"a+b": {"": {"leaked": 1.0}}}, ("b", "a"), "x") == {"leaked": 1.0}


def test_a_search_that_cannot_be_made_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(run.registry, "data", lambda *_: data(TEST))
    asked = run.Asked("fold", folder=tmp_path, corpus=tmp_path / "none")
    found = run.leaked(asked, [("a",)], tmp_path)
    assert found["summary"] == {} and "no corpus" in found["failures"][0]["reason"]
    found = run.leaked(run.Asked("fold", folder=tmp_path), [("a",)], tmp_path)
    assert "leakage is not known" in found["failures"][0]["reason"]
    assert json.loads((tmp_path / "failed/fold/leakage.json").read_text())["attempt"] == 2
