"""Packed rows: a batch is a pure function of the recipe and the number of its first sample.

What counts as a token (the D of the laws): every position of a row, BOS and EOS included, so a
step is batch_rows * context tokens, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.alphabet import PAD
from plmscale.corpus.mixing import resolve_recipe_mix, resolve_recipe_valid_mix
from plmscale.errors import PlmscaleError
from plmscale.training.mixture import Mixture
from plmscale.training.packed import PackedRows
from plmscale.training.shards import Proteins, read_manifest

# Stands for no sample: such a row is padding and predicts nothing.
NO_SAMPLE = -1
# A step of a tiny model takes 10 ms and leaves nothing of the loader in the processor's caches, so
# that each of its calls costs thrice. Rows of many small batches are therefore read in one go.
_BLOCK_TOKENS = 1 << 18


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
            # Training reads on and on; of held-out rows only the first are read.
            name: PackedRows(
                Proteins(corpus, name, split, manifest), context, seed, ahead=split == "train"
            )
            for name in self.mixture.sources
        }
        # Samples from `_block_first` on, a whole number of blocks from sample 0.
        self._block = np.empty((max(1, _BLOCK_TOKENS // context), context), np.uint8)
        self._block_first = -1

    def row(self, sample: int) -> np.ndarray:
        """Return sample `sample` as (context,) uint8."""
        source, index = self.mixture.locate(sample)
        return self.rows[source].row(index)

    def batch(self, samples: Sequence[int]) -> np.ndarray:
        """Return the rows of `samples`, (len(samples), context) uint8; padding for NO_SAMPLE."""
        if samples and samples[-1] == NO_SAMPLE:
            there = [sample for sample in samples if sample != NO_SAMPLE]
            out = np.full((len(samples), self.context), PAD, np.uint8)
            if there:
                # Padding is always last.
                out[: len(there)] = self.batch(there)
            return out
        rows = len(self._block)
        first = min(samples) // rows * rows
        if 4 * len(samples) > rows or max(samples) >= first + rows:
            return self._read(np.asarray(samples, np.int64))
        if first != self._block_first:
            self._block = self._read(np.arange(first, first + rows))
            self._block_first = first
        return self._block[[sample - first for sample in samples]]

    def _read(self, samples: np.ndarray) -> np.ndarray:
        out = np.empty((len(samples), self.context), np.uint8)
        sources, indices = self.mixture.locate_all(samples)
        for number, source in enumerate(self.mixture.sources):
            places = np.flatnonzero(sources == number)
            if len(places):
                self.rows[source].fill(out, places, indices[places])
        return out

    def epochs(self, samples: int) -> dict[str, float]:
        """Return how often the first `samples` samples go through each source."""
        counts = self.mixture.count(samples)
        return {name: counts[name] / self.rows[name].rows_per_epoch for name in counts}


def training_samples(corpus: str | Path, recipe: dict[str, Any]) -> Samples:
    """Return the training samples of `recipe` from the corpus folder `corpus`."""
    manifest = read_manifest(corpus, recipe["corpus"]["key"])
    mix = resolve_recipe_mix(recipe, manifest)
    return Samples(corpus, manifest, mix, recipe["context"], recipe["data_seed"])


def validation_samples(corpus: str | Path, recipe: dict[str, Any]) -> Samples:
    """Return the validation rows: equal for every recipe of equal corpus, context, validation.

    Raises PlmscaleError when a source has not enough held-out proteins for its share of rows.
    """
    manifest = read_manifest(corpus, recipe["corpus"]["key"])
    settings = recipe["validation"]
    samples = Samples(
        corpus,
        manifest,
        resolve_recipe_valid_mix(recipe, manifest),
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
