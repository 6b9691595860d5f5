"""What the parts of downstream evaluation hand to each other; free of torch.

data (registry, loaders) -> Data          model (a run, a Hugging Face folder) -> ModelInfo
                     \\                   /
                 task.predict -> Predictions (one file a model, task, method and seed)
                                    |
                 task.score   -> Metric (cheap, again at any time)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, canonical_json

# How a model is used by a task. `baseline:NAME` needs no model.
METHODS = ("zero-shot", "attention", "probe", "lora")
BASELINE = "baseline:"
"""What the method of a baseline's predictions begins with; its name follows."""

RANDOM = "random twin"
"""What the gains of a model over its twin are called."""

_META = b"plmscale"


@dataclass(frozen=True)
class Example:
    """One protein (or variant) of a task.

    `sequence` is in capital letters without gaps; `target` is what the task wants to be foretold, in
    the type that its loader states; `group` is the part of a split that is reported apart (a level
    of a hierarchy, an assay).
    """

    id: str
    sequence: str
    split: str
    target: Any
    group: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """A task's examples. `source` says which of the task's sources they are of; `dropped` counts what
    was left out by reason; `sha256` is of the file(s) that were read."""

    task: str
    source: str
    examples: tuple[Example, ...]
    sha256: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> list[Example]:
        """Return the examples of one split; an error names those there are."""
        found = [example for example in self.examples if example.split == name]
        if not found:
            there = sorted({example.split for example in self.examples})
            raise PlmscaleError(f"{self.task}: no split {name!r}; there are {', '.join(there)}")
        return found


@dataclass(frozen=True)
class ModelInfo:
    """What tables say of a model.

    name: unique within a study's evaluation. kind: clm or mlm, what it is used as. origin: run, hub
    or folder. twin: True for the same architecture with random weights. n_params: without
    embeddings, as in the runs table. context: residues it takes at most, 0 for any number. digest:
    SHA-256 of weights and what else decides its numbers. corpus, sources: key of the corpus and the
    sources of its mix that it was trained on, as the run's recipe has them; empty where nobody
    knows, as for a hub model. A twin carries those of its model, to share its bins of identity.
    """

    name: str
    kind: str
    origin: str
    n_params: int
    context: int
    width: int
    n_layers: int
    n_heads: int
    digest: str
    twin: bool = False
    corpus: str = ""
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def _unreadable_is_told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise PlmscaleError(
            f"{path}: not predictions of plmscale ({type(error).__name__}); remove it to have "
            "them made again"
        ) from None


@dataclass(frozen=True)
class Predictions:
    """Per-example predictions of one model, task, method and seed.

    `table` has at least `id, split, group, target, prediction`; a task may hold lists in the last two
    and add columns. `about`: task, method, seed, model (ModelInfo as a dict, or None for a
    baseline), data (source, sha256, dropped), options, versions, seconds, notes. path: the file that
    was read; side results lie next to it (plmscale.downstream.sides).
    """

    table: pa.Table
    about: Mapping[str, Any]
    path: Path | None = field(default=None, compare=False)

    REQUIRED = ("id", "split", "group", "target", "prediction")

    def write(self, path: str | Path) -> None:
        """Write one Parquet file, atomically; `about` goes into its metadata."""
        missing = [name for name in self.REQUIRED if name not in self.table.column_names]
        if missing:
            raise ValueError(f"predictions lack the columns {missing}")
        meta = {_META: canonical_json(dict(self.about)).encode()}
        with atomic_write(path, "wb") as handle:
            pq.write_table(self.table.replace_schema_metadata(meta), handle, compression="zstd")

    @classmethod
    def read(cls, path: str | Path) -> Predictions:
        """Read what `write` wrote; PlmscaleError for anything else."""
        with _unreadable_is_told(path):
            table = pq.read_table(path)
            return cls(table, json.loads((table.schema.metadata or {})[_META]), Path(path))

    @staticmethod
    def read_about(path: str | Path) -> dict[str, Any]:
        """Return `about` alone, without reading the table; errors as of `read`."""
        with _unreadable_is_told(path):
            return json.loads((pq.read_schema(path).metadata or {})[_META])


@dataclass(frozen=True)
class Metric:
    """One number of a metrics table.

    metric: short name (`spearman`, `P@L/5`); definition: the options that decide it, in words
    (`|i-j|>=24, macro, L=sequence`); se and ci95 are None where none can be given; n: examples it
    is made of; primary: whether tables and figures show it by default.
    """

    split: str
    group: str
    metric: str
    definition: str
    value: float
    n: int
    se: float | None = None
    ci95: tuple[float, float] | None = None
    primary: bool = False
    higher_is_better: bool = True


@dataclass(frozen=True)
class Task:
    """A task as the rest sees it; modules in `plmscale.downstream.tasks` each define `TASK`.

    methods: which of METHODS it knows. kinds: which models it can use. baselines: names of what
    needs no model, trivial first. predict(data, model, method, seed, options, store) -> Predictions:
    `model` is an Adapter (plmscale.downstream.models) or None for `baseline:NAME`; `store` keeps
    embeddings (plmscale.downstream.store). score(predictions, options) -> metrics; a function of
    the file alone. data(corpus, options, source, limit, seed, ...) -> Data: only of tasks whose
    examples come from the study's corpus (None: `registry.data`). differences(first, second,
    options) -> metrics: those of the first predictions minus those of the second, with intervals
    paired by example; PlmscaleError where the two are not of the same examples.
    side(path, options, corpus, trained_on, cache, threads): only of a task with side results; brings
    those of the predictions in the file `path` up to date, each where its tools are there.
    later: options that only `side` and `score` read, so that they decide no prediction.
    """

    name: str
    title: str
    methods: tuple[str, ...]
    kinds: tuple[str, ...]
    baselines: tuple[str, ...]
    options: type
    predict: Callable[..., Predictions]
    score: Callable[..., Iterable[Metric]]
    data: Callable[..., Data] | None = None
    differences: Callable[..., Iterable[Metric]] | None = None
    side: Callable[..., None] | None = None
    later: frozenset[str] = frozenset()
