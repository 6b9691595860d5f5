"""Bad input is named, good input is cleaned by a stated rule, and nothing goes uncounted."""

import gzip
import hashlib

import pytest

from plmscale.corpus.config import CleanConfig
from plmscale.corpus.duplicates import remove_across
from plmscale.corpus.fasta import read_fasta
from plmscale.corpus.fetch import fetch
from plmscale.corpus.letters import apply_letter_rule
from plmscale.errors import PlmscaleError


def fasta(path, text):
    path.write_bytes(text.encode())
    return path


def cleaned(tmp_path, text, **rule):
    """Return {name: sequence} and the counts after the letter rule."""
    out = tmp_path / "out.fasta"
    counts = apply_letter_rule(fasta(tmp_path / "in.fasta", text), out, CleanConfig(**rule))
    return {name: s.decode() for name, s in read_fasta(out)}, counts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no FASTA records; the file is empty"),
        ("\n\n", "no FASTA records; the file is empty"),
        (">a\nMKV\n>b\n>c\nMKL\n", r"record 2 \(b\) has no sequence"),
        (">a\nMKV\n>b\n", r"record 2 \(b\) has no sequence"),
        ("MKV\n>a\nMKV\n", "line 1: expected '>' and a name, found 'MKV'"),
        (">a\nMKV\n>\nMKV\n", "line 3: record 2 has no name"),
    ],
)
def test_bad_fasta_is_an_error_that_names_file_and_record(tmp_path, text, said):
    with pytest.raises(PlmscaleError, match=said) as error:
        list(read_fasta(fasta(tmp_path / "bad.fasta", text)))
    assert "bad.fasta" in str(error.value)


def test_truncated_gz_is_named(tmp_path):
    whole = gzip.compress(b"".join(b">p%d\nMKVLAWY%d\n" % (i, i * 7919) for i in range(5000)))
    (tmp_path / "half.fasta.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PlmscaleError, match=r"half\.fasta\.gz: the \.gz is truncated or damaged"):
        list(read_fasta(tmp_path / "half.fasta.gz"))


def test_gz_is_known_by_its_content_not_its_name(tmp_path):
    (tmp_path / "x.fasta").write_bytes(gzip.compress(b">a\nMKV\n"))
    assert list(read_fasta(tmp_path / "x.fasta")) == [("a", b"MKV")]


def test_crlf_and_wrapped_lines_are_read_like_any_other(tmp_path):
    path = fasta(tmp_path / "dos.fasta", ">a first\r\nMKV\r\nLLA\r\n\r\n>b\r\nAC\r\n")
    assert list(read_fasta(path)) == [("a first", b"MKVLLA"), ("b", b"AC")]


def test_letter_rule_by_default(tmp_path):
    kept, counts = cleaned(
        tmp_path,
        ">low\nmkvl\n>stop\nMKVL*\n>inner\nMK*VL\n>odd\nMUOBZX\n>J\nMJJ\n>only\n*\n",
    )
    assert kept == {"low": "MKVL", "stop": "MKVL", "odd": "MUOBZX", "J": "MXX"}
    assert counts["read_sequences"] == 6 and counts["written_sequences"] == 4
    assert counts["dropped_inner_stop"] == counts["dropped_only_stops"] == 1
    assert counts["lower_case_sequences"] == 1
    assert counts["replaced_letters"] == {"J": 2}


def test_letter_rule_as_configured(tmp_path):
    letters = {"U": "C", "O": "K", "B": "drop", "Z": "X", "X": "keep", "J": "L"}
    kept, counts = cleaned(tmp_path, ">a\nMUOZXJ\n>b\nMB\n", letters=letters)
    assert kept == {"a": "MCKXXL"}
    assert counts["dropped_letter_rule"] == 1


def test_a_letter_outside_the_alphabet_is_an_error_naming_file_record_and_letter(tmp_path):
    with pytest.raises(PlmscaleError, match=r"in\.fasta: record 2 \(bad\): '1' at position 3"):
        cleaned(tmp_path, ">good\nMKV\n>bad\nMK1V\n")


def test_or_that_record_is_dropped_where_the_study_says_so(tmp_path):
    kept, counts = cleaned(tmp_path, ">good\nMKV\n>bad\nMK-V\n", other="drop")
    assert list(kept) == ["good"] and counts["dropped_other_letter"] == 1


def test_duplicate_ids_get_names_of_their_own(tmp_path):
    kept, counts = cleaned(tmp_path, ">a x\nMKV\n>a y\nMKL\n>b\nMKI\n")
    assert kept == {"a": "MKV", "a.2": "MKL", "b": "MKI"}
    assert counts["renamed_duplicate_ids"] == 1


def test_a_new_name_for_a_duplicate_is_never_one_that_is_taken(tmp_path):
    kept, counts = cleaned(tmp_path, ">a\nMKV\n>a.2\nMKL\n>a\nMKI\n>a.2\nMKY\n")
    assert sorted(kept.values()) == ["MKI", "MKL", "MKV", "MKY"]
    assert counts["written_sequences"] == 4


def test_of_exact_duplicates_across_sources_the_first_source_keeps_its_copy(tmp_path):
    sources = [
        fasta(tmp_path / "first.fasta", ">p\nMKV\n>q\nMKL\n"),
        fasta(tmp_path / "second.fasta", ">r\nMKL\n>s\nMKI\n"),
    ]
    targets = [tmp_path / "1", tmp_path / "2"]
    counts = remove_across(sources, targets)
    assert [name for name, _ in read_fasta(targets[0])] == ["p", "q"]
    assert [name for name, _ in read_fasta(targets[1])] == ["s"]
    assert [c["duplicates_across_sources"] for c in counts] == [0, 1]


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_source_with_the_right_checksum_is_brought_in(tmp_path, form):
    source = fasta(tmp_path / "source.fasta", ">a\nMKV\n")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    fetch(form.format(source), digest, tmp_path / "in/target.fasta")
    assert (tmp_path / "in/target.fasta").read_bytes() == source.read_bytes()


def test_a_wrong_checksum_names_file_expected_and_found_and_leaves_nothing(tmp_path):
    source = fasta(tmp_path / "source.fasta", ">a\nMKV\n")
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    with pytest.raises(PlmscaleError, match="SHA-256") as error:
        fetch(str(source), "0" * 64, tmp_path / "target.fasta")
    assert all(part in str(error.value) for part in (str(source), "0" * 64, found))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.fasta"]


def test_a_missing_source_is_named(tmp_path):
    for place in (str(tmp_path / "none.fasta"), f"file://{tmp_path}/none.fasta"):
        with pytest.raises(PlmscaleError, match=r"none\.fasta"):
            fetch(place, "0" * 64, tmp_path / "target.fasta")
