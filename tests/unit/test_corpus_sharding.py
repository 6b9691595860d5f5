"""Shards from stores and parts, against a loop over records; what `verify` finds."""

import shutil

import numpy as np
import pytest

from plmscale.corpus import sharding
from plmscale.corpus.alphabet import LETTERS
from plmscale.corpus.build import SCHEMA, content_hash, listed_files, verify
from plmscale.corpus.sharding import CHUNK, write_source
from plmscale.corpus.store import PARTS, TEST, VALID, Store, write_store
from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.training.shards import Proteins

SEQUENCES, LONGEST, MAX = 1500, 90, 3000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LONGEST, SEQUENCES)
    lengths[700] = MAX + 500  # longer than a shard
    sequences = [rng.integers(4, 24, n).astype(np.uint8) for n in lengths]
    write_store(folder / "one", ((f"p{i}", s) for i, s in enumerate(sequences)), {})
    parts = rng.choice(5, SEQUENCES, p=[0.6, 0.15, 0.1, 0.05, 0.1]).astype(np.uint8)
    parts[700] = 0
    held = (parts == VALID) | (parts == TEST)
    identity = rng.random(held.sum()).astype(np.float32)
    (folder / "split").mkdir()
    parts.tofile(folder / "split/one.parts.bin")
    identity.tofile(folder / "split/one.identity.bin")
    return folder, sequences, parts, identity


@pytest.fixture
def corpus(made, tmp_path):
    folder, *_ = made
    entry = write_source("one", Store.open(folder / "one"), folder / "split", tmp_path, MAX, 2)
    manifest = {"schema": SCHEMA, "key": "k" * 64, "alphabet": LETTERS, "sources": {"one": entry}}
    manifest["content_sha256"] = content_hash(manifest)
    write_json(tmp_path / "manifest.json", manifest)
    return tmp_path, manifest


def greedy(lengths):
    """Shard sizes by the rule: a protein that does not fit any more begins the next one."""
    sizes = []
    for n in lengths:
        if not sizes or (sizes[-1] and sizes[-1] + n > MAX):
            sizes.append(0)
        sizes[-1] += n
    return sizes


@pytest.mark.parametrize("part", list(PARTS))
def test_a_part_holds_its_sequences_in_order(made, corpus, part):
    _, sequences, parts, identity = made
    folder, manifest = corpus
    mine = [sequences[i] for i in np.flatnonzero(parts == PARTS[part])]
    entry = manifest["sources"]["one"][part]
    assert [s["residues"] for s in entry["shards"]] == greedy([len(s) for s in mine])
    assert entry["sequences"] == len(mine) and entry["residues"] == sum(map(len, mine))
    proteins = Proteins(folder, "one", part, manifest)
    assert len(proteins) == len(mine)
    assert all(np.array_equal(proteins.residues(i), s) for i, s in enumerate(mine))
    before = np.load(folder / entry["chunks"]["file"])
    ends = np.cumsum([0, *map(len, mine)])
    assert before.tolist() == [*ends[:-1:CHUNK], ends[-1]]
    if part != "train":
        held = parts[(parts == VALID) | (parts == TEST)]
        found = np.load(folder / entry["identity"]["file"])
        assert np.array_equal(found, identity[held == PARTS[part]])


@pytest.mark.parametrize(("workers", "span"), [(1, 1 << 18), (4, 1 << 18), (3, 64), (1, 7)])
def test_workers_and_pieces_change_nothing(
    made, corpus, tmp_path_factory, workers, span, monkeypatch
):
    folder, *_ = made
    monkeypatch.setattr(sharding, "SPAN", span)
    monkeypatch.setattr(sharding, "_PIECE", 50)
    monkeypatch.setattr(Store.spans, "__defaults__", (span,))
    out = tmp_path_factory.mktemp("again")
    entry = write_source("one", Store.open(folder / "one"), folder / "split", out, MAX, workers)
    assert entry == corpus[1]["sources"]["one"]


def test_shards_of_an_earlier_build_go(made, corpus):
    folder, *_ = made
    out, _ = corpus
    (out / "shards/one.train.00999.bin").write_bytes(b"x")
    (out / "shards/another.train.00000.bin").write_bytes(b"x")
    write_source("one", Store.open(folder / "one"), folder / "split", out, MAX)
    assert not (out / "shards/one.train.00999.bin").exists()
    assert (out / "shards/another.train.00000.bin").exists()


def test_parts_of_another_store_are_refused(made, tmp_path):
    folder, *_ = made
    shutil.copytree(folder / "split", tmp_path / "split")
    path = tmp_path / "split/one.parts.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PlmscaleError, match=r"one\.parts\.bin: 1,499 entries for 1,500 sequences"):
        write_source("one", Store.open(folder / "one"), tmp_path / "split", tmp_path, MAX)


def test_verify_agrees(corpus):
    folder, manifest = corpus
    counts = verify(folder)
    assert counts["files"] == len(list((folder / "shards").iterdir()))
    assert counts["shards"] == sum(len(manifest["sources"]["one"][p]["shards"]) for p in PARTS)


def test_verify_finds_a_flipped_byte_in_any_file(corpus):
    folder, manifest = corpus
    for file, _, _ in listed_files(manifest):
        path = folder / file
        whole = path.read_bytes()
        place = len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PlmscaleError, match=f"{path.name}: is corrupt: its SHA-256 is"):
            verify(folder)
        path.write_bytes(whole)
    verify(folder)


def test_verify_finds_missing_foreign_and_changed(corpus):
    folder, manifest = corpus
    shard = folder / "shards/one.valid.00000.bin"
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(
        PlmscaleError, match=r"one\.valid\.00000\.bin: is missing; remove the corpus"
    ):
        verify(folder)
    shard.write_bytes(whole)
    (folder / "shards/old.train.00000.bin").write_bytes(b"x")
    with pytest.raises(PlmscaleError, match=r"old\.train\.00000\.bin: is not in the manifest"):
        verify(folder)
    (folder / "shards/old.train.00000.bin").unlink()
    entry = manifest["sources"]["one"]["train"]["shards"]
    entry[0]["sha256"], entry[1]["sha256"] = entry[1]["sha256"], entry[0]["sha256"]
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(PlmscaleError, match=r"manifest\.json: was changed: content_sha256"):
        verify(folder)


def test_verify_finds_the_manifest_of_another_build(corpus, made, tmp_path_factory):
    folder, manifest = corpus
    other = tmp_path_factory.mktemp("other")
    _, sequences, parts, identity = made
    write_store(other / "one", ((f"p{i}", s[::-1]) for i, s in enumerate(sequences)), {})
    (other / "split").mkdir()
    parts.tofile(other / "split/one.parts.bin")
    identity[::-1].tofile(other / "split/one.identity.bin")
    entry = write_source("one", Store.open(other / "one"), other / "split", other, MAX // 2)
    theirs = {**manifest, "sources": {"one": entry}}
    theirs["content_sha256"] = content_hash(theirs)
    write_json(folder / "manifest.json", theirs)
    with pytest.raises(PlmscaleError, match="it is the manifest of another build"):
        verify(folder)
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(PlmscaleError, match=r"its key is kkkkkkkkkkkk\.\.\., that of the study"):
        verify(folder, key="a" * 64)


def test_an_empty_part_has_no_files(tmp_path):
    write_store(tmp_path / "s", [("a", np.full(9, 5, np.uint8))], {})
    (tmp_path / "split").mkdir()
    np.zeros(1, np.uint8).tofile(tmp_path / "split/s.parts.bin")
    (tmp_path / "split/s.identity.bin").write_bytes(b"")
    entry = write_source("s", Store.open(tmp_path / "s"), tmp_path / "split", tmp_path, 10)
    assert entry["test"] == entry["valid"] == {"sequences": 0, "residues": 0, "shards": []}
    assert [s["residues"] for s in entry["train"]["shards"]] == [9]
