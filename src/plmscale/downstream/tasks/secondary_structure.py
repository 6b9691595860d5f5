"""Secondary structure in three states (helix H, strand E, coil C), one a residue.

Methods
    probe       ridge regression of the three states on a residue's own state in a model; the highest
                score counts. Linear, and of one residue alone: what is told of the neighbours is the
                model's.
    lora        the same readout, its scores scaled to log-probabilities, trained together with
                low-rank adapters of the network.
    baseline:majority   the most frequent state of the training residues.
    baseline:window     ridge regression on one-hot letters of the 15 residues around.

Proteins longer than what is read at once (the model's context, `max_length`) are read in windows that
overlap by half (plmscale.downstream.batches), so each residue has a prediction; `windows` says how
many. Residues that the structure does not show are neither learnt from nor counted.

A seed draws the training proteins where a part of them is used, and LoRA's start and batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from plmscale.downstream import cases
from plmscale.downstream.base import Data, Example, Metric, Predictions, Task
from plmscale.downstream.cases import Case
from plmscale.downstream.statistics import Array, f1_of_counts, mean, ratio
from plmscale.downstream.supervised import Options as SupervisedOptions
from plmscale.downstream.supervised import Parts, about, check_method, parts
from plmscale.errors import PlmscaleError

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter
    from plmscale.downstream.store import Store

# In alphabetical order: a state's number is its place.
STATES = "CEH"
_CODES = np.frombuffer(STATES.encode(), np.uint8)


class Options(SupervisedOptions):
    """As of all supervised tasks, but that what is beyond `max_length` is read in further windows.
    window: residues that the baseline `window` sees, odd."""

    window: int = Field(15, ge=1)

    SIZED: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"max_train": 400, "max_valid": 60, "max_test": 200,
                  "steps": 150, "batch": 8, "every": 20, "lora_rate": 3e-3, "head_rate": 1e-3},
        "full": {"max_train": 0, "max_valid": 0, "max_test": 0,
                 "steps": 6000, "batch": 16, "every": 300, "lora_rate": 3e-4, "head_rate": 3e-4},
    }  # fmt: skip

    @field_validator("window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, to have a middle")
        return value


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: Store | None = None,
) -> Predictions:
    """Return the foretold states of the test proteins, a letter a residue as in the target.

    Columns beside those of all predictions: `resolved` (a flag a residue) and `windows` (how many the
    protein was read in). PlmscaleError for a method that is not there, for embeddings that are no
    numbers, and for labels that do not fit their sequence.
    """
    started, options = time.monotonic(), options.sized(data.source)
    check_method(TASK, method, model)
    chosen = parts(data, options, seed)
    for example in [*chosen.train, *chosen.valid, *chosen.test]:
        _check(example)
    notes: list[str] = []
    windows = [1] * len(chosen.test)
    if method == "baseline:majority":
        counts = np.bincount(np.concatenate([_labels(e) for e in chosen.train]) + 1, minlength=4)
        top = STATES[int(counts[1:].argmax())]
        foretold = [top * len(example.sequence) for example in chosen.test]
    elif method == "baseline:window":
        foretold = _window(chosen, options.window, notes)
    else:
        from plmscale.downstream import residues

        read = residues.Reading(model, options.max_length)
        windows = [len(read.windows(example.sequence)) for example in chosen.test]
        if (cut := sum(n > 1 for n in windows)) > 0:
            notes.append(f"test: {cut} of {len(windows)} proteins are read in several windows")
        labelled = [
            [(example.sequence, _labels(example)) for example in part]
            for part in (chosen.train, chosen.valid, chosen.test)
        ]
        scores = residues.scores(read, method, *labelled, len(STATES), seed, options, store, notes)
        foretold = [_letters(each) for each in scores]
    table = pa.table({
        "id": [example.id for example in chosen.test],
        "split": [example.split for example in chosen.test],
        "group": [example.group for example in chosen.test],
        "target": [example.target for example in chosen.test],
        "prediction": foretold,
        "resolved": [_resolved(example).tolist() for example in chosen.test],
        "windows": pa.array(windows, pa.int32()),
    })  # fmt: skip
    return Predictions(table, about(TASK, data, model, method, seed, options, started, notes))


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return Q3 over residues (micro) and over proteins (macro), and macro F1 of the states.

    Intervals are percentiles of a bootstrap over proteins, since residues of one are alike.
    """
    return cases.metrics(_cases(predictions), options.replicates)


def differences(first: Predictions, second: Predictions, options: Options) -> list[Metric]:
    """Return first minus second of each metric with paired intervals; for trained minus random."""
    return cases.differences(_cases(first), _cases(second), options.replicates)


def _window(chosen: Parts, width: int, notes: list[str]) -> list[str]:
    from plmscale.downstream.baselines import features
    from plmscale.downstream.probe import ridge

    def blocks(examples: Sequence[Example]) -> Iterator[tuple[Any, Array]]:
        labels, at = np.concatenate([_labels(example) for example in examples]), 0
        for x in features.windows([example.sequence for example in examples], width):
            own = labels[at : at + x.shape[0]]
            at += x.shape[0]
            yield x[own >= 0], np.eye(len(STATES))[own[own >= 0]]

    readout = ridge(blocks(chosen.train), blocks(chosen.valid), standardise=False)
    notes.append(f"window: ridge, penalty {readout.penalty:g} (by squared error in validation)")
    sequences = [example.sequence for example in chosen.test]
    found = np.concatenate([readout(x) for x in features.windows(sequences, width)])
    ends = np.cumsum([len(sequence) for sequence in sequences])
    return [_letters(part) for part in np.split(found, ends[:-1])]


def _letters(scores: Array) -> str:
    """(L, 3) -> L letters."""
    return _CODES[np.asarray(scores).argmax(axis=1)].tobytes().decode()


def _resolved(example: Example) -> np.ndarray:
    mask = example.extra.get("resolved")
    return np.ones(len(example.sequence), bool) if mask is None else np.asarray(mask, bool)


def _labels(example: Example) -> np.ndarray:
    """Return the states as 0 to 2, (L,), -1 where the structure does not show the residue."""
    letters = np.frombuffer(example.target.encode(), np.uint8)
    return np.where(_resolved(example), np.searchsorted(_CODES, letters), -1)


def _check(example: Example) -> None:
    length = len(example.sequence)
    if len(example.target) != length or len(_resolved(example)) != length:
        raise PlmscaleError(
            f"secondary_structure: {example.id}: {len(example.target)} states and "
            f"{len(_resolved(example))} flags of {length} residues; is the data whole?"
        )
    if strange := sorted(set(example.target) - set(STATES)):
        raise PlmscaleError(
            f"secondary_structure: {example.id}: states {', '.join(strange)}; expected H, E and C"
        )


def _counts(table: pa.Table) -> tuple[Array, Array, Array]:
    """Return how many residues of each protein are rightly, truly, and told to be in each state.

    Each float64 (n, 3), of residues that the structure shows.
    """
    made = np.zeros((3, table.num_rows, len(STATES)))
    names = ("target", "prediction", "resolved")
    for row, (target, told, shown) in enumerate(zip(*(table[n].to_pylist() for n in names))):
        mask = np.array(shown, bool)
        true, guess = (np.frombuffer(text.encode(), np.uint8)[mask] for text in (target, told))
        for index, codes in enumerate((true[true == guess], true, guess)):
            made[index, row] = np.bincount(np.searchsorted(_CODES, codes), minlength=len(STATES))
    return made[0], made[1], made[2]


def _cases(predictions: Predictions) -> list[Case]:
    table = predictions.table
    ids, splits = (np.array(table[name].to_pylist(), object) for name in ("id", "split"))
    hits, there, told = _counts(table)
    right, shown = hits.sum(axis=1), there.sum(axis=1)
    found = []
    for split in dict.fromkeys(splits):
        at = np.flatnonzero((splits == split) & (shown > 0))
        residues = int(shown[at].sum())
        q3, f1 = (right[at], shown[at]), (hits[at], there[at], told[at])
        rows = (
            ("accuracy", "Q3, micro: over residues", ratio, q3, residues, True),
            ("accuracy", "Q3, macro: mean over proteins", mean, (q3[0] / q3[1],), len(at), False),
            (
                "macro_f1",
                "over the three states, of all residues",
                f1_of_counts,
                f1,
                residues,
                False,
            ),
        )
        for metric, definition, statistic, values, n, primary in rows:
            found.append(
                Case(split, "", metric, definition, statistic, ids[at].tolist(), values, n, primary)
            )
    return found


TASK = Task(
    name="secondary_structure",
    title="Secondary structure",
    methods=("probe", "lora"),
    kinds=("clm", "mlm"),
    baselines=("majority", "window"),
    options=Options,
    predict=predict,
    score=score,
    differences=differences,
    later=frozenset({"replicates"}),
)
