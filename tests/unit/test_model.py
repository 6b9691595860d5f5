"""The transformer against its parameter formula, a naive reference and a Hugging Face model."""

import math

import pytest
import torch
from model_example import SHAPE, build, loss_and_gradients, packed
from torch.nn import functional

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.errors import PlmscaleError
from plmscale.model import Transformer, decay_groups, load, save_model, segments_of


@pytest.mark.parametrize("arch", PAPER_SIZES.values(), ids=PAPER_SIZES)
@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_parameters_are_counted_exactly(arch, preset):
    arch = Architecture(**{**arch.to_dict(), "preset": preset})
    with torch.device("meta"):
        model = Transformer(arch)
    counted = sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    assert counted == arch.n_params


def test_untied_head_adds_one_matrix():
    model = build(tie_embeddings=False)
    assert model.head.weight.shape == (32, 32)
    assert sum(p.numel() for p in model.parameters()) == model.arch.n_params + 2 * 32 * 32


def naive_logits(model, tokens, causal, segments):
    """The model written as plainly as possible in float64, one row and one head at a time."""
    w = {name: p.detach().double() for name, p in model.named_parameters()}
    arch = model.arch
    paper, d = arch.preset == "paper", arch.d_model
    size = d // arch.n_heads

    def norm(x, name):
        if paper:
            x = x - x.mean(-1, keepdim=True)
        scale = torch.sqrt((x * x).mean(-1, keepdim=True) + arch.norm_eps)
        return x / scale * w[f"{name}.weight"] + (w[f"{name}.bias"] if paper else 0)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + (w[f"{name}.bias"] if paper else 0)

    def turn(x):
        out = torch.empty_like(x)
        for position in range(len(x)):
            for i in range(size // 2):
                angle = position * arch.rope_theta ** (-2 * i / size)
                a, b = x[position, i], x[position, i + size // 2]
                out[position, i] = a * math.cos(angle) - b * math.sin(angle)
                out[position, i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    rows = []
    for row, tokens_of_row in enumerate(tokens):
        x = w["embedding.weight"][tokens_of_row]
        n = len(x)
        for layer in range(arch.n_layers):
            at = f"blocks.{layer}"
            qkv = linear(norm(x, f"{at}.attention_norm"), f"{at}.qkv").view(
                n, 3, arch.n_heads, size
            )
            heads = []
            for head in range(arch.n_heads):
                q, k, v = turn(qkv[:, 0, head]), turn(qkv[:, 1, head]), qkv[:, 2, head]
                scores = q @ k.T / math.sqrt(size)
                for i in range(n):
                    for j in range(n):
                        other = segments is not None and segments[row, i] != segments[row, j]
                        if other or (causal and j > i):
                            scores[i, j] = -math.inf
                heads.append(scores.softmax(-1) @ v)
            x = x + linear(torch.cat(heads, -1), f"{at}.attention_out")
            gate, value = linear(norm(x, f"{at}.mlp_norm"), f"{at}.gate_up").chunk(2, -1)
            if paper:
                gate = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
            else:
                gate = gate / (1 + torch.exp(-gate))
            x = x + linear(gate * value, f"{at}.mlp_out")
        rows.append(norm(x, "final_norm") @ w["embedding.weight"].T)
    return torch.stack(rows)


@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("within", [True, False])
def test_logits_equal_a_naive_reference(preset, causal, within):
    model, tokens = build(preset), packed()
    segments = segments_of(tokens) if within else None
    expected = naive_logits(model, tokens, causal, segments)
    got = model(tokens, causal=causal, segments=segments)
    assert torch.allclose(got.double(), expected, atol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_fused_attention_of_long_rows_equals_eager(causal, monkeypatch):
    model, tokens = build(), packed()
    for segments in (segments_of(tokens), None):
        expected = model(tokens, causal=causal, segments=segments)
        monkeypatch.setattr("plmscale.model.attention._EAGER_CONTEXT", 0)
        assert torch.allclose(model(tokens, causal=causal, segments=segments), expected, atol=1e-5)
        monkeypatch.undo()


def as_llama(values, n_layers):
    """Our tensors by name -> those of a Hugging Face Llama."""
    mapped = {
        "model.embed_tokens.weight": values["embedding.weight"],
        "lm_head.weight": values["head.weight"],
        "model.norm.weight": values["final_norm.weight"],
    }
    for i in range(n_layers):
        q, k, v = values[f"blocks.{i}.qkv.weight"].chunk(3)
        gate, up = values[f"blocks.{i}.gate_up.weight"].chunk(2)
        layer = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": values[f"blocks.{i}.attention_out.weight"],
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": values[f"blocks.{i}.mlp_out.weight"],
            "input_layernorm": values[f"blocks.{i}.attention_norm.weight"],
            "post_attention_layernorm": values[f"blocks.{i}.mlp_norm.weight"],
        }
        mapped |= {f"model.layers.{i}.{name}.weight": value for name, value in layer.items()}
    return mapped


def test_modern_preset_is_llama():
    """Logits, loss and the gradient of every parameter."""
    transformers = pytest.importorskip("transformers")
    model, tokens = build("modern", tie_embeddings=False), packed()
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(as_llama(dict(model.named_parameters()), 2))
    expected = theirs(tokens).logits
    assert torch.allclose(model(tokens, causal=True), expected, atol=1e-4)

    loss, gradients = loss_and_gradients(model, tokens, causal=True, within=False)
    targets = tokens.roll(1, 1).flatten()
    their_loss = functional.cross_entropy(expected.flatten(0, 1), targets)
    their_loss.backward()
    assert float(loss) == pytest.approx(float(their_loss), rel=1e-5)
    ours = as_llama(gradients, 2)
    their_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert ours.keys() == their_gradients.keys()
    for name, grad in their_gradients.items():
        assert float((ours[name] - grad).norm() / grad.norm()) < 1e-4, name


def test_causal_logits_do_not_see_the_future():
    model, tokens = build(), packed()
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] - 4 + 1) % 20 + 4
    before = model(tokens, causal=True)
    after = model(changed, causal=True)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:9], after[:, 6:9])


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_leaks_between_packed_proteins(causal):
    model, tokens = build(), packed()
    segments = segments_of(tokens)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] - 4 + 1) % 20 + 4
    before = model(tokens, causal=causal, segments=segments)
    after = model(changed, causal=causal, segments=segments)
    assert torch.equal(before[:, 10:], after[:, 10:])
    assert not torch.allclose(before[:, 4:10], after[:, 4:10])
    across = model(changed, causal=causal) - model(tokens, causal=causal)
    assert across[:, 10:].abs().max() > 1e-4


def test_a_protein_is_read_alike_wherever_it_lies_in_a_row():
    model, tokens = build(), packed()
    alone = model(tokens[:, 10:], causal=True, segments=segments_of(tokens[:, 10:]))
    in_row = model(tokens, causal=True, segments=segments_of(tokens))[:, 10:]
    assert torch.allclose(alone, in_row, atol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_gradients_equal_finite_differences(preset):
    """Our hand-written backward passes, in float64."""
    model, tokens = build(preset, torch.float64), packed(rows=2, length=20)
    segments = segments_of(tokens)

    def loss():
        logits = model(tokens, causal=True, segments=segments)
        return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    loss().backward()
    for name, parameter in model.named_parameters():
        direction = torch.randn(
            parameter.shape, dtype=torch.float64, generator=torch.manual_seed(1)
        )
        with torch.no_grad():
            parameter.add_(1e-6 * direction)
            up = loss()
            parameter.sub_(2e-6 * direction)
            down = loss()
            parameter.add_(1e-6 * direction)
        numeric = float((up - down) / 2e-6)
        assert float((parameter.grad * direction).sum()) == pytest.approx(
            numeric, rel=1e-5, abs=1e-8
        ), name


def test_bf16_loss_stays_close_to_fp32():
    tokens = packed(rows=8, length=64)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        logits = build(dtype=dtype)(tokens, causal=True, segments=segments_of(tokens)).float()
        losses.append(float(functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())))
    assert losses[1] == pytest.approx(losses[0], abs=2e-2)


def test_only_linear_matrices_decay():
    model = build(tie_embeddings=False)
    decay, plain = decay_groups(model, 0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in decay["params"]} == {
        "qkv",
        "attention_out",
        "gate_up",
        "mlp_out",
        "head",
    }
    assert decay["weight_decay"] == 0.1 and plain["weight_decay"] == 0.0
    assert len(decay["params"]) + len(plain["params"]) == len(names)


def test_initialisation_has_the_stated_spread():
    model = Transformer(Architecture("4x128", 4, 128, 2, 341))
    model.initialize(1)
    first = model.blocks[0].qkv.weight.clone()
    assert float(first.std()) == pytest.approx(0.02, rel=0.02)
    assert float(model.blocks[0].mlp_out.weight.std()) == pytest.approx(
        0.02 / math.sqrt(8), rel=0.02
    )
    assert not model.blocks[0].qkv.bias.any()
    model.initialize(1)
    assert torch.equal(model.blocks[0].qkv.weight, first)


def test_a_saved_model_loads_with_equal_logits(tmp_path):
    model, tokens = build(), packed()
    weights = dict(model.named_parameters())
    save_model(tmp_path, weights, {"architecture": model.arch.to_dict()})
    assert torch.equal(load(tmp_path)(tokens, causal=False), model(tokens, causal=False))


def test_weights_of_another_shape_are_refused(tmp_path):
    model = build()
    other = Architecture(**{**SHAPE, "n_layers": 1}).to_dict()
    save_model(tmp_path, dict(model.named_parameters()), {"architecture": other})
    with pytest.raises(PlmscaleError, match="do not fit the architecture"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(PlmscaleError, match="not a readable safetensors"):
        load(tmp_path)
