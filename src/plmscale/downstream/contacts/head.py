"""A pairwise head: which pairs of residue states are in contact.

    log-odds(i, j) = q_i . k_j + q_j . k_i  +  u_i + u_j  +  b(|i-j|)

with q, k and u linear in the normed states: a bilinear form of low rank, no convolution. It is the
outer product of two states, symmetric, under a factored weight. b is looked up by bins of
separation and starts at the training proteins' rates, so the head begins as the baseline
`separation`; what the states know counts above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plmscale.downstream.contacts.baselines import separation_bin
from plmscale.downstream.contacts.pairs import MIN_SEPARATION, known, labels, pair_index
from plmscale.downstream.lora import Item

# Scores of random states start small beside b.
_START = 0.3


class PairHead(nn.Module):
    """Log-odds of contacts from residue states of `width`.

    rank: size of q and k. rates: fraction of contacts by bin of separation, (bins,), in (0, 1).
    The same seed, the same start.
    """

    def __init__(self, width: int, rank: int, rates: np.ndarray, seed: int) -> None:
        super().__init__()
        self.rank = rank
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, rank)
        self.key = nn.Linear(width, rank)
        self.single = nn.Linear(width, 1)
        self.bias = nn.Parameter(torch.from_numpy(np.log(rates) - np.log1p(-rates)).float())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for linear in (self.query, self.key):
                linear.weight.normal_(0, _START * width**-0.5, generator=generator)
                linear.bias.zero_()
            self.single.weight.zero_()
            self.single.bias.zero_()

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """[(L, width)] -> [(n_pairs(L),)] in fp32, in the order of pair_index."""
        lengths = [len(each) for each in states]
        normed = self.norm(torch.cat([each.float() for each in states]))
        parts = (self.query(normed), self.key(normed), self.single(normed))
        found = []
        for q, k, single in zip(*(part.split(lengths) for part in parts), strict=True):
            form = q @ k.T * self.rank**-0.5
            matrix = form + form.T + single + single.T + self._by_separation(len(q))
            i, j = pair_index(len(q))
            found.append(matrix.flatten()[torch.from_numpy(i * len(q) + j).to(q.device)])
        return found

    def _by_separation(self, length: int) -> Tensor:
        """Return b(|i-j|), (length, length)."""
        apart = np.arange(length).clip(MIN_SEPARATION)
        line = self.bias[torch.from_numpy(separation_bin(apart)).to(self.bias.device)]
        # Row i of the matrix is a stretch of ... b(2) b(1) b(0) b(1) b(2) ...: no look-up a pair.
        return torch.cat((line[1:].flip(0), line)).unfold(0, length, 1).flip(0)


def loss(outputs: list[Tensor], items: Sequence[Item]) -> Tensor:
    """Return each protein's mean cross-entropy in nats over its resolved pairs, (b,).

    outputs: what the head gives; the target of an item is its Protein. One without resolved pairs
    gives 0.
    """
    means = []
    for logits, item in zip(outputs, items, strict=True):
        protein = item.target
        contact, mask = labels(protein.contacts, len(protein)), known(protein.resolved)
        truth, weight = (torch.from_numpy(part).to(logits) for part in (contact, mask))
        total = functional.binary_cross_entropy_with_logits(
            logits, truth, weight=weight, reduction="sum"
        )
        means.append(total / max(1, int(mask.sum())))
    return torch.stack(means)
