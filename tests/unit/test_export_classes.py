"""Exported models compute what ours compute: logits, losses, gradients, generation."""

from __future__ import annotations

import pytest
import torch
from export_example import CONTEXT, make_run
from torch.nn import functional

from plmscale.corpus.alphabet import BOS, EOS, MASK
from plmscale.export.folder import export_run
from plmscale.model import load

transformers = pytest.importorskip("transformers")

STOCK = {
    ("paper", "clm"): "Ernie4_5_MoeForCausalLM",
    ("paper", "mlm"): "EuroBertForMaskedLM",
    ("modern", "clm"): "LlamaForCausalLM",
    ("modern", "mlm"): "EuroBertForMaskedLM",
}
REMOTE = {"clm": "PlmscaleForCausalLM", "mlm": "PlmscaleForMaskedLM"}
CASES = [(*key, remote) for key in STOCK for remote in (False, True)]


@pytest.fixture(autouse=True)
def _no_traces(tmp_path, monkeypatch):
    """Files of remote code are copied below the test's folder, not into the user's cache."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def exported(tmp_path, preset, objective, remote=False, **shape):
    """Return our model, theirs through the Auto class, and what export said."""
    run = make_run(tmp_path / "run", preset, objective, **shape)
    done = export_run(run, tmp_path / "hf", remote_code=remote, verify=False)
    auto = {"clm": transformers.AutoModelForCausalLM, "mlm": transformers.AutoModelForMaskedLM}
    trust = {"trust_remote_code": True} if remote else {}
    theirs, info = auto[objective].from_pretrained(
        tmp_path / "hf", output_loading_info=True, **trust
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return load(run), theirs.eval(), done


def proteins(*lengths, masks=False, seed=3):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        residues = torch.randint(4, 29, (length,), generator=generator)
        if masks:
            residues[::5] = MASK
        rows.append(torch.tensor([BOS, *residues.tolist(), EOS]))
    return rows


def padded(rows, left=False):
    longest = max(map(len, rows))
    batch, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if left else slice(len(row))
        batch[number, place] = row
        mask[number, place] = 1
    return batch, mask


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("preset", "objective", "remote"), CASES)
def test_logits_are_ours_alone_and_in_a_padded_batch(tmp_path, preset, objective, remote, tied):
    ours, theirs, done = exported(tmp_path, preset, objective, remote, tie_embeddings=tied)
    expected = REMOTE[objective] if remote else STOCK[preset, objective]
    assert (done.class_name, type(theirs).__name__) == (expected, expected)
    rows = proteins(0, 1, 30, CONTEXT - 2, masks=objective == "mlm")
    batch, mask = padded(rows, left=objective == "clm")
    with torch.no_grad():
        together = theirs(input_ids=batch, attention_mask=mask).logits
        for number, row in enumerate(rows):
            wanted = ours(row[None], causal=objective == "clm")[0]
            assert wanted.abs().max() > 1
            alone = theirs(input_ids=row[None]).logits[0]
            torch.testing.assert_close(alone, wanted, rtol=0, atol=1e-4)
            torch.testing.assert_close(
                together[number][mask[number] == 1], wanted, rtol=0, atol=1e-4
            )


@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_remote_code_is_our_function_to_float64(tmp_path, preset, objective):
    ours, theirs, _ = exported(tmp_path, preset, objective, remote=True)
    (row,) = proteins(CONTEXT - 2)
    with torch.no_grad():
        wanted = ours.double()(row[None], causal=objective == "clm")
        got = theirs.double()(input_ids=row[None]).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_paper_weights_are_centred_and_their_shapes_carried_over(tmp_path, objective):
    _, theirs, _ = exported(tmp_path, "paper", objective, vocab_size=128)
    layer = theirs.model.layers[1]
    for tensor, dim in (
        (theirs.model.embed_tokens.weight, 1),
        (layer.self_attn.o_proj.weight, 0),
        (layer.mlp.down_proj.weight, 0),
        (layer.mlp.down_proj.bias, 0),
    ):
        assert tensor.mean(dim).abs().max() < 1e-6
    assert theirs.lm_head.weight.mean(1).abs().max() > 1e-2
    config = theirs.config
    assert config.vocab_size == theirs.lm_head.bias.shape[0] == 128
    assert config.max_position_embeddings == CONTEXT
    assert config.rope_parameters["rope_theta"] == 5000.0


@pytest.mark.parametrize(("preset", "objective"), list(STOCK))
def test_scale_of_the_logits_is_in_the_weights(tmp_path, preset, objective):
    ours, theirs, _ = exported(tmp_path, preset, objective, mup_base_width=16)
    (row,) = proteins(30)
    with torch.no_grad():
        wanted = ours(row[None], causal=objective == "clm")
        plain = ours.hidden(row[None], causal=objective == "clm") @ ours.embedding.weight.T
        got = theirs(input_ids=row[None]).logits
    torch.testing.assert_close(wanted, plain / 3, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("preset", "objective", "remote"), CASES)
def test_loss_and_gradients_are_ours(tmp_path, preset, objective, remote):
    """Gradients of parameters that the rewriting leaves alone, and of the input embeddings.

    A centred copy of the embeddings sees only the part of the gradient that is centred.
    """
    ours, theirs, done = exported(tmp_path, preset, objective, remote, tie_embeddings=False)
    causal = objective == "clm"
    rows = proteins(20, 40, masks=not causal)
    batch, mask = padded(rows, left=False)
    labels = batch.masked_fill(mask == 0, -100)
    if not causal:
        true, _ = padded(proteins(20, 40))
        labels = true.masked_fill(batch != MASK, -100)
    loss = theirs(input_ids=batch, attention_mask=mask, labels=labels).loss
    loss.backward()

    scored = []
    for row, label in zip(rows, labels):
        logits, label = ours(row[None], causal=causal)[0], label[: len(row)]
        scored.append((logits[:-1], label[1:]) if causal else (logits, label))
    own = functional.cross_entropy(*(torch.cat(part) for part in zip(*scored)))
    own.backward()
    torch.testing.assert_close(loss, own, rtol=1e-4, atol=0)

    stack = theirs.model
    gate_up = ours.blocks[0].gate_up.weight.grad
    down = ours.blocks[0].mlp_out.weight.grad
    value = ours.blocks[1].qkv.weight.grad.chunk(3)[2]
    embedding = ours.embedding.weight.grad
    if remote:
        got = {
            "gate_up": (stack.blocks[0].gate_up.weight.grad, gate_up),
            "down": (stack.blocks[0].mlp_out.weight.grad, down),
            "value": (stack.blocks[1].qkv.weight.grad.chunk(3)[2], value),
            "embedding": (stack.embedding.weight.grad, embedding),
        }
    else:
        mlp = stack.layers[0].mlp
        parts = torch.cat([mlp.gate_proj.weight.grad, mlp.up_proj.weight.grad])
        theirs_down, theirs_embedding = mlp.down_proj.weight.grad, stack.embed_tokens.weight.grad
        theirs_value = stack.layers[1].self_attn.v_proj.weight.grad
        if preset == "paper":
            # RMSNorm lets the mean of the stream pass, which LayerNorm takes away.
            theirs_down = theirs_down - theirs_down.mean(0)
            theirs_embedding = theirs_embedding - theirs_embedding.mean(1, keepdim=True)
            # Behind a norm with a bias b, our matrix sees x + b, theirs x: W' = W, b' = c + W b.
            bias = torch.cat([mlp.gate_proj.bias.grad, mlp.up_proj.bias.grad])
            parts = parts + torch.outer(bias, ours.blocks[0].mlp_norm.bias.detach())
            bias = stack.layers[1].self_attn.v_proj.bias.grad
            theirs_value = theirs_value + torch.outer(
                bias, ours.blocks[1].attention_norm.bias.detach()
            )
        got = {
            "gate_up": (parts, gate_up),
            "down": (theirs_down, down),
            "value": (theirs_value, value),
            "embedding": (theirs_embedding, embedding),
        }
    for name, (found, wanted) in got.items():
        worst = (found - wanted).norm() / wanted.norm()
        assert worst < 1e-4, (name, done.class_name)


@pytest.mark.parametrize(("preset", "remote"), [(p, r) for p, o, r in CASES if o == "clm"])
def test_generation_with_a_cache_is_the_greedy_continuation(tmp_path, preset, remote):
    ours, theirs, _ = exported(tmp_path, preset, "clm", remote)
    # Only the way through generate() is of interest: let nothing end the proteins.
    theirs.generation_config.suppress_tokens = None
    theirs.generation_config.eos_token_id = None
    starts = [row[:-1] for row in proteins(3, 12)]
    batch, mask = padded(starts, left=True)
    how = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 15}
    got = theirs.generate(input_ids=batch, **how)
    assert torch.equal(got, theirs.generate(input_ids=batch, use_cache=False, **how))
    for row, start in zip(got, starts):
        with torch.no_grad():
            for _ in range(15):
                logits = ours(start[None], causal=True)[0, -1]
                start = torch.cat([start, logits.argmax()[None]])
        assert torch.equal(row[-len(start) :], start)


def test_a_mixed_run_is_either(tmp_path):
    run = make_run(tmp_path / "run", "paper", "mixed")
    either = {None: "EuroBertForMaskedLM", "clm": "Ernie4_5_MoeForCausalLM"}
    for objective, wanted in either.items():
        done = export_run(run, tmp_path / str(objective), objective=objective)
        assert done.class_name == wanted
        assert done.compared.difference < 1e-4
