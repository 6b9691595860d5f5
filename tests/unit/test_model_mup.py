"""muP: equal to the standard parametrization at its base width, stable across widths."""

import math

import pytest
import torch
from model_example import SHAPE, build, packed
from torch.nn import functional

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.model import Transformer, decay_groups, folded, load, save_model

BASE = 64


def sized(width, base, preset="modern", layers=1):
    """Heads of 32 at any width."""
    shape = (layers, width, width // 32, 8 * width // 3)
    model = Transformer(Architecture(f"{layers}x{width}", *shape, preset, mup_base_width=base))
    model.initialize(1)
    return model


def by_name(model, weight_decay=0.1):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in decay_groups(model, weight_decay)
        for p in group["params"]
    }


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_at_the_base_width_everything_is_standard(preset):
    tokens = packed()
    standard, mup = sized(BASE, 0, preset, 2), sized(BASE, BASE, preset, 2)
    for (name, one), two in zip(standard.named_parameters(), mup.parameters()):
        assert torch.equal(one, two), name
    assert torch.equal(standard(tokens, causal=True), mup(tokens, causal=True))
    assert by_name(standard) == by_name(mup)
    assert [len(g["params"]) for g in decay_groups(standard, 0.1)] == [
        len(g["params"]) for g in decay_groups(mup, 0.1)
    ]


def test_spread_learning_rate_and_decay_follow_the_width():
    standard, mup = sized(256, 0, "paper"), sized(256, BASE, "paper")
    for (name, one), two in zip(standard.named_parameters(), mup.parameters()):
        hidden = one.ndim == 2 and name.startswith("blocks.")
        # The same draw, times the square root of 64 / 256.
        assert torch.allclose(two, one * (0.5 if hidden else 1.0), rtol=1e-5), name
        assert by_name(mup)[name] == ((0.25, 0.4) if hidden else (1.0, 0.0)), name
    assert mup.arch.logit_scale == 0.25 and standard.arch.logit_scale == 1.0


def test_an_untied_head_is_an_output_matrix():
    model = build(tie_embeddings=False, mup_base_width=16)
    assert by_name(model)["head.weight"] == (1.0, 0.1)
    assert by_name(model)["blocks.0.qkv.weight"] == (0.5, 0.2)
    assert by_name(build(tie_embeddings=False))["head.weight"] == (1.0, 0.1)


def moved_in_training(width, base, steps=2, lr=1e-3):
    """Train a few AdamW steps; mean absolute change of logits and of block outputs since then."""
    model = sized(width, base)
    tokens = torch.randint(4, 24, (8, 32), generator=torch.manual_seed(2))
    groups = [{**g, "lr": lr * g["lr_scale"]} for g in decay_groups(model, 0.1)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    seen = {}
    model.blocks[0].register_forward_hook(lambda _m, _i, out: seen.update(hidden=out.detach()))

    def states():
        logits = model(tokens, causal=True)
        return logits, {"logits": logits.detach(), "hidden": seen["hidden"]}

    _, start = states()
    for _ in range(steps):
        logits, _ = states()
        targets = tokens[:, 1:].flatten()
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, end = states()
    return {name: float((end[name] - start[name]).abs().mean()) for name in start}


def test_updates_keep_their_size_across_widths():
    """The coordinate check of Yang et al. 2022, figure 5."""
    widths = (64, 128, 256, 512)
    mup = [moved_in_training(width, BASE) for width in widths]
    standard = [moved_in_training(width, 0) for width in widths]
    for name in ("logits", "hidden"):
        of_mup = [moved[name] for moved in mup]
        # Measured: within 1.1 under muP, 11 and 21 times as much at width 512 without.
        assert max(of_mup) < 1.5 * min(of_mup), name
        assert standard[-1][name] > 5 * standard[0][name], name


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_a_folded_model_needs_no_scale(preset, tmp_path):
    model, tokens = build(preset, mup_base_width=24), packed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights, arch = folded(dict(model.state_dict()), model.arch)
    assert arch.mup_base_width == 0 and arch.logit_scale == 1
    plain = Transformer(arch)
    plain.load_state_dict(weights)
    expected = model(tokens, causal=False)
    assert torch.allclose(plain(tokens, causal=False), expected, rtol=1e-5, atol=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "folding changes its argument"

    save_model(tmp_path, dict(model.state_dict()), {"architecture": model.arch.to_dict()})
    loaded = load(tmp_path)
    assert loaded.arch == model.arch
    assert torch.equal(loaded(tokens, causal=False), expected)


def test_folding_a_standard_model_changes_nothing():
    model = build()
    weights, arch = folded(dict(model.state_dict()), model.arch)
    assert arch == model.arch
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_a_shape_written_before_mup_is_standard():
    written = build().arch.to_dict()
    assert "mup_base_width" not in written, "fingerprints of standard recipes must not change"
    assert Architecture.from_dict(written).mup_base_width == 0
    mup = Architecture(**SHAPE, mup_base_width=16)
    assert Architecture.from_dict(mup.to_dict()) == mup
    with pytest.raises(PlmscaleError, match="mup_base_width -1 is negative"):
        Architecture(**SHAPE, mup_base_width=-1)


def test_residual_matrices_get_both_factors():
    model = sized(256, BASE, layers=2)
    std = float(model.blocks[0].mlp_out.weight.std())
    assert std == pytest.approx(0.02 / math.sqrt(4) * 0.5, rel=0.02)
