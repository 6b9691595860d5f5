"""Scores against sums written out one protein, and one masked residue, at a time in float64."""

import copy
import csv
import math

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

from plmscale.corpus.alphabet import BOS, EOS, MASK, encode
from plmscale.inference.batches import groups, windows
from plmscale.inference.records import Record
from plmscale.inference.score import Scoring, score

torch.set_num_threads(1)


def records(sequences=SEQUENCES):
    return [Record(i + 1, f"p{i}", encode(s)) for i, s in enumerate(sequences)]


def tokens_of(sequence):
    return torch.tensor([[BOS, *encode(sequence).tolist(), EOS]])


def naive_clm(model, sequence, eos=True):
    """Sum of -log p(token | those before), each with a forward pass of its own prefix."""
    model = copy.deepcopy(model).double()
    tokens = tokens_of(sequence)
    total = 0.0
    with torch.no_grad():
        for i in range(1, tokens.shape[1] - (not eos)):
            last = model(tokens[:, :i], causal=True)[0, -1]
            total -= torch.log_softmax(last, -1)[tokens[0, i]].item()
    return total


def naive_mlm(model, sequence):
    """Sum of -log p(residue | all others), masked one at a time (Salazar et al. 2020, eq. 2)."""
    model = copy.deepcopy(model).double()
    total = 0.0
    with torch.no_grad():
        for i in range(1, len(sequence) + 1):
            tokens = tokens_of(sequence)
            truth = tokens[0, i].item()
            tokens[0, i] = MASK
            total -= torch.log_softmax(model(tokens, causal=False)[0, i], -1)[truth].item()
    return total


@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_clm_is_the_sum_of_log_softmax(preset, batch_tokens):
    model = small_model(preset=preset)
    found = list(score(loaded(model), records(), Scoring(batch_tokens)))
    assert [s.id for s in found] == [f"p{i}" for i in range(len(SEQUENCES))]
    for one, sequence in zip(found, SEQUENCES):
        expected = naive_clm(model, sequence)
        assert one.nll == pytest.approx(expected, rel=2e-6)
        assert (one.length, one.tokens) == (len(sequence), len(sequence) + 1)
        assert one.perplexity == pytest.approx(math.exp(expected / (len(sequence) + 1)), rel=1e-5)
        assert one.method == "clm"


def test_eos_can_be_left_out():
    model = small_model()
    for one, sequence in zip(score(loaded(model), records(), Scoring(99, eos=False)), SEQUENCES):
        assert one.nll == pytest.approx(naive_clm(model, sequence, eos=False), rel=2e-6)
        assert one.tokens == len(sequence) and one.method == "clm-without-eos"


@pytest.mark.parametrize("batch_tokens", [1, 150, 8192])
def test_mlm_masks_each_residue_alone(batch_tokens):
    model = small_model()
    found = list(score(loaded(model, "mlm"), records(), Scoring(batch_tokens)))
    for one, sequence in zip(found, SEQUENCES, strict=True):
        assert one.nll == pytest.approx(naive_mlm(model, sequence), rel=2e-6)
        assert one.tokens == len(sequence) and one.method == "mlm-exact"


def test_as_many_masks_as_residues_is_exact():
    model = small_model()
    exact = list(score(loaded(model, "mlm"), records(), Scoring(500)))
    for masks in (62, 1000):
        found = list(score(loaded(model, "mlm"), records(), Scoring(500, masks=masks)))
        assert [s.nll for s in found] == pytest.approx([s.nll for s in exact], rel=1e-6)
        assert {s.method for s in found} == {"mlm-exact"}


class Recorder(torch.nn.Module):
    """Stands for the model, and keeps what it is asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.arch, self.calls = model, model.arch, []

    def forward(self, tokens, **how):
        self.calls.extend(tokens.clone())
        return self.model(tokens, **how)


@pytest.mark.parametrize("masks", [1, 3, 7])
def test_each_residue_is_masked_once_in_sets_of_equal_size(masks):
    model = Recorder(small_model())
    sequences = SEQUENCES[:4]  # of different lengths, so that rows tell whose they are
    found = list(score(loaded(model, "mlm"), records(sequences), Scoring(500, masks=masks)))
    for one, sequence in zip(found, sequences):
        truth = tokens_of(sequence)[0]
        rows = [row[: len(truth)] for row in model.calls if (row != 0).sum() == len(truth)]
        rows = [r for r in rows if bool(((r == truth) | (r == MASK)).all())]
        times = sum((r == MASK).int() for r in rows)
        assert times.tolist() == [0, *[1] * len(sequence), 0]
        sizes = [int((r == MASK).sum()) for r in rows]
        assert len(rows) == min(masks, len(sequence)) and max(sizes) - min(sizes) <= 1
        with torch.no_grad():
            expected = 0.0
            for r in rows:
                logp = torch.log_softmax(model.model(r[None], causal=False)[0].double(), -1)
                expected -= sum(logp[i, truth[i]].item() for i in torch.where(r == MASK)[0])
        assert one.nll == pytest.approx(expected, rel=2e-6)
        assert one.method == ("mlm-exact" if masks >= len(sequence) else f"mlm-masks{masks}")


def test_sets_depend_on_seed_and_length_alone():
    model = small_model()

    def nll(sequences, seed):
        how = Scoring(500, masks=4, seed=seed)
        return {r.id: r.nll for r in score(loaded(model, "mlm"), records(sequences), how)}

    one, again = nll(SEQUENCES, 1), nll(SEQUENCES[:3], 1)
    assert [one[f"p{i}"] for i in range(3)] == pytest.approx([again[f"p{i}"] for i in range(3)])
    assert abs(one["p6"] - nll(SEQUENCES, 2)["p6"]) > 1e-3


def test_equal_logits_give_the_size_of_the_vocabulary():
    model = small_model(tie_embeddings=False)
    torch.nn.init.zeros_(model.head.weight)
    for use in ("clm", "mlm"):
        for one in score(loaded(model, use), records(), Scoring(300)):
            assert one.perplexity == pytest.approx(32, rel=1e-6)


def test_windows_use_every_token_once():
    for length in (5, 16, 17, 23, 24, 25, 64, 100):
        for window in (2, 7, 16):
            for causal in (True, False):
                found = windows(length, window, causal)
                used = [i for _, _, first, last in found for i in range(first, last)]
                assert used == list(range(length))
                assert all(a <= first and last <= b <= length for a, b, first, last in found)
                assert all(b - a == min(window, length) for a, b, _, _ in found)
    assert windows(40, 16, True) == [
        (0, 16, 0, 16),
        (8, 24, 16, 24),
        (16, 32, 24, 32),
        (24, 40, 32, 40),
    ]
    assert windows(25, 16, False) == [(0, 16, 0, 12), (8, 24, 12, 16), (9, 25, 16, 25)]
    assert windows(40, 0, True) == [(0, 40, 0, 40)]


def test_long_proteins_run_in_windows():
    model, window, sequence = small_model(), 16, SEQUENCES[6]
    truth = tokens_of(sequence)[0]
    expected = {"clm": 0.0, "mlm": 0.0}
    with torch.no_grad():
        for start, stop, first, last in windows(len(sequence) + 1, window, True):
            logp = torch.log_softmax(model(truth[None, start:stop], causal=True)[0].double(), -1)
            for i in range(first, last):
                expected["clm"] -= logp[i - start, truth[i + 1]].item()
        for start, stop, first, last in windows(len(truth), window, False):
            for i in range(max(first, 1), min(last, len(truth) - 1)):
                row = truth[start:stop].clone()
                row[i - start] = MASK
                logp = torch.log_softmax(model(row[None], causal=False)[0].double(), -1)
                expected["mlm"] -= logp[i - start, truth[i]].item()
    for use, naive in (("clm", naive_clm), ("mlm", naive_mlm)):
        found = {}
        for width in (window, 0):
            how = Scoring(200, window=width)
            found[width] = list(score(loaded(model, use), records(), how))[6]
        assert found[window].nll == pytest.approx(expected[use], rel=2e-6)
        assert found[window].windowed and found[window].method.endswith("-window16")
        assert found[0].nll == pytest.approx(naive(model, sequence), rel=2e-6)
        assert not found[0].windowed
        assert abs(found[0].nll - found[window].nll) > 1e-4


def test_groups_bound_what_is_in_memory():
    def endless():
        i = 0
        while True:
            i += 1
            yield Record(i, "p", encode("MKTV"))

    first = next(groups(endless(), tokens=60))
    assert len(first) == 10


def test_command_writes_the_same_in_every_format(tmp_path, capsys):
    run = save_run(tmp_path / "run", small_model())
    fasta = write_fasta(tmp_path / "in.fasta")
    for suffix in ("tsv", "csv", "parquet"):
        told = summary(capsys, "score", run, fasta, "--out", tmp_path / f"out.{suffix}")
    with open(tmp_path / "out.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    with open(tmp_path / "out.csv") as handle:
        assert list(csv.DictReader(handle)) == rows
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert list(table) == list(rows[0]) == ["id", "length", "tokens", "nll", "perplexity", "method"]
    assert table["id"] == [row["id"] for row in rows] == [f"p{i}" for i in range(10)]
    np.testing.assert_allclose([float(row["nll"]) for row in rows], table["nll"], rtol=1e-8)
    expected = [naive_clm(small_model(), s) for s in SEQUENCES]
    np.testing.assert_allclose(table["nll"], expected, rtol=2e-6)
    assert told["records"] == 10 and told["residues"] == sum(map(len, SEQUENCES))
    assert told["nll"] == pytest.approx(sum(table["nll"]))
    assert told["perplexity"] == pytest.approx(math.exp(sum(table["nll"]) / sum(table["tokens"])))
    assert told["skipped"] == told["longer_than_context"] == 0
    capsys.readouterr()
    assert plmscale("score", run, fasta) == 0
    assert capsys.readouterr().out == (tmp_path / "out.tsv").read_text()


def test_mixed_runs_can_be_used_as_both(tmp_path, capsys):
    run = save_run(tmp_path / "run", small_model(), objective="mixed")
    fasta, out = write_fasta(tmp_path / "in.fasta", SEQUENCES[:3]), tmp_path / "out.parquet"
    for words, naive in (
        ([], naive_mlm),
        (["--as", "mlm"], naive_mlm),
        (["--as", "clm"], naive_clm),
    ):
        summary(capsys, "score", run, fasta, "--out", out, *words)
        expected = [naive(small_model(), s) for s in SEQUENCES[:3]]
        np.testing.assert_allclose(pq.read_table(out)["nll"], expected, rtol=2e-6)
    for objective, other in (("clm", "mlm"), ("mlm", "clm")):
        run = save_run(tmp_path / objective, small_model(), objective=objective)
        line = failure(capsys, "score", run, fasta, "--as", other)
        assert f"trained as {objective}" in line and str(run) in line


def test_longer_than_the_context_is_told(tmp_path, capsys):
    run = save_run(tmp_path / "run", small_model(), context=32)
    fasta, out = write_fasta(tmp_path / "in.fasta"), tmp_path / "out.parquet"
    capsys.readouterr()
    assert plmscale("score", run, fasta, "--out", out) == 0
    assert "p6 has 62 residues, more than the 31" in capsys.readouterr().err
    methods = pq.read_table(out)["method"].to_pylist()
    assert methods == ["clm-window32" if len(s) > 31 else "clm" for s in SEQUENCES]
    assert summary(capsys, "score", run, fasta, "--out", out)["longer_than_context"] == 1


def test_a_model_without_numbers_is_an_error_and_leaves_no_file(tmp_path, capsys):
    model = small_model()
    torch.nn.init.constant_(model.final_norm.weight, math.nan)
    run, fasta = save_run(tmp_path / "run", model), write_fasta(tmp_path / "in.fasta")
    line = failure(capsys, "score", run, fasta, "--out", tmp_path / "out.tsv")
    assert "record 1 (p0)" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.fasta", "run"]


def test_mistakes_in_options_are_told(tmp_path, capsys):
    clm = save_run(tmp_path / "clm", small_model())
    fasta = write_fasta(tmp_path / "in.fasta")
    for words, part in (
        (["--masks", "3"], "--masks is for mlm"),
        (["--masks", "-1"], "--masks -1"),
        (["--out", "x.txt"], "must end in .tsv, .csv or .parquet"),
        (["--batch-tokens", "0"], "--batch-tokens 0"),
        (["--window", "1"], "--window 1"),
        (["--json"], "--out"),
    ):
        assert part in failure(capsys, "score", clm, fasta, *words)
