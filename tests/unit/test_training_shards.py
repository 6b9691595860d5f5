"""What the loader says of damaged, empty and older corpora."""

import numpy as np
import pytest
from loader_fixtures import numbered, opened, random_chains, write_chunks, write_part

from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.training.data import Samples
from plmscale.training.shards import Proteins, read_manifest


def test_a_corpus_without_chunk_files_is_read_alike(tmp_path):
    chains = random_chains(np.random.default_rng(6), 500)
    cuts = (10, 64, 65, 300)
    new = opened(tmp_path, write_part(tmp_path, chains, cuts), window_chunks=2)
    old = opened(tmp_path, write_part(tmp_path, chains, cuts, chunks=False), window_chunks=2)
    assert np.array_equal(new.proteins.chunk_tokens(), old.proteins.chunk_tokens())
    numbers = np.arange(new.rows_per_epoch)
    assert np.array_equal(new.rows(numbers), old.rows(numbers))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x01"), "chunk file is corrupt"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "chunk file is corrupt"),
        (lambda p: p.unlink(), "chunk file is missing"),
    ],
)
def test_a_damaged_chunk_file_is_named(tmp_path, damage, message):
    manifest = write_part(tmp_path, numbered(200))
    damage(tmp_path / "shards/s.train.chunks.npy")
    with pytest.raises(PlmscaleError, match=f"s.train.chunks.npy: {message}"):
        opened(tmp_path, manifest)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([0, 384, 1200], "chunks.npy: chunk file does not fit"),
        ([0, 384, 768, 1152, 1201], "chunks.npy: chunk file does not fit"),
        ([0, 380, 768, 1152, 1200], "index files of s.train contradict"),
    ],
)
def test_a_chunk_file_of_other_shards_is_told(tmp_path, before, message):
    manifest = write_part(tmp_path, numbered(200))
    manifest["sources"]["s"]["train"]["chunks"] = write_chunks(tmp_path, before)
    with pytest.raises(PlmscaleError, match=message):
        opened(tmp_path, manifest, window_chunks=1).rows(np.arange(40))


def test_an_index_that_changes_under_a_run_is_told(tmp_path):
    manifest = write_part(tmp_path, numbered(200))
    rows = opened(tmp_path, manifest)
    index = tmp_path / "shards/s.train.00000.idx.npy"
    with open(index, "r+b") as handle:
        handle.seek(-8 * 50, 2)
        handle.write((2**60).to_bytes(8, "little"))
    with pytest.raises(PlmscaleError, match=r"index files of s\.train contradict"):
        rows.row(0)


def test_an_empty_part_is_an_error_only_where_rows_are_wanted(tmp_path):
    manifest = write_part(tmp_path, numbered(200))
    empty = {"sequences": 0, "residues": 0, "shards": []}
    manifest["sources"]["s"]["valid"] = empty
    proteins = Proteins(tmp_path, "s", "valid", manifest)
    assert (len(proteins), proteins.chunks, proteins.tokens) == (0, 0, 0)
    with pytest.raises(PlmscaleError, match=r"source s\.valid has no sequences; leave"):
        Samples(tmp_path, manifest, {"s": 1.0}, 32, 0, split="valid")
    with pytest.raises(PlmscaleError, match="source s has no part 'test'"):
        Proteins(tmp_path, "s", "test", manifest)


def test_manifests_of_both_schemas_are_read(tmp_path):
    write_json(tmp_path / "manifest.json", write_part(tmp_path, numbered(70)))
    assert read_manifest(tmp_path, "k")["schema"] == 2
    write_json(tmp_path / "manifest.json", {"schema": 3})
    with pytest.raises(PlmscaleError, match="schema 3; this version reads 1 and 2"):
        read_manifest(tmp_path)
