"""Tables of a small made-up corpus, beside what plain Python counts; low complexity by tantan."""

import json
from collections import Counter
from statistics import mean, median

import numpy as np
import pandas as pd
import pytest
from training_fixtures import make_recipe

from plmscale.corpus import complexity, stats
from plmscale.corpus.alphabet import LETTERS, decode, encode
from plmscale.corpus.complexity import low_complexity, masked_residues, sample_numbers
from plmscale.corpus.stats import IDENTITY_BINS, corpus_tables, identity_bins, write_stats
from plmscale.files import sha256_file, write_json

SIZES = {
    "curated": {"train": 41, "valid": 12, "test": 0},
    "diverse": {"train": 70, "valid": 9, "test": 6},
    "outside": {"train": 0, "valid": 0, "test": 17},
}
CLEANING = {
    "curated": {
        "read_sequences": 60, "dropped_by_length": 2, "dropped_letter_rule": 1,
        "replaced": {"J": 3}, "duplicates_within_source": 4, "duplicates_across_sources": 0,
        "duplicates_of": {}, "sequences": 53, "residues": 1000,
    },
    "diverse": {
        "read_sequences": 100, "dropped_by_length": 3, "duplicates_within_source": 2,
        "duplicates_across_sources": 7, "duplicates_of": {"curated": 5, "outside": 2},
    },
    "outside": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def proteins():
    """{source: {part: tokens of each protein}}, letters of all kinds, odd and even lengths."""
    rng = np.random.default_rng(5)
    letters = np.arange(4, 4 + len(LETTERS), dtype=np.uint8)
    weights = rng.dirichlet(np.linspace(1, 9, len(letters)))

    def chain():
        return rng.choice(letters, int(rng.integers(1, 90)), p=weights)

    return {
        source: {part: [chain() for _ in range(n)] for part, n in parts.items()}
        for source, parts in SIZES.items()
    }


@pytest.fixture(scope="module")
def identities():
    rng = np.random.default_rng(6)
    found = {}
    for source, parts in SIZES.items():
        for part in ("valid", "test"):
            values = rng.random(parts[part]).astype(np.float32)
            values[::4] = np.nan
            found[source, part] = values
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, proteins, identities):
    """Write the proteins as a corpus folder, three shards a part."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "shards").mkdir()
    sources = {}
    for source, parts in proteins.items():
        entry = {"role": "held_out" if source == "outside" else "train"}
        entry["cleaning"] = CLEANING[source]
        for part, chains in parts.items():
            shards = []
            for number, members in enumerate(np.array_split(np.arange(len(chains)), 3)):
                if not len(members):
                    continue
                stem = folder / f"shards/{source}.{part}.{number:05d}"
                inside = [chains[i] for i in members]
                offsets = np.cumsum([0, *map(len, inside)])
                np.concatenate(inside).tofile(f"{stem}.bin")
                np.save(f"{stem}.idx.npy", offsets)
                shards.append(
                    {
                        "file": f"shards/{stem.name}.bin", "index": f"shards/{stem.name}.idx.npy",
                        "sequences": len(inside), "residues": int(offsets[-1]),
                        "sha256": "", "index_sha256": "",
                    }
                )  # fmt: skip
            entry[part] = {
                "sequences": len(chains),
                "residues": sum(map(len, chains)),
                "shards": shards,
            }
            if chains and part != "train":
                file = f"shards/{source}.{part}.identity.npy"
                np.save(folder / file, identities[source, part])
                entry[part]["identity"] = {"file": file, "sha256": sha256_file(folder / file)}
        sources[source] = entry
    write_json(folder / "manifest.json", {"schema": 2, "alphabet": LETTERS, "sources": sources})
    return folder


@pytest.fixture(scope="module")
def tables(corpus):
    return corpus_tables(corpus)


def test_numbers_of_each_source_and_part_are_those_of_plain_counting(tables, proteins):
    rows = tables["sources"].set_index(["source", "part"])
    assert list(rows.index) == [(s, p) for s in SIZES for p in ("train", "valid", "test")]
    for (source, part), row in rows.iterrows():
        chains = proteins[source][part]
        lengths = [len(chain) for chain in chains]
        assert (row["sequences"], row["residues"]) == (len(chains), sum(lengths))
        if not chains:
            assert np.isnan(row["mean_length"]) and np.isnan(row["median_length"])
            assert np.isnan(row["unigram_entropy"]) and np.isnan(row["low_complexity"])
            continue
        assert row["mean_length"] == pytest.approx(mean(lengths))
        assert row["median_length"] == median(lengths)
        text = "".join(map(decode, chains))
        shares = np.array(list(Counter(text).values())) / len(text)
        assert row["unigram_entropy"] == pytest.approx(-np.sum(shares * np.log(shares)))


def rows_of(table, source, part):
    return table[(table["source"] == source) & (table["part"] == part)]


def test_lengths_and_residues_are_those_of_plain_counting(tables, proteins):
    for source, parts in proteins.items():
        for part, chains in parts.items():
            rows = rows_of(tables["lengths"], source, part)
            counted = Counter(map(len, chains))
            assert dict(zip(rows["length"], rows["sequences"])) == counted
            assert rows["length"].is_monotonic_increasing
            rows = rows_of(tables["residues"], source, part)
            counted = Counter("".join(map(decode, chains)))
            assert dict(zip(rows["residue"], rows["count"])) == {n: counted[n] for n in LETTERS}
            assert rows["frequency"].sum() == pytest.approx(1 if chains else 0)


def test_what_cleaning_removed_stands_in_the_row_of_training(tables):
    train = tables["sources"].query("part == 'train'").set_index("source")
    assert train.at["diverse", "duplicates_across_sources"] == 7
    assert train.at["curated", "dropped_letter_rule"] == 1
    assert pd.isna(train.at["diverse", "dropped_letter_rule"])
    # 60 read, 3 dropped, 4 doubled, 53 in parts; 100 read, 3 dropped, 9 doubled, 85 in parts.
    assert train.at["curated", "unused_sequences"] == 0
    assert train.at["diverse", "unused_sequences"] == 3
    assert pd.isna(train.at["outside", "unused_sequences"])
    assert tables["sources"].query("part != 'train'")["read_sequences"].isna().all()
    assert train.at["curated", "sequences"] == 41  # of the part, not of cleaning


def test_duplicates_tell_who_kept_them(tables):
    assert tables["duplicates"].to_numpy().tolist() == [
        ["curated", "curated", 4],
        ["diverse", "diverse", 2],
        ["diverse", "curated", 5],
        ["diverse", "outside", 2],
    ]


def test_held_out_sequences_are_binned_by_identity(tables, proteins, identities):
    table = tables["identity"].set_index(["source", "part", "bin"])
    assert len(table) == 4 * len(IDENTITY_BINS)
    for (source, part), values in identities.items():
        for name, low, high in (("< 0.3", 0, 0.3), ("0.3-0.5", 0.3, 0.5), ("0.5-0.9", 0.5, 0.9)):
            inside = [chain for chain, v in zip(proteins[source][part], values) if low <= v < high]
            if len(values):
                row = table.loc[(source, part, name)]
                assert tuple(row) == (len(inside), sum(map(len, inside)))
        if len(values):
            assert table.loc[(source, part, "no hit"), "sequences"] == np.isnan(values).sum()


def test_a_bin_begins_at_its_edge_in_single_precision():
    edges = np.array([np.nan, 0.2999, 0.3, 0.5, 0.8999, 0.9, 1.0], np.float32)
    assert identity_bins(edges).tolist() == [0, 1, 2, 3, 3, 4, 4]


def test_pieces_and_threads_change_nothing(corpus, tables, monkeypatch):
    monkeypatch.setattr(stats, "_PIECE", 7)
    again = corpus_tables(corpus, threads=3)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, again[name])


def test_files_are_written_with_whole_numbers_and_epochs(corpus):
    recipe = make_recipe() | {"budget": 1e9}
    tables = write_stats(corpus, [recipe], sample=0)
    folder = corpus / "stats"
    assert {path.stem for path in folder.iterdir()} == set(tables)
    sources = pd.read_csv(folder / "sources.csv", dtype=str)
    assert sources.at[0, "read_sequences"] == "60"
    assert "low_complexity" not in sources
    epochs = pd.read_csv(folder / "epochs.csv")
    assert set(epochs["source"]) == {"curated", "diverse"}
    json.dumps({k: json.loads(v.to_json(orient="records")) for k, v in tables.items()})


def test_low_complexity_of_a_part_is_that_of_its_sequences(tables, proteins):
    row = tables["sources"].set_index(["source", "part"]).loc[("diverse", "train")]
    whole = low_complexity(proteins["diverse"]["train"])
    assert row["low_complexity"] == whole.share
    assert (row["low_complexity_sample"], row["low_complexity_se"]) == (70, 0)  # all were read


def test_a_sample_is_read_from_the_right_places(corpus, proteins):
    part = json.loads((corpus / "manifest.json").read_text())["sources"]["diverse"]["train"]
    chosen = sample_numbers(70, 9)
    read = complexity._read(corpus, part, chosen)
    assert [decode(r) for r in read] == [decode(proteins["diverse"]["train"][i]) for i in chosen]


def random_protein(rng, length):
    return "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))


def test_repeats_are_masked_and_random_sequence_is_not():
    rng = np.random.default_rng(0)
    left, right = random_protein(rng, 100), random_protein(rng, 100)
    proteins = [
        random_protein(rng, 400),
        left + "Q" * 60 + right,
        "PEVKA" * 20,
        left + "X" * 30 + right,
    ]
    masked = masked_residues([encode(p) for p in proteins])
    assert masked[:, 1].tolist() == [400, 260, 100, 200]  # X is not counted
    assert masked[0, 0] <= 4 and masked[3, 0] <= 4
    assert 58 <= masked[1, 0] <= 64
    assert 90 <= masked[2, 0] < 100  # not its first copy


def test_the_standard_error_is_that_of_repeated_samples():
    """Of samples of 100 among 500 sequences: the spread of their shares, and what each states."""
    rng = np.random.default_rng(3)
    proteins = []
    for i in range(500):
        proteins.append(
            encode(random_protein(rng, int(rng.integers(30, 60))) + "Q" * 30 * (i % 5 == 0))
        )
    found = []
    for _ in range(60):
        chosen = rng.choice(500, 100, replace=False)
        found.append(low_complexity([proteins[i] for i in chosen], population=500))
    stated = np.mean([f.standard_error for f in found])
    assert stated == pytest.approx(np.std([f.share for f in found]), rel=0.3)
    # Without the correction for a fifth of the population it would be 12 % more.
    endless = low_complexity([proteins[i] for i in chosen])
    assert found[-1].standard_error == pytest.approx(endless.standard_error * 0.8**0.5)


def test_the_sample_is_fixed_and_even(monkeypatch):
    chosen = sample_numbers(100_000, 2_000)
    assert len(set(chosen.tolist())) == 2_000 and (np.diff(chosen) > 0).all()
    tenths = np.bincount(chosen // 10_000, minlength=10)
    assert tenths.min() > 140 and tenths.max() < 260  # 200 each, standard deviation 13
    monkeypatch.setattr(complexity, "_SPAN", 777)
    assert (sample_numbers(100_000, 2_000) == chosen).all()
    assert sample_numbers(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert sample_numbers(0, 9).tolist() == []
