"""A real pretrained model through the scoring path: published and measured numbers come out.

Measured elsewhere, with samples that are not known: UniRep-64 has perplexity 16.31 on UniProt, 16.49
on metagenomic proteins, 18.24 on shuffled ones. The samples here are fixed: 300 reviewed proteins of
the embedded corpus, cut to 400 residues, and as many metagenomic ones. ProteinGym's leaderboard gives
UniRep (1900 units) a Spearman correlation of 0.216 on B2L11_HUMAN.
"""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from unirep_example import UniRepAdapter, weights

from plmscale.downstream import scoring
from plmscale.downstream.models.adapter import STANDARD
from plmscale.downstream.store import Store
from plmscale.errors import PlmscaleError

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("PLMSCALE_SHARED") or ROOT.parent / "shared") / "downstream"
# The network is a loop over residues: few long batches.
BATCH_TOKENS = 1 << 17


def read(path, count=300, longest=400, seed=1):
    """Return `count` proteins of a FASTA file, chosen by `seed`, cut to `longest` residues."""
    with gzip.open(path, "rt") as handle:
        records = handle.read().split(">")[1:]
    proteins = ["".join(record.split("\n")[1:]).rstrip("*") for record in records]
    chosen = np.random.default_rng(seed).permutation(len(proteins))[:count]
    return [proteins[i][:longest] for i in chosen]


def perplexity(adapter, proteins):
    nats = scoring.residue_nats(adapter, proteins, batch_tokens=BATCH_TOKENS)
    return float(np.exp(np.concatenate(nats).mean()))


def reviewed():
    return read(ROOT / "resources" / "demo" / "uniprot_reviewed.fasta.gz")


@pytest.mark.bands
def test_perplexity_of_natural_and_shuffled_proteins():
    adapter, proteins = UniRepAdapter(64), reviewed()
    rng = np.random.default_rng(0)
    shuffled = ["".join(rng.permutation(list(protein))) for protein in proteins]
    # Another 300 proteins move the natural ones by less than 0.2.
    assert perplexity(adapter, proteins) == pytest.approx(16.31, abs=0.25)
    assert perplexity(adapter, shuffled) == pytest.approx(18.24, abs=0.25)
    # A network of random weights knows nothing: 25 tokens.
    assert perplexity(adapter.twin(0), proteins[:50]) == pytest.approx(25, abs=1.5)


@pytest.mark.bands
def test_perplexity_of_metagenomic_proteins():
    path = SHARED / "metagenome" / "metagenome.faa.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    natural = perplexity(UniRepAdapter(64), read(path))
    # 16.77 for this sample; almost half of these are fragments, without the M that is easy to guess.
    assert natural == pytest.approx(16.49, abs=0.4)


@pytest.mark.bands
def test_fitness_of_b2l11_is_the_published_one():
    """By the sum of log p over the residues, given the start token, without the stop token."""
    path = SHARED / "dms" / "B2L11_HUMAN_Dutta_2010_binding-Mcl-1.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    variants = [row["mutated_sequence"] for row in rows]
    nats = scoring.residue_nats(UniRepAdapter(1900), variants, batch_tokens=BATCH_TOKENS)
    found = spearmanr([-n.sum() for n in nats], [float(row["DMS_score"]) for row in rows])
    assert found.statistic == pytest.approx(0.216, abs=0.0005)


@pytest.mark.bands
def test_network_is_the_published_recurrence():
    """One residue after the other in numpy and float64, of one protein."""
    adapter, sequence = UniRepAdapter(64), "MKTAYIAKQRQISFVKSHFSRQ"
    w = {name: t.double().numpy() for name, t in weights(64).items()}
    rows = adapter.encode([sequence])
    x = w["embedding"][rows.tokens[0].numpy()]
    for n in range(4):
        layer = {k.split(".")[2]: v for k, v in w.items() if k.startswith(f"mlstm.{n}.")}
        norm = {
            k: layer[f"w{k}"] / np.sqrt((layer[f"w{k}"] ** 2).sum(0)) * layer[f"g{k}"]
            for k in ("x", "h", "mx", "mh")
        }
        h = c = np.zeros(64)
        out = []
        for one in x:
            m = (one @ norm["mx"]) * (h @ norm["mh"])
            i, f, o, u = np.split(one @ norm["x"] + m @ norm["h"] + layer["b"], 4)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(u)
            h = o * np.tanh(c)
            out.append(h)
        x = np.array(out)
    logits = x @ w["dense.w"] + w["dense.b"]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [-logp[i, adapter.letters[c] - 1] for i, c in enumerate(sequence)]
    assert scoring.residue_nats(adapter, [sequence])[0] == pytest.approx(expected, rel=1e-4)
    found = scoring.marginals(adapter, sequence, [4, 9], "wt")
    columns = [adapter.letters[c] - 1 for c in STANDARD]
    assert found == pytest.approx(logp[[4, 9]][:, columns], rel=1e-4)
    assert Store().residues(adapter, [sequence])[0] == pytest.approx(x[1:-1], abs=1e-4)


def test_random_weights_need_no_wheel_and_batches_do_not_matter():
    adapter = UniRepAdapter(64, seed=3)
    proteins = ["MKTAYIAK", "ACDEFGHIKLMNPQRSTVWYXBZUO", "W"]
    together = scoring.residue_nats(adapter, proteins)
    for protein, nats in zip(proteins, together):
        assert scoring.residue_nats(adapter, [protein])[0] == pytest.approx(nats, rel=1e-5)
    assert torch.equal(adapter.twin(3).module.dense.weight, adapter.module.dense.weight)
    with pytest.raises(PlmscaleError, match="has no attention"):
        adapter.attentions(adapter.encode(proteins))
