"""Transfer against training from scratch at equal compute, on downstream metrics.

The pairs are those of the comparison of losses (plmscale.laws.findings): the parent's compute
counts, and the partner has the same objective, size and corpus and a total within 5 %. Differences
are paired by example, from the predictions of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plmscale.downstream import tasks
from plmscale.downstream.base import Metric, Predictions
from plmscale.errors import PlmscaleError
from plmscale.laws import findings

Row = dict[str, Any]
KEY = ["task", "method", "split", "group", "metric", "definition"]
Z95 = 1.959963984540054
_BASIS = "paired by example; a rerun of the training with another seed is not in the interval"


def compare(
    metrics: pd.DataFrame,
    runs: pd.DataFrame,
    out: Path | None,
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[list[Row], list[str]]:
    """Return the comparisons of primary metrics, and lines on what could not be compared.

    metrics: of trained runs (`run_id` known). out: folder that holds `predictions`; None where these
    are not at hand, and then only values and no intervals are known.
    """
    pairs, notes = findings.transfer(runs)
    names = {run_id: set(own["model"]) for run_id, own in metrics.groupby("run_id")}
    rows: list[Row] = []
    for pair in pairs:
        child, scratch = pair["runs"]
        if lacking := [run_id for run_id in (child, scratch) if run_id not in names]:
            notes.append(f"{child} against {scratch}: {', '.join(lacking)} was not evaluated")
            continue
        about = {
            "transferred": child, "scratch": scratch, "parent": pair["parent"],
            "objective": pair["objective"], "from": pair["from"], "n_params": pair["n_params"],
            "total_flops": pair["total_flops"], "share": pair["pretraining_share"],
        }  # fmt: skip
        made, failed = _pair(metrics, child, scratch, out, options)
        rows += [{**about, **row} for row in made]
        notes += failed
    return rows, notes


def _pair(
    metrics: pd.DataFrame,
    child: str,
    scratch: str,
    out: Path | None,
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[list[Row], list[str]]:
    shown = metrics[metrics["primary"]]
    sides = [shown[shown["run_id"] == run_id] for run_id in (child, scratch)]
    # A run of both objectives is two models; each is compared with its like.
    both = sides[0].merge(
        sides[1], on=[*KEY, "seed", "kind"], suffixes=("", "_scratch"), validate="1:1"
    )
    found: list[Row] = []
    notes: list[str] = []
    for (task, method), rows in both.groupby(["task", "method"], sort=False):
        paired: dict[tuple, Metric] = {}
        for seed, own in rows.groupby("seed"):
            try:
                made = _differences(own.iloc[0], out, options.get(task, {}))
            except (PlmscaleError, ValueError, KeyError) as error:
                notes.append(f"{child} against {scratch}, {task}, {method}: {error}")
                continue
            paired |= {(m.split, m.group, m.metric, m.definition, seed): m for m in made}
        for key, same in rows.groupby(["split", "group", "metric", "definition"], sort=False):
            found.append(_row(task, method, key, same, paired))
    return found, notes


def _differences(row: pd.Series, out: Path | None, options: Mapping[str, Any]) -> list[Metric]:
    task = tasks.task(row["task"])
    difference: Callable[..., Iterable[Metric]] | None = task.differences
    if out is None or difference is None:
        return []
    paths = [
        out / "predictions" / row["task"] / model / f"{row['method']}-s{row['seed']}.parquet"
        for model in (row["model"], row["model_scratch"])
    ]
    own = task.options.model_validate(dict(options))
    return list(difference(*map(Predictions.read, paths), own))


def _row(
    task: str, method: str, key: tuple, same: pd.DataFrame, paired: Mapping[tuple, Metric]
) -> Row:
    """Return the mean over seeds of what is fitted on the two models, with its interval."""
    made = [paired[(*key, seed)] for seed in same["seed"] if (*key, seed) in paired]
    value = float((same["value"] - same["value_scratch"]).mean())
    ci95 = interval([m.value for m in made], [m.se for m in made], [m.ci95 for m in made])
    higher = bool(same["higher_is_better"].iloc[0])
    if ci95 is None or ci95[0] <= 0 <= ci95[1]:
        verdict = "not resolved"
    else:
        verdict = "better" if (ci95[0] > 0) == higher else "worse"
    return {
        "task": task, "method": method,
        **dict(zip(("split", "group", "metric", "definition"), key, strict=True)),
        "value": float(same["value"].mean()), "value_scratch": float(same["value_scratch"].mean()),
        "difference": value, "ci95": ci95, "seeds": len(same), "higher_is_better": higher,
        "basis": _BASIS if ci95 else "no interval is known", "verdict": verdict,
    }  # fmt: skip


def spread(values: Iterable[float], errors: Iterable[float | None]) -> float:
    """Return the standard error of a mean over seeds: of the test set, and of the seeds; else NaN.

    All seeds have the same test examples, so the error that these give does not become less by
    taking the mean. It is NaN where no error of a test set is known.
    """
    values = np.asarray(list(values), float)
    known = np.array([math.nan if e is None else e for e in errors], float)
    if not np.isfinite(known).any():
        return math.nan
    of_seeds = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(math.hypot(np.nanmean(known), of_seeds))


def interval(
    values: list[float], errors: list[float | None], ends: list[tuple[float, float] | None]
) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean over seeds: a single seed's own, else mean ± 1.96 s.e."""
    if len(values) == 1:
        return ends[0]
    error = spread(values, errors) if values else math.nan
    if not math.isfinite(error):
        return None
    middle = float(np.mean(values))
    return middle - Z95 * error, middle + Z95 * error
