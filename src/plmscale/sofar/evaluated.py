"""Of the downstream evaluation what is there at this moment: tables, the scaling question, figures."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from plmscale import snakefile
from plmscale.downstream.plan import Stage, write_best
from plmscale.figures import DOWNSTREAM
from plmscale.grid import Run, expand
from plmscale.settings import Study
from plmscale.sofar.steps import Failures, attempt, draw

WAITING = "waiting"


def evaluated(
    study: Study,
    runs: Sequence[Run],
    taken: Collection[str],
    view: Path,
    stamp: str,
    failures: Failures,
) -> dict[str, int] | None:
    """Write downstream/ and its figures into `view`, of evaluations of runs that are in `taken`.

    Evaluations that are not there yet are rows of status `waiting` in failures.csv. Nothing outside
    of `view` is written. Returns how many evaluations (a model in a task) are there, and of how many;
    None where the study asks for none.
    """
    if study.downstream is None:
        return None
    every = {run.run_id: run for run in expand(study)}
    stage = Stage(study, every, {r.run_id: r for r in runs}, snakefile.corpus_folder(study))
    best: str | Path = ""
    if study.downstream.best:
        # The best of the finished ones: of a half-finished grid it may be another in the end.
        best = view / "downstream/best.txt"
        best.parent.mkdir(parents=True, exist_ok=True)
        if taken:
            write_best(view / "runs.csv", stage.run_ids(), study.downstream.best, best)
        else:
            best.touch()
    names = stage.names(best)
    files = {
        (task, name): Path(stage.folder) / "done" / task / f"{name}.json"
        for task in stage.tasks
        for name in names
    }
    unfinished = {
        n for n in names if stage.models[n].run_id and stage.models[n].run_id not in taken
    }
    lacks = [key for key, path in files.items() if key[1] in unfinished or not path.exists()]
    gone = {str(files[key]) for key in lacks}
    paths = [p for p in map(Path, stage.done(best)) if str(p) not in gone and p.exists()]
    there = len(files) - len(lacks)
    if there:
        attempt("downstream_tables", view, failures, lambda: _tables(stage, paths, lacks, view))
        if (view / "downstream/metrics.csv").exists():
            attempt("downstream_scaling", view, failures, lambda: _scaling(study, stage, view))
        if (view / "downstream/scaling.json").exists():
            draw(
                "downstream_figures",
                DOWNSTREAM,
                lambda: _inputs(stage, view),
                view,
                stamp,
                failures,
            )
    return {"there": there, "of": len(files)}


def _tables(
    stage: Stage, paths: Sequence[Path], lacks: Sequence[tuple[str, str]], view: Path
) -> None:
    from plmscale.downstream.collect import collect

    leaks = {task: Path(stage.folder) / "leakage" / f"{task}.json" for task in stage.searched}
    collect(
        paths, Path(stage.folder), view / "downstream", json.loads(stage.options()),
        {task: path for task, path in leaks.items() if path.exists()}, view / "runs.csv",
        keep=False,
        lacking=[
            {"task": task, "model": name, "method": "", "status": WAITING,
             "reason": "not evaluated yet"}
            for task, name in lacks
        ],
    )  # fmt: skip


def _scaling(study: Study, stage: Stage, view: Path) -> None:
    from plmscale.downstream import scaling

    words: list[Any] = [
        "--tables", view / "downstream", "--runs", view / "runs.csv",
        "--evaluation", stage.folder, "--options", stage.options(),
        "--flops-column", study.laws.flops, "--out", view / "downstream/scaling.json",
    ]  # fmt: skip
    scaling.run([str(word) for word in words])


def _inputs(stage: Stage, view: Path) -> Any:
    from plmscale.figures import data

    return data.load(view / "runs.csv", downstream=view / "downstream", evaluation=stage.folder)
