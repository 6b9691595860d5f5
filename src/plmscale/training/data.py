"""Packed rows: a batch is a pure function of the recipe and the number of its first sample.

What counts as a token (the D of the laws): every position of a row, BOS and EOS included, so a
step is batch_rows * context tokens, as in the paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.alphabet import BOS, EOS
from plmscale.errors import PlmscaleError
from plmscale.training.mixture import Mixture
from plmscale.training.objectives import random_words
from plmscale.training.shards import Proteins, read_manifest


class PackedRows:
    """One source as rows of `context` tokens, without end.

    An epoch is a permutation of the source's proteins, a pure function of (seed, source,
    epoch). They are written BOS residues EOS, one after another, and the stream is cut into
    rows; a protein cut by a row's edge goes on in the next row without a second BOS. The
    incomplete last row of an epoch is dropped, less than one row an epoch.
    """

    def __init__(self, proteins: Proteins, context: int, seed: int) -> None:
        self.proteins = proteins
        self.context = context
        self.tokens_per_epoch = int(proteins.lengths.sum(dtype=np.int64)) + 2 * len(proteins)
        self.rows_per_epoch = self.tokens_per_epoch // context
        if self.rows_per_epoch < 1:
            raise PlmscaleError(
                f"corpus: source {proteins.name} has {self.tokens_per_epoch} tokens, less than one "
                f"row of {context}; add sequences or lower `context`"
            )
        self._seed = seed
        self._stream = int.from_bytes(
            hashlib.sha256(f"order:{proteins.name.split('.')[0]}".encode()).digest()[:8], "little"
        )
        self._epoch = -1
        self._order = self._ends = np.zeros(0, np.int64)

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        # Sorting raw counter output, not Generator.permutation: its stream is promised to stay.
        words = random_words(self._seed, self._stream, epoch, len(self.proteins))
        self._order = np.argsort(words, kind="stable")
        self._ends = np.cumsum(self.proteins.lengths[self._order] + 2, dtype=np.int64)
        self._epoch = epoch

    def row(self, number: int) -> np.ndarray:
        """Return row `number` >= 0 as (context,) uint8; numbers run on through the epochs."""
        epoch, local = divmod(number, self.rows_per_epoch)
        self._enter(epoch)
        out = np.empty(self.context, np.uint8)
        position = local * self.context
        place = int(np.searchsorted(self._ends, position, side="right"))
        filled = 0
        while filled < self.context:
            residues = self.proteins.residues(int(self._order[place]))
            length = len(residues) + 2
            skip = position + filled - (int(self._ends[place]) - length)
            piece = np.empty(length, np.uint8)
            piece[0], piece[1:-1], piece[-1] = BOS, residues, EOS
            taken = min(length - skip, self.context - filled)
            out[filled : filled + taken] = piece[skip : skip + taken]
            filled += taken
            place += 1
        return out


class Samples:
    """The endless training samples of a recipe, or its validation rows."""

    def __init__(
        self,
        corpus: str | Path,
        manifest: dict[str, Any],
        mix: Mapping[str, float],
        context: int,
        seed: int,
        split: str = "train",
    ) -> None:
        self.mixture = Mixture(mix)
        self.context = context
        self.rows = {
            name: PackedRows(Proteins(corpus, name, split, manifest), context, seed)
            for name in self.mixture.sources
        }

    def row(self, sample: int) -> np.ndarray:
        """Return sample `sample` as (context,) uint8."""
        source, index = self.mixture.locate(sample)
        return self.rows[source].row(index)

    def batch(self, samples: list[int]) -> np.ndarray:
        """Return the rows of `samples`, (len(samples), context) uint8."""
        return np.stack([self.row(sample) for sample in samples])

    def epochs(self, samples: int) -> dict[str, float]:
        """Return how often the first `samples` samples go through each source."""
        counts = self.mixture.count(samples)
        return {name: counts[name] / self.rows[name].rows_per_epoch for name in counts}


def training_samples(corpus: str | Path, recipe: dict[str, Any]) -> Samples:
    """Return the training samples of `recipe` from the corpus folder `corpus`."""
    manifest = read_manifest(corpus, recipe["corpus"]["key"])
    return Samples(
        corpus, manifest, recipe["corpus"]["mix"], recipe["context"], recipe["data_seed"]
    )


def validation_samples(corpus: str | Path, recipe: dict[str, Any]) -> Samples:
    """Return the validation rows: equal for every recipe of equal corpus, context, validation.

    Raises PlmscaleError when a source has not enough held-out proteins for its share of rows.
    """
    manifest = read_manifest(corpus, recipe["corpus"]["key"])
    settings = recipe["validation"]
    samples = Samples(
        corpus,
        manifest,
        recipe["corpus"]["valid_mix"],
        recipe["context"],
        settings["seed"],
        split="valid",
    )
    for source, count in samples.mixture.count(settings["rows"]).items():
        there = samples.rows[source].rows_per_epoch
        if count > there:
            raise PlmscaleError(
                f"validation.rows: {settings['rows']} rows need {count} of source {source}, whose "
                f"held-out proteins fill {there} rows of {recipe['context']}; ask for at most "
                f"{settings['rows'] * there // count} rows or hold out more"
            )
    return samples
