"""Contacts: the same from pairs and from coordinates, units, splits, and bad input."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections import Counter

import downstream_data_example as example
import numpy as np
import pytest
from downstream_data_example import read, records

from plmscale.downstream.data.components import split_by_relation
from plmscale.downstream.data.contacts import CUTOFF
from plmscale.errors import PlmscaleError

SPLITS = {f"{i}ABC_A": ("train", "valid", "test")[i % 3] for i in range(12)}


@pytest.fixture
def chains(tmp_path):
    made = example.chains()
    example.small_contacts(tmp_path / "small", made)
    example.full_contacts(tmp_path / "full", made, SPLITS)
    for source in ("small", "full"):
        (tmp_path / f"registry-{source}").mkdir()
        example.write_splits(tmp_path / f"registry-{source}", SPLITS)
    return made


def test_contacts_are_the_same_from_both_forms(tmp_path, chains):
    small = read(tmp_path, "contacts", "small", rows={"chains": 12})
    full = read(tmp_path, "contacts", "full", rows={"train": 4, "valid": 4, "test": 4})
    assert records(small) == records(full)
    assert "coordinates in tenths of an angstrom" in small.notes


def test_contacts_are_pairs_below_the_cut_off_between_resolved_residues(tmp_path, chains):
    data = read(tmp_path, "contacts", "small", rows={})
    for (name, _, places), e in zip(chains, data.examples, strict=True):
        assert e.id == name and e.target.dtype == np.int32
        pairs = {
            (i, j)
            for i in range(len(places))
            for j in range(i + 1, len(places))
            if np.linalg.norm(places[i] - places[j]) < CUTOFF
        }
        assert set(map(tuple, e.target.tolist())) == pairs and len(e.target) == len(pairs)
        assert e.extra["resolved"].tolist() == (~np.isnan(places[:, 0])).tolist()


def test_angstrom_and_tenths_are_told_apart_and_other_units_refused(tmp_path, chains):
    tenths = read(tmp_path, "contacts", "small", rows={})
    for scale, unit in ((1.0, "coordinates in angstrom"), (0.1, "")):
        shutil.rmtree(tmp_path / "small")
        example.small_contacts(tmp_path / "small", chains, scale)
        if unit:
            data = read(tmp_path, "contacts", "small", rows={})
            assert records(data) == records(tenths) and unit in data.notes
        else:
            with pytest.raises(PlmscaleError, match=r"neighbours in a chain are 0\.38 apart"):
                read(tmp_path, "contacts", "small", rows={})


def test_a_chain_without_any_coordinates_is_left_out(tmp_path, chains):
    name, sequence, places = chains[3]
    chains[3] = (name, sequence, np.full_like(places, np.nan))
    shutil.rmtree(tmp_path / "small")
    example.small_contacts(tmp_path / "small", chains)
    example.full_contacts(tmp_path / "full", chains, SPLITS)
    for source, rows in (("small", {"chains": 12}), ("full", {"train": 4, "valid": 4, "test": 4})):
        data = read(tmp_path, "contacts", source, rows=rows)
        assert data.dropped == {"no coordinates": 1} and len(data.examples) == 11


def test_pairs_may_come_both_ways_and_twice(tmp_path, chains):
    pairs = [[2, 0], [0, 2], [1, 1], [0, 1], [1, 2], [0, 1]]
    for split in ("train", "valid", "test"):
        path = tmp_path / f"full/contacts/{split}-00000-of-00001.parquet"
        example.write_parquet(path, {"seq": ["MKVL"], "label": [pairs]})
    e = read(tmp_path, "contacts", "full", rows={}).examples[0]
    assert e.target.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert e.extra["resolved"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([[[0, 4]]], "row 0: a pair has the place 4, expected 0 to 3"),
        ([[[-1, 2]]], "row 0: a pair has the place"),
        ([[[0, 1, 2]]], "row 0: 3 numbers in 1 pairs"),
        (
            [[0, 1]],
            "is list<element: int64>, expected lists of pairs|is list<item: int64>, expected",
        ),
        (["[[0, 1]]"], "is string, expected lists of pairs"),
        ([[[0.5, 1.0]]], "expected lists of pairs of integers"),
    ],
)
def test_pairs_of_another_form_are_refused(tmp_path, chains, label, message):
    path = tmp_path / "full/contacts/train-00000-of-00001.parquet"
    example.write_parquet(path, {"seq": ["MKVL"], "label": label})
    with pytest.raises(PlmscaleError, match=message):
        read(tmp_path, "contacts", "full", rows={})


class Payload:
    """Would tell of itself, were it unpickled."""

    called: bool = False

    def __reduce__(self):
        return (setattr, (Payload, "called", True))


def test_nothing_is_ever_unpickled(tmp_path, chains):
    path = tmp_path / "small/contacts/mmtf_ca_534chains.npz"
    np.savez(path, ids=np.array([Payload()], dtype=object), seqs=["M"], lens=[1], xyz=[[0, 0, 0]])
    with pytest.raises(PlmscaleError, match=r"not a whole \.npz of plain arrays"):
        read(tmp_path, "contacts", "small", rows={})
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(PlmscaleError, match=r"not a whole \.npz of plain arrays"):
        read(tmp_path, "contacts", "small", rows={})
    assert Payload.called is False
    pickle.loads(pickle.dumps(Payload()))
    assert Payload.called is True  # so that the test can fail


def test_components_go_only_where_they_fit():
    names = [f"n{i:02}" for i in range(64)]
    # Chains of seven: each is related to the next, so that all seven belong together.
    pairs = [(a, b) for a, b in itertools.pairwise(names) if int(a[1:]) % 7 != 6]
    splits = split_by_relation(names, pairs)
    assert all(splits[a] == splits[b] for a, b in pairs)
    sizes = Counter(splits.values())
    # Room for 12 and 6 of 64: one component of seven tests, and only the last, of one, validates.
    assert sizes["test"] <= 12 and sizes["valid"] <= 6 and sizes.total() == 64
    assert sizes["test"] in (7, 8) and sizes["valid"] in (0, 1)
    assert split_by_relation(names[::-1], pairs[::-1]) == splits


def test_chains_that_are_not_in_the_table_are_split_so_that_relatives_stay_together(tmp_path):
    made = example.chains(16)
    # The last two are copies of the first, one a little changed.
    name, sequence, places = made[0]
    made[-2] = ("copyA_A", sequence, places)
    made[-1] = ("copyB_A", "W" + sequence[1:], places)
    example.small_contacts(tmp_path / "small", made)
    data = read(tmp_path, "contacts", "small", rows={})
    by_id = {e.id: e.split for e in data.examples}
    assert by_id[name] == by_id["copyA_A"] == by_id["copyB_A"]
    assert [list(by_id.values()).count(s) for s in ("test", "valid")] == [3, 1]
    assert any(note.endswith("(MMseqs2)") for note in data.notes)
