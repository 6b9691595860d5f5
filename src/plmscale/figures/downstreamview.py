"""What figures and report show of the downstream tables: means over seeds, twins, baselines, words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from plmscale.downstream.transfers import KEY, spread
from plmscale.figures.style import interval_text

MEASURE = ["task", "split", "group", "metric", "definition"]
"""What a number is of, whatever method made it: a baseline has the same."""

TASKS = {
    "fold": "Fold classification",
    "contacts": "Contact prediction",
    "fluorescence": "Fluorescence",
    "secondary_structure": "Secondary structure",
    "fitness": "Zero-shot fitness",
    "generation": "Generation",
    "perplexity": "Perplexity",
}
"""Titles in the order of the report. Perplexity comes last: it is held-out loss under another name."""

# The part that stands for a task where only one can be shown.
_WHOLE = ("", "all", "average", "merged")
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Measure:
    """One number of models in one use: task, method, split, group, metric, definition."""

    task: str
    method: str
    split: str
    group: str
    metric: str
    definition: str

    @property
    def title(self) -> str:
        where = f", {self.group}" if self.group not in _WHOLE else ""
        return f"{TASKS.get(self.task, self.task)}{where}: {self.method}"

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of this measure and method."""
        return self.same(table)[lambda rows: rows["method"] == self.method]

    def same(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of this measure by any method."""
        chosen = np.ones(len(table), bool)
        for name in MEASURE:
            chosen &= (table[name] == getattr(self, name)).to_numpy()
        return table[chosen]


def measures(table: pd.DataFrame, primary: bool = True) -> list[Measure]:
    """Return what the models of a table were measured in, in the order of TASKS."""
    rows = table[table["origin"] != "baseline"]
    rows = rows[rows["primary"]] if primary else rows
    found = [Measure(*key) for key in rows[KEY].drop_duplicates().itertuples(index=False)]
    order = {name: k for k, name in enumerate(TASKS)}
    return sorted(found, key=lambda m: order.get(m.task, len(order)))


def leading(found: Iterable[Measure]) -> list[Measure]:
    """Return one measure of each task, method and metric's kind: that of the whole test set."""
    chosen: dict[tuple[str, ...], Measure] = {}
    for measure in found:
        # A CLM's and an MLM's perplexity are two metrics; P@L/5 under three separations is one.
        key = (measure.task, measure.method, measure.metric)
        before = chosen.get(key)
        if before is None or _rank(measure) < _rank(before):
            chosen[key] = measure
    return list(chosen.values())


def _rank(measure: Measure) -> int:
    return _WHOLE.index(measure.group) if measure.group in _WHOLE else len(_WHOLE)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row a model: value, low, high (of 95 %), and what else its first row has.

    Of one seed the interval is its own; of several it is that of their mean.
    """
    found = []
    for _, own in rows.groupby("model", sort=False):
        first = own.iloc[0].to_dict()
        if len(own) > 1:
            value, se = own["value"].mean(), spread(own["value"], own["se"])
            first |= {"value": value, "ci95_low": value - Z95 * se, "ci95_high": value + Z95 * se}
        found.append(first | {"seeds": len(own)})
    columns = [*rows.columns, "seeds"]
    table = pd.DataFrame(found, columns=columns)
    return table.rename(columns={"ci95_low": "low", "ci95_high": "high"})


def baselines(table: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return a row a baseline, best first: name, value, low, high."""
    rows = table[(table["origin"] == "baseline") & np.isfinite(table["value"])]
    rows = over_seeds(
        _unigram(rows, measure) if measure.task == "perplexity" else measure.same(rows)
    )
    rows["name"] = rows["model"].str.removeprefix("baseline:").str.replace("-", " ")
    if rows.empty:
        return rows
    return rows.sort_values("value", ascending=not rows["higher_is_better"].iloc[0])


def _unigram(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return the perplexities that a CLM's or MLM's stands beside: their names end differently."""
    same = (rows["task"] == measure.task) & (rows["split"] == measure.split)
    same &= (rows["group"] == measure.group) & rows["primary"]
    return rows[same & rows["metric"].str.startswith("perplexity_")]


def labels(found: Iterable[Measure]) -> dict[Measure, str]:
    """Return a short name of each measure: metric and group, and what else tells it from others."""
    found = list(found)
    short = {measure: _short(measure) for measure in found}
    result = {}
    for measure, name in short.items():
        like = [other for other in found if short[other] == name]
        if len({other.split for other in like}) > 1:
            name = f"{name}, {measure.split}"
        words = {other.definition for other in like}
        if len(words) > 1:
            clauses = [set(_clauses(text)) for text in words]
            own = [c for c in _clauses(measure.definition) if not all(c in s for s in clauses)]
            name = ", ".join([name, *own[:1]])
        result[measure] = name
    return result


def _short(measure: Measure) -> str:
    group = f", {measure.group}" if measure.group not in ("", "all") else ""
    return f"{measure.metric.replace('_', ' ')}{group}"


def _clauses(text: str) -> list[str]:
    return [clause.strip() for clause in text.replace(";", ",").split(",")]


def trend_text(row: dict[str, Any] | None) -> str:
    """Return "ρ = −0.94 (−0.99 to −0.82), 10 models", or why there is none."""
    if row is None:
        return "no trend"
    models = f"{row['n']} model{'' if row['n'] == 1 else 's'}"
    if row["verdict"] == "too few models":
        return f"{models}: too few for a trend"
    if row["rho"] is None:
        return f"no trend: {row['why']}"
    rho = f"{row['rho']:.2f}".replace("-", "−")
    ends = interval_text(tuple(row["ci95"]) if row["ci95"] else None)
    told = "" if row["verdict"] in ("better", "worse") else ", not resolved"
    return f"ρ = {rho} ({ends}), {models}{told}"


def spread_models(rows: pd.DataFrame, most: int = 5) -> pd.DataFrame:
    """Return a row for each model that a figure shows: of each objective the run of lowest loss at
    each size, no more than `most` sizes, spread from the smallest to the largest."""
    own = rows[~rows["twin"] & (rows["origin"] != "baseline")].drop_duplicates("model")
    own = own.sort_values(["kind", "n_params", "loss"]).drop_duplicates(["kind", "n_params"])
    parts = []
    for _, part in own.groupby("kind", sort=False):
        chosen = np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).round().astype(int))
        parts.append(part.iloc[chosen])
    return pd.concat(parts) if parts else own
