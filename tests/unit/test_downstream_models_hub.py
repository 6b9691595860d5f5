"""Models of transformers as adapters, against transformers itself on the same folder."""

import numpy as np
import pytest
import torch
import transformers
from export_example import make_run
from hub_example import ESM_TOKENS, esm2, esmc, glm, keep_below, progen2, protgpt2
from safetensors.torch import load_file, save_file

from plmscale.downstream import models, scoring
from plmscale.downstream.models.adapter import STANDARD
from plmscale.downstream.store import Store
from plmscale.export.folder import export_run

torch.set_num_threads(1)
RNG = np.random.default_rng(12)
PROTEINS = ["".join(RNG.choice(list(STANDARD), n)) for n in (9, 30, 1, 17, 30)]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    yield from keep_below(tmp_path, monkeypatch)


def theirs(folder, proteins, cls="AutoModelForMaskedLM", **how):
    """Run each protein alone through their own tokenizer and model; its outputs."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, cls).from_pretrained(folder, **how).eval()
    with torch.no_grad():
        return [
            model(
                **tokenizer(protein, return_tensors="pt"),
                output_hidden_states=True,
                output_attentions="attn_implementation" in how,
            )
            for protein in proteins
        ]


@pytest.mark.parametrize("make", [esm2, esmc], ids=["ESM-2", "ESM C"])
def test_encoders_give_what_transformers_gives(tmp_path, make):
    folder = make(tmp_path / "model")
    adapter = models.open(folder)
    rows = adapter.encode(PROTEINS)
    expected = theirs(folder, PROTEINS, attn_implementation="eager")
    with torch.no_grad():
        states = [adapter.hidden(rows, layer) for layer in range(4)]
        logits, maps = adapter.logits(rows), adapter.attentions(rows)
        assert torch.equal(adapter.hidden(rows), states[-1])
    assert maps.shape[1] == 12
    for i, (protein, one) in enumerate(zip(PROTEINS, expected)):
        n = len(protein) + 2
        assert rows.attend[i].sum() == n and rows.residues[i, 1 : n - 1].all()
        assert torch.allclose(logits[i, :n], one.logits[0], atol=1e-5)
        for layer, wanted in enumerate(one.hidden_states):
            assert torch.allclose(states[layer][i, :n], wanted[0], atol=1e-5)
        assert torch.allclose(
            maps[i, :, :n, :n], torch.cat(one.attentions)[:, :].flatten(0, 1), atol=1e-5
        )
        assert maps[i, :, :n, n:].abs().max() == 0 if n < maps.shape[-1] else True
    # The fast attention is back in place.
    assert adapter.module.config._attn_implementation == "sdpa"
    info = adapter.info
    assert (info.kind, info.origin, info.n_layers, info.n_heads) == ("mlm", "folder", 3, 4)
    assert adapter.letters["M"] == ESM_TOKENS.index("M") and adapter.mask == 32
    assert (adapter.begin, adapter.end) == ((0,), (2,))
    assert [adapter.decode(row) for row in rows.tokens] == PROTEINS


def test_esm2_in_the_layout_of_the_hub(tmp_path):
    """Angles in each layer, a table of positions that is not used, no copy of the tied matrix."""
    folder = esm2(tmp_path / "model")
    expected = models.open(folder)
    weights = load_file(folder / "model.safetensors")
    angles = weights.pop(next(name for name in weights if name.endswith("inv_freq")))
    for layer in range(3):
        name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        weights[name] = angles.clone()
    weights["esm.embeddings.position_embeddings.weight"] = torch.zeros(1026, 32)
    weights.pop("lm_head.decoder.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    adapter = models.open(folder)
    rows = adapter.encode(PROTEINS)
    with torch.no_grad():
        assert torch.allclose(adapter.logits(rows), expected.logits(rows), atol=1e-6)
    assert adapter.info.n_params == expected.info.n_params


def test_esm2_takes_1022_residues_in_training_and_any_number_here(tmp_path):
    adapter = models.open(esm2(tmp_path / "model"))
    assert adapter.info.context == 1022
    assert adapter.encode(["A" * 1500]).tokens.shape == (1, 1502)


def test_parameters_are_counted_without_embeddings_and_output_matrix(tmp_path):
    adapter = models.open(esm2(tmp_path / "model"))
    d, f = 32, 48
    layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    head = d * d + d + 2 * d
    assert adapter.info.n_params == 3 * layer + 2 * d + head
    run = make_run(tmp_path / "run", "modern", "clm")
    export_run(run, tmp_path / "hf", verify=False)
    assert models.open(tmp_path / "hf").info.n_params == models.open(run).info.n_params


@pytest.mark.parametrize("remote", [False, True], ids=["stock", "remote"])
@pytest.mark.parametrize("kind", ["clm", "mlm"])
@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_exported_runs_are_our_runs(tmp_path, preset, kind, remote):
    run = make_run(tmp_path / "run", preset, kind)
    export_run(run, tmp_path / "hf", remote_code=remote, verify=False)
    ours, exported = models.open(run), models.open(tmp_path / "hf", remote_code=remote)
    proteins = [*PROTEINS, "MJ*XBUZO"]
    a, b = ours.encode(proteins), exported.encode(proteins)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.residues, b.residues)
    with torch.no_grad():
        assert torch.allclose(ours.logits(a)[a.attend], exported.logits(b)[b.attend], atol=1e-4)
        # The rewritten form has the final norm's bias in its head.
        bias = 0 if remote or preset == "modern" else ours.module.final_norm.bias
        states = exported.hidden(b) + bias
        assert torch.allclose(ours.hidden(a)[a.attend], states[b.attend], atol=1e-4)
        if not remote:
            maps = exported.attentions(b)
            # The longest, without padding, whose own rows nobody asks for.
            assert torch.allclose(ours.attentions(a)[1], maps[1], atol=1e-4)
    same = ("kind", "context", "width", "n_layers", "n_heads")
    assert all(getattr(ours.info, key) == getattr(exported.info, key) for key in same)
    nats = zip(scoring.residue_nats(ours, proteins), scoring.residue_nats(exported, proteins))
    assert all(np.allclose(x, y, atol=1e-4) for x, y in nats)


def test_protgpt2_reads_pieces_of_several_residues(tmp_path):
    folder = protgpt2(tmp_path / "model")
    adapter = models.open(folder)
    proteins = ["ACDEFGHIKL" * 3, "MKV", "ACDACDACDKLKLKL" * 5]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    nats = scoring.residue_nats(adapter, proteins)
    store = Store()
    states, means = store.residues(adapter, proteins), store.means(adapter, proteins)
    assert not adapter.letterwise and adapter.letters == {}
    for n, protein in enumerate(proteins):
        lines = [protein[i : i + 60] for i in range(0, len(protein), 60)]
        text = "<|endoftext|>\n" + "".join(f"{line}\n" for line in lines) + "<|endoftext|>"
        tokens = tokenizer.encode(text)
        with torch.no_grad():
            out = model(torch.tensor([tokens]), output_hidden_states=True)
        logp = out.logits[0].log_softmax(-1)
        total, spread, each = 0.0, [], []
        for place in range(1, len(tokens) - 1):
            letters = tokenizer.decode(tokens[place])
            if letters == "\n":
                continue
            one = -logp[place - 1, tokens[place]].item()
            total += one
            spread += [one / len(letters)] * len(letters)
            each += [out.hidden_states[-1][0, place].numpy()] * len(letters)
        assert len(spread) == len(protein) and len(tokens) < len(protein) + 5
        assert nats[n] == pytest.approx(spread, abs=1e-4)
        assert nats[n].sum() == pytest.approx(total, rel=1e-5)
        assert np.allclose(states[n], each, atol=1e-4)
        assert np.allclose(means[n], np.mean(each, 0), atol=1e-4)
    assert any(len(tokenizer.decode(t)) > 1 for t in tokens[1:-1])
    assert adapter.decode(tokens) == proteins[-1]


def test_protgpt2_beyond_its_positions_is_cut_into_windows(tmp_path):
    adapter = models.open(protgpt2(tmp_path / "model"))
    # 60 residues and two line breaks between two ends fill 64 positions, a token a residue.
    assert adapter.info.context == 60
    short, long = "ACDEFGHIKL" * 8, "WY" * 100
    assert adapter.fits(short) and not adapter.fits(long)
    nats = scoring.residue_nats(adapter, [short, long])
    assert [len(n) for n in nats] == [80, 200]
    again = scoring.residue_nats(adapter, [long[:60]])[0]
    assert nats[1][:60] == pytest.approx(again, rel=1e-4)


def test_a_class_of_the_models_own(tmp_path):
    """States (s, b, d), a head inside the stack, states that end before the final norm."""
    folder = glm(tmp_path / "model")
    adapter = models.open(folder, remote_code=True)
    rows = adapter.encode(PROTEINS)
    module = adapter.module
    assert rows.tokens[0, 9] == 2 and rows.residues[0, :9].all()  # nothing before, <eos> behind
    with torch.no_grad():
        last, first = adapter.hidden(rows), adapter.hidden(rows, 0)
        assert torch.equal(first, module.transformer.embedding(rows.tokens))
        logits = module.transformer.output_layer(last)
        assert torch.allclose(logits, adapter.logits(rows), atol=1e-5)
        alone = adapter.hidden(adapter.encode(PROTEINS[:1]))
        assert torch.allclose(alone[0], last[0, :10], atol=1e-5)
    assert (adapter.info.kind, adapter.info.context) == ("mlm", 63)
    assert (adapter.info.width, adapter.info.n_layers, adapter.info.n_heads) == (24, 2, 2)
    assert adapter.info.n_params == sum(
        p.numel()
        for n, p in module.named_parameters()
        if "embedding" not in n and "output" not in n
    )


@pytest.mark.parametrize("make", [esm2, esmc, protgpt2, progen2, glm])
def test_twin_is_a_new_model_of_the_class(tmp_path, make):
    folder = make(tmp_path / "model")
    folder = folder[0] if isinstance(folder, tuple) else folder
    adapter = models.open(folder, remote_code=True)
    twin = adapter.twin(3)
    (folder / "model.safetensors").unlink()  # a twin needs none
    again = models.open(folder, twin_seed=3, remote_code=True)
    other = models.open(folder, twin_seed=4, remote_code=True)
    assert twin.info == again.info and twin.info.twin
    assert len({a.info.digest for a in (adapter, twin, other)}) == 3
    weights = [dict(a.module.named_parameters()) for a in (twin, again, other, adapter)]
    matrix = next(n for n, p in weights[0].items() if p.ndim == 2 and p.std() > 0)
    assert all(torch.equal(p, weights[1][n]) for n, p in weights[0].items())
    assert all(not torch.equal(weights[0][matrix], w[matrix]) for w in weights[2:])
    if make in (esm2, esmc, protgpt2, progen2):
        assert 0.015 < weights[0][matrix].std() < 0.025  # initializer_range of these classes
    # Drawing it moved nobody else's random numbers.
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    adapter.twin(3)
    assert torch.equal(torch.rand(1), expected)
