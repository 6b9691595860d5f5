"""Attention's kernels and masks: all compute the same, and nothing leaks."""

import pytest
import torch
from model_example import build, loss_and_gradients, packed
from torch.utils._python_dispatch import TorchDispatchMode

from plmscale.model import flex, segments_of
from plmscale.model.attention import (
    choose_kernel,
    plan_attention,
    rotary_tables,
    split_and_rotate,
)
from plmscale.model.gated import Gated, gated
from plmscale.model.handwritten import SplitAndRotate

KERNELS = ["eager", "sdpa", "flex"]
MIXED = torch.tensor([True, False, True])


@pytest.fixture
def flex_trains_on_cpu(monkeypatch):
    """PyTorch refuses flex_attention's backward pass on CPUs, where it has a slow one."""
    module = pytest.importorskip("torch.nn.attention.flex_attention")
    monkeypatch.setattr(module, "_validate_device", lambda *_: None)
    monkeypatch.setattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def changed_at(tokens, position):
    """`tokens` with another amino acid at `position` of every row."""
    other = tokens.clone()
    other[:, position] = (other[:, position] - 4 + 1) % 20 + 4
    return other


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("within", [True, False])
def test_causality_of_each_row_equals_two_calls(kernel, within, flex_trains_on_cpu):
    model, tokens = build(), packed()
    model.kernel = kernel
    segments = segments_of(tokens) if within else None
    with torch.no_grad():
        causal, free = (model(tokens, causal=c, segments=segments) for c in (True, False))
        mixed = model(tokens, causal=MIXED, segments=segments)
    for row, alone in enumerate((causal, free, causal)):
        assert torch.allclose(mixed[row], alone[row], atol=1e-5), row
    assert not torch.allclose(causal, free, atol=1e-2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("within", [True, False])
def test_mixed_rows_leak_neither_the_future_nor_other_proteins(kernel, within, flex_trains_on_cpu):
    model, tokens = build(), packed()
    model.kernel = kernel
    # Position 12 lies in the protein that begins at 10; row 1 has another one from 18 on.
    other = changed_at(tokens, 12)
    segments = segments_of(tokens) if within else None
    with torch.no_grad():
        before = model(tokens, causal=MIXED, segments=segments)
        after = model(other, causal=MIXED, segments=segments)
    moved = ((before - after).abs().amax(-1) > 1e-6).tolist()
    for row, causal in enumerate(MIXED.tolist()):
        first = 12 if causal else 10 if within else 0
        last = 18 if within and row == 1 else 24
        expected = [first <= k < last for k in range(24)]
        assert moved[row] == expected, row


@pytest.mark.parametrize("causal", [True, False, MIXED], ids=["clm", "mlm", "mixed"])
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_kernels_give_equal_losses_and_gradients(kernel, causal, within, flex_trains_on_cpu):
    model, tokens = build(), packed()
    model.kernel = "eager"
    loss, expected = loss_and_gradients(model, tokens, causal, within)
    model.kernel = kernel
    other, got = loss_and_gradients(model, tokens, causal, within)
    assert float(other) == pytest.approx(float(loss), rel=1e-6)
    for name, grad in expected.items():
        assert float((got[name] - grad).norm() / grad.norm()) < 1e-4, name


def test_flex_skips_the_blocks_between_proteins():
    """Two proteins of 256 tokens: half of the 4 x 4 blocks, and under causality 6 of 16."""
    segments = torch.zeros(2, 512, dtype=torch.int64)
    segments[:, 256:] = 1
    device = torch.device("cpu")
    free = flex.block_mask(segments, False, 2, 512, device)
    assert free.sparsity() == 50.0
    causal = torch.tensor([True, False])
    mixed = flex.block_mask(segments, causal, 2, 512, device)
    dense = mixed.to_dense()[:, 0]
    assert dense[0].sum() == 6 and dense[1].sum() == 8


@pytest.mark.parametrize(
    ("device", "length", "head", "masked", "plain", "kernel"),
    [
        ("cpu", 1024, 64, True, False, "eager"),
        ("cpu", 1025, 64, True, False, "sdpa"),
        ("cpu", 256, 64, True, True, "sdpa"),
        ("cuda", 1024, 64, True, True, "flex"),
        ("cuda", 1024, 64, False, True, "sdpa"),
        ("cuda", 1024, 8, True, True, "sdpa"),
    ],
)
def test_the_kernel_follows_device_and_shape(device, length, head, masked, plain, kernel):
    assert choose_kernel(torch.device(device), length, head, masked, plain) == kernel


def test_a_torch_without_flex_masks_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(flex, "_there", lambda: False)
    assert choose_kernel(torch.device("cuda"), 1024, 64, True, True) == "sdpa"


class NoWaiting(TorchDispatchMode):
    """Fails on what a GPU would have to finish first: values read, shapes that depend on them."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in self.WAITS), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("causal", [True, False, MIXED], ids=["clm", "mlm", "mixed"])
def test_a_step_never_waits_for_the_device(kernel, causal):
    model, tokens = build(), packed()
    model.kernel = kernel
    with pytest.raises(AssertionError), NoWaiting():
        tokens[tokens == 1].sum().item()
    with NoWaiting():
        loss_and_gradients(model, tokens, causal)
        cos, sin = rotary_tables(24, 16, 1e4, tokens.device, torch.float32)
        plan_attention(segments_of(tokens), causal, cos, sin, 3, kernel="flex")


def test_other_devices_take_plain_operations():
    """`meta` computes shapes alone, and stands for any device that is no CPU."""
    model, tokens = build().to("meta"), packed().to("meta")
    model.kernel = "sdpa"
    logits = model(tokens, causal=MIXED.to("meta"), segments=segments_of(tokens))
    assert logits.shape == (3, 24, 32)
    logits.sum().backward()
    assert model.blocks[0].qkv.weight.grad.shape == (96, 32)
    cos, sin = (torch.empty(24, 8, device="meta") for _ in range(2))
    assert plan_attention(segments_of(tokens), True, cos, sin, 3, kernel="sdpa").plain
    assert not plan_attention(None, True, cos.new_empty(24, 8, device="cpu"), sin, 3).plain


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_plain_operations_equal_the_hand_written(dtype, tolerance):
    draw = torch.manual_seed(4)

    def random(*shape):
        return torch.randn(shape, generator=draw).to(dtype)

    def compare(hand, plain, x, grads):
        results = []
        for function in (hand, plain):
            leaf = x.clone().requires_grad_()
            out = function(leaf)
            out = out if isinstance(out, tuple) else (out,)
            torch.autograd.backward(out, grads)
            results.append([*out, leaf.grad])
        for one, two in zip(*results, strict=True):
            assert one.dtype == two.dtype == dtype
            assert float((one - two).float().norm() / one.float().norm()) < tolerance

    cos, sin = rotary_tables(24, 16, 1e4, torch.device("cpu"), dtype)
    compare(
        lambda x: SplitAndRotate.apply(x, cos, sin),
        lambda x: split_and_rotate(x, cos, sin),
        random(3, 24, 3, 2, 16),
        [random(3, 2, 24, 16) for _ in range(3)],
    )
    for gelu in (True, False):
        compare(
            lambda x, gelu=gelu: Gated.apply(x, gelu),
            lambda x, gelu=gelu: gated(x, gelu),
            random(3, 24, 96),
            [random(3, 24, 48)],
        )
