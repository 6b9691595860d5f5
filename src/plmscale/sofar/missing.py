"""What a study lacks at this moment, as data: the content of missing.json."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from plmscale.grid import Run
from plmscale.laws.estimators import holds_law
from plmscale.settings import Study
from plmscale.sofar.points import law_points, law_runs, planned_table
from plmscale.status.overview import budget_names, counts
from plmscale.status.rows import ENDED

_KEPT = (
    "run_id", "status", "detail", "error", "experiment", "objective", "size", "n_params", "budget",
    "share", "flops_6nd", "loss",
)  # fmt: skip


def runs_by_state(
    rows: Sequence[Mapping[str, Any]], taken: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of plmscale.status with the states of the moment at which runs were `taken`.

    What was taken is finished, whatever a look a moment earlier had said. A run that was said to
    have ended and was not taken lacks a part of its results, and counts as failed.
    """
    found = []
    for row in rows:
        row = {name: row[name] for name in _KEPT}
        metrics = taken.get(row["run_id"])
        if metrics is not None:
            state = str(metrics.get("status"))
            row |= {"status": state if state in ENDED else "done", "share": 1.0, "error": ""}
            row["detail"] = str(metrics.get("status_detail") or "")
        elif row["status"] in ENDED:
            error = "its metrics.json is there, its curve.csv or validation.csv is not"
            row |= {"status": "failed", "share": 0.0, "error": error, "loss": None}
        found.append(row)
    return found


def describe(
    study: Study,
    runs: Sequence[Run],
    rows: Sequence[Mapping[str, Any]],
    finished: pd.DataFrame,
    laws: Mapping[str, Any],
    *,
    part: str = "",
    slurm: str = "",
    now: float | None = None,
) -> dict[str, Any]:
    """Return what is missing of `runs`, from `rows` (runs_by_state), the table of the `finished`
    runs and the `laws` that were fitted to it.

    `part` says which part of the study this is, `slurm` why Slurm did not answer, `now` is a Unix
    time. Keys: docs/grid.md.
    """
    states = {row["run_id"]: row["status"] for row in rows}
    budgets = budget_names(rows)
    named = [{**row, "budget_name": budgets[row["run_id"]]} for row in rows]
    table = planned_table(runs)
    total = sum(row["flops_6nd"] for row in rows)
    ended = sum(row["flops_6nd"] for row in rows if row["status"] in ENDED)
    moment = time.gmtime(time.time() if now is None else now)
    return {
        "schema": 1,
        "study": study.study,
        "part": part,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment),
        "slurm": slurm,
        "counts": counts(rows),
        "share": ended / total if total else 0.0,
        "runs": named,
        "groups": _groups(study, named),
        "points": law_points(table, study.laws.flops, states),
        "laws": _fitted(laws),
        "other_runs": _other_runs(table, finished, study.laws.flops),
        "not_made": [],
    }


def _groups(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the states of runs by experiment, objective and budget, in the study's order.

    A run that several experiments ask for is counted in each of them.
    """
    found = []
    for experiment in study.grid:
        members: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            if experiment in row["experiment"].split(","):
                members.setdefault((row["objective"], row["budget_name"]), []).append(row)
        for objective, budget in sorted(members, key=lambda key: (key[0], float(key[1]))):
            mine = members[objective, budget]
            found.append(
                {
                    "experiment": experiment,
                    "objective": objective,
                    "budget": budget,
                    "runs": len(mine),
                    "states": counts(mine),
                }
            )
    return found


def _fitted(laws: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, by objective and method, whether there is a law, else why not in the fit's words."""
    found: dict[str, dict[str, Any]] = {}
    for objective, entries in (laws.get("laws") or {}).items():
        found[objective] = {
            method: {
                "law": holds_law(entry),
                "why": "" if holds_law(entry) else _reason(entry, f"{objective} {method}: "),
            }
            for method, entry in entries.items()
        }
    return found


def _reason(entry: Mapping[str, Any], where: str) -> str:
    """Return the last warning of an entry without a law: the one that ended it."""
    texts = [str(text) for text in entry.get("warnings") or []]
    return texts[-1].removeprefix(where) if texts else ""


def _other_runs(planned: pd.DataFrame, finished: pd.DataFrame, flops_column: str) -> dict[str, Any]:
    """Return, by objective, runs that the laws use now and will not use when all are finished.

    A law is of the corpus and mask ratio that most runs have. While few are finished that may be
    another one than the grid's, and the law one of another question.
    """
    will = set(law_runs(planned, flops_column)["run_id"])
    now = law_runs(finished, flops_column) if len(finished) else finished
    odd = now[~now["run_id"].isin(will)] if len(now) else now
    return {
        str(objective): list(rows["run_id"])
        for objective, rows in odd.groupby("objective", sort=True)
    }
