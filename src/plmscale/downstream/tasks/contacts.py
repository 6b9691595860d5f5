"""Contact prediction: which pairs of residues are closer than 8 angstrom.

Methods
    attention   a logistic regression on attention maps, fitted on few proteins; the network is not
                trained (Rao et al. 2020). `seed` draws the proteins. Not for models whose tokens
                are several residues each.
    probe       a pairwise head on residue states that stay as they are.
    lora        the same head, trained further together with low-rank adapters of the network.
    baseline:random, baseline:separation, baseline:pair-separation

Proteins longer than what is read (the model's context, `max_length`) are cropped to their first
residues: contacts within the crop count, L is the crop's length, and notes say how many were cropped.
Models of different contexts are compared on equal terms with `max_length` at the smallest of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from plmscale.downstream import cases
from plmscale.downstream.base import BASELINE, Data, Example, Metric, Predictions, Task
from plmscale.downstream.contacts.baselines import BASELINES
from plmscale.downstream.contacts.pairs import Protein, proteins, with_structure
from plmscale.downstream.contacts.record import cropped, lengths, table
from plmscale.downstream.contacts.summary import cases as cases_of
from plmscale.downstream.supervised import Options as SupervisedOptions
from plmscale.downstream.supervised import about, check_method, crop, cropped_note, parts
from plmscale.errors import PlmscaleError
from plmscale.fields import Positive

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter
    from plmscale.downstream.store import Store


class Options(SupervisedOptions):
    """As of all supervised tasks; what is beyond `max_length` is cropped off.

    attention_proteins, attention_c: how many proteins the regression on attention maps is fitted on,
    and the inverse strength of its penalty. train_sizes: further numbers of training proteins, for
    the learning curve of the head; each is a part of the next, and all proteins come last. head_rank:
    size of the head's bilinear form. probe_rate: its peak learning rate on states that stay, where
    head_rate is the one beside LoRA. no_contacts: whether a test protein without a contact in the
    range counts as 0 or is left out.
    """

    attention_proteins: int = Field(20, ge=1)
    attention_c: Positive = 0.15
    train_sizes: tuple[int, ...] | None = None
    head_rank: int = Field(32, ge=1)
    probe_rate: Positive = 3e-3
    no_contacts: Literal["zero", "skip"] = "zero"

    SIZED: ClassVar[dict] = {
        "small": {"max_train": 0, "max_valid": 32, "max_test": 0, "train_sizes": (20, 100),
                  "steps": 60, "batch": 8, "every": 10},
        "full": {"max_train": 0, "max_valid": 256, "max_test": 0, "train_sizes": (20, 100, 1000),
                 "steps": 6000, "batch": 16, "every": 300},
    }  # fmt: skip

    @field_validator("train_sizes")
    @classmethod
    def _sizes(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (list(value) != sorted(set(value)) or any(n < 1 for n in value)):
            raise ValueError("must be ascending numbers of proteins, each once")
        return value


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: Store | None = None,
) -> Predictions:
    """Return scores of the test proteins' pairs; columns as in plmscale.downstream.contacts.record.

    PlmscaleError for a method the task or the model does not have, for contacts that do not fit their
    sequence, training proteins without any structure, and scores that are no numbers.
    """
    started, options = time.monotonic(), options.sized(data.source)
    check_method(TASK, method, model)
    chosen = parts(data, options, seed)
    notes: list[str] = []
    train, valid, test = (
        _read(split, examples, model, options.max_length, notes)
        for split, examples in (
            ("train", chosen.train), ("valid", chosen.valid), ("test", chosen.test)
        )
    )  # fmt: skip
    train = _structured("train", train)
    # Nested parts of one order: a point of the learning curve adds to the one before it.
    order = np.random.default_rng([seed, 0]).permutation(len(train))
    train = [train[at] for at in order]
    if method.startswith(BASELINE):
        scorer = BASELINES[method.removeprefix(BASELINE)](train, seed)
        made = table(((protein, scorer(protein)) for protein in test), len(train))
    elif method == "attention":
        made = _attention(model, train, test, options, notes)
    else:
        valid = _structured("valid", valid)
        made = _head(model, method, train, valid, test, seed, options, store, notes)
    return Predictions(made, about(TASK, data, model, method, seed, options, started, notes))


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return P@L/k under all definitions, and the learning curve, with intervals over proteins."""
    return cases.metrics(cases_of(predictions, options.no_contacts), options.replicates)


def differences(first: Predictions, second: Predictions, options: Options) -> list[Metric]:
    """Return first minus second of each metric with paired intervals.

    The second is the random twin, or a baseline: that is cropped as the first is, and has no points
    of a learning curve.
    """
    baseline = not second.about.get("model")
    if baseline:
        second = cropped(second, lengths(first))
    both = (cases_of(predictions, options.no_contacts) for predictions in (first, second))
    return cases.differences(*both, options.replicates, common=baseline)


def _attention(
    model: Adapter, train: list[Protein], test: list[Protein], options: Options, notes: list[str]
) -> pa.Table:
    from plmscale.downstream.contacts import attention

    few = train[: options.attention_proteins]
    readout = attention.fit(model, few, options.attention_c)
    notes.append(
        f"attention: fitted on {len(few)} proteins; {int((readout.weights != 0).sum())} of "
        f"{len(readout.weights)} maps have a weight"
    )
    # They come by length; the table has the order of the data.
    found = {protein.id: scores for protein, scores in attention.scores(model, readout, test)}
    return table(((protein, found[protein.id]) for protein in test), len(few))


def _head(
    model: Adapter,
    method: str,
    train: list[Protein],
    valid: list[Protein],
    test: list[Protein],
    seed: int,
    options: Options,
    store: Store | None,
    notes: list[str],
) -> pa.Table:
    from plmscale.downstream.contacts import fitted
    from plmscale.downstream.store import Store

    store, tables = store or Store(), []
    sizes = [size for size in options.train_sizes or () if size < len(train)]
    for size in [*sizes, len(train)]:
        some = fitted.Parts(train[:size], valid, test)
        scores, note = fitted.scores(model, method, some, seed, options, store)
        tables.append(table(zip(test, scores, strict=True), size))
        notes.append(f"{size} training proteins: {note}")
    return pa.concat_tables(tables)


def _read(
    split: str,
    examples: Sequence[Example],
    model: Adapter | None,
    max_length: int,
    notes: list[str],
) -> list[Protein]:
    """Return the proteins of a split; notes say what was cropped, and what has no structure."""
    _, lost = crop(model, examples, max_length)
    found = proteins(examples, lost)
    notes += cropped_note(split, lost)
    if missing := len(found) - len(with_structure(found)):
        notes.append(f"{split}: {missing} proteins without two resolved residues 6 apart")
    return found


def _structured(split: str, found: list[Protein]) -> list[Protein]:
    """Return the proteins that can be learnt from; PlmscaleError where there is none."""
    if kept := with_structure(found):
        return kept
    raise PlmscaleError(
        f"contacts: no protein of the split {split} has two resolved residues 6 apart; is the data "
        "whole?"
    )


TASK = Task(
    name="contacts",
    title="Contact prediction",
    methods=("attention", "probe", "lora"),
    kinds=("clm", "mlm"),
    baselines=tuple(BASELINES),
    options=Options,
    predict=predict,
    score=score,
    differences=differences,
    later=frozenset({"no_contacts", "replicates"}),
)
