"""What rules/downstream.smk asks: models by name, settings of a task, what a job needs; no torch."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmscale.cluster.devices import PARTS
from plmscale.downstream.settings import ON_CORPUS
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, canonical_json, fingerprint, read_json, sha256_file
from plmscale.grid import Run, select
from plmscale.resources import ONE_THREAD_BELOW

if TYPE_CHECKING:
    from plmscale.cluster.jobs import Jobs
    from plmscale.cluster.site import Site
    from plmscale.settings import Study

_CODE = Path(__file__).parent
# What is shared by the metrics of all tasks, and what a task has of its own.
_SHARED_CODE = ("base.py", "cases.py", "statistics.py")
# Of a job: PyTorch and the libraries; bytes a parameter, in fp32 with LoRA's optimizer and gradients
# of activations; minutes on a GPU.
_BASE_MB, _BYTES, _MINUTES = 3000, 16, 720


@dataclass(frozen=True)
class Model:
    """A model to evaluate. run_id: of a run of the study, else empty."""

    name: str
    where: str
    use: str = ""
    run_id: str = ""
    n_params: int = 0
    download: bool = False
    remote_code: bool = False

    def options(self) -> str:
        """Return the model as JSON, for a command line."""
        return canonical_json({k: v for k, v in vars(self).items() if v and k != "run_id"})


def models(study: Study, runs: Mapping[str, Run], chosen: Mapping[str, Run]) -> dict[str, Model]:
    """Return the models by name: the chosen ones of the runs that the section selects, and others.

    A run of both objectives is two models, RUN_ID@clm and RUN_ID@mlm. Raises SystemExit with one
    line for a selection that fits no run of the study, and for a name that two models have.
    """
    section = study.downstream
    found: dict[str, Model] = {}
    if section is None:
        return found
    try:
        if section.runs is not None:
            selected = select(list(runs.values()), section.runs)
            for run in (run for run in selected if run.run_id in chosen):
                for model in _of_run(run, f"{study.folder}/runs/{run.run_id}"):
                    found[model.name] = model
        for name, extra in section.models.items():
            if name in found or name.endswith(("-twin1", "baselines")):
                raise PlmscaleError(f"downstream.models.{name}: the name is taken; choose another")
            found[name] = Model(
                name, extra.where, extra.use or "", "", 0, extra.download, extra.remote_code
            )
    except PlmscaleError as error:
        raise SystemExit(f"plmscale: error: downstream: {error}") from None
    return found


def _of_run(run: Run, folder: str) -> Iterable[Model]:
    objective, n_params = run.recipe["objective"], run.recipe["n_params"]
    if objective != "mixed":
        yield Model(run.run_id, folder, objective, run.run_id, n_params)
        return
    for use in ("clm", "mlm"):
        yield Model(f"{run.run_id}@{use}", folder, use, run.run_id, n_params)


def best(runs: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> list[str]:
    """Return the run_ids of lowest loss, one for each set of equal values in `columns`.

    Runs without a loss are left out. PlmscaleError for a column that the runs table does not have.
    """
    lowest: dict[tuple[Any, ...], tuple[float, str]] = {}
    columns = list(columns)
    for row in runs:
        for column in columns:
            if column not in row:
                raise PlmscaleError(f"downstream.best: the runs table has no column {column!r}")
        loss = row["loss"]
        if isinstance(loss, str):
            loss = float(loss) if loss else math.nan
        if loss is None or math.isnan(loss):
            continue
        key = tuple(row[column] for column in columns)
        lowest[key] = min(lowest.get(key, (math.inf, "")), (loss, row["run_id"]))
    return [run_id for _, run_id in lowest.values()]


def write_best(
    table: str | Path, runs: Iterable[str], columns: Iterable[str], out: str | Path
) -> None:
    """Write the run_ids of `best` among the `runs` in the runs table, one a line."""
    among = set(runs)
    with open(table, newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["run_id"] in among]
    with atomic_write(out) as handle:
        handle.writelines(f"{name}\n" for name in best(rows, columns))


class Stage:
    """The files of a study's downstream stage; a choice has only its runs among the models.

    folder: what is made of all choices. shared: data, embeddings and searches of all studies. searched:
    tasks whose test sets are searched in the corpus, where runs are evaluated that saw it.
    """

    def __init__(
        self, study: Study, runs: Mapping[str, Run], chosen: Mapping[str, Run], corpus: str
    ) -> None:
        self.study, self.corpus = study, corpus
        self.out, self.shared = str(study.folder), f"{study.results}/downstream-data"
        self.folder = f"{self.out}/downstream"
        self.models = models(study, runs, chosen)
        self.tasks = list(study.downstream.tasks)
        self.mixes = mixes(self.models.values(), runs)
        self.searched = [task for task in self.tasks if self.mixes and has_data(task)]

    def asked(self, task: str) -> str:
        """Return what is asked of a task, as JSON."""
        return task_text(self.study, task, self.corpus, self.shared)

    def asked_data(self, task: str) -> str:
        """Return what decides a task's data, as JSON."""
        return data_text(self.study, task, self.corpus, self.shared)

    def options(self) -> str:
        """Return the options of all tasks, as JSON."""
        tasks = self.study.downstream.tasks
        return canonical_json({name: own.options for name, own in tasks.items()})

    def data_file(self, task: str) -> str:
        """Return what must be there before a task starts: its data, or the corpus."""
        if has_data(task):
            return f"{self.folder}/done/fetch/{task}.json"
        return f"{self.corpus}/manifest.json"

    def model_files(self, name: str) -> list[str]:
        """Return what must be there of a model; other weights of a run start its tasks again."""
        model = self.models[name]
        if model.run_id:
            return [f"{self.out}/runs/{model.run_id}/model.safetensors"]
        return [f"{self.folder}/done/hub/{name}.json"] if model.download else []

    def run_ids(self) -> list[str]:
        """Return the runs among the models."""
        return sorted({model.run_id for model in self.models.values() if model.run_id})

    def names(self, best_runs: str | Path = "") -> list[str]:
        """Return all models, or those that are no run or one that the file `best_runs` lists."""
        if not best_runs:
            return list(self.models)
        listed = set(Path(best_runs).read_text(encoding="utf-8").split())
        return [n for n, m in self.models.items() if not m.run_id or m.run_id in listed]

    def done(self, best_runs: str | Path = "") -> list[str]:
        """Return what jobs leave, of the models of `names`."""
        names = self.names(best_runs)
        fetched = [self.data_file(task) for task in self.tasks if has_data(task)]
        hub = [f"{self.folder}/done/hub/{n}.json" for n in names if self.models[n].download]
        made = [
            f"{self.folder}/done/{t}/{n}.json" for t in self.tasks for n in [*names, "baselines"]
        ]
        return [*made, *fetched, *hub]

    def attempt(self, step: str, name: str) -> int:
        """Return which attempt a start now would be."""
        return attempt(self.folder, step, name)


def data_folder(study: Study) -> str:
    """Return the folder of the tasks' data, shared by all studies unless the section names one."""
    return study.downstream.folder or f"{study.results}/downstream-data"


def task_text(study: Study, name: str, corpus: str, shared: str) -> str:
    """Return what is asked of a task as JSON (run.Asked), for a command line."""
    section, own = study.downstream, study.downstream.tasks[name]
    return canonical_json({
        "task": name,
        "source": own.source or section.source,
        "folder": data_folder(study),
        "limit": own.limit,
        "methods": section.methods,
        "insisted": own.methods,
        "seeds": own.seeds or section.seeds,
        "options": own.options,
        "corpus": corpus,
        "cache": f"{shared}/identity",
        "twins": section.twins,
    })  # fmt: skip


def data_text(study: Study, name: str, corpus: str, shared: str) -> str:
    """Return as JSON what decides a task's data alone: a further seed fetches and searches nothing."""
    known = json.loads(task_text(study, name, corpus, shared))
    keys = ("task", "source", "folder", "limit", "corpus", "cache")
    return canonical_json({key: known[key] for key in keys})


def has_data(name: str) -> bool:
    """Return whether a task has data of its own to bring in, and a test set to search."""
    return name not in ON_CORPUS


def mixes(chosen: Iterable[Model], runs: Mapping[str, Run]) -> list[list[str]]:
    """Return the sources that the runs among the models were trained on, each set once."""
    found = {tuple(sorted(runs[m.run_id].recipe["corpus"]["mix"])) for m in chosen if m.run_id}
    return [list(sources) for sources in sorted(found)]


def definitions(task: str, code: Path = _CODE) -> str:
    """Return a digest of the code that decides a task's metrics, so that a change of it is seen."""
    own = [code / "tasks" / f"{task}.py", *sorted((code / task).glob("*.py"))]
    files = [*(code / name for name in _SHARED_CODE), *own]
    return fingerprint([sha256_file(path) for path in files if path.exists()])


def note(out: str | Path, task: str, model: str) -> Path:
    """Return the file that says how often a task was tried with a model, and what failed last."""
    return Path(out) / "failed" / task / f"{model}.json"


def attempt(out: str | Path, task: str, model: str) -> int:
    """Return which attempt at a task and model a start now would be.

    It goes on counting after a failure alone: a rule with it among its params tries again what
    failed, and nothing else.
    """
    path = note(out, task, model)
    if not path.exists():
        return 1
    known = read_json(path)
    return known["attempt"] + bool(known["failed"])


def threads(cluster: Jobs | None, model: Model) -> int:
    """Return CPU threads for a model: a GPU's share of a node, or by size where there is none."""
    if cluster is not None and cluster.partition:
        return _share(cluster.allocator.site)
    return 1 if 0 < model.n_params < ONE_THREAD_BELOW else 4


def _share(site: Site) -> int:
    return max(1, site.node_cpus // max(site.node_gpus, 1))


def resources(cluster: Jobs | None, found: Mapping[str, Model]) -> dict[str, Any]:
    """Return resources of an evaluation: one GPU where a profile describes nodes with some."""

    def mem_mb(wildcards: Any) -> int:
        model = found.get(wildcards.model)
        return _BASE_MB + math.ceil(_BYTES * (model.n_params if model else 0) / 1e6)

    if cluster is None:
        return {"mem_mb": mem_mb}
    site = cluster.allocator.site
    gpus = min(site.node_gpus, 1)
    asked: dict[str, Any] = {
        "mem_mb": lambda w: max(mem_mb(w), site.node_task_mem_mb),
        "gpu_parts": gpus * PARTS,
    }
    if cluster.partition:
        asked |= {
            "runtime": min(_MINUTES, site.node_walltime),
            "cpus_per_task": _share(site),
            "slurm_partition": (gpus and site.node_gpu_partition) or cluster.partition,
            "gres": f"{site.node_gres}:1" if gpus else "",
        }
    return asked
