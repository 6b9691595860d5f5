"""Inputs and targets of the objectives: distributions, and rows that know nothing of each other."""

import numpy as np
import pytest

from plmscale.corpus.alphabet import BOS, EOS, FIRST_RESIDUE, MASK, PAD
from plmscale.errors import PlmscaleError
from plmscale.training.mixture import Mixture
from plmscale.training.objectives import (
    IGNORED,
    causal_rows,
    causal_targets,
    examples,
    masked,
)


@pytest.fixture(params=["1", "0"], ids=["C", "numpy"], autouse=True)
def kernel(request, monkeypatch):
    monkeypatch.setenv("PLMSCALE_NATIVE", request.param)


def proteins(rows=400, length=256, seed=0):
    """Rows of all 25 letters with a protein's end and the next one's begin in every 50 tokens."""
    out = np.random.default_rng(seed).integers(4, 29, (rows, length)).astype(np.uint8)
    out[:, ::50], out[:, 1::50] = EOS, BOS
    out[::7, -3:] = PAD
    return out


def spread(share, count):
    """Five standard errors of a share among `count`."""
    return 5 * np.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.3, 0.6])
def test_masks_follow_the_stated_distribution(ratio):
    rows = proteins()
    inputs, targets = masked(rows, range(400), seed=5, ratio=ratio)
    assert inputs.dtype == np.uint8 and targets.dtype == np.int64
    chosen, residues = targets != IGNORED, rows >= FIRST_RESIDUE
    assert not (chosen & ~residues).any()
    assert np.array_equal(targets[chosen], rows[chosen])
    assert np.array_equal(inputs[~chosen], rows[~chosen])
    n = chosen.sum()
    assert n / residues.sum() == pytest.approx(ratio, abs=spread(ratio, residues.sum()))
    # Of the letters put in, one in 20 is the one that was there, if that is an amino acid.
    standard = (rows[chosen] < 24).mean()
    kept, hidden = inputs[chosen] == rows[chosen], inputs[chosen] == MASK
    assert hidden.mean() == pytest.approx(0.8, abs=spread(0.8, n))
    assert kept.mean() == pytest.approx(0.1 + 0.1 * standard / 20, abs=spread(0.1, n))
    letters = np.bincount(inputs[chosen][~kept & ~hidden], minlength=32)
    assert letters[:4].sum() == letters[24:].sum() == 0
    put = letters[4:24]
    # Chi-square of 19 degrees of freedom: its mean is 19, its s.d. 6.2.
    assert ((put - put.mean()) ** 2 / put.mean()).sum() < 19 + 6 * 6.2


def test_choices_are_independent():
    """Neighbours, lanes of one block of the generator, rows, and seeds that differ by one."""
    rows = np.full((600, 512), 9, np.uint8)
    ratio, count = 0.3, 600 * 512

    def choices(seed, first=0):
        return masked(rows, range(first, first + 600), seed, ratio)[1] != IGNORED

    a = choices(5)
    others = {f"{k} tokens on": np.roll(a, k, 1) for k in (1, 2, 4, 8)}
    others |= {"next row": np.roll(a, 1, 0), "next seed": choices(6), "far": choices(5, 10**12)}
    for name, b in others.items():
        both = (a & b).mean()
        assert both == pytest.approx(ratio**2, abs=spread(ratio**2, count)), name
    for lane in range(8):
        assert a[:, lane::8].mean() == pytest.approx(ratio, abs=spread(ratio, count / 8)), lane


def test_a_larger_ratio_chooses_what_a_smaller_one_does():
    rows = proteins(50)
    few, more = (masked(rows, range(50), 5, ratio)[1] != IGNORED for ratio in (0.1, 0.4))
    assert few.any() and (more | ~few).all() and more.sum() > 3 * few.sum()


RECIPES = {
    "clm": {"objective": "clm", "mask_ratio": None},
    "mlm": {"objective": "mlm", "mask_ratio": 0.15},
    "mixed": {"objective": "mixed", "mask_ratio": 0.3, "clm_share": 0.4, "data_seed": 7},
}


@pytest.mark.parametrize("objective", RECIPES)
@pytest.mark.parametrize("length", [1, 7, 8, 64, 250])
def test_a_batch_is_its_rows_one_by_one(objective, length):
    recipe = RECIPES[objective]
    samples = [12, 3, 10**15, 3, 2**62 - 1, 0, 13]
    rows = proteins(len(samples), 256)[:, :length]
    inputs, targets = examples(recipe, rows, samples, seed=2024)
    assert inputs.shape == targets.shape == rows.shape
    assert inputs.dtype == np.uint8 and targets.dtype == np.int64
    for i, sample in enumerate(samples):
        one, goal = examples(recipe, rows[i : i + 1], [sample], seed=2024)
        assert np.array_equal(inputs[i], one[0]) and np.array_equal(targets[i], goal[0])
    half = [examples(recipe, rows[s], samples[s], 2024) for s in (slice(0, 3), slice(3, 7))]
    assert np.array_equal(np.concatenate([h[0] for h in half]), inputs)
    assert np.array_equal(np.concatenate([h[1] for h in half]), targets)


def test_mixed_rows_are_what_each_objective_makes_of_them():
    recipe, samples = RECIPES["mixed"], list(range(100, 140))
    rows = proteins(40)
    before = rows.copy()
    causal = causal_rows(recipe, samples)
    inputs, targets = examples(recipe, rows, samples, seed=5)
    hidden, goals = masked(rows, samples, 5, 0.3)
    assert causal.dtype == bool and 0 < causal.sum() < 40
    assert np.array_equal(inputs[causal], rows[causal])
    assert np.array_equal(targets[causal], causal_targets(rows)[causal])
    assert np.array_equal(inputs[~causal], hidden[~causal])
    assert np.array_equal(targets[~causal], goals[~causal])
    assert np.array_equal(rows, before), "the loader's rows are shared"


@pytest.mark.parametrize("share", [0.25, 0.4, 0.999, 1e-3])
def test_every_block_holds_its_share_of_causal_rows(share):
    recipe = {**RECIPES["mixed"], "clm_share": share}
    for first in (0, 256 * 10**13):
        causal = causal_rows(recipe, range(first, first + 2560)).reshape(10, 256)
        assert np.abs(causal.sum(1) - 256 * share).max() <= 1
        assert abs(causal.sum() - 2560 * share) <= 1
        if share == 0.4:
            assert len({row.tobytes() for row in causal}) == 10, "blocks are shuffled differently"


@pytest.mark.parametrize("mix", [{"a": 0.3, "b": 0.7}, {"a": 0.5, "b": 0.5}])
def test_a_rows_objective_has_nothing_to_do_with_its_source(mix):
    share, count = 0.3, 256 * 200
    causal = causal_rows({**RECIPES["mixed"], "clm_share": share}, range(count))
    sources, _ = Mixture(mix).locate_all(np.arange(count))
    for number in (0, 1):
        mine = causal[sources == number]
        assert abs(mine.mean() - share) < spread(share, len(mine))


def test_pure_objectives_have_one_answer_for_all_rows():
    assert causal_rows(RECIPES["clm"], [1, 2]) is True
    assert causal_rows(RECIPES["mlm"], [1, 2]) is False


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
def test_a_share_that_mixes_nothing_is_refused(share):
    with pytest.raises(PlmscaleError, match=r"recipe\.clm_share: .*between 0 and 1"):
        causal_rows({**RECIPES["mixed"], "clm_share": share}, [1])
