"""Assays of ProteinGym: the same from zip and single files, and bad input."""

from __future__ import annotations

import re
import zipfile

import downstream_data_example as example
import pytest
from downstream_data_example import read, records

from plmscale.downstream import registry
from plmscale.errors import PlmscaleError


@pytest.fixture
def scans(tmp_path):
    made = example.assays()
    example.small_fitness(tmp_path / "small", made)
    example.full_fitness(tmp_path / "full", made)
    return made


def test_fitness_is_the_same_from_both_forms(tmp_path, scans):
    small, full = (
        read(tmp_path, "fitness", source, rows={"assays": 2}) for source in ("small", "full")
    )
    assert records(small) == records(full)
    name, (target, variants) = next(iter(scans.items()))
    e = next(e for e in full.examples if e.id == variants[0][0] and e.group == name)
    assert (e.sequence, e.target, e.split) == (variants[0][1], variants[0][2], "test")
    assert e.extra == {
        "mutant": e.id, "wild_type": name, "target_seq": target, "uniprot": "B2L11_HUMAN_Dutta",
        "selection": "Binding", "DMS_score_bin": variants[0][3],
    }  # fmt: skip


def test_assays_are_known_without_their_variants(tmp_path, scans):
    resources = example.resources(tmp_path / "registry", "fitness", "full")
    found = registry.assays("full", tmp_path / "full", resources=resources)
    assert {name: assay.target_seq for name, assay in found.items()} == {
        name: target for name, (target, _) in scans.items()
    }


def test_single_assays_can_be_asked_for(tmp_path, scans):
    for source in ("small", "full"):
        resources = example.resources(tmp_path / source, "fitness", source, rows={"assays": 2})
        name = "BLAT_ECOLX_Stiffler_2015"
        data = registry.data(
            "fitness", source, tmp_path / source, groups=[name], limit=4, resources=resources
        )
        assert [e.group for e in data.examples] == [name] * 4
        with pytest.raises(PlmscaleError, match="fitness: no group 'BLAT'"):
            registry.data(
                "fitness", source, tmp_path / source, groups=["BLAT"], resources=resources
            )


def rewrite_zip(path, change):
    """Write the zip again with other members: `change` is given {name: bytes} and returns such."""
    with zipfile.ZipFile(path) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in change(members).items():
            bundle.writestr(name, data)


@pytest.mark.parametrize(
    "name", ["../evil.csv", "/tmp/evil.csv", "a/../../evil.csv", "a\\..\\b.csv"]
)
def test_a_zip_whose_members_leave_their_folder_is_refused(tmp_path, scans, name):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"
    rewrite_zip(path, lambda members: members | {name: b"evil"})
    with pytest.raises(PlmscaleError, match="would lie outside of the zip's folder"):
        read(tmp_path, "fitness", "full")
    assert not list(tmp_path.parent.rglob("evil*"))


def test_a_link_in_a_zip_is_refused(tmp_path, scans):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"
    info = zipfile.ZipInfo("link.csv")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as bundle:
        bundle.writestr(info, "/etc/passwd")
    with pytest.raises(PlmscaleError, match=r"'link\.csv' is a link"):
        read(tmp_path, "fitness", "full")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_cut_zip_is_named(tmp_path, scans, keep):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(PlmscaleError, match="not a whole zip"):
        read(tmp_path, "fitness", "full")


def test_a_zip_with_a_damaged_member_is_named(tmp_path, scans):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"
    data = bytearray(path.read_bytes())
    for place in range(120, 140):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(PlmscaleError, match=r"\.csv cannot be read .*fetch the zip again"):
        read(tmp_path, "fitness", "full", rows={"assays": 2})


def test_hidden_members_of_a_mac_do_not_count(tmp_path, scans):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"
    junk = "__MACOSX/DMS_ProteinGym_substitutions/._x.csv"
    rewrite_zip(path, lambda members: members | {junk: b"\0"})
    assert read(tmp_path, "fitness", "full", rows={"assays": 2}).examples


def test_zip_and_reference_of_different_releases_are_refused(tmp_path, scans):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"

    def renamed(members):
        return {name.replace("BLAT_ECOLX", "BLAT_NEW"): data for name, data in members.items()}

    rewrite_zip(path, renamed)
    message = r"2 assays, expected 2 \(no BLAT_ECOLX_\S+, BLAT_NEW_\S+ unknown\)"
    with pytest.raises(PlmscaleError, match=message):
        read(tmp_path, "fitness", "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.rsplit("\n", 2)[0] + "\n", "5 mutants, expected 6 by the reference"),
        (lambda text: text.replace("DMS_score,", "score,"), "no column DMS_score;"),
        (
            lambda text: re.sub(r"\n\w+,", "\nW999A,", text, count=1),
            "W999A does not fit the target",
        ),
        (lambda text: re.sub(r"\n\w+,", "\nfast,", text, count=1), "'fast' is no substitution"),
        (lambda text: text[:-2] + "2\n", "DMS_score_bin '2', expected 0 or 1"),
    ],
)
def test_a_changed_assay_is_named(tmp_path, scans, change, message):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"

    def changed(members):
        name = next(iter(members))
        return members | {name: change(members[name].decode()).encode()}

    rewrite_zip(path, changed)
    with pytest.raises(PlmscaleError, match=message) as error:
        read(tmp_path, "fitness", "full", rows={"assays": 2})
    assert "B2L11" in str(error.value)


def test_a_sequence_that_is_not_the_mutant_is_refused(tmp_path, scans):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"

    def changed(members):
        name = next(iter(members))
        sequence = members[name].decode().splitlines()[1].split(",")[1]
        other = sequence.replace(sequence[-3:], "WWW")
        return members | {name: members[name].replace(sequence.encode(), other.encode())}

    rewrite_zip(path, changed)
    with pytest.raises(
        PlmscaleError, match=r"line 2: the sequence is not the target with \w+ in it"
    ):
        read(tmp_path, "fitness", "full", rows={"assays": 2})


def test_a_variant_without_a_score_is_left_out(tmp_path, scans):
    path = tmp_path / "full/fitness/DMS_ProteinGym_substitutions.zip"
    score = str(next(iter(scans.values()))[1][0][2]).encode()

    def changed(members):
        name = next(iter(members))
        return members | {name: members[name].replace(score, b"", 1)}

    rewrite_zip(path, changed)
    data = read(tmp_path, "fitness", "full", rows={"assays": 2})
    assert data.dropped == {"no score": 1} and len(data.examples) == 14
