"""Fold classification: which of SCOP's 1,195 folds a domain has.

The test set has three levels: no training domain of the same superfamily (`fold`), none of the same
family (`superfamily`), and relatives of training domains (`family`); metrics are of each and of all
together (group empty).

Methods
    probe       multinomial logistic regression on the mean of a model's residue states.
    lora        the same readout, trained together with low-rank adapters of the network.
    baseline:majority      the most frequent class of the training domains.
    baseline:composition   ridge regression of class membership on shares of the 20 amino acids.
    baseline:dipeptides    the same on shares of amino acids and of pairs of neighbours.
    baseline:top-hit       the class of the most similar training domain (MMseqs2); none without a hit.

Only classes of a training domain can be foretold. Test domains of other classes are counted, are
wrong in `accuracy`, and are left out of `accuracy` of the trained classes.

A seed draws the training domains where a part of them is used, and LoRA's start and batches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from plmscale.downstream import cases
from plmscale.downstream.base import Data, Example, Metric, Predictions, Task
from plmscale.downstream.cases import Case
from plmscale.downstream.statistics import Array, macro_f1, macro_f1_of_targets, mean
from plmscale.downstream.supervised import Options as SupervisedOptions
from plmscale.downstream.supervised import Parts, about, check_method, crop, cropped_note, parts
from plmscale.errors import PlmscaleError
from plmscale.fields import Positive

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter
    from plmscale.downstream.store import Store

# What a domain without a hit is foretold; no class has this number.
NONE = -1


class Options(SupervisedOptions):
    """As of all supervised tasks, and: baseline_penalty: strength of the ridge regressions on
    composition, fixed so that a baseline does not hang on the validation set; sensitivity, evalue: of
    the search for the most similar domain."""

    baseline_penalty: Positive = 1.0
    sensitivity: float = Field(7.5, ge=1, le=7.5)
    evalue: Positive = 10.0

    SIZED: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"max_train": 2000, "max_valid": 200, "max_test": 200,
                  "steps": 60, "batch": 16, "every": 20, "lora_rate": 3e-3, "head_rate": 1e-3},
        "full": {"max_train": 0, "max_valid": 0, "max_test": 0,
                 "steps": 8000, "batch": 32, "every": 400, "lora_rate": 3e-4, "head_rate": 3e-4},
    }  # fmt: skip


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: Store | None = None,
) -> Predictions:
    """Return the foretold class of the test domains, -1 for none.

    Columns beside those of all predictions: `trained` (whether a training domain has the true class)
    and `truncated` (residues that were cut off the end). PlmscaleError for a method that is not there
    and for embeddings that are no numbers.
    """
    started, options = time.monotonic(), options.sized(data.source)
    check_method(TASK, method, model)
    chosen = parts(data, options, seed)
    known = {int(example.target) for example in chosen.train}
    notes = _classes_note(chosen, known)
    lost = [0] * len(chosen.test)
    if model is not None:
        cut = {}
        for split in ("train", "valid", "test"):
            cut[split], lost = crop(model, getattr(chosen, split), options.max_length)
            notes += cropped_note(split, lost)
        foretold = _by_model(model, method, Parts(**cut), seed, options, store, notes)
    else:
        foretold = _by_baseline(method, chosen, options, notes)
    table = pa.table({
        "id": [example.id for example in chosen.test],
        "split": [example.split for example in chosen.test],
        "group": [example.group for example in chosen.test],
        "target": pa.array([int(example.target) for example in chosen.test], pa.int32()),
        "prediction": pa.array(foretold.tolist(), pa.int32()),
        "trained": [int(example.target) in known for example in chosen.test],
        "truncated": pa.array(lost, pa.int32()),
    })  # fmt: skip
    return Predictions(table, about(TASK, data, model, method, seed, options, started, notes))


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return accuracy and macro F1 of each level and of all; bootstrap intervals over domains."""
    return cases.metrics(_cases(predictions), options.replicates)


def differences(first: Predictions, second: Predictions, options: Options) -> list[Metric]:
    """Return first minus second of each metric with paired intervals; for trained minus random.

    Where the two were trained on other parts of the data, classes in training are those of both.
    """
    both = [
        predictions.table["trained"].to_numpy(zero_copy_only=False)
        for predictions in (first, second)
    ]
    trained = both[0] & both[1] if len(both[0]) == len(both[1]) else None
    one, two = (_cases(predictions, trained) for predictions in (first, second))
    return cases.differences(one, two, options.replicates)


def _classes_note(chosen: Parts, known: set[int]) -> list[str]:
    notes = [f"{len(known)} classes have a training domain"]
    for name, examples in (("validation", chosen.valid), ("test", chosen.test)):
        new = [int(example.target) for example in examples if int(example.target) not in known]
        if new:
            notes.append(
                f"{len(new)} of {len(examples)} {name} domains are of {len(set(new))} classes that no "
                "training domain has"
            )
    return notes


def _by_model(
    model: Any,
    method: str,
    chosen: Parts,
    seed: int,
    options: Options,
    store: Store | None,
    notes: list[str],
) -> np.ndarray:
    from plmscale.downstream.probe import logistic
    from plmscale.downstream.store import Store

    store = store or Store()
    classes, labels = np.unique([int(e.target) for e in chosen.train], return_inverse=True)
    number = {int(label): index for index, label in enumerate(classes)}
    valid = [example for example in chosen.valid if int(example.target) in number]

    def means(examples: Sequence[Example]) -> np.ndarray:
        return store.means(model, [example.sequence for example in examples], options.layer)

    valid_labels = np.array([number[int(example.target)] for example in valid], int)
    readout, warnings = logistic(means(chosen.train), labels, means(valid), valid_labels)
    notes += warnings
    notes.append(
        f"probe: logistic regression, penalty {readout.penalty:g} (by {readout.valid_loss:.4g} nats in "
        f"validation, on the {len(valid)} domains of known classes)"
    )
    if method == "probe":
        return classes[readout(means(chosen.test)).argmax(axis=1)]
    import torch

    from plmscale.downstream import lora

    def items(examples: Sequence[Example]) -> list[lora.Item]:
        return [lora.Item(e.sequence, number[int(e.target)]) for e in examples]

    def loss(made: list[torch.Tensor], of: Sequence[lora.Item]) -> torch.Tensor:
        target = torch.tensor([item.target for item in of], device=made[0].device)
        return torch.nn.functional.cross_entropy(torch.stack(made), target, reduction="none")

    found = lora.tune(
        model, lora.LinearHead(readout, pool=True), loss, items(chosen.train), items(valid),
        [example.sequence for example in chosen.test], options.recipe(), seed, notes,
    )  # fmt: skip
    return classes[np.stack(found).argmax(axis=1)]


def _by_baseline(method: str, chosen: Parts, options: Options, notes: list[str]) -> np.ndarray:
    labels = np.array([int(example.target) for example in chosen.train])
    train, test = ([e.sequence for e in part] for part in (chosen.train, chosen.test))
    if method == "baseline:majority":
        top = max(Counter(labels.tolist()).items(), key=lambda item: (item[1], -item[0]))[0]
        return np.full(len(test), top)
    if method == "baseline:top-hit":
        from plmscale.downstream.baselines.top_hit import top_hits

        hits = top_hits(test, train, options.sensitivity, options.evalue)
        notes.append(f"top hit: {int((hits < 0).sum())} of {len(hits)} test domains have no hit")
        return np.where(hits < 0, NONE, labels[hits])
    from plmscale.downstream.baselines import features
    from plmscale.downstream.probe import Moments

    of = {"baseline:composition": features.composition, "baseline:dipeptides": features.dipeptides}
    classes, numbers = np.unique(labels, return_inverse=True)
    sums = Moments()
    sums.add(of[method](train), np.eye(len(classes))[numbers])
    (readout,) = sums.path([options.baseline_penalty])
    return classes[readout(of[method](test)).argmax(axis=1)]


def _cases(predictions: Predictions, trained: np.ndarray | None = None) -> list[Case]:
    table = predictions.table
    names = ("id", "split", "group")
    ids, splits, groups = (np.array(table[name].to_pylist(), object) for name in names)
    target, foretold = (table[name].to_numpy() for name in ("target", "prediction"))
    if trained is None:
        trained = table["trained"].to_numpy(zero_copy_only=False)
    right: Array = (target == foretold).astype(float)
    found = []
    for split in dict.fromkeys(splits):
        levels = [level for level in dict.fromkeys(groups[splits == split]) if level]
        for level in ["", *levels]:
            at = (splits == split) & ((groups == level) | (level == ""))
            own = at & trained
            pair = (target[at], foretold[at])
            rows = (
                ("accuracy", "all domains", mean, at, (right[at],), True),
                ("accuracy", "domains of classes in training", mean, own, (right[own],), False),
                ("macro_f1", "classes in labels or predictions", macro_f1, at, pair, False),
                ("macro_f1", "classes in labels", macro_f1_of_targets, at, pair, False),
            )
            for metric, definition, statistic, used, values, primary in rows:
                found.append(
                    Case(
                        split, level, metric, definition, statistic, ids[used].tolist(), values,
                        int(used.sum()), primary,
                    )
                )  # fmt: skip
    if not found:
        raise PlmscaleError("fold: the predictions hold no domain; make them again")
    return found


TASK = Task(
    name="fold",
    title="Fold classification",
    methods=("probe", "lora"),
    kinds=("clm", "mlm"),
    baselines=("majority", "composition", "dipeptides", "top-hit"),
    options=Options,
    predict=predict,
    score=score,
    differences=differences,
    later=frozenset({"replicates"}),
)
