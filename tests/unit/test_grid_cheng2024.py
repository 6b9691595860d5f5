"""The grid of the paper: what it must hold, by which rules its runs are made, and its subsets."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmscale import grid, study
from plmscale.architecture import PAPER_SIZES

PATH = study.PROJECT / "studies/cheng2024.yaml"
SHARED = Path(
    os.environ.get("PLMSCALE_SHARED") or Path(__file__).resolve().parents[2].parent / "shared"
)
LOGS = SHARED / "paper" / "training_logs"
BUDGETS = [1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21]
# L = E + A / N^alpha + B / D^beta, the paper's Table A9.
PUBLISHED = {
    "clm": (2.1226, 143.975, 22036.5, 0.3666, 0.4956),
    "mlm": (0.0, 3.3652, 7.5686, 0.04229, 0.09943),
}


@pytest.fixture(scope="module")
def paper():
    return study.load(PATH)


@pytest.fixture(scope="module")
def runs(paper):
    return grid.expand(paper)


def rows(runs, **wanted):
    found = [run.row() for run in runs]
    for key, value in wanted.items():
        found = [r for r in found if (r[key] if key != "experiment" else r[key].split(","))
                 == value or (key == "experiment" and value in r[key].split(","))]  # fmt: skip
    return found


def test_at_least_300_runs_each_once_parents_first_under_short_names(runs):
    assert len(runs) >= 300
    names = [run.run_id for run in runs]
    assert len(set(names)) == len(names) and max(map(len, names)) < 80
    # No model is trained twice under two names.
    assert len({run.recipe["fingerprint"] for run in runs}) == len(runs)
    place = {name: i for i, name in enumerate(names)}
    assert all(place[run.parent] < i for i, run in enumerate(runs) if run.parent)


def test_every_recipe_follows_the_rules(runs):
    for run in runs:
        r = run.recipe
        n = PAPER_SIZES[r["architecture"]["name"]].n_params
        step = r["batch_rows"] * 1024
        assert r["n_params"] == n
        assert r["batch_rows"] == (512 if n < 1e9 else 1024)
        assert r["tokens"] == r["steps"] * step
        assert r["flops_6nd"] == 6 * n * r["tokens"]
        if r["budget"]:
            assert abs(r["tokens"] - r["budget"] / (6 * n)) <= step / 2
        assert 3e-4 <= r["optimizer"]["lr"] <= 1e-3
        assert r["schedule"]["warmup_fraction"] == (0.05 if run.parent else 0.025)
    rate = {r["architecture"]: r["lr"] for r in rows(runs)}
    assert rate["470M"] == pytest.approx(4e-4, rel=0.01) and rate["7B"] == 3e-4
    sizes = sorted({(r["n_params"], r["lr"]) for r in rows(runs)})
    assert all(a[1] >= b[1] for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_profiles_have_their_lowest_loss_inside_by_the_published_law(runs, objective):
    """A profile that ends at its lowest loss tells no optimum."""
    floor, a, b, alpha, beta = PUBLISHED[objective]
    for budget in BUDGETS:
        own = [r for r in rows(runs, objective=objective, budget=budget, corpus="mix", parent="")
               if r["experiment"].startswith("isoflop")]  # fmt: skip
        own.sort(key=lambda r: r["n_params"])
        loss = [floor + a / r["n_params"] ** alpha + b / r["tokens"] ** beta for r in own]
        assert len({r["architecture"] for r in own}) == len(own) >= 7
        assert 0 < int(np.argmin(loss)) < len(own) - 1


def test_the_experiments_of_the_paper_are_there(runs):
    repetition = rows(runs, experiment="repetition")
    assert Counter((r["objective"], r["corpus"], r["architecture"]) for r in repetition) == Counter(
        itertools.product(("clm", "mlm"), ("uniref50", "mix"), ("154M", "1.2B", "2.8B"))
    )
    masks = rows(runs, experiment="mask_ratio")
    assert Counter((r["architecture"], r["mask_ratio"]) for r in masks) == Counter(
        itertools.product(("85M", "154M"), (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6))
    )
    assert all(
        f"-m{100 * r['mask_ratio']:g}-" in r["run_id"] for r in masks if r["mask_ratio"] != 0.15
    )
    large = {(r["objective"], r["architecture"]): r for r in rows(runs, experiment="large")}
    assert large["clm", "7B"]["flops_6nd"] == pytest.approx(1.14e22, rel=0.02)
    assert large["mlm", "10B"]["flops_6nd"] == pytest.approx(1.68e22, rel=0.02)
    mixed = rows(runs, experiment="mixed")
    assert {r["clm_share"] for r in mixed} == {0.2, 0.5, 0.8} and len(mixed) == 9
    whole = [r["architecture"] for r in rows(runs, experiment="epochs") if r["tokens"] > 1.99e11]
    assert len(whole) == 10


@pytest.mark.parametrize(
    ("experiment", "objective", "pairs"),
    [
        ("transfer_to_mlm", "mlm",
         {"34M": (1e18, 1e19), "85M": (5.2e18, 3e19), "200M": (2.3e19, 1e20),
          "470M": (1e20, 3e20), "1.2B": (5.3e20, 1e21)}),
        ("transfer_to_clm", "clm",
         {"127M": (5.5e19, 1e19), "230M": (1.18e20, 3e19), "470M": (3e20, 1e20),
          "880M": (6.7e20, 3e20), "1.7B": (1.65e21, 1e21)}),
    ],
)  # fmt: skip
def test_transfer_has_parents_children_and_both_twins(runs, experiment, objective, pairs):
    by_id = {run.run_id: run.recipe for run in runs}
    own = [run.recipe for run in runs if experiment in run.experiments]
    children = {r["architecture"]["name"]: r for r in own if r["parent"]}
    assert children.keys() == pairs.keys() and len(own) == 4 * len(pairs)
    scratch = [r["flops_6nd"] for r in own if r["objective"] == objective and not r["parent"]]
    for size, (before, after) in pairs.items():
        child, parent = children[size], by_id[children[size]["parent"]["run_id"]]
        assert child["objective"] == objective != parent["objective"]
        assert parent["architecture"] == child["architecture"] and parent in own
        assert parent["flops_6nd"] == pytest.approx(before, rel=0.001)
        assert child["flops_6nd"] == pytest.approx(after, rel=0.001)
        for twin in (after, before + after):
            assert any(flops == pytest.approx(twin, rel=0.001) for flops in scratch)


def test_the_shares_of_pre_training_add_up_to_the_same_total(runs):
    by_id = {run.run_id: run.recipe for run in runs}
    totals = Counter()
    for run in runs:
        if not run.parent or "pretraining_share" not in run.experiments:
            continue
        parent = by_id[run.parent]
        total = parent["flops_6nd"] + run.recipe["flops_6nd"]
        budget = min(BUDGETS, key=lambda b: abs(b - total))
        step = 6 * run.recipe["n_params"] * run.recipe["batch_rows"] * 1024
        assert abs(total - budget) <= step / 2
        totals[budget] += 1
        assert f"-p{round(100 * parent['flops_6nd'] / total)}-" in run.run_id
    assert totals == {3e19: 7, 1e20: 7, 3e20: 7}


def test_one_pass_is_residues_and_two_marks_a_sequence(paper, runs):
    """Table 1 of the paper: 54 M sequences and 15.2 B residues of UniRef50."""
    once = 15.2e9 + 2 * 54e6
    own = rows(runs, experiment="repetition_epochs", corpus="mix", objective="clm")
    step = 512 * 1024
    assert all(abs(r["tokens"] - k * once) <= step / 2 for r, k in zip(own, (1, 2, 4, 8)))
    assert len(own) == 4


def test_every_subset_has_its_runs(paper, runs):
    counts = {name: len(grid.chosen_runs(paper, name)) for name in paper.subsets}
    assert min(counts.values()) >= 2 and max(counts.values()) < len(runs)
    assert {"pilot", "isoflop", "isoflop-clm", "isoflop-mlm", "repetition", "transfer", "mask-ratio",
            "pretraining-share", "mixed", "large", "downstream"} <= counts.keys()  # fmt: skip
    assert counts["isoflop"] == counts["isoflop-clm"] + counts["isoflop-mlm"]
    pilot = grid.chosen_runs(paper, "pilot")
    assert {run.recipe["objective"] for run in pilot} == {"clm", "mlm"}
    assert {run.recipe["budget"] for run in pilot} == {1e18, 3e18, 1e19}
    pair = grid.chosen_runs(paper, "downstream")
    assert {run.recipe["architecture"]["name"] for run in pair} == {"470M"}
    assert {run.recipe["seed"] for run in pair} == {1, 2, 3} and len(pair) == 9


@pytest.mark.skipif(not LOGS.is_dir(), reason=f"the paper's logs are not in {LOGS}")
def test_every_run_whose_log_the_paper_released_is_in_the_grid(runs, tmp_path):
    from plmscale.paper.audit import audit

    audit(LOGS, tmp_path)
    logged = pd.read_csv(tmp_path / "runs.csv")
    logged = logged[logged["status"] == "done"]
    ours = rows(runs)
    missing = []
    for log in logged.itertuples():
        corpus = {"unimeta": "mix", "ur50": "uniref50"}.get(log.corpus, log.corpus)
        mask = None if log.objective == "clm" else log.mask_ratio
        # The paper's runs end up to 7 % beside their nominal budget.
        if not any(
            (r["objective"], r["architecture"], r["corpus"])
            == (log.objective, log.architecture, corpus)
            and (mask is None or pd.isna(mask) or r["mask_ratio"] == mask)
            and bool(r["parent"]) == isinstance(log.parent, str)
            and abs(np.log(r["tokens"] / log.tokens)) < 0.08
            for r in ours
        ):
            missing.append(log.run_id)
    # Orders of the data that the loader does not have, and a shape with one log alone.
    assert set(missing) == {
        "mlm-2.8B-ur50-epoch-shuffle",
        "mlm-2.8B-ur50-full-shuffle",
        "clm-18x768x3072-1ep",
    }
