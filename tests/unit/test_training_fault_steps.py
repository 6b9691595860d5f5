"""Steps that must not be taken, on any number of ranks at any ZeRO stage; uneven validation rows."""

import csv

import pytest
from fault_bench import (
    Bench,
    recipe_of,
    stop_at,
)
from training_fixtures import digests, make_corpus, make_recipe, metrics, write_run

from plmscale.files import sha256_file


@pytest.fixture(scope="module")
def bench():
    with Bench() as server:
        yield server


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


# At some steps the last micro batch of some ranks has a finite loss and gradients of NaN.
_POISON = """
import os
import torch
from plmscale.training import checkpoint, state, trainer
_losses, _healthy_step = trainer.row_losses, trainer.Run.train_step
now = {}
def row_losses(*args):
    found = _losses(*args)
    now["micro"] += 1
    last = now["micro"] == now["run"].plan.accumulation
    if last and now["run"].step in POISONED and os.environ["RANK"] in RANKS:
        found.register_hook(lambda gradient: gradient * FACTOR)
    return found
def numbers(engine):
    found = [t.clone() for p in state.fragments(engine) for t in (p.weight, p.exp_avg, p.exp_avg_sq)]
    if not hasattr(next(engine.module.parameters()), "ds_id"):
        found += [p.detach().clone() for p in engine.module.parameters()]
    return found, state.adam_step(engine)
def poisoned_step(run, step):
    now.update(run=run, micro=0)
    if step in SKIPPED:
        run.log = lambda step: ""
        return
    before = numbers(run.engine) if step in POISONED else None
    _healthy_step(run, step)
    if before is not None:
        after = numbers(run.engine)
        assert before[1] == after[1], "AdamW counted a refused step"
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0])), "a refused step moved"
trainer.row_losses, trainer.Run.train_step = row_losses, poisoned_step
"""


def poison(steps=(), ranks=("0",), skip=(), factor="nan"):
    head = f"POISONED, RANKS, SKIPPED = {set(steps)!r}, {set(ranks)!r}, {set(skip)!r}\n"
    return head + f"FACTOR = float({factor!r})\n" + _POISON


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("devices", "stage"),
    [
        *(pytest.param(1, stage, marks=pytest.mark.slow) for stage in (1, 2, 3)),
        (2, 1),
        (2, 2),
        (2, 3),
    ],
)
def test_a_refused_step_leaves_all_as_it_is(tmp_path, bench, corpus, precision, devices, stage):
    """NaN in one micro batch of one rank, in the first step and later; several groups of parameters."""
    recipe = make_recipe(
        steps=8,
        batch_rows=64,
        precision=precision,
        architecture={"n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 85, "mup_base_width": 16},
    )
    options = [f"--devices={devices}", f"--zero-stage={stage}", "--micro-rows=16"]
    bad, skip = write_run(tmp_path / "bad", recipe), write_run(tmp_path / "skip", recipe)
    rank = str(devices - 1)
    code, said = bench.run(bad, corpus, *options, patch=poison((1, 4, 5), rank))
    assert code == 0, said
    assert metrics(bad)["status"] == "done" and metrics(bad)["steps_refused"]["nonfinite"] == 3
    code, said = bench.run(skip, corpus, *options, patch=poison(skip=(1, 4, 5)))
    assert code == 0, said
    assert sha256_file(bad / "model.safetensors") == sha256_file(skip / "model.safetensors")


@pytest.mark.parametrize(
    ("stage", "precision"), [(1, "bf16"), (2, "bf16"), (3, "bf16"), (2, "fp32")]
)
def test_a_spike_on_one_rank_is_refused_by_all(tmp_path, bench, corpus, stage, precision):
    recipe = make_recipe(steps=8, batch_rows=64, precision=precision)
    recipe["optimizer"] = {**recipe["optimizer"], "spike_factor": 20.0}
    trusting = "from plmscale.training import guard\nguard._TRUSTED_AFTER = 2\n"
    options = ["--devices=2", f"--zero-stage={stage}", "--micro-rows=16"]
    bad, skip = write_run(tmp_path / "bad", recipe), write_run(tmp_path / "skip", recipe)
    code, said = bench.run(bad, corpus, *options, patch=trusting + poison((5,), "1", factor="1e4"))
    assert code == 0, said
    assert metrics(bad)["steps_refused"] == {"nonfinite": 0, "spikes": 1}
    assert bench.run(skip, corpus, *options, patch=trusting + poison(skip=(5,)))[0] == 0
    assert sha256_file(bad / "model.safetensors") == sha256_file(skip / "model.safetensors")


def test_refused_steps_in_a_row_are_counted_across_a_stop(tmp_path, bench, corpus):
    recipe = recipe_of()
    bad = poison(range(3, 40))
    plain, run_dir = write_run(tmp_path / "a", recipe), write_run(tmp_path / "b", recipe)
    assert bench.run(plain, corpus, patch=bad)[0] == 0
    code, said = bench.run(run_dir, corpus, patch=bad + stop_at(8))
    assert code == 143, said
    assert bench.run(run_dir, corpus, patch=bad)[0] == 0
    for folder in (plain, run_dir):
        result = metrics(folder)
        assert result["status"] == "diverged" and "10 steps in a row" in result["status_detail"]
        assert result["steps"] == 12 and result["steps_refused"]["nonfinite"] == 10
    assert digests(run_dir) == digests(plain)


@pytest.mark.parametrize("rows", [2, 7])
def test_validation_rows_that_do_not_divide_among_ranks(tmp_path, bench, corpus, rows):
    """Fewer rows than ranks, and a number that leaves some ranks without; both objectives."""
    validation = {"rows": rows, "evaluations": 2, "curve_rows": 2, "seed": 7}
    recipe = make_recipe(
        objective="mixed",
        mask_ratio=0.15,
        clm_share=0.5,
        steps=4,
        precision="fp32",
        validation=validation,
    )
    one, three = write_run(tmp_path / "one", recipe), write_run(tmp_path / "three", recipe)
    assert bench.run(one, corpus)[0] == 0
    code, said = bench.run(three, corpus, "--devices=3", "--zero-stage=3", "--micro-rows=1")
    assert code == 0, said
    with open(one / "validation.csv", newline="") as a, open(three / "validation.csv") as b:
        rows_of = [list(csv.DictReader(handle)) for handle in (a, b)]
    assert len(rows_of[0]) == 2 * rows
    for mine, theirs in zip(*rows_of, strict=True):
        assert float(mine["nll"]) == pytest.approx(float(theirs["nll"]), rel=1e-5)
        assert {**mine, "nll": ""} == {**theirs, "nll": ""}
