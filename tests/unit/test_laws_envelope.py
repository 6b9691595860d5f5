"""Envelope of learning curves: by hand, against plain loops, and on curves of a known law."""

import json

import numpy as np
import pandas as pd
import pytest

from plmscale.laws.bootstrap import Noise, generator
from plmscale.laws.envelope import (
    Grid,
    RunEnds,
    envelope_points,
    fit_envelope,
    loss_matrix,
    replicates,
    target_flops,
    valid_curves,
)

ALPHA, BETA = 0.34, 0.28


def curve(n_params, tokens, loss):
    tokens = np.asarray(tokens, dtype=float)
    return pd.DataFrame({"step": np.arange(len(tokens)), "tokens": tokens,
                         "flops_6nd": 6 * n_params * tokens, "split": "valid",
                         "loss": loss})  # fmt: skip


def study(sizes=25, points=400, noise=0.0, seed=0, ratio=6.0):
    """Runs of a known law, each seen at many points; noise moves a whole curve."""
    rng = np.random.default_rng(seed)
    rows, curves = [], {}
    for i, n in enumerate(np.geomspace(1e6, 1e9, sizes)):
        tokens = np.geomspace(2e7, 1e21 / 6 / n * rng.uniform(0.5, 1), points)
        loss = 2 + 400 / n**ALPHA + 1200 / tokens**BETA + rng.normal(0, noise)
        name = f"run-{i}"
        curves[name] = curve(n, tokens, loss)
        rows.append({"run_id": name, "objective": "clm", "n_params": n, "tokens": tokens[-1],
                     "c": ratio * n * tokens[-1], "loss": loss[-1], "loss_sd": np.nan})  # fmt: skip
    return pd.DataFrame(rows), curves


def by_hand(rows, curves, targets, absolute):
    """The envelope as one would write it first: a loop over targets and runs."""
    found = []
    for target in targets:
        best = None
        for row in rows.itertuples():
            points = curves[row.run_id]
            flops = points["tokens"].to_numpy() * row.c / row.tokens
            i = int(np.argmin(np.abs(flops - target)))
            loss = points["loss"].iloc[i]
            if abs(flops[i] - target) <= absolute and (best is None or loss < best[1]):
                best = (row.run_id, loss, flops[i], points["tokens"].iloc[i])
        if best:
            found.append((target, *best))
    return pd.DataFrame(found, columns=["target", "run_id", "loss", "flops", "tokens"])


def three_runs():
    curves = {
        "small": curve(1e6, [1e9, 2e9, 3e9], [4.0, 3.5, 3.4]),
        "mid": curve(2e6, [1e9, 2e9], [3.8, 3.2]),
        "big": curve(4e6, [1e9], [3.9]),
    }
    rows = pd.DataFrame(
        [{"run_id": name, "n_params": n, "tokens": c["tokens"].iloc[-1],
          "c": c["flops_6nd"].iloc[-1], "loss": c["loss"].iloc[-1], "loss_sd": np.nan}
         for (name, c), n in zip(curves.items(), (1e6, 2e6, 4e6), strict=True)]
    )  # fmt: skip
    return rows, curves


def test_each_target_takes_the_run_with_the_lowest_loss_there():
    rows, curves = three_runs()
    table = valid_curves(rows, curves)
    design = Grid(3, 6e15, 2.4e16, relative=0.01)
    matrix = loss_matrix(table, design)
    assert matrix.targets == pytest.approx([6e15, 1.2e16, 2.4e16])
    assert matrix.loss.tolist() == [[4.0, np.inf, np.inf], [3.5, 3.8, np.inf], [np.inf, 3.2, 3.9]]
    points = envelope_points(table, matrix)
    assert list(points["run_id"]) == ["small", "small", "mid"]
    assert list(points["n_params"]) == [1e6, 1e6, 2e6]
    assert list(points["tokens"]) == [1e9, 2e9, 2e9]
    assert list(points["loss"]) == [4.0, 3.5, 3.2]


def test_a_target_that_no_run_comes_near_gives_no_point():
    rows, curves = three_runs()
    table = valid_curves(rows, curves)
    points = envelope_points(table, loss_matrix(table, Grid(2, 6e15, 9e15, absolute=1e15)))
    assert list(points["target"]) == [6e15]
    wide = envelope_points(table, loss_matrix(table, Grid(2, 6e15, 9e15, absolute=3e15)))
    # Half-way between two points the earlier one counts.
    assert list(wide["loss"]) == [4.0, 3.8] and list(wide["flops"]) == [6e15, 1.2e16]


def test_run_ends_are_targets_whatever_the_distance():
    rows, curves = three_runs()
    table = valid_curves(rows, curves)
    assert target_flops(table, RunEnds()) == pytest.approx([1.8e16, 2.4e16])
    matrix = loss_matrix(table, RunEnds())
    assert np.isfinite(matrix.loss).all()
    assert target_flops(table, RunEnds(tail=2)) == pytest.approx([1.2e16, 2.4e16])
    assert np.isinf(loss_matrix(table, RunEnds(absolute=1e15)).loss).any()


def test_the_default_grid_ends_where_sizes_can_no_longer_be_compared():
    rows, curves = study(sizes=5)
    table = valid_curves(rows, curves)
    ends = np.sort(rows["c"])
    targets = target_flops(table, Grid(number=50))
    assert [targets[0], targets[-1]] == pytest.approx([ends[0], ends[-3]])
    assert len(targets) == 50


@pytest.mark.parametrize("absolute", [1e15, 3e16])
def test_the_envelope_is_that_of_plain_loops(absolute):
    rows, curves = study(sizes=9, points=40, noise=0.05)
    table = valid_curves(rows, curves)
    design = Grid(60, 1e15, 1e20, absolute=absolute)
    found = envelope_points(table, loss_matrix(table, design))
    want = by_hand(rows, curves, np.geomspace(1e15, 1e20, 60), absolute)
    assert len(found) == len(want) > 5
    assert list(found["run_id"]) == list(want["run_id"])
    for name in ("target", "loss", "flops", "tokens"):
        assert found[name].to_numpy() == pytest.approx(want[name].to_numpy())


def test_curves_of_a_known_law_give_its_exponents():
    rows, curves = study(sizes=60)
    entry = fit_envelope("clm", rows, curves, 0, generator(0, "x"),
                         design=Grid(200, 1e17, 1e20, relative=0.03))  # fmt: skip
    assert entry["N_opt"]["a"] == pytest.approx(BETA / (ALPHA + BETA), abs=0.01)
    assert entry["D_opt"]["b"] == pytest.approx(ALPHA / (ALPHA + BETA), abs=0.01)
    best = (ALPHA * 400 / (BETA * 1200)) ** (1 / (ALPHA + BETA)) * (1e18 / 6) ** (
        BETA / (ALPHA + BETA)
    )
    found = entry["N_opt"]["A"] * 1e18 ** entry["N_opt"]["a"]
    assert found == pytest.approx(best, rel=0.05)
    # N, D and C of each point belong together, so the two laws do too.
    assert entry["N_opt"]["a"] + entry["D_opt"]["b"] == pytest.approx(1, abs=1e-9)
    assert entry["N_opt"]["A"] * entry["D_opt"]["B"] == pytest.approx(1 / 6, rel=1e-6)


def test_compute_with_attention_scales_a_whole_curve():
    rows, curves = study(sizes=6, ratio=7.5)
    table = valid_curves(rows, curves)
    one = curves["run-2"]
    assert table.flops[2] == pytest.approx(7.5 / 6 * one["flops_6nd"].to_numpy())


def test_replicates_resample_whole_runs():
    rows, curves = study(sizes=12, points=60, noise=0.02)
    table = valid_curves(rows, curves)
    matrix = loss_matrix(table, Grid(30, 1e16, 1e19, relative=0.1))
    spread = replicates(table, matrix, Noise(np.nan, np.nan, "unknown"), 5, generator(1, "x"))
    drawn = generator(1, "x").integers(0, 12, (5, 12))
    for i in range(5):
        kept = rows.iloc[np.unique(drawn[i])]
        part = valid_curves(kept, curves)
        points = envelope_points(part, loss_matrix(part, Grid(30, 1e16, 1e19, relative=0.1)))
        slope, level = np.polyfit(np.log(points["flops"]), np.log(points["n_params"]), 1)
        assert [spread["a"][i], spread["log_A"][i]] == pytest.approx([slope, level])
        minus_c = np.polyfit(np.log(points["flops"]), np.log(points["loss"]), 1)[0]
        assert spread["c"][i] == pytest.approx(-minus_c)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(30):
        rows, curves = study(sizes=20, points=80, noise=0.01, seed=seed)
        entry = fit_envelope("clm", rows, curves, 100, generator(seed, "x"),
                             design=Grid(60, 1e17, 1e20, relative=0.1))  # fmt: skip
        low, high = entry["ci95"]["a"]
        held.append(low <= BETA / (ALPHA + BETA) <= high)
    # 28.5 expected; noise is drawn twice (which runs, how lucky), so too wide rather than narrow.
    assert sum(held) >= 25


def test_the_entry_says_what_it_is_made_of():
    rows, curves = study(noise=0.01)
    first, again = (
        fit_envelope("clm", rows, curves, 60, generator(2, "x"), design=Grid(100, 1e17, 1e20))
        for _ in range(2)
    )
    assert json.dumps(first, allow_nan=False) == json.dumps(again)
    assert "middle of a run" in first["notes"][0]
    assert first["n_runs"] == 25 and first["design"]["kind"] == "Grid"
    assert set(first["points"][0]) == {"run_id", "n_params", "flops", "tokens", "loss", "target"}
    low, high = first["ci95"]["a"]
    assert low < first["N_opt"]["a"] < high
    assert first["bootstrap"]["n"] == 60 and len(first["bootstrap"]["rows"]) == 60
    # All these runs end within a factor two of one compute, which is all the default looks at.
    narrow = fit_envelope("clm", rows, curves, 60, generator(2, "x"))
    assert "span only a factor" in " ".join(narrow["warnings"])


def test_runs_without_curves_are_counted_and_two_sizes_are_too_few():
    rows, curves = study(sizes=6)
    del curves["run-0"]
    entry = fit_envelope("clm", rows, curves, 0, generator(0, "x"))
    assert "1 of 6 runs have no learning curve" in entry["warnings"][0]
    few = fit_envelope("clm", rows.tail(2), curves, 10, generator(0, "x"))
    assert few["N_opt"]["a"] is None and "3 sizes" in few["warnings"][-1]
    none = fit_envelope("clm", rows, {}, 10, generator(0, "x"))
    assert none["N_opt"]["a"] is None and none["points"] == []


def test_training_points_take_no_part():
    rows, curves = study(sizes=4, points=10)
    both = {name: pd.concat([c, c.assign(split="train", loss=0.1)]) for name, c in curves.items()}
    table = valid_curves(rows, both)
    assert [len(loss) for loss in table.loss] == [10] * 4
    assert min(loss.min() for loss in table.loss) > 0.1
