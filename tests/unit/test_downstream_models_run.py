"""Runs of plmscale as adapters, against the transformer itself and naive sums."""

import json

import numpy as np
import pytest
import torch
from inference_fixtures import SEQUENCES, save_run, small_model
from torch.nn import functional

from plmscale.corpus.alphabet import BOS, EOS, MASK, encode
from plmscale.downstream import models
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
KINDS = [(preset, kind) for preset in ("paper", "modern") for kind in ("clm", "mlm")]


@pytest.fixture(params=KINDS, ids=lambda k: "-".join(k))
def opened(request, tmp_path):
    preset, kind = request.param
    model = small_model(preset=preset)
    return model, models.open(save_run(tmp_path, model, kind))


def alone(sequence):
    return torch.tensor([[BOS, *encode(sequence).tolist(), EOS]])


def test_rows_are_bos_residues_eos(opened):
    _, adapter = opened
    rows = adapter.encode(["MKJ", "A*UZO"])
    letters = [encode(s).tolist() for s in ("MKX", "AXUZO")]
    assert rows.tokens.tolist() == [[BOS, *letters[0], EOS, 0, 0], [BOS, *letters[1], EOS]]
    assert rows.attend.tolist() == [[True] * 5 + [False] * 2, [True] * 7]
    assert rows.residues.tolist() == [[0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0]]
    assert rows.padded and not adapter.encode(["MK", "AC"]).padded


def test_batches_give_what_each_protein_gives_alone(opened):
    model, adapter = opened
    rows = adapter.encode(SEQUENCES)
    with torch.no_grad():
        states, logits = adapter.hidden(rows), adapter.logits(rows)
        for i, sequence in enumerate(SEQUENCES):
            tokens = alone(sequence)
            n = tokens.shape[1]
            expected = model.hidden(tokens, causal=adapter.causal)[0]
            assert torch.allclose(states[i, :n], expected, atol=1e-5)
            expected = model(tokens, causal=adapter.causal)[0]
            assert torch.allclose(logits[i, :n], expected, atol=1e-5)
    assert rows.of_residues(states).shape == (sum(map(len, SEQUENCES)), 32)


def test_layers_are_numbered_from_the_embeddings(opened):
    model, adapter = opened
    rows = adapter.encode(SEQUENCES[:3])
    with torch.no_grad():
        first = adapter.hidden(rows, 0)
        assert torch.equal(first, functional.embedding(rows.tokens, model.embedding.weight))
        last = adapter.hidden(rows, 2)
        assert torch.equal(last, adapter.hidden(rows)) and torch.equal(
            last, adapter.hidden(rows, -1)
        )
        assert torch.equal(adapter.hidden(rows, -3), first)
        between = adapter.hidden(rows, 1)
        plan_free = {"causal": adapter.causal, "segments": None}
        assert not torch.allclose(between, last) and not torch.allclose(between, first)
        # The second block and the final norm make the last states of the middle ones.
        tail = small_model(preset=model.arch.preset, n_layers=1)
        tail.blocks[0].load_state_dict(model.blocks[1].state_dict())
        tail.final_norm.load_state_dict(model.final_norm.state_dict())
        tail.embedding = torch.nn.Embedding.from_pretrained(between[2, rows.attend[2]])
        count = int(rows.attend[2].sum())
        again = tail.hidden(torch.arange(count)[None], **plan_free)[0]
        assert torch.allclose(again, last[2, :count], atol=1e-5)
    with pytest.raises(PlmscaleError, match=r"layer 3 does not exist; there are 0 .* to 2"):
        adapter.hidden(rows, 3)


def test_attention_maps_are_those_of_the_network(opened):
    """A layer's output follows from its map: probabilities times values, projected."""
    model, adapter = opened
    rows = adapter.encode(SEQUENCES)
    heads = model.arch.n_heads
    seen = {}

    def keep(n):
        return lambda _, inputs, output: seen.__setitem__(n, (inputs[0], output))

    with torch.no_grad():
        maps = adapter.attentions(rows).unflatten(1, (2, heads))
        hooks = [b.register_forward_hook(keep(n)) for n, b in enumerate(adapter.module.blocks)]
        adapter.hidden(rows)
        for hook in hooks:
            hook.remove()
        for n, block in enumerate(adapter.module.blocks):
            x, y = seen[n]
            value = block.qkv(block.attention_norm(x)).unflatten(-1, (3, heads, -1))[:, :, 2]
            mixed = torch.einsum("bhst,bthd->bshd", maps[:, n], value).flatten(2)
            middle = x + block.attention_out(mixed)
            gate, up = block.gate_up(block.mlp_norm(middle)).chunk(2, -1)
            gelu = model.arch.preset == "paper"
            gate = functional.gelu(gate) if gelu else functional.silu(gate)
            expected = middle + block.mlp_out(gate * up)
            assert torch.allclose(expected[rows.attend], y[rows.attend], atol=1e-5)
    assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
    # Nobody looks at padding, and a causal model at nothing behind itself.
    length = rows.attend.sum(1)
    short = int(length.argmin())
    assert maps[short, ..., : length[short], length[short] :].abs().max() == 0
    if adapter.causal:
        assert maps.triu(1).abs().max() == 0
    else:
        assert maps[0, :, :, 0, 1 : length[0]].min() > 0


def test_states_have_gradients_where_they_are_wanted(opened):
    _, adapter = opened
    rows = adapter.encode(["MKVL", "AC"])
    for layer in (1, -1):
        adapter.module.zero_grad()
        states = adapter.hidden(rows, layer)
        states.square().sum().backward()
        assert adapter.module.blocks[0].qkv.weight.grad.abs().sum() > 0
        # Another kernel, the same numbers.
        with torch.no_grad():
            again = adapter.hidden(rows, layer)
        assert not again.requires_grad
        assert torch.allclose(states[rows.attend], again[rows.attend], atol=1e-5)


def test_what_is_told_of_a_run(opened, tmp_path):
    model, adapter = opened
    info = adapter.info
    assert (info.name, info.origin, info.twin) == (f"{info.kind}-test", "run", False)
    assert info.n_params == model.arch.n_params
    assert (info.context, info.width, info.n_layers, info.n_heads) == (62, 32, 2, 2)
    assert adapter.mask == (MASK if info.kind == "mlm" else None)
    names = [name for name, _ in adapter.module.named_modules()]
    for target in adapter.lora_targets:
        assert sum(name.endswith(f".{target}") for name in names) == 2
    assert (info.corpus, info.sources) == ("", ())
    recipe = {"corpus": {"key": "abc", "mix": {"two": 0.5, "one": 0.5}}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    again = models.open(tmp_path, name="mine").info
    assert (again.name, again.corpus, again.sources) == ("mine", "abc", ("one", "two"))
    assert again.digest == info.digest


def test_twin_is_the_initialisation_of_the_same_shape(opened, tmp_path):
    model, adapter = opened
    twin = adapter.twin(7)
    expected = type(model)(model.arch)
    expected.initialize(7)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, twin.module.state_dict()[name])
    same = ("kind", "origin", "n_params", "context", "width", "n_layers", "n_heads")
    assert all(getattr(twin.info, key) == getattr(adapter.info, key) for key in same)
    assert twin.info.twin and twin.info.name == f"{adapter.info.name}-twin7"
    digests = {adapter.info.digest, twin.info.digest, adapter.twin(8).info.digest}
    assert len(digests) == 3
    again = models.open(tmp_path, twin_seed=7)
    assert again.info == twin.info
    # The trained model is as it was.
    assert torch.equal(adapter.module.embedding.weight, model.embedding.weight)


def test_mixed_run_is_two_models(tmp_path):
    folder = save_run(tmp_path, small_model(), "mixed")
    mlm, clm = models.open(folder), models.open(folder, use="clm")
    assert (mlm.info.kind, clm.info.kind) == ("mlm", "clm")
    assert mlm.info.digest != clm.info.digest
    rows = mlm.encode(["MKVLAC"])
    with torch.no_grad():
        assert not torch.allclose(mlm.hidden(rows), clm.hidden(rows))


def test_digest_is_of_weights_use_and_precision(tmp_path):
    one = models.open(save_run(tmp_path / "a", small_model()))
    copy = models.open(save_run(tmp_path / "b", small_model()))
    other = models.open(save_run(tmp_path / "c", small_model(seed=4)))
    longer = models.open(save_run(tmp_path / "d", small_model(), context=128))
    coarse = models.open(tmp_path / "a", dtype="bf16")
    assert one.info.digest == copy.info.digest
    assert len({a.info.digest for a in (one, other, longer, coarse)}) == 4
    assert coarse.dtype == torch.bfloat16


def test_bad_input(tmp_path):
    with pytest.raises(PlmscaleError, match="no such folder; give a run"):
        models.open(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlmscaleError, match=r"config\.json: no such file"):
        models.open(tmp_path / "empty")
    folder = save_run(tmp_path / "run", small_model(), "clm")
    with pytest.raises(PlmscaleError, match="was trained as clm"):
        models.open(folder, use="mlm")
    with pytest.raises(PlmscaleError, match="clm or mlm, not as 'both'"):
        models.open(folder, use="both")
    with pytest.raises(PlmscaleError, match="a sequence is empty"):
        models.open(folder).encode(["MK", ""])


def test_open_does_not_load_transformers(tmp_path):
    import subprocess
    import sys

    folder = save_run(tmp_path, small_model())
    code = (
        "import sys; from plmscale.downstream import models; "
        f"models.open({str(folder)!r}); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_letters_outside_latin_are_unknown(opened):
    _, adapter = opened
    rows = adapter.encode(["MΩK", "MXK"])
    assert np.array_equal(rows.tokens[0], rows.tokens[1])
