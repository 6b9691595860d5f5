"""Made-up supervised tasks whose answer is known, and predictions that are right, wrong or constant."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from inference_fixtures import save_run, small_model

from plmscale.downstream import models, tasks
from plmscale.downstream.base import Data, Example, Predictions
from plmscale.downstream.store import Store

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
# A residue's state follows from its letter, so that embeddings of letters tell all.
STATE_OF = {letter: "HEC"[number % 3] for number, letter in enumerate(STANDARD)}


def protein(rng, length, letters=STANDARD):
    return "".join(rng.choice(list(letters), length))


def data(task, examples, source="small"):
    return Data(task, source, tuple(examples), "0" * 64)


def folds(n_train=60, n_test=30, classes=4, length=30, unseen=3):
    """Each class has five letters of its own. The last `unseen` test domains are of new classes."""
    rng = np.random.default_rng(1)

    def made(split, number, label, group=""):
        letters = STANDARD[5 * (label % 4) : 5 * (label % 4) + 5]
        sequence = protein(rng, length + number % 7, letters)
        return Example(f"{split}{number}", sequence, split, 10 * label, group)

    examples = [made("train", i, i % classes) for i in range(n_train)]
    examples += [made("valid", i, i % classes) for i in range(12)]
    levels = ("fold", "superfamily", "family")
    examples += [made("test", i, i % classes, levels[i % 3]) for i in range(n_test - unseen)]
    examples += [made("test", 100 + i, classes + i, levels[i % 3]) for i in range(unseen)]
    return data("fold", examples)


def variants(n_train=120, n_test=60, length=40):
    """Log brightness is 3.5 less what each mutated place costs; a stop leaves 1.3."""
    rng = np.random.default_rng(2)
    wild = protein(rng, length)
    cost = rng.gamma(1.0, 0.2, (length, 20))

    def made(split, number):
        n = int(rng.integers(1, 4) if split != "test" else rng.integers(4, 9))
        letters, loss, stop = list(wild), 0.0, split == "test" and number % 10 == 0
        for place in rng.choice(length, n, replace=False):
            new = int(rng.integers(20))
            letters[place] = STANDARD[new]
            loss += cost[place, new] if STANDARD[new] != wild[place] else 0
        if stop:
            letters[int(rng.integers(length))] = "*"
        sequence = "".join(letters)
        changed = sum(a != b for a, b in zip(sequence, wild))
        target = 1.3 + 0.01 * rng.random() if stop else max(1.2, 3.5 - loss)
        extra = {"mutations": changed, "stop": stop}
        return Example(f"{split}{number}", sequence, split, float(target), "", extra)

    counts = {"train": n_train, "valid": 30, "test": n_test}
    return data("fluorescence", [made(split, i) for split, n in counts.items() for i in range(n)])


def structures(counts=(20, 6, 8), longest=150):
    """States by letter. A third of the residues are not resolved, and their labels are wrong."""
    rng = np.random.default_rng(3)
    examples = []
    for split, n in zip(("train", "valid", "test"), counts):
        for number in range(n):
            sequence = protein(rng, int(rng.integers(20, longest)))
            resolved = rng.random(len(sequence)) > 0.33
            states = [STATE_OF[letter] for letter in sequence]
            target = "".join(s if r else "C" for s, r in zip(states, resolved))
            extra = {"resolved": resolved}
            examples.append(Example(f"{split}{number}", sequence, split, target, "", extra))
    return data("secondary_structure", examples)


def predictions(columns):
    """Predictions of the columns given, with those that all have filled in."""
    n = len(columns["target"])
    filled = {
        "id": [f"p{i}" for i in range(n)],
        "split": ["test"] * n,
        "group": [""] * n,
        **columns,
    }
    return Predictions(pa.table(filled), {"task": "made up"})


MADE = {"fold": folds, "fluorescence": variants, "secondary_structure": structures}
# Layer 0 is a letter's embedding, of which everything in the made-up data follows.
LETTERS = {"layer": 0, "replicates": 50}


def small_run(folder):
    """A model that takes 62 residues."""
    return models.open(save_run(folder, small_model(), "mlm", context=64), device="cpu")


def predict(name, method, model=None, seed=0, source=None, **options):
    task = tasks.task(name)
    return task.predict(source or MADE[name](), model, method, seed, task.options(**options))


def scores(name, made, **options):
    """Return {(group, metric, definition): metric}."""
    task = tasks.task(name)
    found = task.score(made, task.options(replicates=50, **options))
    return {(m.group, m.metric, m.definition): m for m in found}


class Blank(Store):
    """Embeddings that are all alike, or no numbers."""

    def __init__(self, value):
        self.value = value

    def means(self, adapter, sequences, layer=-1):
        return np.full((len(sequences), 4), self.value, np.float32)

    def residues(self, adapter, sequences, layer=-1):
        return [np.full((len(s), 4), self.value, np.float32) for s in sequences]
