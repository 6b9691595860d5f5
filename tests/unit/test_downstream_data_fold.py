"""Domains and their folds: the same from both forms, and bad input common to all tables."""

from __future__ import annotations

import downstream_data_example as example
import pytest
from downstream_data_example import read, records

from plmscale.downstream.data.levels import levels_of
from plmscale.errors import PlmscaleError


@pytest.fixture
def folds(tmp_path):
    rows = example.domains()
    example.small_fold(tmp_path / "small", rows)
    example.full_fold(tmp_path / "full", rows)
    return rows


def read_fold(tmp_path, rows, source):
    return read(
        tmp_path, "fold", source, rows=example.fold_rows(rows, source), classes=4, groups={}
    )


def test_fold_is_the_same_from_both_forms(tmp_path, folds):
    small, full = (read_fold(tmp_path, folds, source) for source in ("small", "full"))
    assert records(small) == records(full)
    first = small.examples[0]
    assert (first.id, first.split, first.target, first.extra) == (
        "d0",
        "train",
        0,
        {"class": "a.1"},
    )
    assert sum(e.group == "superfamily" for e in full.split("test")) == 3


def test_a_class_never_trained_on_is_told(tmp_path, folds):
    data = read_fold(tmp_path, folds, "small")
    assert any(note.startswith("1 test examples are of 1 classes") for note in data.notes)


def test_levels_come_from_the_lists_in_whatever_order_they_were_merged():
    lists = {"fold": [0, 1], "superfamily": [2], "family": [1, 3]}
    assert levels_of([1, 3, 0, 1, 2], lists) == ["family", "family", "fold", "fold", "superfamily"]
    assert levels_of([1, 3, 0, 2, 1], lists) is None


def test_a_merged_test_set_in_another_order_stays_merged(tmp_path, folds):
    # The rows of the Parquet file are turned round, the lists are not.
    rows = [row for row in folds if row[0].startswith("test")][::-1]
    columns = {"seq": [r[3] for r in rows], "label": [example.FOLDS[r[2]] for r in rows]}
    example.write_parquet(tmp_path / "full/fold/test-00000-of-00001.parquet", columns)
    data = read_fold(tmp_path, folds, "full")
    assert {e.group for e in data.split("test")} == {""}
    assert any("only the merged set can be reported" in note for note in data.notes)


@pytest.mark.parametrize("label", ["4", "-1", "x", "1.5"])
def test_a_class_out_of_range_names_file_and_place(tmp_path, folds, label):
    path = tmp_path / "full/fold/valid-00000-of-00001.parquet"
    example.write_parquet(path, {"seq": ["MKV"] * 3, "label": ["0", "1", label]})
    with pytest.raises(PlmscaleError, match=f"{path.name}, split valid, row 2: class {label}, exp"):
        read_fold(tmp_path, folds, "full")


def test_a_renamed_column_is_named_with_those_there(tmp_path, folds):
    path = tmp_path / "full/fold/test-00000-of-00001.parquet"
    example.write_parquet(path, {"sequence": ["MKV"], "label": [0]})
    with pytest.raises(PlmscaleError, match=r"no column seq; .* found sequence, label"):
        read_fold(tmp_path, folds, "full")


def test_a_cut_parquet_file_is_named(tmp_path, folds):
    path = tmp_path / "full/fold/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PlmscaleError, match=r"train-\S+: not a whole Parquet file"):
        read_fold(tmp_path, folds, "full")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_a_cut_gzip_is_named(tmp_path, folds, keep):
    path = tmp_path / "small/fold/tape_remote_homology_subset.tsv.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(PlmscaleError, match=r"subset\.tsv\.gz: (the gzip cannot|no column split)"):
        read_fold(tmp_path, folds, "small")


def test_a_short_line_is_named(tmp_path, folds):
    path = tmp_path / "small/fold/tape_remote_homology_subset.tsv.gz"
    example.write_gzip(path, "split\tsid\tfold\tlabel\tsequence\ntraining\td0\ta.1\t0\n")
    with pytest.raises(PlmscaleError, match=r"line 2: 4 fields, expected 5"):
        read_fold(tmp_path, folds, "small")


def test_letters_are_kept_counted_or_left_out_by_one_rule(tmp_path, folds):
    odd = [
        ("training", "lower", "a.1", "mkvlXUX"),
        ("training", "rare", "a.1", "MKOBZJ"),
        ("training", "stop", "a.2", "MKV*L"),
        ("training", "empty", "a.2", " "),
    ]
    rows = odd + folds
    example.small_fold(tmp_path / "small", rows)
    example.full_fold(tmp_path / "full", rows)
    small, full = (read_fold(tmp_path, rows, source) for source in ("small", "full"))
    assert records(small) == records(full)
    assert [e.sequence for e in small.examples[:2]] == ["MKVLXUX", "MKOBZJ"]
    for data in (small, full):
        assert data.dropped == {"empty sequence": 1, "stop inside the sequence": 1}
        assert "letters beside the 20 amino acids, kept: B 1, J 1, O 1, U 1, X 2, Z 1" in data.notes
        assert "1 sequences had lower-case letters, made upper" in data.notes


@pytest.mark.parametrize("sequence", ["MKV-L", "MK7", "MK V", "MKÄ", "MKV?"])
def test_a_strange_letter_is_an_error_with_its_place(tmp_path, folds, sequence):
    rows = [*folds, ("training", "odd", "a.1", sequence)]
    example.full_fold(tmp_path / "full", rows)
    with pytest.raises(PlmscaleError, match=r"split train, row 20: the sequence has \['.'\]; exp"):
        read_fold(tmp_path, rows, "full")


def test_two_examples_of_one_name_are_an_error(tmp_path, folds):
    rows = [*folds, folds[0]]
    example.small_fold(tmp_path / "small", rows)
    with pytest.raises(PlmscaleError, match="fold: two examples are called d0"):
        read_fold(tmp_path, rows, "small")


def test_a_label_that_is_not_the_class_maps_is_an_error(tmp_path, folds):
    path = tmp_path / "small/fold/tape_remote_homology_subset.tsv.gz"
    example.write_gzip(path, "split\tsid\tfold\tlabel\tsequence\ntraining\td0\ta.1\t2\tMKV\n")
    with pytest.raises(PlmscaleError, match=r"line 2: fold a\.1 has label 2, in the class map 0"):
        read_fold(tmp_path, folds, "small")
