"""One training step on a GPU: the host waits for nothing, memory is as foretold, bad steps are refused."""

import gc

import pytest
import torch
from gpu_example import DEVICE, on_gpu, only_gpu

pytest.importorskip("deepspeed")
from gpu_training import prepared_run
from training_fixtures import make_corpus

from plmscale import memory
from plmscale.training import trainer
from plmscale.training.state import adam_step, fragments

pytestmark = [on_gpu, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), proteins=300, mean_length=300)


@pytest.fixture
def prepared(tmp_path, corpus, monkeypatch):
    """Make a run up to its first step, as the only rank; what it was given is set back."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("MASTER_PORT")
    runs = []

    def make(size, **more):
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        spec = {"size": size, "corpus": corpus, "compile": "off", "context": 512, "rows": 8, **more}
        runs.append(prepared_run(spec, tmp_path))
        return runs[-1]

    yield make
    for run in runs:
        run.feed.close()


def take(run, steps):
    for _ in range(steps):
        run.step += 1
        run.train_step(run.step)


@only_gpu
@pytest.mark.parametrize("objective", ["clm", "mlm"])
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_step_waits_for_nothing(prepared, monkeypatch, objective, compiled):
    run = prepared("3M", objective=objective, compile=compiled)
    take(run, 4)  # compiles, and warms up the allocators of device and pinned memory
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: waits.append("device"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(run, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not waits
    monkeypatch.undo()
    assert run.guard.counts()["taken"] == 7


@only_gpu
@pytest.mark.parametrize("size", ["25M", "85M"])
def test_memory_is_as_foretold(prepared, size):
    before = torch.cuda.memory_allocated()
    run = prepared(size, context=1024, rows=16, micro=8)
    take(run, 3)
    torch.cuda.synchronize()
    plan = run.plan
    foretold = memory.predict(
        run.arch, 1024, 8, 1, plan.zero_stage, plan.checkpointing, device="cuda", precision="bf16"
    ).total
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(foretold, rel=0.15)


def test_a_step_that_is_not_finite_changes_nothing(prepared, monkeypatch):
    """Fused AdamW on the device is told so by a number on the device."""
    run = prepared("tiny", context=64)
    take(run, 2)
    before = [(piece.weight.clone(), piece.exp_avg.clone()) for piece in fragments(run.engine)]
    losses = trainer.row_losses
    monkeypatch.setattr(trainer, "row_losses", lambda *args: losses(*args) * float("nan"))
    take(run, 1)
    for piece, (weight, moment) in zip(fragments(run.engine), before, strict=True):
        assert torch.equal(piece.weight, weight) and torch.equal(piece.exp_avg, moment)
    assert adam_step(run.engine) == 2 and run.guard.counts()["nonfinite"] == 1
    monkeypatch.undo()
    run.sums.zero_()
    take(run, 1)
    assert adam_step(run.engine) == 3 and run.sums.isfinite().all()
    assert run.guard._state.device.type == DEVICE
