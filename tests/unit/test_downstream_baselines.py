"""Features of sequences alone, against counting by hand."""

import numpy as np
import pytest

from plmscale.downstream.baselines.features import (
    STANDARD,
    aligned,
    composition,
    dipeptides,
    windows,
)
from plmscale.downstream.baselines.top_hit import top_hits
from plmscale.errors import PlmscaleError

SEQUENCES = ["MKVLAAXK*", "A", "XU", "ACDEFGHIKLMNPQRSTVWY", "WΩWW"]


def test_composition_is_of_all_letters():
    found = composition(SEQUENCES)
    for row, sequence in zip(found, SEQUENCES, strict=True):
        expected = [sequence.count(letter) / len(sequence) for letter in STANDARD]
        assert np.allclose(row, expected)


def test_dipeptides_are_ordered_pairs_of_standard_neighbours():
    found = dipeptides(SEQUENCES)
    assert found.shape == (5, 420) and np.allclose(found[:, :20], composition(SEQUENCES))
    for row, sequence in zip(found[:, 20:], SEQUENCES, strict=True):
        pairs = [sequence[i : i + 2] for i in range(len(sequence) - 1)]
        expected = [pairs.count(a + b) / max(1, len(pairs)) for a in STANDARD for b in STANDARD]
        assert np.allclose(row, expected)


def test_aligned_letters_tell_place_letter_stop_and_unknown():
    variants = ["MKV", "MKX", "M*V", "MKU"]
    found = aligned(variants).toarray()
    assert found.shape == (4, 66) and (found.sum(axis=1) == 3).all()
    # X and U are one letter, "any other"; a stop is another.
    assert np.array_equal(found[1], found[3])
    assert len({row.tobytes() for row in found}) == 3
    assert (found[0] != found[2]).reshape(3, 22).any(axis=1).tolist() == [False, True, False]
    with pytest.raises(PlmscaleError, match="sequences of 2 to 3 letters"):
        aligned(["MKV", "MK"])


@pytest.mark.parametrize("width", [1, 5])
def test_windows_are_the_letters_around(width, monkeypatch):
    from plmscale.downstream.baselines import features

    monkeypatch.setattr(features, "_BLOCK", 10)
    blocks = [block.toarray() for block in windows(SEQUENCES, width)]
    assert len(blocks) > 1
    found = np.concatenate(blocks).reshape(-1, width, 23)
    assert (found.sum(axis=2) == 1).all()
    alphabet = STANDARD + "*?-"
    told = ["".join(alphabet[code] for code in row.argmax(axis=1)) for row in found]
    expected = []
    for sequence in SEQUENCES:
        plain = "".join(c if c in STANDARD + "*" else "?" for c in sequence)
        padded = "-" * (width // 2) + plain + "-" * (width // 2)
        expected += [padded[i : i + width] for i in range(len(sequence))]
    assert told == expected


def test_a_window_needs_a_middle():
    with pytest.raises(ValueError, match="no middle"):
        list(windows(["MK"], 4))


def test_top_hit_is_the_best_and_among_equals_the_first():
    rng = np.random.default_rng(3)
    base = "".join(rng.choice(list(STANDARD), 80))
    worse = base[:40] + "".join(rng.choice(list(STANDARD), 40))
    lone = "".join(rng.choice(list(STANDARD), 80))
    assert top_hits([base, lone], [worse, base, base], evalue=1e-3).tolist() == [1, -1]
