"""The grid: recipes, names that stay, selections."""

import math

import pytest

from plmscale import grid, schedule, settings, study
from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.errors import PlmscaleError

DEFAULT = study.PROJECT / "config.yaml"
ISOFLOP = {"kind": "isoflop", "budgets": [1e12, 1e13], "sizes": ["3M", "6M"]}


def runs_of(*, reverse=False, **changes):
    experiments = changes.pop("grid", {"isoflop": ISOFLOP})
    base = {"grid": experiments, "subsets": {}, "training": {"batch_rows": {0: 4}, "min_steps": 0}}
    runs = grid.expand(study.load(DEFAULT, {**base, **changes}))
    return {run.run_id: run.recipe for run in runs}


def test_isoflop_runs_spend_their_budget_to_half_a_step():
    for recipe in runs_of().values():
        step = 6 * recipe["n_params"] * recipe["batch_rows"] * recipe["context"]
        assert abs(recipe["flops_6nd"] - recipe["budget"]) <= step / 2
        assert recipe["tokens"] == recipe["steps"] * recipe["batch_rows"] * recipe["context"]
        assert recipe["flops"] > recipe["flops_6nd"]


def test_adding_and_reordering_keeps_every_name_and_recipe():
    before = runs_of()
    more = {
        "first": {"kind": "repetition", "sizes": ["3M"], "corpora": ["mix"], "tokens": 5e5},
        "isoflop": {
            "kind": "isoflop", "objectives": ["mlm", "clm"],
            "budgets": [1e13, 5e12, 1e12], "sizes": ["10M", "6M", "3M"],
        },
    }  # fmt: skip
    after = runs_of(grid=more)
    assert before.keys() < after.keys()
    assert all(after[run_id] == before[run_id] for run_id in before)


def test_what_changes_the_outcome_changes_the_name_and_nothing_else_does():
    before = runs_of()
    assert runs_of(execution={"threads": 7, "checkpoint_seconds": 1}).keys() == before.keys()
    assert runs_of(description="other words", results="elsewhere").keys() == before.keys()
    for change in (
        {"training": {"weight_decay": 0.2}},
        {"model": {"context": 128}},
        {"corpus": {"clean": {"min_length": 31}}},
        {"corpus": {"split": {"seed": 3}}},
        {"validation": {"rows": 5}},
    ):
        assert not runs_of(**change).keys() & before.keys(), change


def test_equal_numbers_written_differently_are_one_recipe():
    as_text = {"isoflop": {**ISOFLOP, "budgets": ["1e12", 10000000000000]}}
    assert runs_of(grid=as_text).keys() == runs_of().keys()


def test_transfer_twins_have_equal_compute_and_share_the_isoflop_run():
    transfer = {"kind": "transfer", "budgets": [1e13], "sizes": ["3M"], "share": 0.2}
    runs = runs_of(grid={"isoflop": ISOFLOP, "transfer": transfer})
    child = next(r for r in runs.values() if r["parent"])
    parent = runs[child["parent"]["run_id"]]
    scratch = next(
        r for r in runs.values()
        if r["experiment"] == "isoflop,transfer" and r["architecture"]["name"] == "3M"
    )  # fmt: skip
    assert (parent["objective"], child["objective"]) == ("clm", "mlm")
    total = parent["flops_6nd"] + child["flops_6nd"]
    assert math.isclose(total, scratch["flops_6nd"], rel_tol=0.01)
    assert child["schedule"]["warmup_fraction"] == 0.05
    assert list(runs).index(parent["run_id"]) < list(runs).index(child["run_id"])
    # A parent with another recipe makes another child.
    other = runs_of(
        grid={"transfer": transfer}, training={"batch_rows": {0: 4}, "min_steps": 0, "seed": 9}
    )
    assert child["run_id"] not in other


def test_a_budget_too_small_for_one_step_says_what_would_do():
    with pytest.raises(PlmscaleError, match=r"cannot make one step of 4 x \d+ tokens.*at least"):
        runs_of(grid={"isoflop": {**ISOFLOP, "budgets": [1e6]}})


def test_few_tokens_are_spent_on_small_steps():
    few = {"isoflop": {**ISOFLOP, "budgets": [3e11], "sizes": ["3M"]}}
    runs = runs_of(grid=few, training={"batch_rows": {0: 64}, "min_steps": 20})
    recipe = next(iter(runs.values()))
    tokens = 3e11 / (6 * recipe["n_params"])
    assert recipe["steps"] >= 20 and recipe["batch_rows"] < 64
    assert 2 * recipe["batch_rows"] * recipe["context"] * 20 > tokens


def test_learning_rate_passes_through_the_paper_s_points():
    table = settings.TrainingConfig().lr
    for label, lr in (("25M", 6e-4), ("85M", 5.5e-4), ("470M", 4e-4), ("10B", 3e-4), ("3M", 1e-3)):
        n = PAPER_SIZES[label].n_params
        assert grid.interpolate_lr(table, n) == pytest.approx(lr, rel=0.01)
    assert grid.interpolate_lr({1e6: 1e-3, 1e8: 1e-5}, 1e7) == pytest.approx(1e-4)


def test_select_filters_and_suggests():
    runs = grid.expand(
        study.load(
            DEFAULT,
            {
                "grid": {"isoflop": ISOFLOP},
                "subsets": {},
                "training": {"batch_rows": {0: 4}, "min_steps": 0},
            },
        )
    )
    some = grid.select(
        runs, grid.parse_select("objective:mlm,budget=1e13,architecture:3M,architecture:6M")
    )
    assert [(r.recipe["objective"], r.recipe["architecture"]["name"]) for r in some] == [
        ("mlm", "3M"),
        ("mlm", "6M"),
    ]
    for text, said in (
        ("objectiv:mlm", "did you mean objective"),
        ("objective:mml", "did you mean mlm"),
        ("budget:7", "no run has budget '7'"),
        ("mlm", "is not KEY:VALUE"),
    ):
        with pytest.raises(PlmscaleError, match=said):
            grid.select(runs, grid.parse_select(text))


def test_named_subsets_of_the_demo_resolve():
    demo = study.load(DEFAULT)
    for name in demo.subsets:
        assert grid.chosen_runs(demo, subset=name)
    with pytest.raises(PlmscaleError, match="subsets: "):
        grid.chosen_runs(demo, subset="nothing")


def test_parameter_counts_of_the_paper():
    """From the released logs: FLOPs axis / tokens = 6 N."""
    known = {"3M": 3_561_344, "13M": 13_151_360, "85M": 85_068_288, "470M": 472_271_344,
             "2.8B": 2_833_956_224, "7B": 7_249_584_080, "10B": 10_685_455_508}  # fmt: skip
    assert {k: PAPER_SIZES[k].n_params for k in known} == known


def test_attention_adds_a_sixth_of_s_over_d():
    a = Architecture("x", 4, 768, 12, 2048)
    head = 6 * a.vocab_size * a.d_model
    added = (a.flops_per_token(1024) - head) / (6 * a.n_params) - 1
    # At f = 8 d / 3 N is 12 L d^2 but for biases and norms, which makes it s / (6 d).
    assert added == pytest.approx(1024 / (6 * 768), rel=0.01)


def test_impossible_shapes_are_errors():
    with pytest.raises(PlmscaleError, match="even size"):
        Architecture("x", 1, 10, 4, 8)
    with pytest.raises(PlmscaleError, match="allowed: paper, modern"):
        Architecture("x", 1, 8, 1, 8, preset="old")


def expanded(**changes):
    base = {"grid": {"isoflop": ISOFLOP}, "subsets": {}}
    training = {"batch_rows": {0: 4}, "min_steps": 0, **changes.pop("training", {})}
    runs = grid.expand(study.load(DEFAULT, {**base, "training": training, **changes}))
    return {run.run_id: run for run in runs}


def test_runs_of_an_equal_beginning_share_a_trunk():
    isoflop = {**ISOFLOP, "budgets": [1e12, 3e12, 1e13]}
    runs = expanded(grid={"isoflop": isoflop}, training={"schedule": "wsd"})
    trunks = {run_id: run.trunk for run_id, run in runs.items() if run.trunk}
    # Two objectives and two sizes, each a chain of three budgets.
    assert len(trunks) == 2 * 2 * 2
    for run_id, trunk in trunks.items():
        here, there = run_id.split("-"), trunk.split("-")
        assert here[:2] == there[:2]
        assert (there[2], here[2]) in {("1e12", "3e12"), ("3e12", "1e13")}
        assert "trunk" not in runs[run_id].recipe
    # It is a saving and no part of a run: with fewer budgets the others are the same runs.
    fewer = {**ISOFLOP, "budgets": [1e12, 1e13]}
    assert expanded(grid={"isoflop": fewer}, training={"schedule": "wsd"}).keys() < runs.keys()
    assert not any(run.trunk for run in expanded(grid={"isoflop": isoflop}).values())


def test_another_seed_or_batch_shares_no_trunk():
    isoflop = {**ISOFLOP, "budgets": [1e12], "seeds": [1, 2]}
    other = {**isoflop, "seeds": [1], "budgets": [2e12], "training": {"batch_rows": {0: 2}}}
    runs = expanded(grid={"a": isoflop, "b": other}, training={"schedule": "wsd"})
    assert len(runs) == 12 and not any(run.trunk for run in runs.values())


def test_mixed_runs_have_a_share_and_a_mask_ratio():
    isoflop = {**ISOFLOP, "objectives": ["mixed"], "training": {"clm_share": 0.2}}
    for run_id, run in expanded(grid={"mix": isoflop}).items():
        assert run_id.startswith("mixed-")
        assert run.recipe["clm_share"] == 0.2 and run.recipe["mask_ratio"] == 0.15
    assert not any("clm_share" in run.recipe for run in expanded().values())


def test_layout_is_no_part_of_a_recipe():
    execution = {"zero_stage": 3, "micro_rows": 2, "activation_checkpointing": "on", "devices": 4}
    assert expanded(execution=execution).keys() == expanded().keys()


def test_mup_is_part_of_the_shape():
    before, after = expanded(), expanded(model={"mup_base_width": 192})
    assert not before.keys() & after.keys()
    assert all(r.recipe["architecture"]["mup_base_width"] == 192 for r in after.values())


def test_a_trunk_is_left_no_later_than_the_run_that_takes_it():
    """Two shares of decay on one trunk: what the shorter decay keeps is too late for the longer."""
    isoflop = {**ISOFLOP, "objectives": ["clm"], "sizes": ["3M"], "budgets": [1e12, 2e12, 4e12]}
    fast = {**isoflop, "training": {"decay_fraction": 0.1}}
    runs = expanded(grid={"slow": isoflop, "fast": fast}, training={"schedule": "wsd"})
    assert len(runs) == 6

    def leaves(run):
        return schedule.decay_start(run.recipe["steps"], run.recipe["schedule"])

    order = sorted(runs.values(), key=leaves)
    assert [run.trunk for run in order] == [None, *(run.run_id for run in order[:-1])]
