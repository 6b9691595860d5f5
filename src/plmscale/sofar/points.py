"""What the laws of a grid will rest on, run by run, and how much of it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.grid import Run
from plmscale.laws.estimators import shortcoming
from plmscale.laws.findings import findings
from plmscale.laws.isoflop.profiles import MIN_SIZES
from plmscale.laws.table.select import select
from plmscale.status.rows import ENDED
from plmscale.tables import RUNS_COLUMNS

States = Mapping[str, str]
Point = dict[str, Any]


def planned_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the runs table as it will be when all of `runs` have ended well.

    Losses and epochs are not known yet. A loss of 1 stands for "there will be one", so that the
    laws' own rules say which run they will use; no fit ever sees it.
    """
    rows = [
        {
            **{name: run.recipe[name] for name in (
                "run_id", "study", "objective", "n_params", "tokens", "flops_6nd", "flops",
                "budget", "mask_ratio", "seed",
            )},
            "architecture": run.recipe["architecture"]["name"],
            "corpus": run.recipe["corpus"]["name"],
            "parent": run.parent or "",
            "loss": 1.0,
            "status": "done",
        }
        for run in runs
    ]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=RUNS_COLUMNS)


def law_runs(table: pd.DataFrame, flops_column: str) -> pd.DataFrame:
    """Return the rows of a runs table that the laws in C use; none where they can use none."""
    try:
        return select(table, flops_column).runs
    except PlmscaleError:
        return table.iloc[:0]


def law_points(table: pd.DataFrame, flops_column: str, states: States) -> list[Point]:
    """Return what each law needs of the planned `table`, with run ids by what became of them.

    `states` are those of plmscale.status by run_id. Kinds: `profile` (one budget of one objective;
    `there`, `lost` and `missing` are sizes, each with its runs), `runs` (all runs of the laws in C
    of one objective; `never` says what even the whole grid lacks for a law), `repetition` and
    `transfer` (one comparison of two runs).
    """
    used = law_runs(table, flops_column)
    found: list[Point] = []
    for objective, rows in used.groupby("objective", sort=True):
        found += _profiles(str(objective), rows, states)
        parts = _sorted_out([[name] for name in rows["run_id"]], rows["run_id"], states)
        never = shortcoming(rows) or ""
        found.append(
            {"kind": "runs", "objective": str(objective), "budget": None, "never": never, **parts}
        )
    return [*found, *_comparisons(table, states)]


def _profiles(objective: str, rows: pd.DataFrame, states: States) -> list[Point]:
    """Return a point a budget; fewer sizes than a profile needs belong to a side study."""
    found = []
    for budget, mine in rows.dropna(subset=["budget"]).groupby("budget", sort=True):
        sizes = list(mine.groupby("n_params", sort=True))
        if len(sizes) < MIN_SIZES:
            continue
        members = [list(group["run_id"]) for _, group in sizes]
        names = [group["architecture"].iloc[0] for _, group in sizes]
        parts = _sorted_out(members, names, states)
        found.append({"kind": "profile", "objective": objective, "budget": float(budget), **parts})
    return found


def _sorted_out(members: Iterable[list[str]], names: Iterable[str], states: States) -> Point:
    """Sort groups of runs by what became of them: one run that ended well is enough for a group."""
    parts: Point = {"there": [], "lost": [], "missing": []}
    for runs, name in zip(members, names, strict=True):
        ends = {states[run_id] for run_id in runs}
        kind = "there" if "done" in ends else "lost" if ends <= set(ENDED) else "missing"
        parts[kind].append({"name": str(name), "runs": runs})
    return {**parts, "planned": sum(map(len, parts.values()))}


def _comparisons(table: pd.DataFrame, states: States) -> list[Point]:
    """Return a point a comparison that findings.json will hold; every one of its runs is needed."""
    planned = findings(table)
    found = []
    for kind in ("repetition", "transfer"):
        for item in planned[kind]:
            runs = [*item["runs"], *([item["parent"]] if kind == "transfer" else [])]
            lost = [name for name in runs if states[name] in ENDED and states[name] != "done"]
            open_ = [name for name in runs if states[name] not in ENDED]
            what = "lost" if lost else "missing" if open_ else "there"
            parts: Point = {"there": [], "lost": [], "missing": [], "planned": 1}
            parts[what].append({"name": _compared(kind, item), "runs": lost or open_ or runs})
            found.append({"kind": kind, "objective": item["objective"], "budget": None, **parts})
    return found


def _compared(kind: str, item: Mapping[str, Any]) -> str:
    if kind == "repetition":
        return f"{item['corpora'][0]} against {item['corpora'][1]}"
    return f"after {item['from'].upper()}"
