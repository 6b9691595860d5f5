"""Exact duplicates by sorted hashes, against a dictionary; stores; shards of their parts."""

import itertools
from collections import Counter

import numpy as np
import pytest

from plmscale.corpus import duplicates
from plmscale.corpus.alphabet import encode
from plmscale.corpus.duplicates import remove_duplicates
from plmscale.corpus.store import Store, StoreWriter, write_store
from plmscale.errors import PlmscaleError


def make_stores(folder, sources):
    for name, sequences in sources.items():
        pairs = [(f"{name}{i}", encode(s)) for i, s in enumerate(sequences)]
        write_store(folder / name, pairs, {})
    return {name: folder / name for name in sources}


def by_dictionary(sources):
    """The definition, word for word: keep flags and counts of each source."""
    home, result = {}, {}
    for name, sequences in sources.items():
        keep, counts, own = [], Counter(), set()
        for sequence in sequences:
            keep.append(sequence not in home)
            if sequence in own:
                counts["within"] += 1
            elif sequence in home:
                counts[home[sequence]] += 1
            own.add(sequence)
            home.setdefault(sequence, name)
        result[name] = keep, counts
    return result


@pytest.mark.parametrize("bucket", [10**6, 40, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_against_a_dictionary(tmp_path, bucket, threads, monkeypatch):
    monkeypatch.setattr(duplicates, "SPAN", 37)
    rng = np.random.default_rng(bucket)
    pool = ["".join(rng.choice(list("ACDEFGHIKL"), 12)) for _ in range(300)]
    sources = {
        name: [pool[i] for i in rng.integers(0, 300, n)]
        for name, n in (("first", 150), ("second", 401), ("third", 77))
    }
    stores = make_stores(tmp_path, sources)
    counts = remove_duplicates(stores, tmp_path, threads, bucket)
    for name, (keep, expected) in by_dictionary(sources).items():
        found = np.fromfile(tmp_path / f"{name}.keep.bin", np.uint8)
        assert found.tolist() == [int(k) for k in keep]
        within = expected.pop("within", 0)
        assert counts[name]["duplicates_within_source"] == within
        assert counts[name]["duplicates_of"] == dict(expected)
        assert counts[name]["duplicates_across_sources"] == expected.total()
        assert counts[name]["sequences"] == sum(keep)
        assert counts[name]["residues"] == 12 * sum(keep)
    assert not list(tmp_path.glob(".hashes*"))


def test_half_a_hash_in_common_is_no_duplicate(tmp_path):
    writer = StoreWriter(tmp_path / "a")
    one = np.ones(1, np.uint8)
    for high, low in [(5, 1), (5, 2), (6, 1), (5, 1)]:
        writer.add(one, np.array([1]), np.array([[high, low]], np.uint64), one, np.array([1]))
    writer.close({})
    remove_duplicates({"a": tmp_path / "a"}, tmp_path)
    assert np.fromfile(tmp_path / "a.keep.bin", np.uint8).tolist() == [1, 1, 1, 0]


def test_a_source_without_anything_of_its_own_is_named(tmp_path):
    stores = make_stores(tmp_path, {"one": ["ACD", "EFG"], "two": ["EFG", "EFG"]})
    with pytest.raises(
        PlmscaleError, match=r"corpus\.sources\.two: every sequence is in an earlier"
    ):
        remove_duplicates(stores, tmp_path)


def test_a_store_cut_short_is_named(tmp_path):
    make_stores(tmp_path, {"one": ["ACD", "EFG"]})
    path = tmp_path / "one/tokens.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PlmscaleError, match=r"tokens\.bin: 5 entries where counts\.json says 6"):
        Store.open(tmp_path / "one")


def test_names_and_spans(tmp_path, monkeypatch):
    monkeypatch.setattr("plmscale.corpus.store.SPAN", 2)
    sequences = ["ACD", "EFGHI", "KL", "MNPQ", "R"]
    store = Store.open(make_stores(tmp_path, {"n": sequences})["n"])
    chosen = np.array([1, 0, 1, 1, 0], bool)
    assert list(store.chosen_names(chosen)) == ["n0", "n2", "n3"]
    found = [
        tokens[a:b].tolist()
        for _, offsets, tokens in store.spans(2)
        for a, b in itertools.pairwise(offsets)
    ]
    assert found == [encode(s).tolist() for s in sequences]
