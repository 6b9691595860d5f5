"""Predicted activations against what autograd really keeps, and what is really alive, on the CPU."""

import pytest
import torch
from memory_probe import LiveBytes, loss_of

from plmscale.architecture import Architecture
from plmscale.memory import activations
from plmscale.model import Transformer

# layers, width, heads, feed-forward width; rows, tokens a row
SHAPES = [
    ((1, 16, 1, 42), (4, 64)),
    ((2, 64, 2, 168), (3, 96)),
    ((4, 128, 2, 341), (2, 256)),
    ((3, 192, 6, 512), (1, 256)),
    ((12, 768, 12, 2048), (1, 64)),
]
NARROW = SHAPES[:-1]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def model_of(preset, shape, precision, checkpointing=False):
    layers, width, heads, inner = shape
    arch = Architecture("x", layers, width, heads, inner, preset=preset)
    model = Transformer(arch)
    model.initialize(1)
    model.to(DTYPES[precision])
    model.checkpointing = checkpointing
    # Gradients are there beforehand, as in a run's second micro batch.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return arch, model


def tokens_of(rows, length):
    tokens = torch.randint(4, 24, (rows, length))
    tokens[:, ::40] = 1
    return tokens


def saved_bytes(model, tokens):
    """Bytes of the distinct storages that autograd keeps, parameters and rotary tables left out."""
    loss_of(model, tokens)
    left_out = {t.untyped_storage()._cdata for t in [*model.parameters(), *model._tables]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in left_out:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, tokens)
    return sum(storage.nbytes() for storage in kept.values())


def alive_bytes(model, tokens):
    """Bytes alive after a forward pass, and the most during forward and backward."""
    loss_of(model, tokens).backward()
    with LiveBytes() as live:
        loss = loss_of(model, tokens)
        kept = live.now
        loss.backward()
    return kept, live.peak


def kept_by(arch, batch, tokens):
    """What autograd keeps: of the logits' share the log-probabilities alone."""
    return batch.activations + 4 * arch.vocab_size * tokens.numel()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_kept_tensors_are_counted_exactly(shape, rows, kernel, preset, precision, monkeypatch):
    arch, model = model_of(preset, shape, precision)
    model.kernel = kernel
    if kernel == "sdpa":
        monkeypatch.setattr(activations, "EAGER_CONTEXT", 0)
    tokens = tokens_of(*rows)
    batch = activations.micro_batch(arch, rows[1], rows[0], False, precision, "cpu")
    assert saved_bytes(model, tokens) == pytest.approx(kept_by(arch, batch, tokens), rel=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(("shape", "rows"), NARROW)
def test_the_peak_of_a_micro_batch(
    shape, rows, kernel, preset, precision, checkpointing, monkeypatch
):
    arch, model = model_of(preset, shape, precision, checkpointing)
    model.kernel = kernel
    if kernel == "sdpa":
        monkeypatch.setattr(activations, "EAGER_CONTEXT", 0)
    tokens = tokens_of(*rows)
    batch = activations.micro_batch(arch, rows[1], rows[0], checkpointing, precision, "cpu")
    kept, peak = alive_bytes(model, tokens)
    assert kept == pytest.approx(kept_by(arch, batch, tokens), rel=0.05)
    # A new gradient of one weight may be alive at that moment, which predict() adds.
    gradient = max(p.nbytes for p in model.parameters())
    assert 0.85 * batch.peak <= peak <= 1.15 * batch.peak + gradient


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("shape", "rows"), NARROW[1:])
def test_the_operations_of_a_gpu_run_on_the_cpu(shape, rows, precision):
    arch, model = model_of("paper", shape, precision)
    # Plain differentiable operations around the fused kernel, as on a GPU.
    model.kernel, model._compiled = "sdpa", True
    tokens = tokens_of(*rows)
    batch = activations.micro_batch(arch, rows[1], rows[0], False, precision, "cuda")
    # A CPU's kernel has a mask of s x s; a GPU's has none.
    mask = DTYPES[precision].itemsize * rows[0] * rows[1] ** 2
    saved = saved_bytes(model, tokens)
    assert saved == pytest.approx(kept_by(arch, batch, tokens) + mask, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_compiled_blocks_keep_no_more(preset):
    arch, model = model_of(preset, (3, 192, 6, 512), "bf16")
    model.kernel = "sdpa"
    model.compile_blocks()
    tokens = tokens_of(1, 256)
    batch = activations.micro_batch(arch, 256, 1, False, "bf16", "cuda")
    saved = saved_bytes(model, tokens) - 2 * 256**2
    assert 0.8 < saved / kept_by(arch, batch, tokens) < 1
