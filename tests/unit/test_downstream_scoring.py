"""Nats and marginals against sums written out one residue at a time, and against `plmscale score`."""

import math

import numpy as np
import pytest
import torch
from inference_fixtures import SEQUENCES, loaded, save_run, small_model

from plmscale.corpus.alphabet import BOS, EOS, MASK, encode
from plmscale.downstream import models, scoring
from plmscale.downstream.batches import by_length, centred, windows
from plmscale.downstream.models.adapter import STANDARD
from plmscale.errors import PlmscaleError
from plmscale.inference.records import Record
from plmscale.inference.score import Scoring, score

torch.set_num_threads(1)
PROTEINS = ["".join(c for c in s if c in STANDARD) for s in SEQUENCES]


def opened(folder, kind, context=64, **changes):
    return models.open(save_run(folder, small_model(**changes), kind, context=context))


def logp_of(model, tokens, place, causal):
    with torch.no_grad():
        logits = model.double()(torch.tensor([tokens]), causal=causal)[0, place]
    return torch.log_softmax(logits, -1)


def naive(adapter, sequence, context=0):
    """-log p of each residue; windows are proteins of their own, with begin and end tokens."""
    model, out = adapter.module, []
    parts = windows(len(sequence), context, adapter.causal)
    for i in range(len(sequence)):
        start, stop = next((a, b) for a, b, first, last in parts if first <= i < last)
        tokens = [BOS, *encode(sequence[start:stop]).tolist(), EOS]
        at = i - start + 1
        truth = tokens[at]
        if adapter.causal:
            out.append(-logp_of(model, tokens[:at], -1, True)[truth].item())
        else:
            masked = [*tokens[:at], MASK, *tokens[at + 1 :]]
            out.append(-logp_of(model, masked, at, False)[truth].item())
    return np.array(out)


@pytest.mark.parametrize("batch_tokens", [1, 100, None])
@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_nats_are_those_written_out(tmp_path, kind, batch_tokens):
    adapter = opened(tmp_path, kind)
    found = scoring.residue_nats(adapter, SEQUENCES, batch_tokens=batch_tokens)
    for nats, sequence in zip(found, SEQUENCES, strict=True):
        assert nats.dtype == np.float32 and nats.shape == (len(sequence),)
        assert nats == pytest.approx(naive(adapter, sequence), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_long_proteins_are_run_in_windows_of_the_context(tmp_path, kind):
    adapter = opened(tmp_path, kind, context=16)
    assert adapter.info.context == 14
    found = scoring.residue_nats(adapter, SEQUENCES)
    for nats, sequence in zip(found, SEQUENCES):
        expected = naive(adapter, sequence, context=14)
        assert nats == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("masks", [0, 3, 1000])
def test_sums_are_those_of_plmscale_score(tmp_path, masks):
    records = [Record(i + 1, f"p{i}", encode(s)) for i, s in enumerate(SEQUENCES)]
    for kind in ("clm", "mlm"):
        if kind == "clm" and masks:
            continue
        adapter = opened(tmp_path / kind, kind)
        found = scoring.residue_nats(adapter, SEQUENCES, masks=masks, seed=5)
        how = Scoring(500, masks=masks, eos=False, seed=5)
        expected = [r.nll for r in score(loaded(small_model(), kind), records, how)]
        assert [n.sum() for n in found] == pytest.approx(expected, rel=1e-5)


def test_a_sequence_that_comes_twice_is_run_once(tmp_path, monkeypatch):
    adapter = opened(tmp_path, "clm")
    asked = []
    encode_rows = adapter.encode
    monkeypatch.setattr(
        adapter, "encode", lambda sequences: asked.extend(sequences) or encode_rows(sequences)
    )
    found = scoring.residue_nats(adapter, ["MKV", "ACD", "MKV"])
    assert sorted(asked) == ["ACD", "MKV"]
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("context", [64, 16])
def test_masked_marginals_are_those_of_each_position(tmp_path, context):
    adapter = opened(tmp_path, "mlm", context=context)
    sequence = max(PROTEINS, key=len)
    positions = [0, 7, len(sequence) - 1, 7, 20]
    found = scoring.marginals(adapter, sequence, positions)
    assert found.shape == (5, 20) and found.dtype == np.float32
    for row, position in zip(found, positions):
        start, stop = centred(len(sequence), adapter.info.context, position)
        if context == 16:
            assert stop - start == 14 and (
                start in (0, len(sequence) - 14) or position == start + 7
            )
        tokens = [BOS, *encode(sequence[start:stop]).tolist(), EOS]
        tokens[1 + position - start] = MASK
        logp = logp_of(adapter.module, tokens, 1 + position - start, False)
        assert row == pytest.approx(logp[torch.tensor(encode(STANDARD)).long()].numpy(), rel=1e-4)
    # Over all tokens of the model: less than 1 is left to the 20 letters.
    assert (np.exp(found).sum(1) < 1).all()


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_wt_marginals_mask_nothing(tmp_path, kind):
    adapter = opened(tmp_path, kind)
    sequence = max(PROTEINS, key=len)
    found = scoring.marginals(adapter, sequence, range(len(sequence)), "wt")
    tokens = [BOS, *encode(sequence).tolist(), EOS]
    for position in (0, 9, len(sequence) - 1):
        at = position if kind == "clm" else position + 1
        logp = logp_of(adapter.module, tokens, at, kind == "clm")
        letters = torch.tensor(encode(STANDARD)).long()
        assert found[position] == pytest.approx(logp[letters].numpy(), rel=1e-4)
    if kind == "clm":
        nats = scoring.residue_nats(adapter, [sequence])[0]
        own = [found[i, STANDARD.index(c)] for i, c in enumerate(sequence)]
        assert -np.array(own) == pytest.approx(nats, rel=1e-5)


def test_marginals_take_one_pass_a_position(tmp_path, monkeypatch):
    adapter = opened(tmp_path, "mlm")
    rows = []
    logits = adapter.logits
    monkeypatch.setattr(adapter, "logits", lambda r: rows.append(len(r.tokens)) or logits(r))
    scoring.marginals(adapter, "MKVLACDEFG", [3, 5, 3, 5, 8])
    assert sum(rows) == 3
    rows.clear()
    scoring.marginals(adapter, "MKVLACDEFG", [3, 5, 8], "wt")
    assert sum(rows) == 1


def test_mask_sets_are_equal_in_size_and_depend_on_seed_and_length():
    sets = scoring.mask_sets(50, 8, seed=3)
    assert sorted(np.bincount(sets)) == [6] * 6 + [7] * 2
    assert np.array_equal(sets, scoring.mask_sets(50, 8, seed=3))
    assert not np.array_equal(sets, scoring.mask_sets(50, 8, seed=4))
    for masks in (0, 50, 60):
        assert np.array_equal(scoring.mask_sets(50, masks), np.arange(50))


def test_batches_hold_each_number_once_and_keep_the_budget():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 300, 200).tolist()
    found = list(by_length(["A" * n for n in lengths], 1000))
    assert found == list(by_length(lengths, 1000))
    assert sorted(i for batch in found for i in batch) == list(range(200))
    widest = [max(lengths[i] for i in batch) for batch in found]
    assert widest == sorted(widest, reverse=True)
    for batch, width in zip(found, widest):
        assert len(batch) == 1 or len(batch) * (width + 2) <= 1000
    tokens = sum(len(batch) * width for batch, width in zip(found, widest))
    assert tokens < 1.05 * sum(lengths)
    assert [len(b) for b in by_length(["AAAA", "AA"], 1)] == [1, 1]


def test_bad_input(tmp_path):
    clm, mlm = opened(tmp_path / "c", "clm"), opened(tmp_path / "m", "mlm")
    cases = [
        (lambda: scoring.marginals(clm, "MKV", [0]), "a clm has no mask; use wt"),
        (
            lambda: scoring.marginals(mlm, "MKV", [3]),
            "position 3 is not in a protein of 3 residues",
        ),
        (lambda: scoring.residue_nats(mlm, ["MKV", ""]), "a sequence is empty"),
        (lambda: scoring.residue_nats(clm, ["MKV"], reverse=True), "not trained on proteins read"),
        (lambda: scoring.residue_nats(clm, ["MKV"], batch_tokens=0), "batch_tokens 0: at least 1"),
        (lambda: scoring.residue_nats(mlm, ["MKV"], masks=-1), "masks -1: 0 to mask"),
    ]
    for call, message in cases:
        with pytest.raises(PlmscaleError, match=message):
            call()


def test_a_diverged_model_is_told(tmp_path):
    adapter = opened(tmp_path, "clm")
    with torch.no_grad():
        adapter.module.final_norm.weight.fill_(math.nan)
    with pytest.raises(PlmscaleError, match="is no number; has the run diverged"):
        scoring.residue_nats(adapter, ["MKV"])
