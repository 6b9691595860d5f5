"""Bad input is named, good input is cleaned by a stated rule, and nothing goes uncounted."""

import gzip
import hashlib

import numpy as np
import pytest

from plmscale.corpus import alphabet
from plmscale.corpus.clean import clean_source
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.fetch import fetch
from plmscale.corpus.store import Store
from plmscale.errors import PlmscaleError


def fasta(path, text):
    path.write_bytes(text.encode())
    return path


def cleaned(path, **rule):
    """Return {name: sequence} and the counts after cleaning, in a folder beside the file."""
    out = path.parent / "store"
    counts = clean_source([path], CleanConfig(min_length=1, **rule), out, progress=False)
    store = Store.open(out)
    names = store.chosen_names(np.ones(len(store), bool))
    ends = np.cumsum(store.lengths)
    found = [alphabet.decode(store.tokens[e - n : e]) for e, n in zip(ends, store.lengths)]
    return dict(zip(names, found, strict=True)), counts


@pytest.mark.parametrize("kernel", ["0", "1"])
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
def test_bad_fasta_is_an_error_that_names_file_and_record(
    tmp_path, text, said, kernel, monkeypatch
):
    monkeypatch.setenv("PLMSCALE_NATIVE", kernel)
    with pytest.raises(PlmscaleError, match=said) as error:
        cleaned(fasta(tmp_path / "bad.fasta", text))
    assert "bad.fasta" in str(error.value)
    assert not list((tmp_path / "store").iterdir()), "nothing half-made stays"


def test_truncated_gz_is_named(tmp_path):
    whole = gzip.compress(
        b"".join(b">p%d\nMKVLAWY%s\n" % (i, b"ACDEF"[: i % 6]) for i in range(5000))
    )
    (tmp_path / "half.fasta.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PlmscaleError, match=r"half\.fasta\.gz: the \.gz is truncated or damaged"):
        cleaned(tmp_path / "half.fasta.gz")


def test_gz_is_known_by_its_content_not_its_name(tmp_path):
    (tmp_path / "x.fasta").write_bytes(gzip.compress(b">a\nMKV\n"))
    assert cleaned(tmp_path / "x.fasta")[0] == {"a": "MKV"}


def test_crlf_and_wrapped_lines_are_read_like_any_other(tmp_path):
    path = fasta(tmp_path / "dos.fasta", ">a first\r\nMKV\r\nLLA\r\n\r\n>b\r\nAC\r\n")
    assert cleaned(path)[0] == {"a": "MKVLLA", "b": "AC"}


def test_letter_rule_by_default(tmp_path):
    kept, counts = cleaned(
        fasta(
            tmp_path / "in.fasta",
            ">low\nmkvl\n>stop\nMKVL*\n>inner\nMK*VL\n>odd\nMUOBZX\n>J\nMJJ\n>only\n*\n",
        ),
    )
    assert kept == {"low": "MKVL", "stop": "MKVL", "odd": "MUOBZX", "J": "MXX"}
    assert counts["read_sequences"] == 6 and counts["written_sequences"] == 4
    assert counts["dropped_inner_stop"] == counts["dropped_only_stops"] == 1
    assert counts["lower_case_sequences"] == 1
    assert counts["replaced_letters"] == {"J": 2}


def test_letter_rule_as_configured(tmp_path):
    letters = {"U": "C", "O": "K", "B": "drop", "Z": "X", "X": "keep", "J": "L"}
    kept, counts = cleaned(fasta(tmp_path / "in.fasta", ">a\nMUOZXJ\n>b\nMB\n"), letters=letters)
    assert kept == {"a": "MCKXXL"}
    assert counts["dropped_letter_rule"] == 1


def test_a_letter_outside_the_alphabet_is_an_error_naming_file_record_and_letter(tmp_path):
    with pytest.raises(
        PlmscaleError, match=r"in\.fasta: line 4: record 2 \(bad\): '1' at position 3"
    ):
        cleaned(fasta(tmp_path / "in.fasta", ">good\nMKV\n>bad\nMK1V\n"))


def test_or_that_record_is_dropped_where_the_study_says_so(tmp_path):
    kept, counts = cleaned(fasta(tmp_path / "in.fasta", ">good\nMKV\n>bad\nMK-V\n"), other="drop")
    assert list(kept) == ["good"] and counts["dropped_other_letter"] == 1


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
