"""Made-up proteins, contacts and models whose attention is known, for the tests of contacts."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from plmscale.downstream.base import Data, Example, ModelInfo
from plmscale.downstream.contacts.pairs import Protein, pair_index
from plmscale.downstream.models.adapter import STANDARD, Adapter, Encoded


def protein(length, contacts=(), unresolved=(), name="p", letters=STANDARD, seed=0):
    resolved = np.ones(length, bool)
    resolved[list(unresolved)] = False
    sequence = "".join(np.random.default_rng([seed, length]).choice(list(letters), length))
    pairs = np.asarray(contacts, np.int64).reshape(-1, 2)
    return Protein(name, "test", "", sequence, pairs, resolved, length)


def random_protein(rng, length, rate=0.08, missing=0.1, name="p"):
    """Contacts anywhere, near the diagonal and between unresolved residues too."""
    i, j = np.triu_indices(length, 1)
    touching = rng.random(len(i)) < rate
    unresolved = np.flatnonzero(rng.random(length) < missing)
    return protein(
        length, np.stack([i, j], 1)[touching], unresolved, name, seed=int(rng.integers(99))
    )


def charged(rng, length, name):
    """Opposite charges always touch and nothing else does: a rule of the two residues alone."""
    inner = rng.choice(list("KEAGLS"), length - 2, p=[0.15, 0.15, 0.2, 0.2, 0.15, 0.15])
    sequence = f"K{''.join(inner)}E"  # at least one contact
    i, j = np.triu_indices(length, 1)
    touching = [{sequence[a], sequence[b]} == {"K", "E"} for a, b in zip(i, j)]
    pairs = np.stack([i, j], 1)[touching]
    return Protein(name, "test", "", sequence, pairs, np.ones(length, bool), length)


def example(protein, split):
    extra = {"resolved": protein.resolved}
    return Example(protein.id, protein.sequence, split, protein.contacts, "", extra)


def data(train, valid, test, source="small"):
    parts = {"train": train, "valid": valid, "test": test}
    examples = [example(p, split) for split, found in parts.items() for p in found]
    return Data("contacts", source, tuple(examples), "0" * 64)


class Planted(Adapter):
    """A model with two maps of attention: one of noise, one that looks at what touches.

    Tokens are the residues between two special tokens. `causal`: it looks back only.
    """

    def __init__(self, proteins, causal=False, wrong=None):
        self.known = {p.sequence: p for p in proteins}
        kind = "clm" if causal else "mlm"
        self.info = ModelInfo("planted", kind, "folder", 10, 0, 4, 1, 2, "d")
        self.module, self.device, self.dtype = nn.Linear(1, 1), torch.device("cpu"), torch.float32
        self.letters, self.mask, self.lora_targets = {}, None, ()
        self.wrong = wrong

    def encode(self, sequences):
        self.asked = list(sequences)
        size = max(map(len, sequences)) + 2
        lengths = torch.tensor([len(s) for s in sequences])[:, None]
        place = torch.arange(size)[None]
        return Encoded(
            torch.zeros(len(sequences), size, dtype=torch.long),
            place < lengths + 2,
            (place > 0) & (place <= lengths),
        )

    def attentions(self, rows):
        b, s = rows.tokens.shape
        maps = torch.rand(b, 2, s, s, generator=torch.Generator().manual_seed(5))
        for row, sequence in enumerate(self.asked):
            for i, j in self.known[sequence].contacts.tolist():
                maps[row, 1, i + 1, j + 1] += 5
                maps[row, 1, j + 1, i + 1] += 5
        # Special tokens draw most of the attention, as they do in trained models.
        maps[:, :, :, 0] += 50
        if self.causal:
            maps = maps.tril()
        maps = maps * rows.attend[:, None, None, :]
        if self.wrong is not None:
            maps[0, 0, 1, 1] = self.wrong
        return maps / maps.sum(-1, keepdim=True)

    def hidden(self, rows, layer=-1):
        raise NotImplementedError

    def logits(self, rows):
        raise NotImplementedError

    def twin(self, seed):
        raise NotImplementedError


def naive_precision(scores, p, low, high, part, length_rule):
    """P@L/k of one protein by plain loops; every score must differ. None without pairs."""
    touching = {tuple(c) for c in p.contacts.tolist()}
    ranked = []
    for score, i, j in zip(scores.tolist(), *(x.tolist() for x in pair_index(len(p)))):
        far = j - i >= low and (high is None or j - i <= high)
        if far and p.resolved[i] and p.resolved[j]:
            ranked.append((score, (i, j) in touching))
    if not ranked:
        return None
    size = len(p) if length_rule == "sequence" else int(sum(p.resolved))
    ranked.sort(reverse=True)
    top = ranked[: max(1, size // part)]
    return sum(hit for _, hit in top), len(top), sum(hit for _, hit in ranked)
