"""Released training logs -> runs.csv, curves/, audit.csv, audit.json, runs_as_labelled.csv."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, write_json
from plmscale.paper.decide import decide
from plmscale.paper.final_loss import DEFAULT_LAST, final_losses, jitter_table
from plmscale.paper.group import Run
from plmscale.paper.logs import read_logs
from plmscale.paper.names import short
from plmscale.paper.size import Labels
from plmscale.paper.tables import as_labelled, audit_table, curve_table, runs_table
from plmscale.tables import write_runs

JITTER = ("remove", "keep")


def audit(
    folder: str | Path, out: str | Path, last: int = DEFAULT_LAST, jitter: str = "remove"
) -> dict[str, Any]:
    """Audit a folder of logs into `out`; return the summary, which audit.json holds too.

    `last` validation points are averaged into `loss`, with `jitter` "remove" less what other runs
    tell of their validation batches (final_loss.py), with "keep" as logged; curves are as logged
    in any case. A folder curves/ in `out` is replaced. Raises PlmscaleError for a folder without
    usable logs, for `last` below 1 and another `jitter`.
    """
    if jitter not in JITTER:
        raise PlmscaleError(f"--jitter {jitter} is unknown; allowed: {', '.join(JITTER)}")
    if last < 1:
        raise PlmscaleError(f"--last {last} is not a positive number of points")
    logs = read_logs(folder)
    runs, findings = decide(logs)
    if not runs:
        raise PlmscaleError(f"{folder}: no curve whose model is known; see its labels and axes")
    out = Path(out)
    _replace_curves(runs, out / "curves")
    losses = final_losses(runs, last, jitter == "remove")
    write_runs(runs_table(runs, losses), out / "runs.csv")
    write_runs(as_labelled(logs, Labels(logs)), out / "runs_as_labelled.csv")
    table = audit_table(logs, runs, findings)
    _write(table, out / "audit.csv")
    summary = summarise(table, runs)
    summary["final_loss"] = {
        "last": last, "jitter": jitter, "by_stream": jitter_table(runs, losses),
    }  # fmt: skip
    write_json(out / "audit.json", summary)
    return summary


def _replace_curves(runs: list[Run], folder: Path) -> None:
    """Write one curve a run into `folder`, in place of curves of an earlier audit."""
    others = [path for path in folder.glob("*") if path.suffix != ".csv"] if folder.exists() else []
    if others:
        raise PlmscaleError(
            f"{others[0]}: no curve of an earlier audit; move it, or give another --out"
        )
    fresh = folder.with_name(".curves.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for run in runs:
        _write(curve_table(run), fresh / f"{run.run_id}.csv")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def summarise(table: pd.DataFrame, runs: list[Run]) -> dict[str, Any]:
    """Return counts per decision, kind and mistake, and the files that were not simply kept."""
    kinds = table["kind"].fillna("unknown")
    mistakes = table["mistakes"].str.split(";").explode()
    changed = table[table["decision"] != "kept"]
    return {
        "files": len(table),
        "runs": {
            objective: sum(run.objective == objective for run in runs)
            for objective in sorted({run.objective for run in runs})
        },
        "decisions": _counts(table["decision"]),
        "kinds": {str(kind): _counts(rows["decision"]) for kind, rows in table.groupby(kinds)},
        "mistakes": _counts(mistakes[mistakes != ""]),
        "changed": [
            {"file": short(row.file), "decision": row.decision, "mistakes": row.mistakes.split(";"),
             "run_id": "" if pd.isna(row.run_id) else row.run_id, "why": row.why}
            for row in changed.itertuples()
        ],
    }  # fmt: skip


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().items()}


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as handle:
        table.to_csv(handle, index=False, lineterminator="\n")
