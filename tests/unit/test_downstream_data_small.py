"""The small real data: numbers that are published or were measured elsewhere."""

from __future__ import annotations

from collections import Counter

import downstream_data_example as example
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from plmscale.downstream import registry
from plmscale.downstream.data.components import related, split_by_relation
from plmscale.downstream.data.fluorescence import WILD_TYPE
from plmscale.downstream.data.stops import with_stops

pytestmark = pytest.mark.skipif(
    not example.SMALL.is_dir(), reason=f"{example.SMALL} (small real data) is not there"
)


@pytest.fixture(scope="module")
def variants():
    return registry.data("fluorescence", "small", example.SMALL)


def test_variants_are_tapes(variants):
    sizes = Counter(e.split for e in variants.examples)
    assert sizes == {"train": 21_446, "valid": 5_362, "test": 27_217}
    assert sum(e.extra["stop"] for e in variants.examples) == 2_310
    # Two rows of TAPE's training set as published.
    by_id = {e.id: e for e in variants.examples}
    for name, value in (("N168K:L234R", 3.8237006664276123), ("K50R:V66A", 3.7520840167999268)):
        assert (by_id[name].target, by_id[name].extra["mutations"]) == (value, 2)
        assert by_id[name].split in ("train", "valid")


def test_the_number_of_mutations_foretells_as_much_as_was_measured(variants):
    test = variants.split("test")
    mutations = [-e.extra["mutations"] for e in test]
    assert spearmanr(mutations, [e.target for e in test])[0] == pytest.approx(0.340, abs=0.0005)


def test_the_wild_type_is_that_of_proteingym():
    assays = registry.assays("small", example.SMALL)
    assert assays["GFP_AEQVI_Sarkisyan_2016"].target_seq == "M" + WILD_TYPE


def test_most_stops_are_put_back_where_they_were(variants):
    stopped = [e.sequence for e in variants.examples if e.extra["stop"]]
    restored = [with_stops(s.replace("*", ""), WILD_TYPE) for s in stopped]
    assert sum(a == b for a, b in zip(stopped, restored, strict=True)) == 2_218
    # Where not, no fewer differences from the wild type were possible.
    for own, put in zip(stopped, restored, strict=True):
        assert sum(a != b for a, b in zip(put, WILD_TYPE, strict=True)) <= sum(
            a != b for a, b in zip(own, WILD_TYPE, strict=True)
        )


def test_domains_are_the_subset_of_tapes():
    data = registry.data("fold", "small", example.SMALL)
    sizes = Counter(e.group or e.split for e in data.examples)
    assert sizes == {"train": 4_418, "valid": 434, "fold": 372, "superfamily": 649, "family": 359}
    assert max(e.target for e in data.examples) <= 1_194
    assert any(note.startswith("45 test examples are of 36 classes") for note in data.notes)


@pytest.fixture(scope="module")
def chains():
    return registry.data("contacts", "small", example.SMALL)


def test_chains_are_split_without_relatives_across(chains):
    assert Counter(e.split for e in chains.examples) == {"train": 384, "valid": 50, "test": 100}
    by_sequence = {}
    for e in chains.examples:
        by_sequence.setdefault(e.sequence, set()).add(e.split)
    assert len(by_sequence) == 527 and all(len(splits) == 1 for splits in by_sequence.values())


@pytest.mark.slow
def test_the_table_of_splits_is_what_mmseqs2_gives(chains):
    sequences = {e.id: e.sequence for e in chains.examples}
    pairs = related(sequences)
    assert split_by_relation(sequences, pairs) == {e.id: e.split for e in chains.examples}


def test_contacts_are_those_of_a_neighbour_search(chains):
    with np.load(example.SMALL / "contacts/mmtf_ca_534chains.npz") as file:
        places = np.split(file["xyz"] / 10, np.cumsum(file["lens"])[:-1])
        names = file["ids"].tolist()
    by_id = {e.id: e for e in chains.examples}
    for name, own in list(zip(names, places, strict=True))[::10]:
        known = np.flatnonzero(~np.isnan(own[:, 0]))
        # Strictly closer than 8 angstrom: no pair lies on the cut-off itself.
        found = cKDTree(own[known]).query_pairs(8 - 1e-6)
        pairs = {(int(known[i]), int(known[j])) for i, j in found}
        assert set(map(tuple, by_id[name].target.tolist())) == pairs


def test_random_pairs_are_contacts_as_often_as_was_measured(chains):
    shares = []
    for e in chains.split("test"):
        known = e.extra["resolved"]
        i, j = np.triu_indices(len(known), 6)
        pairs = (known[i] & known[j]).sum()
        shares.append((e.target[:, 1] - e.target[:, 0] >= 6).sum() / pairs)
    assert np.mean(shares) == pytest.approx(0.027, abs=0.002)


def test_assays_are_those_of_the_reference():
    assays = registry.assays("small", example.SMALL)
    assert Counter(a.selection for a in assays.values()) == {
        "OrganismalFitness": 77, "Stability": 66, "Activity": 43, "Expression": 18, "Binding": 13,
    }  # fmt: skip
    assert sum(a.mutants for a in assays.values()) == 2_465_767
    data = registry.data("fitness", "small", example.SMALL)
    sizes = Counter(e.group for e in data.examples)
    assert sizes == {"B2L11_HUMAN_Dutta_2010_binding-Mcl-1": 170, "BLAT_ECOLX_Stiffler_2015": 4_996}


def test_bins_follow_from_the_cut_off_as_in_proteingyms_own_file():
    assays = registry.assays("small", example.SMALL)
    data = registry.data("fitness", "small", example.SMALL)
    own = [e for e in data.examples if e.group.startswith("B2L11")]
    assert all(e.extra["DMS_score_bin"] == (e.target > assays[e.group].cutoff) for e in own)
    # BLAT's cut-off is the median of the column that is taken for its score.
    derived = [e.extra["DMS_score_bin"] for e in data.examples if e.group.startswith("BLAT")]
    assert abs(np.mean(derived) - 0.5) < 0.001


def test_the_most_common_state_is_right_as_often_as_was_measured():
    data = registry.data("secondary_structure", "small", example.SMALL)
    sizes = Counter(e.split for e in data.examples)
    assert sizes == {"train": 9_712, "valid": 1_080, "test": 364}

    # The most common label of training, residues without coordinates included, is C.
    labels = Counter("".join(e.target for e in data.split("train")))
    assert labels.most_common(1)[0][0] == "C"
    tested = Counter()
    for e in data.split("test"):
        tested.update(np.array(list(e.target))[e.extra["resolved"]].tolist())
    assert tested["C"] / tested.total() == pytest.approx(0.386, abs=0.0005)
