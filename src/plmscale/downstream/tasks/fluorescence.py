"""Fluorescence: brightness of GFP's variants with four and more mutations, learnt from fewer.

Methods
    probe       ridge regression on the mean of a model's residue states.
    lora        the same readout, trained together with low-rank adapters of the network, on squared
                errors about their mean; the mean is that of the validation variants.
    baseline:mutations   minus the number of mutations; learns nothing.
    baseline:one-hot     ridge regression on one-hot letters at the 237 aligned places. What a model
                         adds counts above this.

Scores are of all test variants, of those without a stop, and of the bright and the dark ones apart: the
distribution has two modes, and a predictor that only tells them apart ranks well over all.

A seed draws the training variants where a part of them is used, and LoRA's start and batches. The
probe and one-hot of all variants are the same for every seed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from plmscale.downstream import cases
from plmscale.downstream.base import Data, Example, Metric, Predictions, Task
from plmscale.downstream.cases import Case
from plmscale.downstream.statistics import Array, spearman
from plmscale.downstream.supervised import (
    Options as SupervisedOptions,
)
from plmscale.downstream.supervised import Parts, about, check_method, crop, cropped_note, parts
from plmscale.errors import PlmscaleError

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter
    from plmscale.downstream.store import Store

# Strengths for one-hot letters, which are not standardised: a rare mutation counts as it is.
_ONE_HOT_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Options(SupervisedOptions):
    """As of all supervised tasks, and: stops: what a model reads of a stop, `drop` nothing (as the
    published benchmark, whose sequences leave it out), `unknown` an unknown residue. bright_from:
    log10 brightness from which on a variant is bright; the modes are at 1.3 and 3.6."""

    stops: Literal["drop", "unknown"] = "drop"
    bright_from: float = 2.5

    SIZED: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"max_train": 1000, "max_valid": 250, "max_test": 1500,
                  "steps": 120, "batch": 16, "every": 20},
        "full": {"max_train": 0, "max_valid": 0, "max_test": 0,
                 "steps": 7000, "batch": 32, "every": 350, "lora_rate": 3e-4, "head_rate": 3e-4},
    }  # fmt: skip


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: Store | None = None,
) -> Predictions:
    """Return foretold log10 brightness of the test variants.

    Columns beside those of all predictions: `mutations`, `stop`, `truncated` (residues that were cut
    off the end). PlmscaleError for a method that is not there, embeddings that are no numbers, and
    (one-hot) variants of different lengths.
    """
    started, options = time.monotonic(), options.sized(data.source)
    check_method(TASK, method, model)
    chosen = parts(data, options, seed)
    notes: list[str] = []
    lost = [0] * len(chosen.test)
    if method == "baseline:mutations":
        foretold = -np.array([float(_extra(e, "mutations")) for e in chosen.test])
    elif method == "baseline:one-hot":
        foretold = _one_hot(chosen, notes)
    else:
        cut = {}
        for split in ("train", "valid", "test"):
            read = [_as_read(example, options.stops) for example in getattr(chosen, split)]
            cut[split], lost = crop(model, read, options.max_length)
            notes += cropped_note(split, lost)
        foretold = _by_model(model, method, Parts(**cut), seed, options, store, notes)
    if not np.isfinite(foretold).all():
        raise PlmscaleError(f"fluorescence: {method}: predictions hold NaN or infinity")
    if len(foretold) > 1 and np.ptp(foretold) == 0:
        notes.append(
            "the prediction is the same for all test variants: rank correlations are undefined (NaN)"
        )
    made = about(TASK, data, model, method, seed, options, started, notes)
    return Predictions(_table(chosen.test, foretold, lost), made)


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return Spearman's correlation over all variants, without stops, bright and dark ones.

    Intervals are percentiles of a bootstrap over variants.
    """
    return cases.metrics(_cases(predictions, options), options.replicates)


def differences(first: Predictions, second: Predictions, options: Options) -> list[Metric]:
    """Return first minus second of each metric with paired intervals; for trained minus random."""
    one, two = (_cases(made, options) for made in (first, second))
    return cases.differences(one, two, options.replicates)


def _by_model(
    model: Any,
    method: str,
    chosen: Parts,
    seed: int,
    options: Options,
    store: Store | None,
    notes: list[str],
) -> Array:
    from plmscale.downstream.probe import ridge
    from plmscale.downstream.store import Store

    store = store or Store()
    known = _targets(chosen.train)
    middle, spread = known.mean(), known.std() or 1.0

    def block(examples: Sequence[Example]) -> tuple[np.ndarray, Array]:
        x = store.means(model, [example.sequence for example in examples], options.layer)
        return x, ((_targets(examples) - middle) / spread)[:, None]

    readout = ridge([block(chosen.train)], [block(chosen.valid)])
    notes.append(f"probe: ridge, penalty {readout.penalty:g} (by squared error in validation)")
    if method == "probe":
        found = readout(block(chosen.test)[0])[:, 0]
    else:
        found = _lora(model, readout, chosen, (middle, spread), seed, options, notes)
    return middle + spread * found


def _lora(
    model: Any,
    readout: Any,
    chosen: Parts,
    units: tuple[float, float],
    seed: int,
    options: Options,
    notes: list[str],
) -> Array:
    import torch

    from plmscale.downstream import lora

    def items(examples: Sequence[Example]) -> list[lora.Item]:
        return [lora.Item(e.sequence, (e.target - units[0]) / units[1]) for e in examples]

    def loss(made: list[torch.Tensor], of: Sequence[lora.Item]) -> torch.Tensor:
        # Variants differ by little, and a step moves the embeddings of all by more: an offset that is
        # common to what runs together would drown what tells the variants apart. It is put right below.
        target = torch.tensor([item.target for item in of], device=made[0].device)
        residual = torch.stack(made)[:, 0] - target
        return (residual - residual.mean()) ** 2

    valid = items(chosen.valid)
    sequences = [example.sequence for example in (*chosen.valid, *chosen.test)]
    found = lora.tune(
        model, lora.LinearHead(readout, pool=True), loss, items(chosen.train), valid,
        sequences, options.recipe(), seed, notes,
    )  # fmt: skip
    told = np.array([value[0] for value in found], np.float64)
    offset = np.mean([item.target for item in valid]) - told[: len(valid)].mean()
    return told[len(valid) :] + offset


def _one_hot(chosen: Parts, notes: list[str]) -> Array:
    from plmscale.downstream.baselines.features import aligned
    from plmscale.downstream.probe import ridge

    splits = (chosen.train, chosen.valid, chosen.test)
    letters = aligned([example.sequence for examples in splits for example in examples])
    ends = np.cumsum([0, *map(len, splits)]).tolist()
    train, valid, test = (letters[a:b] for a, b in pairwise(ends))
    readout = ridge(
        [(train, _targets(chosen.train)[:, None])],
        [(valid, _targets(chosen.valid)[:, None])],
        _ONE_HOT_PENALTIES,
        standardise=False,
    )
    notes.append(f"one-hot: ridge, penalty {readout.penalty:g} (by squared error in validation)")
    return readout(test)[:, 0]


def _as_read(example: Example, stops: str) -> Example:
    sequence = example.sequence.replace("*", "" if stops == "drop" else "X")
    return replace(example, sequence=sequence)


def _targets(examples: Sequence[Example]) -> Array:
    return np.array([float(example.target) for example in examples])


def _extra(example: Example, name: str) -> Any:
    if name not in example.extra:
        raise PlmscaleError(f"fluorescence: {example.id}: the data do not tell its {name}")
    return example.extra[name]


def _table(test: Sequence[Example], foretold: Array, lost: Sequence[int]) -> pa.Table:
    return pa.table({
        "id": [example.id for example in test],
        "split": [example.split for example in test],
        "group": [example.group for example in test],
        "target": _targets(test),
        "prediction": np.asarray(foretold, np.float64),
        "mutations": pa.array([int(_extra(e, "mutations")) for e in test], pa.int32()),
        "stop": [bool(_extra(example, "stop")) for example in test],
        "truncated": pa.array(lost, pa.int32()),
    })  # fmt: skip


def _cases(predictions: Predictions, options: Options) -> list[Case]:
    table = predictions.table
    ids, splits = (np.array(table[name].to_pylist(), object) for name in ("id", "split"))
    target, foretold, stop = (table[name].to_numpy() for name in ("target", "prediction", "stop"))
    bright, limit = target >= options.bright_from, f"{options.bright_from:g}"
    rows = {
        "all variants": np.ones(len(target), bool),
        "variants without stop": ~stop,
        f"bright: log brightness >= {limit}": bright,
        f"dark: log brightness < {limit}": ~bright,
    }
    found = []
    for split in dict.fromkeys(splits):
        for definition, chosen in rows.items():
            at = np.flatnonzero(chosen & (splits == split))
            found.append(
                Case(
                    split, "", "spearman", definition, spearman, ids[at].tolist(),
                    (target[at], foretold[at]), len(at), primary=definition == "all variants",
                )
            )  # fmt: skip
    return found


TASK = Task(
    name="fluorescence",
    title="Fluorescence",
    methods=("probe", "lora"),
    kinds=("clm", "mlm"),
    baselines=("mutations", "one-hot"),
    options=Options,
    predict=predict,
    score=score,
    differences=differences,
    later=frozenset({"bright_from", "replicates"}),
)
