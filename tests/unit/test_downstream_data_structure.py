"""Secondary structure: FLIP's zip, and bad input."""

from __future__ import annotations

import shutil

import downstream_data_example as example
import pytest
from downstream_data_example import read, records

from plmscale.errors import PlmscaleError


def read_flip(tmp_path, records_, **rows):
    example.write_flip(tmp_path / "small", example.flip(records_))
    return read(tmp_path, "secondary_structure", "small", rows=rows)


def test_secondary_structure_has_a_state_for_each_residue_and_a_mask(tmp_path):
    data = read_flip(tmp_path, example.FLIP_RECORDS, train=1, valid=1, test=1)
    train, test = data.split("train")[0], data.split("test")[0]
    assert (train.id, train.sequence, train.target) == ("1abc-A", "MKVLAUX", "CCHHHEC")
    assert train.extra["resolved"].tolist() == [False] + 6 * [True]
    assert (test.sequence, test.extra["resolved"].tolist()) == ("MKVW", [True, True, True, False])


def test_secondary_structure_is_the_same_from_both_sources(tmp_path):
    small = read_flip(tmp_path, example.FLIP_RECORDS)
    shutil.copytree(tmp_path / "small", tmp_path / "full")
    assert records(read(tmp_path, "secondary_structure", "full", rows={})) == records(small)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (("x", "SET=train VALIDATION=False", "MKV", "CC", "111"), "have 3, 2 and 3 letters"),
        (("x", "SET=train VALIDATION=False", "MKV", "CCC", "11"), "have 3, 3 and 2 letters"),
        (("x", "SET=dev VALIDATION=False", "MKV", "CCC", "111"), "header 'SET=dev VALIDATION=F"),
        (("x", "SET=test VALIDATION=True", "MKV", "CCC", "111"), "header 'SET=test VALIDATION=T"),
        (
            ("x", "SET=train VALIDATION=False", "MKV", "CGC", "111"),
            r"states \['G'\], expected H, E",
        ),
        (("x", "SET=train VALIDATION=False", "MKV", "CHC", "121"), r"mask has \['2'\], expected 0"),
        (("1abc-A", "SET=train VALIDATION=False", "M", "C", "1"), "'1abc-A' is there twice"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, record, message):
    with pytest.raises(PlmscaleError, match=message):
        read_flip(tmp_path, [*example.FLIP_RECORDS, record])


def test_a_member_that_is_missing_is_named(tmp_path):
    members = example.flip(example.FLIP_RECORDS)
    del members["splits/mask.fasta"]
    example.write_flip(tmp_path / "small", members)
    with pytest.raises(PlmscaleError, match=r"mask\.fasta is not in the zip"):
        read(tmp_path, "secondary_structure", "small", rows={})


def test_other_numbers_of_proteins_are_refused(tmp_path):
    with pytest.raises(PlmscaleError, match="secondary_structure: valid has 1 rows, expected 2"):
        read_flip(tmp_path, example.FLIP_RECORDS, train=1, valid=2, test=1)
