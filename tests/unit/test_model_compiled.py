"""Compiled blocks and checkpointing change the speed and the memory, never the numbers."""

import pytest
import torch
from model_example import build, loss_and_gradients, packed

from plmscale.model import segments_of

MIXED = torch.tensor([True, False, True])


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    """How many graphs the compiler has made, and how often it had to leave one."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def assert_equal_results(one, two, tolerance):
    assert float(two[0]) == pytest.approx(float(one[0]), rel=tolerance)
    assert one[1].keys() == two[1].keys()
    for name, grad in one[1].items():
        assert float((two[1][name] - grad).norm() / grad.norm()) < tolerance, name


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_all_blocks_share_one_graph(preset):
    """Without the last step of a compiler, code for the machine."""
    model, tokens = build(preset), packed()
    names = list(model.state_dict())
    expected = loss_and_gradients(model, tokens, causal=True)
    model.compile_blocks(backend="aot_eager")
    assert list(model.state_dict()) == names
    assert_equal_results(expected, loss_and_gradients(model, tokens, causal=True), 1e-5)
    assert graphs() == (1, 0)
    other = packed(seed=1)
    loss_and_gradients(model, other, causal=True)
    assert graphs() == (1, 0)


def test_a_new_flex_mask_compiles_nothing_anew(monkeypatch):
    module = pytest.importorskip("torch.nn.attention.flex_attention")
    monkeypatch.setattr(module, "_validate_device", lambda *_: None)
    model = build()
    model.kernel = "eager"
    expected = [loss_and_gradients(model, packed(seed=s), MIXED) for s in range(3)]
    model.kernel = "flex"
    model.compile_blocks(backend="aot_eager")
    for seed in range(3):
        got = loss_and_gradients(model, packed(seed=seed), MIXED.clone())
        assert_equal_results(expected[seed], got, 1e-4)
        assert graphs() == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_give_equal_loss_and_gradients(checkpointing):
    model, tokens = build(), packed()
    expected = loss_and_gradients(model, tokens, MIXED)
    model.checkpointing = checkpointing
    model.compile_blocks()
    assert_equal_results(expected, loss_and_gradients(model, tokens, MIXED), 1e-5)
    assert graphs() == (1, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_flex_kernel_made_for_the_machine_reads_the_right_tensors():
    """PyTorch's compiler for CPUs takes views as its inputs and then reads beside them."""
    pytest.importorskip("torch.nn.attention.flex_attention")
    model, tokens = build(), packed(length=256)
    segments = segments_of(tokens)
    with torch.no_grad():
        model.kernel = "eager"
        expected = model(tokens, causal=MIXED, segments=segments)
        model.kernel = "flex"
        model.compile_blocks()
        got = model(tokens, causal=MIXED, segments=segments)
    assert torch.allclose(got, expected, atol=1e-4)
    assert graphs() == (1, 0)


@pytest.mark.parametrize("causal", [True, False, MIXED], ids=["clm", "mlm", "mixed"])
def test_checkpointing_changes_no_bit(causal):
    model, tokens = build("modern"), packed()
    loss, gradients = loss_and_gradients(model, tokens, causal)
    model.checkpointing = True
    again, recomputed = loss_and_gradients(model, tokens, causal)
    assert torch.equal(loss, again)
    assert all(torch.equal(recomputed[name], grad) for name, grad in gradients.items())


def test_checkpointing_keeps_only_the_inputs_of_blocks():
    model, tokens = build(n_layers=6), packed(rows=8, length=64)

    def kept(checkpointing, train=True):
        model.checkpointing = checkpointing
        model.train(train)
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(tokens, causal=True, segments=segments_of(tokens))
        return sum(sizes)

    assert kept(True) < kept(False) / 6
    assert kept(True, train=False) == kept(False, train=False)
