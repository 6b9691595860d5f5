"""Nearest identity to what is trained on, against relatives that were made to measure."""

from __future__ import annotations

import subprocess
import sys

import heldout_example as example
import numpy as np
import pytest

from plmscale.corpus import alphabet, mmseqs
from plmscale.downstream import identity
from plmscale.errors import PlmscaleError
from plmscale.training.shards import Proteins, read_manifest

RNG = np.random.default_rng(6)
ONE = [example.protein(RNG, n) for n in (120, 300, 90, 150, 60)]
TWO = [example.protein(RNG, n) for n in (200, 110, 140)]
RESIDUES = sum(map(len, ONE)), sum(map(len, TWO))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return example.write_corpus(folder, {"one": {"train": ONE}, "two": {"train": TWO}})


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(7)
    return {
        "copy": ONE[1],
        "seven tenths": example.mutated(ONE[0], 36, rng),
        "of two": example.mutated(TWO[0], 20, rng),
        "domain": ONE[1][100:220],
        "mostly new": ONE[3][:60] + example.protein(rng, 90),
        "unrelated": example.protein(rng, 120),
        "copy again": ONE[1],
        "small letters, stop": ONE[2].lower() + "*",
        "short": "MKT",
        "empty": "",
    }


@pytest.fixture(scope="module")
def found(corpus, queries):
    return identity.nearest(queries, corpus).set_index("id")


def test_identities_are_those_of_the_mutations(found, queries):
    assert list(found.index) == list(queries)
    expected = {
        "copy": (1, "one:1"),
        "seven tenths": (1 - 36 / 120, "one:0"),
        "of two": (1 - 20 / 200, "two:0"),
        # A domain of a longer training protein is found.
        "domain": (1, "one:1"),
        "copy again": (1, "one:1"),
        "small letters, stop": (1, "one:2"),
    }
    for name, (value, target) in expected.items():
        row = found.loc[name]
        assert (row["status"], row["target"]) == (identity.HIT, target)
        assert row["identity"] == pytest.approx(value, abs=1e-3)
        assert row["coverage"] == pytest.approx(1, abs=0.02)
    hits = found[found["status"] == identity.HIT]
    assert set(hits.index) == set(expected)


def test_a_fragment_that_is_shared_is_no_hit_of_the_whole(found, corpus, queries):
    for name in ("mostly new", "unrelated", "short", "empty"):
        row = found.loc[name]
        assert row["status"] == identity.NO_HIT and row["target"] == ""
        assert row[["identity", "evalue", "coverage"]].isna().all()
    # Two fifths of it are a copy: enough where that much is asked for.
    loose = identity.nearest({"x": queries["mostly new"]}, corpus, coverage=0.35).iloc[0]
    assert (loose["status"], loose["target"]) == (identity.HIT, "one:3")
    assert loose["coverage"] == pytest.approx(0.4, abs=0.05)


def test_only_the_sources_asked_for_are_searched(found, corpus, queries):
    alone = identity.nearest(queries, corpus, sources=("one",)).set_index("id")
    assert alone.loc["of two", "status"] == identity.NO_HIT
    same = ["copy", "seven tenths", "domain"]
    assert alone.loc[same, "identity"].tolist() == found.loc[same, "identity"].tolist()
    # An E-value is of all that is searched: it grows with the residues.
    growth = found.loc[same, "evalue"] / alone.loc[same, "evalue"]
    assert growth.to_numpy() == pytest.approx(sum(RESIDUES) / RESIDUES[0])


def test_results_do_not_depend_on_how_the_corpus_is_cut(found, corpus, queries, monkeypatch):
    calls = []
    original = mmseqs.run
    monkeypatch.setattr(mmseqs, "run", lambda *a: (calls.append(a[0]), original(*a)))
    pieces = identity.nearest(queries, corpus, chunk_residues=500).set_index("id")
    assert pieces.equals(found) and calls.count("prefilter") == 3


def test_what_was_searched_is_kept_and_not_mistaken(corpus, queries, tmp_path, monkeypatch, found):
    first = identity.nearest(queries, corpus, cache=tmp_path)
    assert first.set_index("id").equals(found)
    calls = []
    original = mmseqs.run
    monkeypatch.setattr(mmseqs, "run", lambda *a: (calls.append(a[0]), original(*a)))
    again = identity.nearest(dict(reversed(queries.items())), corpus, cache=tmp_path)
    # Other order, other question: searched again, on the database that is kept.
    assert calls.count("createdb") == 1 and "prefilter" in calls
    assert again.set_index("id").loc[list(queries)].equals(found)
    calls.clear()
    assert identity.nearest(queries, corpus, cache=tmp_path).equals(first) and not calls
    identity.nearest(queries, corpus, sources=("one",), cache=tmp_path)
    assert calls.count("createdb") == 2
    assert not list(tmp_path.glob(".search-*")) and not list(tmp_path.glob("databases/.*"))


def test_without_a_corpus_all_is_unknown_and_not_far(queries, monkeypatch):
    monkeypatch.setattr(mmseqs, "run", lambda *a: pytest.fail("searched"))
    table = identity.nearest(queries, None)
    assert list(table["id"]) == list(queries) and set(table["status"]) == {identity.UNKNOWN}
    assert table["identity"].isna().all()


def test_what_is_wrong_with_a_corpus_is_told(corpus, tmp_path):
    with pytest.raises(
        PlmscaleError, match=r"nothing there: no corpus \(no manifest.json\); build"
    ):
        identity.nearest({"x": "MKT"}, tmp_path / "nothing there")
    with pytest.raises(PlmscaleError, match=r"source 'three'; it has one, two"):
        identity.nearest({"x": "MKT"}, corpus, sources=("one", "three"))
    broken = example.write_corpus(tmp_path / "broken", {"one": {"train": ONE}})
    shard = next((broken / "shards").glob("*.bin"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x05")
    with pytest.raises(PlmscaleError, match="shard is corrupt"):
        identity.nearest({"x": ONE[0]}, broken)
    assert identity.nearest({}, corpus).empty


@pytest.mark.slow
def test_identities_are_those_recorded_by_the_split(tmp_path):
    """The corpus' own search and this one are one scale."""
    root = example.Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "plmscale.cli",
        "corpus",
        "build",
        "--out",
        str(tmp_path / "c"),
    ]
    files = [str(root / "resources" / "demo" / "uniprot_reviewed.fasta.gz")]
    subprocess.run([*command, *files], check=True, capture_output=True, cwd=root)
    corpus, manifest = tmp_path / "c", read_manifest(tmp_path / "c")
    (source,) = manifest["sources"]
    sequences, recorded = {}, []
    for part in ("valid", "test"):
        proteins = Proteins(corpus, source, part, manifest)
        for number in range(len(proteins)):
            sequences[f"{part}{number}"] = alphabet.decode(proteins.residues(number))
        file = manifest["sources"][source][part]["identity"]["file"]
        recorded.append(np.load(corpus / file))
    found = identity.nearest(sequences, corpus)["identity"].to_numpy()
    expected = np.concatenate(recorded)
    same = np.isclose(found, expected, equal_nan=True)
    # What was recorded is the best of two searches; the less sensitive one finds a hit now and then
    # that the other ranks too low to align.
    assert len(expected) > 100 and same.mean() > 0.98
    assert np.nanmax(np.abs(found - expected)) < 1e-6
