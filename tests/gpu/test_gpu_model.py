"""Attention kernels and compiled blocks on a GPU in bf16, against the plain model in fp32 on a CPU."""

import copy

import pytest
import torch
from gpu_example import DEVICE, on_gpu, only_gpu, relative
from model_example import build
from torch.nn import functional

from plmscale.corpus.alphabet import BOS, EOS
from plmscale.model import segments_of

pytestmark = [on_gpu, pytest.mark.filterwarnings("ignore")]
MIXED = torch.tensor([True, False, True, False])
# Sizes of a head: 64 in nearly all of the paper's models, 128, and two that fill no power of two.
HEADS = {64: (128, 2), 128: (256, 2), 48: (96, 2), 136: (272, 2)}
# bf16 keeps 8 bits; a wrong mask is off by a third and more.
LOGITS, GRADIENTS = 0.03, 0.06


def rows_of_proteins(rows=4, length=256, seed=0):
    """Packed rows, each cut at places of its own."""
    tokens = torch.randint(4, 24, (rows, length), generator=torch.manual_seed(seed))
    for row in range(rows):
        for place in range(20 + 7 * row, length - 1, 50 + row):
            tokens[row, place], tokens[row, place + 1] = EOS, BOS
    return tokens


def run(model, tokens, causal):
    """Logits, and the gradients of a loss by parameter name."""
    device = model.embedding.weight.device
    tokens = tokens.to(device)
    causal = causal.to(device) if isinstance(causal, torch.Tensor) else causal
    model.zero_grad()
    logits = model(tokens, causal=causal, segments=segments_of(tokens)).float()
    functional.cross_entropy(logits.flatten(0, 1), tokens.roll(1, 1).flatten()).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def small(head, **more):
    d_model, n_heads = HEADS[head]
    return build(d_model=d_model, n_heads=n_heads, d_ff=2 * d_model, **more)


def on_device(model):
    return copy.deepcopy(model).to(DEVICE, torch.bfloat16)


def assert_close(found, expected):
    assert relative(found[0], expected[0]) < LOGITS
    assert found[1].keys() == expected[1].keys()
    whole = [torch.cat([grads[name].flatten().cpu() for name in grads])
             for grads in (found[1], expected[1])]  # fmt: skip
    assert relative(*whole) < GRADIENTS


def test_the_tolerance_tells_a_wrong_mask():
    model, tokens = small(64), rows_of_proteins()
    right, _ = run(model, tokens, False)
    with torch.no_grad():
        for causal, segments in ((True, segments_of(tokens)), (False, None)):
            wrong = model(tokens, causal=causal, segments=segments)
            assert relative(wrong, right) > 2 * LOGITS


@pytest.mark.parametrize("causal", [True, False, MIXED], ids=["clm", "mlm", "mixed"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa", pytest.param("flex", marks=only_gpu)])
@pytest.mark.parametrize("head", [64, 128])
def test_all_kernels_agree(head, kernel, causal):
    model, tokens = small(head), rows_of_proteins()
    expected = run(model, tokens, causal)
    there = on_device(model)
    there.kernel = kernel
    assert_close(run(there, tokens, causal), expected)


@only_gpu
@pytest.mark.parametrize("head", [48, 136])
def test_flex_takes_heads_of_odd_sizes(head):
    model, tokens = small(head), rows_of_proteins()
    there = on_device(model)
    there.kernel = "flex"
    assert_close(run(there, tokens, MIXED), run(model, tokens, MIXED))


@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_agree_and_are_compiled_once(preset, checkpointing):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, tokens = small(64, preset=preset, n_layers=3), rows_of_proteins()
    expected = run(model, tokens, False)
    there = on_device(model)
    there.checkpointing = checkpointing
    there.compile_blocks()
    assert_close(run(there, tokens, False), expected)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seed in (1, 2):
        run(there, rows_of_proteins(seed=seed), False)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert not torch._dynamo.utils.counters["graph_break"]
