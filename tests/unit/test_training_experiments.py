"""What a recipe may ask for beside a plain CLM or MLM run: WSD with a shared trunk, both objectives
mixed, transfer, muP, and rules for steps that must not be taken."""

import csv
import itertools
import math

import numpy as np
import pytest
import torch
from training_fixtures import curve, finish, launch, make_corpus, make_recipe, metrics, write_run

from plmscale.files import fingerprint, sha256_file
from plmscale.schedule import decay_start, learning_rate, trunk_of
from plmscale.training.guard import Guard
from plmscale.training.records import Spikes

WSD = {
    "name": "wsd",
    "warmup_steps": 10,
    "decay_fraction": 0.25,
    "decay": "sqrt",
    "final_fraction": 0.1,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_cosine_reproduces_the_papers_shape():
    schedule = {"name": "cosine", "warmup_fraction": 0.025, "final_fraction": 0.1}
    rates = [learning_rate(s, 4000, 6e-4, schedule) for s in range(1, 4001)]
    assert rates[99] == 6e-4 == max(rates)  # 2.5 % of 4,000 steps
    assert rates[49] == pytest.approx(3e-4)
    assert rates[-1] == pytest.approx(6e-5)
    middle = 100 + 1950
    assert rates[middle - 1] == pytest.approx(6e-4 * 0.55)
    assert all(a > b for a, b in itertools.pairwise(rates[99:]))


@pytest.mark.parametrize("decay", ["sqrt", "linear"])
def test_wsd_stays_then_decays(decay):
    schedule = {**WSD, "decay": decay}
    rates = [learning_rate(s, 100, 1.0, schedule) for s in range(1, 101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:75] == [1.0] * 65 and decay_start(100, schedule) == 75
    assert rates[99] == pytest.approx(0.1)
    half = math.sqrt(13 / 25) if decay == "sqrt" else 13 / 25
    assert rates[87] == pytest.approx(0.1 + 0.9 * (1 - half))


def test_wsd_does_not_depend_on_the_length_before_its_decay():
    for step in range(1, 76):
        assert learning_rate(step, 100, 1.0, WSD) == learning_rate(step, 400, 1.0, WSD)
    short, long = make_recipe(schedule=WSD, steps=100), make_recipe(schedule=WSD, steps=400)
    other = make_recipe(schedule=WSD, steps=400, seed=2)
    assert fingerprint(trunk_of(short)) == fingerprint(trunk_of(long))
    assert fingerprint(trunk_of(other)) != fingerprint(trunk_of(long))


def test_a_run_shorter_than_its_warm_up_still_decays():
    rates = [learning_rate(s, 8, 1.0, WSD) for s in range(1, 9)]
    assert max(rates) == pytest.approx(0.6) and rates[-1] == pytest.approx(0.06)


def test_a_branch_equals_the_run_from_the_start(tmp_path, corpus):
    """Three budgets of one size: each goes on from the one before, with the same weights as alone."""
    lengths = (60, 120, 200)
    recipes = [make_recipe(schedule=WSD, steps=n, objective="mlm") for n in lengths]
    alone = [finish(tmp_path / f"alone{r['steps']}", corpus, r) for r in recipes]
    spent = []
    for number, recipe in enumerate(recipes):
        more = []
        if number:
            more = [f"--trunk-dir={tmp_path / f'chain{lengths[number - 1]}' / 'checkpoint'}"]
        run_dir = finish(tmp_path / f"chain{recipe['steps']}", corpus, recipe, *more)
        for name in ("model.safetensors", "validation.csv"):
            assert sha256_file(run_dir / name) == sha256_file(alone[number] / name)
        result = metrics(run_dir)
        assert result["tokens"] == recipe["tokens"]
        spent.append(result["flops_6nd_spent"])
        if number:
            start = decay_start(lengths[number - 1], WSD)
            assert result["trunk"] == {"run_id": recipes[number - 1]["run_id"], "step": start}
            assert len(curve(run_dir, "valid")) >= 1
    assert sum(spent) == pytest.approx(
        sum(metrics(d)["flops_6nd"] for d in alone) * (60 + 75 + 110) / sum(lengths)
    )


def test_a_trunk_of_another_beginning_is_not_taken(tmp_path, corpus):
    short = finish(tmp_path / "short", corpus, make_recipe(schedule=WSD, steps=60))
    recipe = make_recipe(schedule=WSD, steps=80, seed=5)
    run_dir = write_run(tmp_path / "long", recipe)
    done = launch(run_dir, corpus, f"--trunk-dir={short.parent / 'checkpoint'}")
    assert done.returncode == 0 and "has another beginning" in done.stdout
    assert metrics(run_dir)["trunk"] is None
    alone = finish(tmp_path / "alone", corpus, recipe)
    assert sha256_file(run_dir / "model.safetensors") == sha256_file(alone / "model.safetensors")


def test_a_mixed_run_is_judged_on_both_objectives(tmp_path, corpus):
    recipe = make_recipe(objective="mixed", mask_ratio=0.15, clm_share=0.25, steps=120)
    run_dir = finish(tmp_path, corpus, recipe)
    result = metrics(run_dir)
    both = result["loss_by_objective"]
    assert set(both) == {"clm", "mlm"}
    assert result["loss"] == pytest.approx(0.25 * both["clm"] + 0.75 * both["mlm"])
    assert result["loss_se"] > 0
    assert curve(run_dir, "valid")[-1] < curve(run_dir, "valid")[0]
    with open(run_dir / "validation.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["objective"] for r in rows] == ["clm"] * 16 + ["mlm"] * 16
    assert [r["row"] for r in rows[:16]] == [r["row"] for r in rows[16:]]


@pytest.mark.parametrize("ratio", [0.05, 0.6])
def test_the_mask_ratio_is_that_of_the_recipe(tmp_path, corpus, ratio):
    recipe = make_recipe(objective="mlm", mask_ratio=ratio, steps=20)
    run_dir = finish(tmp_path, corpus, recipe)
    with open(run_dir / "validation.csv", newline="") as handle:
        predicted = sum(int(r["tokens"]) for r in csv.DictReader(handle))
    # 16 rows of 64 tokens, some of which are no residues.
    assert 0.8 * ratio < predicted / (16 * 64) < 1.1 * ratio


def test_a_transfer_records_its_parent(tmp_path, corpus):
    mlm = make_recipe(objective="mlm", steps=40)
    parent_dir = finish(tmp_path / "parent", corpus, mlm)
    child = make_recipe(
        steps=20,
        parent={"run_id": mlm["run_id"], "fingerprint": mlm["fingerprint"]},
        schedule={"name": "cosine", "warmup_fraction": 0.05, "final_fraction": 0.1},
    )
    run_dir = finish(tmp_path / "child", corpus, child, f"--parent-dir={parent_dir}")
    parent, told = metrics(parent_dir), metrics(run_dir)["parent"]
    for key in ("run_id", "fingerprint", "weights_sha256", "flops_6nd", "tokens", "loss"):
        assert told[key] == parent[key]
    assert told["objective"] == "mlm"


def test_a_child_starts_from_the_parents_exact_weights(tmp_path, corpus):
    """Also in bf16, where the fp32 masters must not be rounded on the way."""
    from safetensors.numpy import load_file

    mlm = make_recipe(objective="mlm", steps=20, precision="bf16")
    parent_dir = finish(tmp_path / "parent", corpus, mlm)
    child = make_recipe(
        steps=1,
        precision="bf16",
        parent={"run_id": mlm["run_id"], "fingerprint": mlm["fingerprint"]},
    )
    child["optimizer"] = {**child["optimizer"], "lr": 0.0}
    run_dir = finish(tmp_path / "child", corpus, child, f"--parent-dir={parent_dir}")
    old = load_file(parent_dir / "model.safetensors")
    new = load_file(run_dir / "model.safetensors")
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_mup_moves_the_rates_of_matrices_alone(tmp_path, corpus):
    shape = {"d_model": 32, "n_heads": 2, "d_ff": 85, "mup_base_width": 16}
    run_dir = finish(tmp_path, corpus, make_recipe(architecture=shape, steps=60))
    assert curve(run_dir, "valid")[-1] < curve(run_dir, "valid")[0]
    same = {"mup_base_width": 16}
    base = finish(tmp_path / "base", corpus, make_recipe(steps=30))
    mup = finish(tmp_path / "mup", corpus, make_recipe(architecture=same, steps=30))
    assert curve(base, "valid") == curve(mup, "valid")


class FakeEngine:
    """As much of DeepSpeed's engine as the guard sees, around one parameter."""

    def __init__(self):
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.adam = torch.optim.AdamW([self.weight], lr=0.1, fused=True)
        self.optimizer = type("Wrapper", (), {"optimizer": self.adam, "_global_grad_norm": None})()

    def step(self, gradient):
        self.weight.grad = torch.full((4,), float(gradient))
        norm = torch.linalg.vector_norm(self.weight.grad)
        self.optimizer._global_grad_norm = norm
        self.adam.step()


def test_steps_with_gradients_that_are_not_finite_are_refused():
    engine, plain = FakeEngine(), FakeEngine()
    guard = Guard(engine, 0.0, "cpu")
    for gradient in (0.5, math.nan, math.inf, 0.3):
        engine.step(gradient)
        guard.after_step()
    for gradient in (0.5, 0.3):
        plain.step(gradient)
    assert torch.equal(engine.weight, plain.weight)
    counts = guard.counts()
    assert (counts["nonfinite"], counts["in_a_row"], counts["taken"]) == (2, 0, 2)


def test_spikes_are_refused_once_the_usual_norm_is_known():
    engine = FakeEngine()
    guard = Guard(engine, 5.0, "cpu")
    engine.step(50.0)  # the first norms are what they are
    guard.after_step()
    for _ in range(300):
        engine.step(0.5)
        guard.after_step()
    before = engine.weight.clone()
    again = Guard(FakeEngine(), 5.0, "cpu")
    again.restore(guard.saved())
    assert again.counts() == guard.counts()
    engine.step(50.0)
    guard.after_step()
    assert torch.equal(engine.weight, before)
    assert guard.counts()["spikes"] == 1 and guard.counts()["in_a_row"] == 1
    engine.step(2.0)
    guard.after_step()
    assert not torch.equal(engine.weight, before) and guard.counts()["in_a_row"] == 0


def test_a_run_whose_gradients_stay_lost_ends(tmp_path, corpus):
    """Weights that overflow in bf16 from the start: no step can be taken."""
    recipe = make_recipe(steps=60, architecture={"init_std": 1e30}, precision="fp32")
    run_dir = finish(tmp_path, corpus, recipe)
    result = metrics(run_dir)
    assert result["status"] == "diverged"


def test_loss_spikes_are_counted():
    spikes = Spikes()
    assert not any(spikes.see(3.0 - 0.01 * n) for n in range(20))
    assert spikes.see(3.4) and not spikes.see(2.8) and spikes.count == 1
