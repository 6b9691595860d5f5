"""A model whose states are read from the store: what is trained on them leaves the network alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from plmscale.downstream.models.adapter import Adapter, Encoded
from plmscale.downstream.store import Store


class Stored(Adapter):
    """States of `sequences`, each computed once by `model`; other sequences are unknown to it.

    A token is a residue here, whatever it is in the model. It has states only: no logits, no
    attention, nothing to train.
    """

    def __init__(
        self, model: Adapter, store: Store, sequences: Sequence[str], layer: int = -1
    ) -> None:
        self.info, self.device, self.dtype = model.info, model.device, torch.float32
        self.module, self.vocab_size = nn.Module(), model.vocab_size
        self.letters, self.mask, self.lora_targets = {}, None, ()
        distinct = list(dict.fromkeys(sequences))
        self._number = {sequence: number for number, sequence in enumerate(distinct)}
        # Views of files: a large training set need not fit into memory.
        self._states = store.residues(model, distinct, layer=layer)

    def encode(self, sequences: Sequence[str]) -> Encoded:
        """Return rows of residues; a token is the number of its sequence."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=self.device)
        there = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
        numbers = [self._number[sequence] for sequence in sequences]
        tokens = torch.tensor(numbers, device=self.device)[:, None].expand_as(there)
        return Encoded(tokens, there, there)

    def hidden(self, rows: Encoded, layer: int = -1) -> Tensor:
        """Return the stored states, of the layer they were read from whatever `layer` is."""
        found = [np.array(self._states[at], np.float32) for at in rows.tokens[:, 0].tolist()]
        return pad_sequence([torch.from_numpy(one) for one in found], True).to(self.device)

    def logits(self, rows: Encoded) -> Tensor:
        raise NotImplementedError("stored states have no logits")

    def attentions(self, rows: Encoded) -> Tensor:
        raise NotImplementedError("stored states have no attention")

    def twin(self, seed: int) -> Adapter:
        raise NotImplementedError("a twin is made of the model itself")
