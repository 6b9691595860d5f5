"""Tables of the downstream section: models beside random twins and baselines, trends, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from plmscale.downstream.base import RANDOM
from plmscale.downstream.collect import verdict
from plmscale.figures import downstreamview as view
from plmscale.figures.style import OBJECTIVE_NAME, interval_text, si
from plmscale.report.parts import Figure, Table

# Of each objective; all runs are in metrics.csv.
MOST_RUNS = 8
_WORDS = {
    "ks_length": "KS of length", "js_residues": "JS of residues", "js_dipeptides": "JS of dipeptides",
    "unterminated": "no end", "duplicates": "duplicates", "low_complexity": "low complexity",
    "copied": "copied", "nearest_identity": "identity to training",
    "nearest_held_out": "identity to held-out", "clusters_50": "clusters at 50 %",
    "nats_clm": "own nats a residue", "plddt": "pLDDT", "tm_to_pdb": "TM to known",
    "confident_and_novel": "confident and novel",
}  # fmt: skip
_LONG = 90


def number(value: Any) -> str:
    """Return three digits behind the point, or fewer for large numbers; "–" for unknown."""
    if value is None or not np.isfinite(float(value)):
        return "–"
    value = float(value)
    return f"{value:.3f}".replace("-", "−") if abs(value) < 10 else f"{value:.1f}"


def metric_words(row: Mapping[str, Any]) -> str:
    """Return group, metric and definition in one cell."""
    group = f"{row['group']}: " if row["group"] not in ("", "all") else ""
    words = _cut(str(row["definition"]))
    return f"{group}{row['metric'].replace('_', ' ')}" + (f" ({words})" if words else "")


def _cut(words: str) -> str:
    return words if len(words) <= _LONG else words[: _LONG - 1].rsplit(" ", 1)[0] + " …"


def chosen_models(metrics: pd.DataFrame) -> tuple[list[str], int]:
    """Return the models that tables show, trained ones alone, and how many runs they leave out."""
    own = metrics[~metrics["twin"] & (metrics["origin"] != "baseline")].drop_duplicates("model")
    mine = own["origin"] == "run"
    ordered = own[mine].sort_values(["kind", "loss", "model"])
    best = ordered.groupby("kind", sort=False).head(MOST_RUNS)
    return [*best["model"], *own.loc[~mine, "model"]], len(ordered) - len(best)


def task_table(
    title: str, metrics: pd.DataFrame, gains: pd.DataFrame, figure: Figure | None
) -> Table:
    """Return a table of a task: per measure, models with twin and gain, then baselines."""
    columns = (
        ("model", "nowrap"), ("as", "text"), ("use", "nowrap"), ("metric", "nowrap"),
        ("value (95 %)", "nowrap"), ("random", "number"), ("gain (95 %)", "nowrap"),
        ("training is", "nowrap"), ("over best baseline (95 %)", "nowrap"), ("N", "number"),
        ("leakage", "number"),
    )  # fmt: skip
    models, more = chosen_models(metrics)
    rows: list[list[str]] = []
    measures = view.measures(metrics)
    labels = view.labels(dict.fromkeys(replace(m, method="") for m in measures))
    for k, measure in enumerate(measures):
        label = labels[what := replace(measure, method="")]
        own = view.over_seeds(measure.of(metrics[~metrics["twin"]])).set_index("model")
        pairs = measure.of(gains).assign(value=lambda rows: rows["gain"])
        random = pairs["against"] == RANDOM
        won, ahead = (view.over_seeds(pairs[side]).set_index("model") for side in (random, ~random))
        twins = pairs[random].groupby("model")["other"].mean()
        for model in (name for name in models if name in own.index):
            row = own.loc[model]
            gain = won.loc[model] if model in won.index else None
            rows.append([
                model, OBJECTIVE_NAME.get(row["kind"], row["kind"]), measure.method, label,
                _with_ends(row), number(twins.get(model)),
                "–" if gain is None else _with_ends(gain),
                "no twin" if gain is None else _verdict(gain),
                _ahead(ahead.loc[model]) if model in ahead.index else "–",
                _size(row["n_params"]), _percent(row["leakage"]),
            ])  # fmt: skip
        # A baseline is the same whatever method stands above it, so it stands once.
        if not any(replace(later, method="") == what for later in measures[k + 1 :]):
            rows += _baselines(metrics, measure, label)
    notes = [_definitions(measures)] if measures else []
    if more:
        notes.append(
            f"The {MOST_RUNS} runs of lowest loss of each objective are shown; {more} more are in "
            "metrics.csv."
        )
    if not len(metrics[metrics["origin"] == "baseline"]):
        notes.append("No baseline was measured, so there is nothing trivial to compare with.")
    return Table(f"downstream-{metrics['task'].iloc[0]}", title, notes, columns, rows, figure)


def _definitions(measures: Sequence[view.Measure]) -> str:
    """Return what the metrics of a table are, each definition once."""
    words: dict[str, str] = {}
    for measure in measures:
        # What follows is of the corpus or of the group, and would repeat the rest for each of them.
        text = measure.definition.split(";")[0]
        words.setdefault(f"{measure.metric.replace('_', ' ')}: {text}", "")
    return "; ".join(words) + "."


def _baselines(metrics: pd.DataFrame, measure: view.Measure, label: str) -> list[list[str]]:
    return [
        [row["name"], "baseline", "", label, _with_ends(row), "–", "–", "", "–", "–", "–"]
        for row in view.baselines(metrics, measure).to_dict("records")
    ]


def _verdict(gain: Mapping[str, Any]) -> str:
    return verdict({**gain, "ci95_low": gain["low"], "ci95_high": gain["high"]})


def _ahead(gain: Mapping[str, Any]) -> str:
    """Say by how much a model is ahead of the strongest baseline, and whether that is resolved."""
    return f"{_with_ends(gain)}, {_verdict(gain)}"


def _ends(row: Mapping[str, Any]) -> str:
    low, high = row["low"], row["high"]
    known = low is not None and high is not None and np.isfinite(low) and np.isfinite(high)
    return interval_text((low, high), 3) if known else "–"


def _with_ends(row: Mapping[str, Any]) -> str:
    ends = _ends(row)
    return number(row["value"]) + ("" if ends == "–" else f" ({ends})")


def _size(value: Any) -> str:
    return "–" if value is None or not np.isfinite(value) else si(value)


def _percent(value: Any) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{100 * value:.1f} %"


def generation_table(
    title: str, metrics: pd.DataFrame, gains: pd.DataFrame, figure: Figure | None
) -> Table:
    """Return generated sets and controls as rows, and metrics as columns."""
    models, more = chosen_models(metrics)
    own = metrics[metrics["model"].isin(models) & np.isfinite(metrics["value"])]
    shown = [name for name in _WORDS if name in set(own["metric"])]
    rows = []
    made, control = (own[own["split"] == split] for split in ("generated", "control"))
    for (model, twin, group), part in made.groupby(["model", "twin", "group"], sort=False):
        rows.append([f"{model}, random" if twin else model, group, *_cells(part, shown)])
    # Every model's predictions hold the controls; those of the first stand for all.
    first = control[(control["model"] == next(iter(control["model"]), "")) & ~control["twin"]]
    for group, part in first.groupby("group", sort=False):
        rows.append([f"{group} proteins", "", *_cells(part, shown)])
    notes = [
        "Every number means something only beside the controls in the last rows: natural held-out "
        "proteins, the same with their residues shuffled, and residues drawn by frequency."
    ]
    if more:
        notes.append(f"{more} more runs are in metrics.csv.")
    columns = (("model", "nowrap"), ("setting", "nowrap"), *((_WORDS[n], "nowrap") for n in shown))
    return Table("downstream-generation", title, notes, columns, rows, figure)


def _cells(part: pd.DataFrame, shown: list[str]) -> list[str]:
    cells = []
    for name in shown:
        rows = part[part["metric"] == name]
        if rows.empty:
            cells.append("–")
            continue
        cells.append(_with_ends(view.over_seeds(rows).iloc[0]))
    return cells


def trend_table(scaling: Mapping[str, Any]) -> Table:
    """Return correlations of each task's leading metrics with loss, size and compute."""
    trends = scaling["trends"]
    by_key: dict[tuple, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in trends:
        key = (view.Measure(*(row[name] for name in view.KEY)), row["objective"])
        by_key.setdefault(key, {})[row["of"], row["against"]] = row
    leading = set(view.leading(dict.fromkeys(measure for measure, _ in by_key)))
    order = {name: k for k, name in enumerate(view.TASKS)}
    labels = view.labels(dict.fromkeys(replace(measure, method="") for measure in leading))
    keys = sorted(
        (key for key in by_key if key[0] in leading),
        key=lambda key: (order[key[0].task], key[0].method, key[1]),
    )
    rows = []
    for measure, objective in keys:
        found = by_key[measure, objective]
        law = (found.get(("metric", "loss")) or {}).get("law")
        rows.append([
            f"{view.TASKS[measure.task]}, {measure.method}", labels[replace(measure, method="")],
            OBJECTIVE_NAME.get(objective, objective),
            str(max(row["n"] for row in found.values())),
            *(_rho(found.get(which)) for which in (
                ("gain", "loss"), ("metric", "loss"), ("metric", "n_params"), ("metric", "compute"))),
            f"{law['shape']}, skill {law['skill']:.2f}" if law else "–",
        ])  # fmt: skip
    columns = (
        ("task", "nowrap"), ("metric", "nowrap"), ("runs", "text"), ("n", "number"), ("gain and loss", "nowrap"), ("metric and loss", "nowrap"), ("metric and N", "nowrap"),
        ("metric and C", "nowrap"), ("law in loss", "nowrap"),
    )  # fmt: skip
    notes = [
        "Spearman's correlation over runs, with 95 % intervals that hold the choice of runs and the "
        "noise of test sets. The gain is over random weights: a metric may rise with size alone, "
        "because a wider random network has more features. A law is given where it foretells runs "
        "left out of its fit better than a constant; skill is the share of squared error it saves. "
        f"{len(by_key)} measures in all are in scaling.json.",
    ]
    return Table(
        "downstream-trends", "Metrics against loss, size and compute", notes, columns, rows
    )


def _rho(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    if row["verdict"] == "too few models":
        return "too few runs"
    if row["rho"] is None:
        return "not resolved"
    rho = f"{row['rho']:.2f}".replace("-", "−")
    if row["verdict"] == "not resolved":
        return f"{rho}, not resolved"
    return f"{rho} ({interval_text(tuple(row['ci95']))})"


def not_run(metrics: pd.DataFrame, failures: pd.DataFrame) -> pd.DataFrame:
    """Return failures and, as rows of status `not run`, what metrics say could not be done here."""
    rows = metrics[metrics["definition"].str.startswith("not run: ")]
    told = pd.DataFrame({
        "task": rows["task"], "model": rows["model"], "method": rows["metric"],
        "status": "not run", "reason": rows["definition"].str.removeprefix("not run: "),
    })  # fmt: skip
    told = told[~rows["twin"].astype(bool).to_numpy()]
    return pd.concat([failures, told], ignore_index=True) if len(told) else failures


def failure_table(failures: pd.DataFrame) -> Table:
    """Return what failed or was not run, equal reasons in one row."""
    columns = (
        ("task", "text"), ("what", "text"), ("models", "text"), ("status", "nowrap"),
        ("why", "remark"),
    )  # fmt: skip
    rows = []
    for (task, status, reason), own in failures.fillna("").groupby(
        ["task", "status", "reason"], sort=False
    ):
        models = list(dict.fromkeys(filter(None, own["model"])))
        named = ", ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
        what = ", ".join(
            dict.fromkeys(str(name).replace("_", " ") for name in own["method"] if name)
        )
        rows.append([view.TASKS.get(task, task), what, named, status, str(reason)])
    return Table("downstream-failures", "What failed or was not run", [], columns, rows)
