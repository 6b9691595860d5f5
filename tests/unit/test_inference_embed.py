"""Embeddings against a loop over single proteins, and the files they are written to."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from inference_fixtures import (
    SEQUENCES,
    failure,
    loaded,
    plmscale,
    save_run,
    small_model,
    summary,
    write_fasta,
)
from transformers import LlamaConfig, LlamaModel

from plmscale.corpus.alphabet import BOS, EOS, encode
from plmscale.errors import PlmscaleError
from plmscale.inference import outputs
from plmscale.inference.batches import windows
from plmscale.inference.embed import Embedder, check_layer, embed
from plmscale.inference.records import Record

torch.set_num_threads(1)
RECORDS = [Record(i + 1, f"p{i}", encode(s)) for i, s in enumerate(SEQUENCES)]


def naive(model, record, causal):
    """Final hidden states of the residues of one protein, (length, d)."""
    tokens = torch.tensor([[BOS, *record.tokens.tolist(), EOS]])
    with torch.no_grad():
        return model.hidden(tokens, causal=causal)[0, 1:-1].numpy()


@pytest.mark.parametrize("use", ["clm", "mlm"])
@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_a_batch_gives_what_single_proteins_give(use, batch_tokens):
    model = small_model()
    means = list(embed(loaded(model, use), RECORDS, Embedder(batch_tokens)))
    residues = list(embed(loaded(model, use), RECORDS, Embedder(batch_tokens, per_residue=True)))
    assert [e.id for e in means] == [e.id for e in residues] == [r.id for r in RECORDS]
    for record, mean, each in zip(RECORDS, means, residues):
        expected = naive(model, record, use == "clm")
        assert mean.values.dtype == each.values.dtype == np.float32
        np.testing.assert_allclose(each.values, expected, atol=2e-6)
        np.testing.assert_allclose(mean.values, expected.mean(0), atol=2e-6)


def test_layers_are_those_of_hugging_face():
    """The same weights in a Llama model; its hidden_states give what --layer numbers."""
    model = small_model(preset="modern")
    arch = model.arch
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, rms_norm_eps=arch.norm_eps, rope_theta=arch.rope_theta,
    )  # fmt: skip
    llama = LlamaModel(config).eval()
    state = {"embed_tokens.weight": model.embedding.weight, "norm.weight": model.final_norm.weight}
    for i, block in enumerate(model.blocks):
        q, k, v = block.qkv.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        state |= {
            f"layers.{i}.{name}.weight": w
            for name, w in {
                "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
                "self_attn.o_proj": block.attention_out.weight, "mlp.gate_proj": gate,
                "mlp.up_proj": up, "mlp.down_proj": block.mlp_out.weight,
                "input_layernorm": block.attention_norm.weight,
                "post_attention_layernorm": block.mlp_norm.weight,
            }.items()
        }  # fmt: skip
    llama.load_state_dict(state)
    record = RECORDS[2]
    tokens = torch.tensor([[BOS, *record.tokens.tolist()]])
    with torch.no_grad():
        expected = llama(tokens, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2, -1, -2, -3):
        how = Embedder(100, per_residue=True, layer=layer)
        (found,) = embed(loaded(model), [record], how)
        np.testing.assert_allclose(found.values, expected[layer][0, 1:].numpy(), atol=5e-6)


def test_layers_that_are_not_there():
    assert [check_layer(i, 2) for i in (0, 2, -1, -3)] == [0, 2, 2, 0]
    for layer in (3, -4):
        with pytest.raises(PlmscaleError, match=f"--layer {layer}: .* 0 .* to 2"):
            check_layer(layer, 2)


@pytest.mark.parametrize("use", ["clm", "mlm"])
def test_long_proteins_run_in_windows(use):
    model, record, causal = small_model(), RECORDS[6], use == "clm"
    tokens = torch.tensor([BOS, *record.tokens.tolist(), *([] if causal else [EOS])])
    expected = torch.zeros(len(tokens), 32)
    with torch.no_grad():
        for start, stop, first, last in windows(len(tokens), 16, causal):
            states = model.hidden(tokens[None, start:stop], causal=causal)[0]
            expected[first:last] = states[first - start : last - start]
    expected = expected[1 : len(record) + 1].numpy()
    (mean,) = embed(loaded(model, use), [record], Embedder(20, window=16))
    (each,) = embed(loaded(model, use), [record], Embedder(20, per_residue=True, window=16))
    assert mean.windowed and each.windowed
    np.testing.assert_allclose(each.values, expected, atol=2e-6)
    np.testing.assert_allclose(mean.values, expected.mean(0), atol=2e-6)


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "run", small_model(), objective="mlm")


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "in.fasta")


def ids(path):
    with open(path) as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_means_in_parquet_and_npy(tmp_path, capsys, run, fasta):
    expected = np.stack([naive(small_model(), r, False).mean(0) for r in RECORDS])
    told = summary(capsys, "embed", run, fasta, "--out", tmp_path / "e.parquet")
    assert (told["records"], told["width"], told["layer"]) == (10, 32, 2)
    table = pq.read_table(tmp_path / "e.parquet")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    assert table["id"].to_pylist() == [r.id for r in RECORDS]
    assert table["length"].to_pylist() == [len(r) for r in RECORDS]
    np.testing.assert_allclose(np.stack(table["embedding"].to_pylist()), expected, atol=2e-6)
    assert plmscale("embed", run, fasta, "--out", tmp_path / "e.npy") == 0
    matrix = np.load(tmp_path / "e.npy", mmap_mode="r")
    assert matrix.dtype == np.float32 and matrix.offset % 64 == 0
    np.testing.assert_allclose(matrix, expected, atol=2e-6)
    rows = ids(tmp_path / "e.ids.tsv")
    assert [(r["id"], int(r["length"])) for r in rows] == [(r.id, len(r)) for r in RECORDS]


def test_residues_in_parquet_and_npy(tmp_path, monkeypatch, capsys, run, fasta):
    monkeypatch.setattr(outputs, "_ROWS", 3)
    expected = [naive(small_model(), r, False) for r in RECORDS]
    out = tmp_path / "e.parquet"
    assert plmscale("embed", run, fasta, "--out", out, "--per-residue") == 0
    assert pq.ParquetFile(out).num_row_groups == 4
    table = pq.read_table(out)
    for value, each in zip(table["embedding"].to_pylist(), expected, strict=True):
        np.testing.assert_allclose(np.array(value), each, atol=2e-6)
    folder = tmp_path / "arrays"
    assert plmscale("embed", run, fasta, "--out", folder, "--per-residue", "--format", "npy") == 0
    rows = ids(folder / "index.tsv")
    assert [r["id"] for r in rows] == [r.id for r in RECORDS]
    for row, each in zip(rows, expected, strict=True):
        np.testing.assert_allclose(np.load(folder / row["file"]), each, atol=2e-6)
    assert len(list(folder.iterdir())) == 11
    line = failure(capsys, "embed", run, fasta, "--out", folder, "--per-residue")
    assert f"{folder}: is there already" in line


def test_nothing_half_is_left(tmp_path, capsys, run):
    (tmp_path / "bad.fasta").write_text(">a\nMKTV\n>b\nMK1\n")
    for name, more in (("e.parquet", []), ("e.npy", []), ("e", ["--per-residue"])):
        words = ["--out", tmp_path / "out" / name, "--batch-tokens", 1, *more]
        assert "record 2 (b)" in failure(capsys, "embed", run, tmp_path / "bad.fasta", *words)
        assert not list((tmp_path / "out").iterdir())


def test_names_that_do_not_fit_the_format(tmp_path, capsys, run, fasta):
    for words in (["e.txt"], ["e"], ["e.npy", "--per-residue"], ["e.npy", "--format", "parquet"],
                  ["e.parquet", "--format", "npy"]):  # fmt: skip
        line = failure(capsys, "embed", run, fasta, "--out", tmp_path / words[0], *words[1:])
        assert words[0] in line and "name a file that ends in" in line


def test_a_matrix_of_any_number_of_rows(tmp_path):
    for rows in (0, 1, 1234):
        with outputs.matrix_writer(tmp_path / "m.npy", 3) as add:
            for i in range(rows):
                add(np.full(3, i))
        matrix = np.load(tmp_path / "m.npy")
        assert matrix.shape == (rows, 3) and (matrix == np.arange(rows)[:, None]).all()
