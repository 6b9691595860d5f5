"""Does lower loss buy anything? Downstream metrics against loss, size and compute of a study's runs.

In: metrics.csv and gains.csv (plmscale.downstream.collect), the runs table, and the predictions that
they are of. Out: scaling.json:

    models      runs that take part, by objective
    trends      a row a question: which metric (task, method, split, group, metric, definition), of
                what (`metric`, or `gain` over the random twin), of which runs (objective), against
                what (loss, n_params, compute); n, rho, ci95, p, verdict, why, law or null
    transfer    a row a metric and pair of runs: transferred, scratch, difference, ci95, verdict
    left_out    runs without a part in it, each with the reason
    notes       what could not be compared

Verdicts of trends: better (the metric improves with lower loss, larger size, more compute), worse,
`not resolved`, and `too few models`. Compute counts a run's parents, too.

A wide network's random features are better than a narrow one's. So a metric may rise with size
without any training; the gain over the random twin does not have that from size alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plmscale.downstream import transfers, trends
from plmscale.downstream.base import RANDOM
from plmscale.downstream.transfers import KEY, spread
from plmscale.errors import PlmscaleError
from plmscale.files import finite, write_json
from plmscale.tables import read_runs

AGAINST = ("loss", "n_params", "compute")
Row = dict[str, Any]


def scaling(
    metrics: pd.DataFrame,
    gains: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    out: Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    flops: str = "flops_6nd",
    replicates: int = 2000,
) -> dict[str, Any]:
    """Return the content of scaling.json.

    metrics, gains: tables of plmscale.downstream.collect. runs: the runs table. out: the folder that
    holds `predictions`, for differences paired by example. options: of each task. flops: the column
    of the runs table that counts compute.
    """
    usable, left_out = usable_runs(runs, metrics, flops)
    table = points(metrics, gains, usable)
    rows: list[Row] = []
    for key, own in table.groupby([*KEY, "of", "objective"], sort=False):
        about = dict(zip([*KEY, "of", "objective"], key, strict=True))
        for against in AGAINST:
            rows.append({**about, **question(own, against, replicates)})
    moved, notes = transfers.compare(_trained(metrics, usable), runs, out, options or {})
    models = table.groupby("objective")["run_id"].nunique() if len(table) else pd.Series(dtype=int)
    return finite({
        "schema": 1, "models": {str(k): int(n) for k, n in models.items()}, "flops": flops,
        "trends": rows, "transfer": moved, "left_out": left_out, "notes": notes,
    })  # fmt: skip


def usable_runs(
    runs: pd.DataFrame, metrics: pd.DataFrame, flops: str = "flops_6nd"
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Return the evaluated runs whose loss can be compared, indexed by run_id, and the others.

    Adds `compute`: FLOPs with those of all parents, NaN where a parent's are not known. Runs with
    another mask ratio than most of their objective have a loss of another task.
    """
    if flops not in runs:
        raise PlmscaleError(f"the runs table has no column {flops!r} to count compute by")
    named = runs.drop_duplicates("run_id").set_index("run_id", drop=False)
    parents = named["parent"].fillna("").astype(str)
    cost = pd.to_numeric(named[flops]).to_dict()
    compute = {run_id: _with_parents(run_id, parents.to_dict(), cost) for run_id in named.index}
    evaluated = set(metrics.loc[metrics["origin"] == "run", "run_id"])
    own = named[named.index.isin(evaluated)].assign(compute=pd.Series(compute))
    status = own["status"].fillna("").replace("", "done")
    ended = (status == "done") & np.isfinite(pd.to_numeric(own["loss"]))
    left = [
        {"run_id": run_id, "why": f"has no loss (status: {status[run_id]})"}
        for run_id in own.index[~ended]
    ]
    own = own[ended]
    ratio = pd.to_numeric(own["mask_ratio"]).fillna(-1.0)
    usual = ratio.groupby(own["objective"]).transform(lambda values: values.mode().iloc[0])
    left += [
        {
            "run_id": run_id,
            "why": f"its mask ratio of {ratio[run_id]:g} makes its loss another task",
        }
        for run_id in own.index[ratio != usual]
    ]
    left += [
        {"run_id": run_id, "why": "is evaluated, but not in the runs table"}
        for run_id in sorted(evaluated - set(named.index))
    ]
    return own[ratio == usual], left


def _with_parents(run_id: str, parents: Mapping[str, str], cost: Mapping[str, float]) -> float:
    total, seen = 0.0, set()
    while run_id and run_id not in seen:
        seen.add(run_id)
        total += cost.get(run_id, math.nan)
        run_id = parents.get(run_id, "")
    return total


def _trained(metrics: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    mine = (metrics["origin"] == "run") & ~metrics["twin"].astype(bool)
    return metrics[mine & metrics["run_id"].isin(runs.index) & np.isfinite(metrics["value"])]


def points(metrics: pd.DataFrame, gains: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row a model and primary number: columns KEY, of, objective, model, run_id, value, se,
    seeds, n, higher_is_better, loss, n_params, compute.

    value and se are of the mean over seeds. runs: as from `usable_runs`. Losses of different
    objectives are never put together; a run of both counts with what it is used as.
    """
    trained = _trained(metrics, runs)
    ids = trained.drop_duplicates("model").set_index("model")[["run_id", "kind"]]
    won = gains[(gains["against"] == RANDOM) & gains["model"].isin(ids.index)]
    won = won.assign(value=won["gain"], run_id=won["model"].map(ids["run_id"]))
    both = pd.concat([trained.assign(of="metric"), won.assign(of="gain")], ignore_index=True)
    both = both[both["primary"].astype(bool) & np.isfinite(both["value"].astype(float))]
    rows = []
    for key, own in both.fillna({"group": ""}).groupby([*KEY, "of", "model"], sort=False):
        run = runs.loc[own["run_id"].iloc[0]]
        kind, objective = own["kind"].iloc[0], run["objective"]
        rows.append({
            **dict(zip([*KEY, "of", "model"], key, strict=True)), "run_id": run["run_id"],
            "objective": kind if kind == objective else f"{objective} as {kind}",
            "value": float(own["value"].mean()), "se": spread(own["value"], own["se"]),
            "seeds": len(own), "n": own["n"].iloc[0],
            "higher_is_better": bool(own["higher_is_better"].iloc[0]),
            **{name: float(run[name]) for name in AGAINST},
        })  # fmt: skip
    columns = [*KEY, "of", "model", "run_id", "objective", "value", "se", "seeds", "n",
               "higher_is_better", *AGAINST]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def question(own: pd.DataFrame, against: str, replicates: int = 2000) -> Row:
    """Return what the points of one metric say of it against one of AGAINST."""
    own = own[np.isfinite(own[against])]
    x, y = own[against].to_numpy(float), own["value"].to_numpy(float)
    x = x if against == "loss" else np.log10(x)
    found = trends.trend(x, y, own["se"].to_numpy(float), replicates)
    verdict, why = _verdict(found, against, own)
    made = trends.law(x, y, replicates) if verdict in ("better", "worse") else None
    return {
        "against": against, "n": found.n, "rho": found.rho, "ci95": found.ci95, "p": found.p,
        "verdict": verdict, "why": why,
        "law": vars(made) if made else None,
        "higher_is_better": bool(own["higher_is_better"].iloc[0]) if len(own) else True,
    }  # fmt: skip


def _verdict(found: trends.Trend, against: str, own: pd.DataFrame) -> tuple[str, str]:
    if found.n < trends.MIN_MODELS:
        return "too few models", f"{found.n}; {trends.MIN_MODELS} are needed"
    if not math.isfinite(found.rho):
        flat = "metric" if own["value"].nunique() == 1 else against
        return "not resolved", f"all models have the same {flat}"
    if not found.resolved:
        spans = found.ci95 is None or found.ci95[0] <= 0 <= found.ci95[1]
        return "not resolved", "the interval spans zero" if spans else "chance orders as much"
    rises = found.rho > 0
    better = rises == bool(own["higher_is_better"].iloc[0])
    return ("better" if better != (against == "loss") else "worse"), ""


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read metrics, gains and failures of a folder of plmscale.downstream.collect, by name."""
    found = {}
    for name in ("metrics", "gains", "failures"):
        path = Path(folder) / f"{name}.csv"
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise PlmscaleError(f"{path}: cannot be read as a table ({error})") from None
        text = [c for c in _TEXT if c in table]
        table[text] = table[text].fillna("").astype(str)
        for column in (c for c in ("twin", "primary", "higher_is_better") if c in table):
            table[column] = table[column].map(lambda v: str(v) == "True").astype(bool)
        found[name] = table
    return found


_TEXT = ("model", "run_id", "kind", "origin", "task", "method", "split", "group", "metric",
         "definition", "against", "verdict", "status", "reason")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Write scaling.json; a mistake in the input is one line on stderr and exit code 2."""
    try:
        run(argv)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(argv: Sequence[str] | None = None) -> None:
    """Write scaling.json as the options `argv` say; PlmscaleError for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m plmscale.downstream.scaling")
    parser.add_argument("--tables", type=Path, required=True, help="folder of metrics.csv, ...")
    parser.add_argument("--runs", type=Path, required=True, help="runs table")
    parser.add_argument("--evaluation", type=Path, help="folder that holds predictions/")
    parser.add_argument("--options", type=json.loads, default={}, help="of each task, JSON")
    parser.add_argument("--flops-column", default="flops_6nd", help="what counts as compute")
    parser.add_argument("--out", type=Path, required=True, help="scaling.json")
    args = parser.parse_args(argv)
    tables = read_tables(args.tables)
    found = scaling(
        tables["metrics"], tables["gains"], read_runs(args.runs),
        out=args.evaluation, options=args.options, flops=args.flops_column,
    )  # fmt: skip
    write_json(args.out, found)


if __name__ == "__main__":
    sys.exit(main())
