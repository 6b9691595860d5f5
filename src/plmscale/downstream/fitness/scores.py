"""Scores of variants under a model without training: higher is fitter, the wild type has 0.

marginals           sum over the mutations of log p(new) - log p(old) at that position of the wild
                    type: with that position masked (masked), or nothing masked (wt). Meier et al.
                    2021. Mutations of one variant do not see each other.
likelihood          log p(variant) - log p(wild type), summed over all residues; end tokens are not
                    counted. clm: each residue given those before it. mlm: each given all others
                    (pseudo-likelihood, Salazar et al. 2020).

A protein longer than the window is cut as ProteinGym does: `width` residues with the mutation in
the middle, at an end of the protein the first or last window. Marginals have a window for each
position; the likelihood of a variant one window around the mean of its positions, for variant and
wild type alike, and mutations outside of it are not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from plmscale.corpus.alphabet import STANDARD
from plmscale.downstream.fitness.variants import Variant

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter

# Variants whose likelihoods are in memory at once.
_GROUP = 4096


def width_of(model: Adapter, window: int) -> int:
    """Return the residues of a window: at most `window` and the model's context; 0 for any number."""
    return min((number for number in (window, model.info.context) if number), default=0)


def marginals(
    model: Adapter,
    wild: str,
    variants: Sequence[Variant],
    how: Literal["masked", "wt"],
    window: int = 0,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Return the score of each variant by marginals, float64 (n,)."""
    from plmscale.downstream import scoring
    from plmscale.downstream.batches import centred

    positions = sorted({position for v in variants for position, *_ in v.mutations})
    width = width_of(model, window)
    logp: dict[int, np.ndarray] = {}
    # A model cuts windows of its own context; narrower ones are cut here.
    spans = {(0, len(wild)): positions}
    if width != model.info.context:
        spans = {}
        for position in positions:
            spans.setdefault(centred(len(wild), width, position), []).append(position)
    for (start, stop), members in spans.items():
        inside = [position - start for position in members]
        text = wild[start:stop]
        found = scoring.marginals(model, text, inside, how, batch_tokens=batch_tokens)
        logp.update(zip(members, found.astype(np.float64)))
    column = {letter: number for number, letter in enumerate(STANDARD)}
    return np.array(
        [
            sum(logp[at][column[new]] - logp[at][column[old]] for at, old, new in v.mutations)
            for v in variants
        ],
        float,
    )


def likelihood(
    model: Adapter,
    wild: str,
    variants: Sequence[Variant],
    window: int = 0,
    both: bool = False,
    masks: int = 0,
    batch_tokens: int | None = None,
) -> tuple[np.ndarray, int]:
    """Return the score of each variant by likelihood, float64 (n,), and how many variants have
    mutations outside of their window.

    both: the mean of reading the protein forwards and backwards, for a model trained on both.
    masks: as of `scoring.residue_nats`, for mlm.
    """
    from plmscale.downstream import scoring

    spans = [_span(v, len(wild), width_of(model, window)) for v in variants]
    outside = sum(
        any(not start <= position < stop for position, *_ in v.mutations)
        for v, (start, stop) in zip(variants, spans)
    )

    def total(texts: Sequence[str]) -> np.ndarray:
        nats = np.zeros(len(texts))
        for reverse in (False, True) if both else (False,):
            found = scoring.residue_nats(
                model, texts, masks=masks, reverse=reverse, batch_tokens=batch_tokens
            )
            nats += [float(residues.sum(dtype=np.float64)) for residues in found]
        return nats / (2 if both else 1)

    distinct = list(dict.fromkeys(spans))
    wild_nats = dict(zip(distinct, total([wild[slice(*span)] for span in distinct]).tolist()))
    out = np.empty(len(variants))
    for first in range(0, len(variants), _GROUP):
        part = slice(first, first + _GROUP)
        texts = [str(v.sequence)[slice(*span)] for v, span in zip(variants[part], spans[part])]
        out[part] = [wild_nats[span] for span in spans[part]] - total(texts)
    return out, outside


def _span(variant: Variant, length: int, width: int) -> tuple[int, int]:
    from plmscale.downstream.batches import centred

    positions = [position for position, *_ in variant.mutations] or [0]
    return centred(length, width, int(np.mean(positions)))
