"""What single curves say, against closed forms."""

import numpy as np
import pytest
from paper_logs_example import (
    CONTEXT,
)

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.paper.evidence import grid, jitter, same_curve, shape_of_size, sizes_of_slope

# ---- evidence against closed forms ----------------------------------------------------------


def test_slopes_of_all_sizes_name_the_model_that_made_them():
    """Some sizes at other batches come near, but the exact one is first."""
    for a in PAPER_SIZES.values():
        for rows in (256, 512, 1024):
            best = sizes_of_slope(6 * a.n_params * 300 * rows * CONTEXT / 1e9)[0]
            assert (best.architecture, best.rows) == (a, rows)


def test_shapes_are_solved_exactly_or_not_at_all():
    base = PAPER_SIZES["127M"]
    wide = Architecture("w", 18, 768, 12, 3072)
    assert shape_of_size(wide.n_params, base).d_ff == 3072
    assert shape_of_size(wide.n_params + 10_000, base) is None


def test_grid_counts_what_is_missing():
    x = np.append(np.arange(1, 101) * 7.0, 704.0)
    assert grid(x).unit == pytest.approx(7.0)
    assert (grid(x).skipped, grid(x).foreign_first, grid(x).regular) == (0, False, True)
    assert grid(np.delete(x, [4, 9, 50])).skipped == 3
    assert grid(np.insert(x, 0, 3.1)).foreign_first


def test_same_curve_needs_values_in_order():
    rng = np.random.default_rng(0)
    a = 3 - np.linspace(0, 1, 400) + rng.normal(0, 0.01, 400)
    assert same_curve(a, a[:250]) == 1
    assert same_curve(a, a[::3]) == 1
    assert same_curve(a, rng.permutation(a)[:300]) == 0
    assert same_curve(a, a[:300] + 1e-4) < 0.1


def test_jitter_is_the_noise_around_a_trend():
    rng = np.random.default_rng(1)
    tokens = np.arange(1, 4001) * 1e8
    loss = 2 + 5 * tokens**-0.1 + rng.normal(0, 0.01, 4000)
    assert jitter(loss, tokens) == pytest.approx(0.01, rel=0.1)
    assert jitter(loss[:11], tokens[:11]) is None
