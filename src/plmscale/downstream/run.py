"""One task with one model, all its methods and seeds: predictions that are kept, failures that are told.

    OUT/predictions/TASK/MODEL/METHOD-sSEED.parquet      made once; MODEL of a twin is NAME-twinSEED
    OUT/failed/TASK/MODEL.json                           how often it was tried, and what failed

Whether a prediction is there is decided by its `asked` (in its `about`): digest of the model and of
the data, task, method, seed, and the options that decide predictions. Another metric, seed or task
remakes none of the others; other weights under the same name do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from plmscale.downstream import registry, sides, tasks
from plmscale.downstream.base import Data, Predictions, Task
from plmscale.downstream.outcome import Outcome, noted, say, told
from plmscale.downstream.plan import has_data
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, fingerprint

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter
    from plmscale.downstream.store import Store

TWIN_SEED = 1
BASELINES = "baselines"
# Beside Task.later: an option that only `score` reads, in every task.
_LATER = frozenset({"replicates"})
# These draw nothing that a further seed would show.
_ONE_SEED = ("zero-shot",)
_DATA_SEED = 0


@dataclass(frozen=True)
class Asked:
    """What is asked of one task.

    methods: those to use, as far as the task knows them; a name in `insisted` that it does not know is
    told. corpus: folder of the study's corpus, None without. cache: folder of searches.
    """

    task: str
    source: str = "full"
    folder: Path | None = None
    limit: int | None = None
    methods: tuple[str, ...] = ("zero-shot", "attention", "probe", "lora")
    insisted: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1,)
    options: dict[str, Any] = field(default_factory=dict)
    corpus: Path | None = None
    cache: Path | None = None
    twins: bool = True


def loaded_task(asked: Asked) -> tuple[Task, Any]:
    """Return the task and its options; PlmscaleError where it cannot be used on this machine."""
    try:
        task = tasks.task(asked.task)
        return task, task.options.model_validate(asked.options)
    except ImportError as error:
        raise PlmscaleError(f"not run: {asked.task} cannot be loaded ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise PlmscaleError(f"{asked.task}: option {key}: {first['msg']}") from None


def load_data(task: Task, options: Any, asked: Asked, sources: Sequence[str] = ()) -> Data:
    """Return the examples of a task; `sources` are those that a model was trained on."""
    if task.data is not None:
        return task.data(
            asked.corpus, options, asked.source, asked.limit, _DATA_SEED,
            trained_on=tuple(sources), cache=asked.cache,
        )  # fmt: skip
    return registry.data(task.name, asked.source, asked.folder, asked.limit, _DATA_SEED)


def evaluate(
    asked: Asked, name: str, opened: Callable[[], Adapter], out: Path, store: Store | None = None
) -> Outcome:
    """Evaluate the model `name` and its random twin; `opened` opens it.

    Never raises for what a model, a task or its data do: it is told and stands in the outcome.
    """
    outcome = Outcome(asked.task, name)
    with told(outcome, name, ""):
        task, options = loaded_task(asked)
        adapter = opened()
        if adapter.info.kind not in task.kinds:
            kinds = " or ".join(task.kinds)
            outcome.fail(name, "", f"for {kinds}, this is {adapter.info.kind}", "not applicable")
            return noted(outcome, out)
        data = load_data(task, options, asked, adapter.info.sources)
        methods = _methods(task, asked, name, outcome)
        _model(task, options, asked, data, methods, adapter, name, out, store, outcome)
        if asked.twins:
            twin = None
            with told(outcome, f"{name}-twin{TWIN_SEED}", ""):
                twin = adapter.twin(TWIN_SEED)
            del adapter
            if twin is not None:
                own = f"{name}-twin{TWIN_SEED}"
                _model(task, options, asked, data, methods, twin, own, out, store, outcome)
    return noted(outcome, out)


def baselines(asked: Asked, out: Path) -> Outcome:
    """Make the predictions of a task's baselines, with the first seed."""
    outcome = Outcome(asked.task, BASELINES)
    with told(outcome, BASELINES, ""):
        task, options = loaded_task(asked)
        data = load_data(task, options, asked)
        for baseline in task.baselines:
            method = f"baseline:{baseline}"
            one = _One(task, options, asked, data, None, BASELINES, method, asked.seeds[0])
            _make(one, out, None, outcome)
    return noted(outcome, out)


def fetched(asked: Asked, out: Path) -> Outcome:
    """Bring in a task's data, where it has some of its own."""
    outcome = Outcome(asked.task, "")
    with told(outcome, "", ""):
        if has_data(asked.task):
            folder = asked.folder or Path()
            if asked.source == "full":
                folder.mkdir(parents=True, exist_ok=True)
            for words in registry.fetch(asked.task, asked.source, folder):
                say(f"{asked.task}: {words}")
    return noted(outcome, out, "fetch", asked.task)


def leaked(
    asked: Asked, mixes: Sequence[tuple[str, ...]], out: Path, threads: int = 2
) -> dict[str, Any]:
    """Search a task's test set in the corpus; return {task, summary, failures} (leakage.leakage).

    What was found of each sequence is kept in OUT/leakage/TASK.parquet.
    """
    from plmscale.downstream.leakage import leakage

    outcome, summary = Outcome(asked.task, "leakage"), {}
    with told(outcome, "leakage", ""):
        task, options = loaded_task(asked)
        data = load_data(task, options, asked)
        if asked.corpus is None:
            raise PlmscaleError(f"{asked.task}: no corpus to search; leakage is not known")
        if mixes:
            table, summary = leakage(data, asked.corpus, mixes, asked.cache, threads)
            with atomic_write(out / "leakage" / f"{asked.task}.parquet", "wb") as handle:
                table.to_parquet(handle, index=False)
    noted(outcome, out)
    return {"task": asked.task, "summary": summary, "failures": outcome.failures}


@dataclass(frozen=True)
class _One:
    """One prediction to make."""

    task: Task
    options: Any
    asked: Asked
    data: Data
    adapter: Adapter | None
    model: str
    method: str
    seed: int

    @property
    def path(self) -> Path:
        method = self.method.replace(":", "-")
        return Path("predictions") / self.task.name / self.model / f"{method}-s{self.seed}.parquet"

    @property
    def key(self) -> str:
        """What decides the prediction."""
        decides = self.options.model_dump(mode="json", exclude=set(self.task.later | _LATER))
        info = self.adapter.info if self.adapter else None
        return fingerprint(
            [self.task.name, self.method, self.seed, decides, self.asked.limit, self.data.source,
             self.data.sha256, info and [info.digest, info.kind, info.corpus, list(info.sources)]]
        )  # fmt: skip


def _methods(task: Task, asked: Asked, name: str, outcome: Outcome) -> list[str]:
    for method in asked.insisted:
        if method not in task.methods:
            reason = f"{task.name} has no method {method}; it has {', '.join(task.methods)}"
            outcome.fail(name, method, reason, "not applicable")
    return [method for method in task.methods if method in (asked.insisted or asked.methods)]


def _model(
    task: Task,
    options: Any,
    asked: Asked,
    data: Data,
    methods: Sequence[str],
    adapter: Adapter,
    name: str,
    out: Path,
    store: Store | None,
    outcome: Outcome,
) -> None:
    for method, seed in _runs(methods, asked.seeds):
        one = _One(task, options, asked, data, adapter, name, method, seed)
        _make(one, out, store, outcome)


def _runs(methods: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    for method in methods:
        for seed in seeds[:1] if method in _ONE_SEED else seeds:
            yield method, seed


def _make(one: _One, out: Path, store: Store | None, outcome: Outcome) -> None:
    """Make one prediction unless it is there, and enter it."""
    path = out / one.path
    words = f"{one.task.name}, {one.model}, {one.method}, seed {one.seed}"
    with told(outcome, one.model, one.method):
        if _asked_of(path) != one.key:
            started, cpu = time.monotonic(), time.process_time()
            made = one.task.predict(one.data, one.adapter, one.method, one.seed, one.options, store)
            about = {**made.about, "asked": one.key}
            Predictions(made.table, about).write(path)
            spent, cpu = time.monotonic() - started, time.process_time() - cpu
            say(f"{words}: {spent:.1f} s ({cpu:.1f} s of processor time)")
        else:
            say(f"{words}: is there already")
        _side(one, path, outcome)
        outcome.predictions.append(
            {"path": str(one.path), "method": one.method, "seed": one.seed, "model": outcome.model,
             "twin": bool(one.adapter and one.adapter.info.twin)}
        )  # fmt: skip


def _side(one: _One, path: Path, outcome: Outcome) -> None:
    """Bring side results up to date; what this machine cannot do is told by name."""
    if one.task.side is None:
        return
    asked = one.asked
    sources = one.adapter.info.sources if one.adapter else ()
    with told(outcome, one.model, one.method):
        one.task.side(path, one.options, asked.corpus, sources, asked.cache)
    for kept in sorted(path.parent.glob(f"{path.stem}.*.parquet")):
        name = kept.name.split(".")[-2]
        for what, reason in sides.about(path, name).get("not_run", {}).items():
            outcome.fail(one.model, one.method, f"{what}: {reason}", "not run")


def _asked_of(path: Path) -> str:
    """Return what a kept prediction was made for, empty where there is none that can be read."""
    if not path.exists():
        return ""
    try:
        return str(Predictions.read_about(path).get("asked", ""))
    except PlmscaleError:
        return ""
