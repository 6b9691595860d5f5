"""Decoding against the full forward, sampling against naive references, and the command."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from inference_fixtures import failure, loaded, plmscale, save_run, small_model, summary
from scipy.stats import chisquare

from plmscale.corpus.alphabet import BOS, EOS, LETTERS, STANDARD, decode, encode
from plmscale.errors import PlmscaleError
from plmscale.inference.generate import Prompt, generate
from plmscale.inference.records import FastaReader
from plmscale.inference.sampling import (
    RepeatGuard,
    Sampling,
    allowed_tokens,
    draw,
    probabilities,
    uniforms,
)
from plmscale.inference.score import Scoring, score
from plmscale.model.decoding import Decoder

torch.set_num_threads(1)
RESIDUES = encode(LETTERS)


def prompts(*sequences):
    return [Prompt(f"q{i}", encode(s)) for i, s in enumerate(sequences)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"preset": "modern"}, {"tie_embeddings": False}, {"mup_base_width": 16}],
    ids=str,
)
def test_cached_logits_are_those_of_the_full_forward(changes):
    """Rows that start at different lengths and are fed in steps of different sizes."""
    model = small_model(**changes)
    tokens = torch.randint(1, 29, (3, 150), generator=torch.manual_seed(5))
    with torch.no_grad():
        expected = model(tokens, causal=True)
        for steps in ([150], [1] * 150, [40, 1, 1, 30, *[1] * 78]):
            decoder, at, found = Decoder(model, 3), 0, []
            for step in steps:
                positions = torch.arange(at, at + step).expand(3, -1)
                found.append(decoder.feed(tokens[:, at : at + step], positions))
                at += step
            torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=0)
        # Prompts of 5, 20 and 11 tokens, then one token at a time, each row at its own position.
        decoder, lengths = Decoder(model, 3), torch.tensor([5, 20, 11])
        decoder.feed(tokens[:, :20], torch.arange(20).expand(3, -1))
        rows = torch.arange(3)
        for _ in range(60):
            logits = decoder.feed(tokens[rows, lengths][:, None], lengths[:, None])[:, 0]
            torch.testing.assert_close(logits, expected[rows, lengths], atol=1e-5, rtol=0)
            lengths += 1
        decoder.keep(torch.tensor([2, 0]))
        rows, lengths = torch.tensor([2, 0]), lengths[[2, 0]]
        for _ in range(60):
            logits = decoder.feed(tokens[rows, lengths][:, None], lengths[:, None])[:, 0]
            torch.testing.assert_close(logits, expected[rows, lengths], atol=1e-5, rtol=0)
            lengths += 1


def naive_probabilities(logits, allowed, how):
    """One row: softmax with temperature, the k largest, then the fewest that reach p."""
    p = {i: float(x) for i, x in enumerate(logits) if allowed[i]}
    if how.temperature == 0:
        best = max(p, key=lambda i: (p[i], -i))
        return [float(i == best) for i in range(len(logits))]
    weights = {i: np.exp(x / how.temperature) for i, x in p.items()}
    ranked = sorted(weights, key=lambda i: (-weights[i], i))
    if how.top_k:
        ranked = ranked[: how.top_k]
    total, kept, sofar = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        if sofar < how.top_p:
            kept.append(i)
        sofar += weights[i] / total
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("temperature", [0, 0.3, 1, 5])
@pytest.mark.parametrize("top_k", [0, 1, 4, 100])
@pytest.mark.parametrize("top_p", [1e-9, 0.5, 0.95, 1])
def test_top_k_and_top_p_keep_exactly_the_right_tokens(temperature, top_k, top_p):
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(40, 32)) * 2
    logits[:20] = np.round(logits[:20])  # ties
    allowed = rng.random((40, 32)) < 0.7
    how = Sampling(10, temperature=temperature, top_k=top_k, top_p=top_p)
    found = probabilities(logits, allowed, how)
    for row in range(40):
        expected = naive_probabilities(logits[row], allowed[row], how)
        np.testing.assert_allclose(found[row], expected, atol=1e-12)
        assert ((found[row] > 0) == (np.array(expected) > 0)).all()


def test_a_small_temperature_is_argmax():
    logits = np.random.default_rng(9).normal(size=(50, 32))
    allowed = np.ones((50, 32), bool)
    for temperature in (0, 1e-6, 1e-300):
        found = probabilities(logits, allowed, Sampling(10, temperature=temperature))
        assert (found.argmax(1) == logits.argmax(1)).all() and (found.max(1) == 1).all()


def test_draws_never_hit_what_has_no_probability():
    distribution = np.array([[0, 0.25, 0, 0.75, 0, 0.0]])
    for u, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (np.nextafter(1, 0), 3)):
        assert draw(distribution, np.array([u])) == [token]


def test_random_numbers_depend_on_seed_and_number_alone():
    a = uniforms(1, 7, 1000)
    assert (a[:10] == uniforms(1, 7, 10)).all() and ((a >= 0) & (a < 1)).all()
    assert not set(a) & set(uniforms(1, 8, 1000)) and not set(a) & set(uniforms(2, 7, 1000))
    assert chisquare(np.histogram(uniforms(3, 0, 20_000), 50, (0, 1))[0]).pvalue > 1e-3


def test_frequencies_follow_the_softmax():
    """First residues of 4,000 sequences, over the tokens that may stand there."""
    model = small_model()
    how = Sampling(max_length=1, temperature=1.3)
    found = generate(loaded(model), prompts(*[""] * 4000), how, seed=5, batch=500)
    counts = np.bincount([int(g.tokens[0]) for g in found], minlength=32)
    with torch.no_grad():
        logits = model(torch.tensor([[BOS]]), causal=True)[0, 0].double().numpy() / 1.3
    expected = np.exp(logits) * np.isin(np.arange(32), RESIDUES)
    assert counts[expected == 0].sum() == 0
    used = expected > 0
    assert chisquare(counts[used], 4000 * expected[used] / expected.sum()).pvalue > 1e-3
    flat = np.full(used.sum(), 4000 / used.sum())
    assert chisquare(counts[used], flat).pvalue < 1e-6  # the test can tell


@pytest.mark.parametrize("more", [{}, {"top_k": 5, "no_repeat": 3}, {"temperature": 0}], ids=str)
def test_the_batch_changes_nothing(more):
    model = small_model()
    starts = prompts("", "MKT", "ACDEFGHIKLMN", *[""] * 8, "MK", "M")
    how = Sampling(max_length=90, min_length=3, **more)
    one, seven, all_at_once = (
        list(generate(loaded(model), starts, how, seed=4, batch=batch)) for batch in (1, 7, 64)
    )
    for a, b, c in zip(one, seven, all_at_once, strict=True):
        assert decode(a.tokens) == decode(b.tokens) == decode(c.tokens)
        assert a.id == b.id == c.id and a.ended == b.ended == c.ended
        assert a.loglik == pytest.approx(b.loglik, abs=1e-5)
    if more.get("temperature", 1):
        assert len({decode(g.tokens) for g in one}) > 8
        other = list(generate(loaded(model), starts, how, seed=3, batch=7))
        assert sum((a.tokens[:9].tolist() != b.tokens[:9].tolist()) for a, b in zip(one, other)) > 8


def test_greedy_is_the_argmax_of_the_full_forward():
    model = small_model()
    (found,) = generate(loaded(model), prompts("MK"), Sampling(40, temperature=0, min_length=40))
    tokens = [BOS, *encode("MK").tolist()]
    with torch.no_grad():
        while len(tokens) < 41:
            logits = model(torch.tensor([tokens]), causal=True)[0, -1]
            tokens.append(max(RESIDUES.tolist(), key=lambda t: logits[t].item()))
    assert found.tokens.tolist() == tokens[1:] and not found.ended


def test_loglik_is_what_score_says():
    model = small_model()
    how = Sampling(max_length=60, temperature=2.0, top_p=0.9)
    found = list(generate(loaded(model), prompts("MKTV", "", "", "ACD"), how, seed=2))
    records = [FastaRecord(g.id, g.tokens) for g in found]
    for new, scored in zip(found, score(loaded(model), records, Scoring(999, eos=False))):
        assert new.loglik == pytest.approx(-scored.nll / scored.tokens, abs=1e-5)
        assert new.perplexity == pytest.approx(scored.perplexity, rel=1e-5)


def FastaRecord(name, tokens):
    from plmscale.inference.records import Record

    return Record(1, name, tokens)


def test_only_residues_and_the_end():
    """A model that would rather say anything else."""
    model = small_model(tie_embeddings=False)
    how = Sampling(max_length=30, min_length=10)
    wanted = np.zeros(32)
    wanted[[0, 1, 3, 29, 30, 31]] = 50
    allowed = allowed_tokens(np.array([0, 9, 10]), 32, how)
    assert (probabilities(np.tile(wanted, (3, 1)), allowed, how)[:, wanted > 0] == 0).all()
    assert allowed[:, EOS].tolist() == [False, False, True]
    assert np.flatnonzero(allowed[0]).tolist() == sorted(RESIDUES.tolist())
    with torch.no_grad():
        model.head.weight[[0, 1, 3, 29, 30, 31]] *= 100
        model.head.weight[EOS] *= 0
    found = list(generate(loaded(model), prompts(*[""] * 50), how))
    assert {c for g in found for c in decode(g.tokens)} <= set(LETTERS)
    assert all(10 <= len(g.tokens) <= 30 for g in found)
    assert {g.ended for g in found} == {True, False}
    assert all(g.ended or len(g.tokens) == 30 for g in found)
    standard = Sampling(max_length=30, standard=True)
    found = list(generate(loaded(model), prompts(*[""] * 50), standard))
    assert {c for g in found for c in decode(g.tokens)} <= set(STANDARD)


def has_repeat(text, copies, longest):
    return any(
        text[i : i + p] * copies == text[i : i + p * copies]
        for p in range(1, longest + 1)
        for i in range(len(text) - p * copies + 1)
    )


@pytest.mark.parametrize(("copies", "longest"), [(2, 1), (2, 3), (3, 2), (4, 6)])
def test_the_guard_forbids_exactly_what_would_repeat(copies, longest):
    rng = np.random.default_rng(4)
    guard = RepeatGuard(2, copies, longest)
    texts = ["", ""]
    for _ in range(300):
        allowed = np.ones((2, 32), bool)
        guard.forbid(np.arange(2), allowed)
        for row in range(2):
            for token in (4, 5, 6, 7):
                longer = texts[row] + chr(60 + token)
                assert allowed[row, token] != has_repeat(
                    longer[-longest * copies :], copies, longest
                )
        tokens = np.array(
            [rng.choice([t for t in (4, 5, 6, 7) if allowed[r, t]]) for r in range(2)]
        )
        guard.add(np.arange(2), tokens)
        texts = [text + chr(60 + t) for text, t in zip(texts, tokens)]
    assert not has_repeat(texts[0], copies, longest)


def test_the_guard_ends_loops_of_greedy_decoding():
    model = small_model()
    free = Sampling(max_length=80, min_length=80, temperature=0)
    (loop,) = generate(loaded(model), prompts("MK"), free)
    assert has_repeat(decode(loop.tokens), 3, 6)
    guarded = Sampling(max_length=80, min_length=80, temperature=0, no_repeat=3)
    (varied,) = generate(loaded(model), prompts("MK"), guarded)
    assert not has_repeat(decode(varied.tokens), 3, 6)


def test_command_writes_fasta(tmp_path, capsys):
    run = save_run(tmp_path / "run", small_model(), run_id="clm-x")
    out = tmp_path / "new.fasta"
    words = ["generate", run, "--n", 12, "--prompt", "mkJu", "--max-length", 70, "--seed", 3]
    told = summary(capsys, *words, "--out", out, "--batch", 5)
    records = list(FastaReader(out, headers=True))
    assert [r.id.split()[0] for r in records] == [f"clm-x_{i}" for i in range(1, 13)]
    assert all(decode(r.tokens).startswith("MKXU") for r in records)
    for record in records:
        values = dict(word.split("=") for word in record.id.split()[1:])
        assert list(values) == ["length", "loglik", "perplexity", "end"]
        assert int(values["length"]) == len(record) <= 70
        assert float(values["perplexity"]) == pytest.approx(
            np.exp(-float(values["loglik"])), rel=1e-3
        )
        assert values["end"] == "length" or len(record) < 70
    assert told["records"] == 12 and told["residues"] == sum(map(len, records))
    capsys.readouterr()
    assert plmscale(*words) == 0
    assert capsys.readouterr().out == out.read_text()


def test_prompts_of_a_file(tmp_path, monkeypatch, capsys):
    run = save_run(tmp_path / "run", small_model(), objective="mixed")
    text = b">a first\nMKT\n>b\nACDEF\n"
    (tmp_path / "p.fasta").write_bytes(text)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    for source in (tmp_path / "p.fasta", "-"):
        out = tmp_path / "new.fasta"
        assert plmscale("generate", run, "--prompts", source, "--n", 2, "--out", out) == 0
        records = list(FastaReader(out))
        assert [r.id for r in records] == ["a_1", "a_2", "b_1", "b_2"]
        starts = [decode(r.tokens)[: len(s)] for r, s in zip(records, ["MKT"] * 2 + ["ACDEF"] * 2)]
        assert starts == ["MKT", "MKT", "ACDEF", "ACDEF"]
        assert max(len(r) for r in records) <= 62
    (tmp_path / "p.fasta").write_text(">a\nMK\n>b\nM1\n")
    line = failure(
        capsys, "generate", run, "--prompts", tmp_path / "p.fasta", "--out", tmp_path / "o"
    )
    assert "record 2 (b) has '1'" in line and not (tmp_path / "o").exists()


def test_what_cannot_be_generated(tmp_path, capsys):
    mlm = save_run(tmp_path / "mlm", small_model(), objective="mlm")
    assert "trained as mlm, it cannot be used as clm" in failure(capsys, "generate", mlm)
    clm = save_run(tmp_path / "clm", small_model())
    for words, part in (
        (["--prompt", "MK1"], "--prompt MK1: has '1' at position 3"),
        (["--prompt", "MK*"], "--prompt MK*: ends with a stop"),
        (["--prompt", "MKTV", "--max-length", 4], "prompt clm-test_1: has 4 residues"),
        (["--n", 0], "--n 0"),
        (["--batch", 0], "--batch 0"),
        (["--temperature", -1], "--temperature -1"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--top-k", -1], "--top-k -1"),
        (["--top-p", 0], "--top-p 0"),
        (["--top-p", 1.1], "--top-p 1.1"),
        (["--min-length", 9, "--max-length", 8], "--min-length 9"),
        (["--no-repeat", 1], "--no-repeat 1"),
        (["--repetition-window", 17], "--repetition-window 17"),
    ):
        assert part in failure(capsys, "generate", clm, *words)
    model = small_model()
    torch.nn.init.constant_(model.final_norm.weight, float("nan"))
    with pytest.raises(PlmscaleError, match="logits are no numbers"):
        list(generate(loaded(model), prompts(""), Sampling(5)))
