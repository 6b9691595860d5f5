"""A source of several files becomes one store, or an error and no store."""

import gzip
import hashlib

import numpy as np
import pytest

from plmscale.corpus import alphabet, clean
from plmscale.corpus.clean import clean_source
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.store import Store
from plmscale.errors import PlmscaleError
from plmscale.progress import Progress

RULE = CleanConfig(min_length=2, max_length=50)
FIRST = b">a one\nMKXV\n>b\nmkj*\n>short\nM\n"
SECOND = b">c\nMK*V\n>a again\nACDU\n"


def sources(folder, *texts):
    paths = []
    for i, text in enumerate(texts):
        paths.append(folder / f"{i}.fasta.gz")
        paths[-1].write_bytes(gzip.compress(text))
    return paths


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_files_follow_one_another_in_the_store_and_their_counts_add_up(tmp_path):
    counts = clean_source(sources(tmp_path, FIRST, SECOND), RULE, tmp_path / "out")
    store = Store.open(tmp_path / "out")
    ends = np.cumsum(store.lengths)
    found = [alphabet.decode(store.tokens[e - n : e]) for e, n in zip(ends, store.lengths)]
    assert found == ["MKXV", "MKX", "ACDU"]
    assert list(store.chosen_names(np.ones(3, bool))) == ["a", "b", "a"]
    assert (
        counts
        == store.counts
        == {
            "read_sequences": 5,
            "read_residues": 17,
            "lower_case_sequences": 1,
            "trailing_stop_sequences": 1,
            "dropped_inner_stop": 1,
            "dropped_by_length": 1,
            "written_sequences": 3,
            "replaced_letters": {"J": 1},
            "sequences": 3,
            "residues": 11,
        }
    )


def test_threads_change_nothing_in_the_store(tmp_path):
    text = b"".join(
        b">p%d\n%b\n" % (i, b"MKVLAWYCXX"[i % 7 :] * (i % 5 + 1)) for i in range(200_000)
    )
    files = sources(tmp_path, text, SECOND)
    for threads in (1, 3):
        clean_source(files, RULE, tmp_path / str(threads), threads=threads)
    one, three = digests(tmp_path / "1"), digests(tmp_path / "3")
    assert one == three and len(one) == 6


def test_a_file_without_a_sequence_left_is_no_error_but_a_source_is(tmp_path):
    empty = b">x\nM\n>y\nK\n"
    clean_source(sources(tmp_path, empty, SECOND), RULE, tmp_path / "out")
    with pytest.raises(PlmscaleError, match=r"0\.fasta\.gz: no sequence is left of 2 after"):
        clean_source(sources(tmp_path, empty), RULE, tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_an_error_in_the_second_file_names_it_and_leaves_an_earlier_store_alone(tmp_path):
    clean_source(sources(tmp_path, FIRST), RULE, tmp_path / "out")
    before = digests(tmp_path / "out")
    for threads in (1, 2):
        with pytest.raises(
            PlmscaleError, match=r"1\.fasta\.gz: line 4: record 2 \(b\): '1' at position 2"
        ):
            clean_source(
                sources(tmp_path, FIRST, b">a\nMK\n>b\nM1\n"), RULE, tmp_path / "out", threads
            )
        assert digests(tmp_path / "out") == before


def test_blocks_may_come_from_elsewhere(tmp_path):
    def blocks_of(path, advance):
        yield b">r1\nMKV\n", 0
        yield b">r2\nMK1\n" if path.name == "bad" else b">r2\nMKL\n", 0

    counts = clean_source([tmp_path / "table"], RULE, tmp_path / "out", 2, blocks_of)
    assert counts["sequences"] == 2
    with pytest.raises(PlmscaleError, match=r"bad: line 4: record 2 \(r2\): '1' at position 3"):
        clean_source([tmp_path / "bad"], RULE, tmp_path / "out", blocks_of=blocks_of)


def test_progress_counts_the_bytes_of_the_files_as_they_are(tmp_path, monkeypatch):
    made = []

    class Recorded(Progress):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(clean, "Progress", Recorded)
    files = sources(tmp_path, FIRST, SECOND)
    clean_source(files, RULE, tmp_path / "out", threads=2)
    size = sum(path.stat().st_size for path in files)
    assert (made[0].done, made[0].total) == (size, size)
    clean_source(files, RULE, tmp_path / "out", progress=False)
    assert made[1].done == 0
