"""The pairwise head on a model: trained on states that stay (probe) or with the network (lora).

Both by the recipe of plmscale.downstream.lora. LoRA starts at the probe's head, so that what is
added to the probe is the adapters' doing. The loss is the mean over proteins of their mean
cross-entropy: a long protein counts as much as a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from plmscale.downstream import lora
from plmscale.downstream.contacts.baselines import rates
from plmscale.downstream.contacts.head import PairHead, loss
from plmscale.downstream.contacts.pairs import Protein
from plmscale.downstream.contacts.stored import Stored
from plmscale.downstream.models.adapter import Adapter
from plmscale.downstream.store import Store

if TYPE_CHECKING:
    from plmscale.downstream.tasks.contacts import Options


@dataclass(frozen=True)
class Parts:
    """What is learnt from, what decides when to stop, and what is foretold."""

    train: Sequence[Protein]
    valid: Sequence[Protein]
    test: Sequence[Protein]

    def sequences(self) -> list[str]:
        return [p.sequence for part in (self.train, self.valid, self.test) for p in part]


def scores(
    model: Adapter, method: str, parts: Parts, seed: int, options: Options, store: Store
) -> tuple[list[np.ndarray], str]:
    """Return the scores float32 (n_pairs,) of each test protein, and in words how training went.

    method: probe or lora. options: sized. Errors as of plmscale.downstream.lora.fit.
    """
    recipe = options.recipe()
    stored = Stored(model, store, parts.sequences(), options.layer)
    head = PairHead(model.info.width, options.head_rank, rates(parts.train), seed)
    head = head.to(model.device)
    train, valid = ([lora.Item(p.sequence, p) for p in part] for part in (parts.train, parts.valid))
    test = [p.sequence for p in parts.test]
    probing = replace(recipe, head_rate=options.probe_rate)
    outcome = lora.fit(stored, [], head, loss, train, valid, probing, seed)
    note = f"probe: {_words(outcome)}"
    if method == "probe":
        return lora.outputs(stored, head, test, options.layer, recipe.batch_tokens), note
    notes = [note]
    found = lora.tune(model, head, loss, train, valid, test, recipe, seed, notes)
    return found, "; ".join(notes)


def _words(outcome: lora.Outcome) -> str:
    return (
        f"best at step {outcome.best} of {outcome.steps}, validation {outcome.valid_loss:.5g} nats "
        f"a pair (at the start {outcome.start_loss:.5g})"
    )
