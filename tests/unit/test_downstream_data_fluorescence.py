"""Variants of GFP: the same from both forms, stops put back, and bad input."""

from __future__ import annotations

from dataclasses import replace

import downstream_data_example as example
import numpy as np
import pytest
from downstream_data_example import read, records

from plmscale.downstream.data.fluorescence import WILD_TYPE
from plmscale.downstream.data.stops import with_stops
from plmscale.errors import PlmscaleError

GENOTYPES = ["", "SK1R", "SA108D:SN144S", "SK77R:SK212*:ST223I", "SE3V", "SE4G", "SL5P"]
GENOTYPES += [f"S{WILD_TYPE[i]}{i}{'A' if WILD_TYPE[i] != 'A' else 'C'}" for i in range(20, 33)]
FAR = ["SA108D:SN144D:SI186V:SM231T:SL234P", "SK1R:SE3V:SE4G:SL5*", "SK1R:SK24*:SE30V:SK77E:SK111*"]


def write_genotypes(folder, values):
    lines = ["aaMutations\tuniqueBarcodes\tmedianBrightness\tstd"]
    lines += [f"{genotype}\t1\t{value}\t" for genotype, value in values]
    name = "gfp/amino_acid_genotypes_to_brightness.tsv.gz"
    example.write_gzip(folder / name, "\n".join(lines) + "\n")


def write_tape(folder, examples):
    """TAPE's form: stops are left out, values are in single precision."""
    for split in ("train", "valid", "test"):
        own = [e for e in examples if e.split == split]
        columns = {
            "seq": [e.sequence.replace("*", "") for e in own],
            "label": [e.target for e in own],
        }
        example.write_parquet(folder / f"fluorescence/{split}-00000-of-00001.parquet", columns)


@pytest.fixture
def variants(tmp_path):
    values = [(g, 1.30103 + 0.1234567890123 * i) for i, g in enumerate(GENOTYPES + FAR)]
    write_genotypes(tmp_path / "small", values)
    data = read(tmp_path, "fluorescence", "small", rows={"train": 16, "valid": 4, "test": 3})
    write_tape(tmp_path / "full", data.examples)
    return data


def test_fluorescence_is_the_same_from_both_forms(tmp_path, variants):
    rows = {"train": 16, "valid": 4, "test": 3}
    full = read(tmp_path, "fluorescence", "full", rows=rows)
    assert records(full) == records(variants)
    assert {e.id for e in full.examples} == {e.id for e in variants.examples}
    assert any(note.startswith("3 sequences were shorter") for note in full.notes)


def test_variants_are_split_by_number_of_mutations(variants):
    assert {len(e.id.split(":")) for e in variants.split("test")} == {4, 5}
    assert {e.extra["mutations"] for e in variants.split("valid")} <= {0, 1, 2, 3}
    by_id = {e.id: e for e in variants.examples}
    stop = by_id["K77R:K212*:T223I"]
    assert stop.extra == {"mutations": 3, "stop": True} and stop.sequence[212] == "*"
    assert by_id["wild-type"].sequence == WILD_TYPE and not by_id["wild-type"].extra["stop"]
    assert by_id["wild-type"].target == float(np.float32(1.30103))


def test_which_variants_validate_does_not_hang_on_the_order(tmp_path, variants):
    values = [(g, 1.0 + i) for i, g in enumerate(GENOTYPES + FAR)][::-1]
    write_genotypes(tmp_path / "small", values)
    again = read(tmp_path, "fluorescence", "small", rows={"train": 16, "valid": 4, "test": 3})
    assert {e.id for e in again.split("valid")} == {e.id for e in variants.split("valid")}


def test_stops_are_put_back_as_in_a_published_row():
    # Row 21,200 of TAPE's training set, K77R:K212*:T223I, as published: 236 letters.
    tape = (
        "SKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLSYGVQCFSRYPDHMRQHDFFKSAMPEGYVQERTIF"
        "FKDDGNYKTRAEVKFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPD"
        "NHYLSTQSALSKDPNERDHMVLLEFVIAAGITHGMDELYK"
    )
    whole = with_stops(tape, WILD_TYPE)
    assert len(tape) == 236 and len(whole) == 237
    changes = [f"{a}{i}{b}" for i, (a, b) in enumerate(zip(WILD_TYPE, whole)) if a != b]
    assert changes == ["K77R", "K212*", "T223I"]


def test_stops_are_put_where_they_leave_the_fewest_differences():
    rng = np.random.default_rng(0)
    for _ in range(200):
        wild = example.protein(rng, 12)
        places = sorted(rng.choice(12, rng.integers(0, 4), replace=False))
        own = "".join(letter for i, letter in enumerate(wild) if i not in places)
        whole = with_stops(own, wild)
        assert whole.replace("*", "") == own and whole.count("*") == len(places)
        assert all(a in (b, "*") for a, b in zip(whole, wild))
    assert with_stops("MKV", "MKV") == "MKV"
    # A run of one letter does not tell: the last place is taken.
    assert with_stops("MEK", "MEEK") == "ME*K"


def test_a_stop_next_to_a_substitution_is_found_against_all_placements():
    rng = np.random.default_rng(1)
    for _ in range(100):
        wild = example.protein(rng, 9)
        letters = list(wild)
        letters[rng.integers(9)] = "W"
        own = "".join(letters[:4] + letters[5:])
        placements = [own[:i] + "*" + own[i:] for i in range(9)]
        fewest = min(sum(a != b for a, b in zip(text, wild)) for text in placements)
        assert sum(a != b for a, b in zip(with_stops(own, wild), wild)) == fewest


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        ("SA109D", "the wild type has E at 109"),
        ("A108D", "'A108D' is no substitution"),
        ("SA999D", "'SA999D' is no substitution"),
    ],
)
def test_a_genotype_that_does_not_fit_is_named(tmp_path, genotype, message):
    write_genotypes(tmp_path / "small", [("", 3.7), (genotype, 1.3)])
    with pytest.raises(PlmscaleError, match=f"line 3: .*{message}"):
        read(tmp_path, "fluorescence", "small", rows={})


def test_variants_without_a_value_are_left_out_and_text_is_an_error(tmp_path):
    write_genotypes(tmp_path / "small", [("", 3.7), ("SK1R", "nan"), ("SE3V", "")])
    data = read(tmp_path, "fluorescence", "small", rows={})
    assert data.dropped == {"no target": 2} and len(data.examples) == 1
    write_genotypes(tmp_path / "small", [("", "bright")])
    with pytest.raises(PlmscaleError, match="line 2: brightness 'bright' is no number"):
        read(tmp_path, "fluorescence", "small", rows={})


def test_a_source_that_is_split_in_another_way_is_refused(tmp_path, variants):
    moved = [replace(e, split="test") if e.id == "K1R" else e for e in variants.examples]
    write_tape(tmp_path / "full", moved)
    with pytest.raises(
        PlmscaleError, match=r"split test, row .*: the variant has 1 mutations, exp"
    ):
        read(tmp_path, "fluorescence", "full", rows={})


def test_a_longer_sequence_is_refused(tmp_path, variants):
    write_tape(
        tmp_path / "full", [replace(e, sequence="M" + e.sequence) for e in variants.examples]
    )
    with pytest.raises(PlmscaleError, match="238 letters, expected 237"):
        read(tmp_path, "fluorescence", "full", rows={})
