"""Perplexity: which proteins are drawn, what the controls are, models of known perplexity."""

from __future__ import annotations

import dataclasses
import gzip
import math
from collections import Counter

import heldout_example as example
import numpy as np
import pytest
import torch
from inference_fixtures import save_run, small_model, write_fasta

from plmscale.corpus.alphabet import STANDARD
from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.downstream import identity, models
from plmscale.downstream.base import Predictions
from plmscale.downstream.perplexity import proteins
from plmscale.downstream.tasks.perplexity import TASK, Options
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
RNG = np.random.default_rng(12)
NAN = math.nan
# (part, identity) of held-out proteins: all five bins, both ends of each.
VALID = [NAN] * 30 + [0.2, 0.29, 0.3, 0.49]
TEST = [0.5, 0.7, 0.899, 0.9, 1.0]
OPTIONS = Options(per_bin=8, controls_per_bin=3, masks=0, replicates=400)


def chains(count):
    return [example.protein(RNG, int(n)) for n in RNG.integers(20, 50, count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    parts = {"train": chains(20), "valid": chains(len(VALID)), "test": chains(len(TEST))}
    return example.write_corpus(
        tmp_path_factory.mktemp("corpus"),
        {"one": parts, "two": {"train": chains(3), "valid": chains(5)}},
        {"one": {"valid": VALID, "test": TEST}, "two": {"valid": [NAN] * 5, "test": []}},
    )


@pytest.fixture(scope="module")
def data(corpus):
    return TASK.data(corpus, OPTIONS)


def natural(data):
    return [e for e in data.examples if not e.extra["control"]]


def test_each_bin_has_its_share_and_stands_for_all_of_it(data):
    strata = Counter(e.extra["stratum"] for e in natural(data))
    expected = {"valid/no hit": 8, "valid/< 0.3": 2, "valid/0.3-0.5": 2}
    assert strata == expected | {"test/0.5-0.9": 3, "test/>= 0.9": 2}
    weights = {e.extra["stratum"]: e.extra["weight"] for e in natural(data)}
    # 30 of one source and 5 of the other have no hit.
    assert weights["valid/no hit"] == 35 / 8
    assert sum(e.extra["weight"] for e in natural(data)) == pytest.approx(34 + 5 + 5)
    assert all(e.extra["identity_known"] for e in natural(data))
    by_bin = {e.extra["identity"] for e in natural(data) if e.extra["stratum"] == "valid/0.3-0.5"}
    assert by_bin == {float(np.float32(0.3)), float(np.float32(0.49))}


def test_the_draw_follows_the_seed_and_nothing_else(corpus, data):
    def ids(made):
        return [e.id for e in made.examples]

    # As text: an identity that is NaN is not equal to itself.
    assert str(TASK.data(corpus, OPTIONS)) == str(data)
    assert ids(TASK.data(corpus, OPTIONS, seed=1)) != ids(data)
    assert len(natural(TASK.data(corpus, OPTIONS, limit=1))) == 5
    sized = TASK.data(corpus, Options(), "small")
    assert Counter(e.extra["stratum"] for e in natural(sized))["valid/no hit"] == 16


def test_a_model_of_one_source_sees_the_same_proteins_by_other_identities(
    corpus, data, monkeypatch
):
    asked = {}

    def nearest(sequences, folder, sources, cache, threads):
        asked.update(sequences=sequences, sources=sources)
        found = [0.95] * len(sequences)
        return identity.pd.DataFrame({"id": list(sequences), "identity": found})

    monkeypatch.setattr(identity, "nearest", nearest)
    other = TASK.data(corpus, OPTIONS, trained_on=("two",))
    assert [e.sequence for e in natural(other)] == [e.sequence for e in natural(data)]
    assert asked["sources"] == ("two",) and len(asked["sequences"]) == len(natural(data))
    assert {e.extra["identity"] for e in natural(other)} == {0.95}
    # All sources are named: nothing to search.
    asked.clear()
    both = TASK.data(corpus, OPTIONS, trained_on=("two", "one"))
    assert str(both) == str(data) and not asked


def test_a_corpus_without_recorded_identities_is_searched(tmp_path, monkeypatch):
    parts = {"train": chains(3), "valid": chains(60)}
    corpus = example.write_corpus(tmp_path, {"one": parts})
    monkeypatch.setattr(
        identity,
        "nearest",
        lambda wanted, *_: identity.pd.DataFrame(
            {"id": list(wanted), "identity": [0.4] * len(wanted)}
        ),
    )
    found = natural(TASK.data(corpus, OPTIONS))
    assert Counter(e.extra["stratum"] for e in found) == {"valid/all": 40}
    assert {(e.extra["weight"], e.extra["identity"]) for e in found} == {(1.5, 0.4)}


def test_controls_are_made_of_their_naturals(data):
    by_id = {e.id: e for e in natural(data)}
    for kind in ("shuffled", "unigram"):
        made = [e for e in data.examples if e.extra["control"] == kind]
        assert len(made) == 3 + 2 + 2 + 3 + 2
        for control in made:
            twin = by_id[control.extra["natural"]]
            assert len(control.sequence) == len(twin.sequence)
            assert control.sequence != twin.sequence and control.split == twin.split
            same = sorted(control.sequence) == sorted(twin.sequence)
            assert same or kind == "unigram"


def test_unigram_controls_have_the_frequencies_of_training(tmp_path):
    poor = ["AAAC" * 20] * 10
    corpus = example.write_corpus(
        tmp_path, {"one": {"train": poor, "valid": [example.protein(RNG, 3000)]}},
        {"one": {"valid": [NAN]}},
    )  # fmt: skip
    letters = proteins.frequencies(corpus, ("one",))
    assert letters["A"] == pytest.approx(601 / 820) and letters["W"] == pytest.approx(1 / 820)
    made = TASK.data(corpus, Options(per_bin=1, controls=("unigram",))).examples[-1]
    assert made.sequence.count("A") / 3000 == pytest.approx(601 / 820, abs=0.03)


def by(metrics):
    return {(m.split, m.group, m.metric, m.definition.endswith("the same")): m for m in metrics}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By kind, a run that says it was trained on the corpus, and its folder."""
    out = {}
    for kind in ("clm", "mlm"):
        folder = save_run(tmp_path_factory.mktemp(kind), small_model(), kind)
        out[kind] = models.open(folder)
    return out


def trained(adapter, corpus, sources):
    other = object.__new__(type(adapter))
    other.__dict__.update(adapter.__dict__)
    other.info = dataclasses.replace(adapter.info, corpus=corpus, sources=sources)
    return other


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_a_model_that_knows_nothing_has_the_perplexity_of_its_tokens(runs, data, kind):
    adapter = runs[kind]
    network = small_model()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    blank = trained(adapter, "", ())
    blank.module = network
    made = TASK.predict(data, blank, "zero-shot", 0, OPTIONS, None)
    found = by(TASK.score(made, OPTIONS))
    for group in ("all", *IDENTITY_BINS[:3]):
        metric = found["valid", group, f"perplexity_{kind}", False]
        assert metric.value == pytest.approx(32) and metric.se == pytest.approx(0, abs=1e-4)
    gap = found["valid", "shuffled", f"nats_over_natural_{kind}", False]
    assert gap.value == pytest.approx(0, abs=1e-6)


def test_who_was_trained_on_what(runs, data, tmp_path):
    cases = [
        ((example.KEY, ("one", "two")), "yes"),
        ((example.KEY, ("one",)), "other sources"),
        (("another", ("one", "two")), "unknown"),
        (("", ()), "unknown"),
    ]
    for (key, sources), expected in cases:
        made = TASK.predict(data, trained(runs["clm"], key, sources), "zero-shot", 0, OPTIONS, None)
        assert made.about["corpus"]["trained_on"] == expected
    made = TASK.predict(data, runs["clm"].twin(0), "zero-shot", 0, OPTIONS, None)
    assert made.about["corpus"]["trained_on"] == "no" and made.about["model"]["twin"]
    made.write(tmp_path / "p.parquet")
    again = Predictions.read(tmp_path / "p.parquet")
    assert list(TASK.score(again, OPTIONS)) == list(TASK.score(made, OPTIONS))


def test_the_unigram_baseline_is_the_cross_entropy(corpus, data):
    made = TASK.predict(data, None, "baseline:unigram", 0, OPTIONS, None)
    found = by(TASK.score(made, OPTIONS))
    letters = proteins.frequencies(corpus, ("one", "two"))
    some = [e for e in natural(data) if e.split == "test"]
    nats = sum(e.extra["weight"] * -math.log(letters[c]) for e in some for c in e.sequence)
    residues = sum(e.extra["weight"] * len(e.sequence) for e in some)
    metric = found["test", "all", "perplexity_unigram", False]
    assert metric.value == pytest.approx(math.exp(nats / residues))
    # It knows nothing of order.
    gap = found["test", "shuffled", "nats_over_natural_unigram", False]
    assert gap.value == pytest.approx(0, abs=1e-6)


def test_a_fasta_file_is_a_set_of_its_own(corpus, runs, tmp_path, monkeypatch):
    path = tmp_path / "more.faa.gz"
    sequences = chains(60)
    with gzip.open(path, "wt") as handle:
        handle.writelines(f">r{i} x\n{s.lower()}*\n" for i, s in enumerate(sequences))
        handle.write(">bad\nMK1\n>empty\n")
    monkeypatch.setattr(
        identity,
        "nearest",
        lambda wanted, *_: identity.pd.DataFrame(
            {"id": list(wanted), "identity": [NAN] * len(wanted)}
        ),
    )
    options = OPTIONS.model_copy(update={"fasta": {"soil": path}})
    found = TASK.data(corpus, options)
    mine = [e for e in natural(found) if e.split == "soil"]
    assert len(mine) == 40 and {e.sequence for e in mine} < set(sequences)
    assert all(e.extra["weight"] == 1.5 for e in mine) and found.dropped == {"soil: no protein": 2}
    # The order of the file does not matter.
    turned = tmp_path / "turned.fasta"
    write_fasta(turned, sequences[::-1])
    options = OPTIONS.model_copy(update={"fasta": {"soil": turned}})
    again = [e for e in natural(TASK.data(corpus, options)) if e.split == "soil"]
    assert {e.sequence for e in again} == {e.sequence for e in mine}
    # Without a corpus, identities are unknown, and told as such.
    alone = TASK.data(None, options)
    made = TASK.predict(alone, runs["clm"], "zero-shot", 0, options, None)
    groups = {m.group for m in TASK.score(made, options)}
    assert groups == {"all", "identity unknown", "shuffled", "unigram"}


def test_what_is_wrong_is_told(corpus, data, runs, tmp_path):
    with pytest.raises(PlmscaleError, match="nothing held out to score"):
        TASK.data(None, Options())
    with pytest.raises(PlmscaleError, match=r"no such file; correct the key fasta.soil"):
        TASK.data(corpus, Options(fasta={"soil": tmp_path / "none"}))
    with pytest.raises(ValueError, match="'valid' is a part of the corpus"):
        Options(fasta={"valid": tmp_path})
    with pytest.raises(PlmscaleError, match="no method 'probe'"):
        TASK.predict(data, runs["clm"], "probe", 0, OPTIONS, None)
    parts = {"one": {"train": chains(2), "valid": chains(2)}}
    wrong = example.write_corpus(tmp_path / "w", parts, {"one": {"valid": [0.1]}})
    with pytest.raises(PlmscaleError, match="1 identities for 2 proteins"):
        TASK.data(wrong, OPTIONS)
    file = next((wrong / "shards").glob("*identity.npy"))
    file.write_bytes(b"x")
    with pytest.raises(PlmscaleError, match="not as the manifest lists it"):
        TASK.data(wrong, OPTIONS)


def test_a_protein_longer_than_the_context_is_scored_whole(runs, tmp_path):
    long = example.protein(RNG, 300)
    path = tmp_path / "long.fasta"
    write_fasta(path, [long])
    options = OPTIONS.model_copy(update={"fasta": {"long": path}, "controls": ()})
    alone = TASK.data(None, options)
    for adapter in runs.values():
        assert adapter.info.context < 300
        made = TASK.predict(alone, adapter, "zero-shot", 0, options, None)
        (nats,) = made.table.column("nats").to_pylist()
        assert len(nats) == 300 and np.isfinite(nats).all() and set(long) <= set(STANDARD)
