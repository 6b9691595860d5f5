"""ProGen2 as CodeGen, against its network written out from its description."""

import numpy as np
import pytest
import torch
from hub_example import PROGEN_TOKENS, progen2
from torch.nn import functional

from plmscale.downstream import models, scoring
from plmscale.downstream.models.adapter import STANDARD

torch.set_num_threads(1)
RNG = np.random.default_rng(12)
PROTEINS = ["".join(RNG.choice(list(STANDARD), n)) for n in (9, 30, 1, 17, 30)]


def progen_logits(tensors, tokens, n_layer=2, n_head=8, rotary=4):
    """ProGen2 written out: heads in eight groups, each of queries, values and keys."""
    x = tensors["transformer.wte.weight"][tokens]
    length, d = x.shape
    size = d // n_head
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, rotary, 2) / rotary)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)

    def turned(v):  # (heads, s, size): pairs (2 i, 2 i + 1) of the first `rotary` places
        v = v.clone()
        even, odd = v[..., 0:rotary:2].clone(), v[..., 1:rotary:2].clone()
        v[..., 0:rotary:2] = even * angle.cos() - odd * angle.sin()
        v[..., 1:rotary:2] = odd * angle.cos() + even * angle.sin()
        return v

    for n in range(n_layer):
        w = {k.split(f"h.{n}.")[1]: t for k, t in tensors.items() if f"h.{n}." in k}
        h = functional.layer_norm(x, (d,), w["ln_1.weight"], w["ln_1.bias"])
        heads = {"query": [], "value": [], "key": []}
        for group in (h @ w["attn.qkv_proj.weight"].T).chunk(8, -1):
            for name, part in zip(heads, group.chunk(3, -1)):
                heads[name] += part.split(size, -1)
        q, v, k = (torch.stack(heads[name]) for name in ("query", "value", "key"))
        scores = turned(q) @ turned(k).transpose(1, 2) / size**0.5
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        attention = mixed.transpose(0, 1).flatten(1) @ w["attn.out_proj.weight"].T
        inner = h @ w["mlp.fc_in.weight"].T + w["mlp.fc_in.bias"]
        inner = functional.gelu(inner, approximate="tanh")
        x = x + attention + inner @ w["mlp.fc_out.weight"].T + w["mlp.fc_out.bias"]
    norm = [tensors[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")]
    x = functional.layer_norm(x, (d,), *norm)
    return x, x @ tensors["lm_head.weight"].T + tensors["lm_head.bias"]


def test_progen2_needs_no_code_of_its_own(tmp_path):
    folder, tensors = progen2(tmp_path / "model")
    adapter = models.open(folder)
    assert (adapter.info.kind, adapter.info.context) == ("clm", 46)
    rows, back = adapter.encode(PROTEINS), adapter.encode_reversed(PROTEINS)
    with torch.no_grad():
        for encoded, ends, step in ((rows, "12", 1), (back, "21", -1)):
            logits, states = adapter.logits(encoded), adapter.hidden(encoded)
            for i, protein in enumerate(PROTEINS):
                text = [ends[0], *protein[::step], ends[1]]
                tokens = torch.tensor([PROGEN_TOKENS.index(c) for c in text])
                assert torch.equal(encoded.tokens[i, : len(text)], tokens)
                x, expected = progen_logits(tensors, tokens)
                assert torch.allclose(logits[i, : len(text)], expected, atol=1e-4)
                assert torch.allclose(states[i, : len(text)], x, atol=1e-4)


def test_progen2_reads_in_both_directions(tmp_path):
    folder, tensors = progen2(tmp_path / "model")
    adapter = models.open(folder)
    forward = scoring.residue_nats(adapter, PROTEINS)
    backward = scoring.residue_nats(adapter, PROTEINS, reverse=True)
    for protein, ahead, behind in zip(PROTEINS, forward, backward):
        for nats, text in ((ahead, f"1{protein}2"), (behind[::-1], f"2{protein[::-1]}1")):
            tokens = torch.tensor([PROGEN_TOKENS.index(c) for c in text])
            logp = progen_logits(tensors, tokens)[1].log_softmax(-1)
            expected = -logp[range(len(protein)), tokens[1:-1]]
            assert nats == pytest.approx(expected.numpy(), abs=1e-4)


def test_progen2_with_fewer_rows_in_its_head_than_tokens(tmp_path):
    folder, tensors = progen2(tmp_path / "model", vocab_size_emb=37)
    adapter = models.open(folder)
    with torch.no_grad():
        logp = adapter.logits(adapter.encode(["MKV"])).log_softmax(-1)
    tokens = torch.tensor([PROGEN_TOKENS.index(c) for c in "1MKV2"])
    expected = progen_logits(tensors, tokens)[1].log_softmax(-1)
    assert torch.allclose(logp[0, :, :32], expected, atol=1e-4)
    assert logp[..., 32:].max() < -1000
