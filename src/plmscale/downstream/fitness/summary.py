"""From rows of variants to ProteinGym's table: each assay, each selection type, their average."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from plmscale.downstream.base import Metric, Predictions
from plmscale.downstream.fitness import metrics as of
from plmscale.downstream.fitness.average import TYPES, Assay, Mean, averages
from plmscale.downstream.statistics import paired_difference, spearman
from plmscale.errors import PlmscaleError

# Why a whole assay has no scores: its data, whatever the model; or this model.
UNFIT, FAILED = "assay does not fit", "assay failed"
COLUMNS = ("id", "split", "group", "target", "prediction", "skipped", "mutations", "label", "protein",
           "selection")  # fmt: skip
METRICS = ("spearman", "auc", "mcc", "ndcg", "recall_top10")
_MEANING = {
    "spearman": "Spearman's rank correlation",
    "auc": "area under the ROC curve of DMS_score_bin",
    "mcc": "Matthews correlation of DMS_score_bin with scores above their median",
    "ndcg": "NDCG of the first 10 %, gains scaled to 0..1, ties shared",
    "recall_top10": "share of the best 10 % among the best 10 % scored",
}
# With so few assays each is shown, too.
FEW = 5
# Groups by number of mutations, as ProteinGym has them.
_DEEPEST = 5


@dataclass(frozen=True)
class _Numbers:
    """One assay's numbers by metric."""

    assay: str
    protein: str
    selection: str
    split: str
    n: int
    values: dict[str, float]


def metrics(predictions: Predictions, how: str, replicates: int) -> Iterator[Metric]:
    """Yield the metrics of each assay; by selection type, average and plain mean over assays; and
    Spearman by number of mutations, where there are variants with several.

    `how` says what of the scoring is not the default. A constant predictor, and an assay that the
    model could not score, have no number, and neither have the averages over them; their count is a
    metric, `undefined_assays`. An assay whose data do not fit is in none.
    """
    rows = _rows(predictions)
    numbers = _by_assay(rows)
    for assay in numbers:
        yield from _of_assay(assay, how, len(numbers) <= FEW)
    for name in METRICS:
        yield from _averages(numbers, name, how, replicates, "")
    for depth, part in _by_depth(rows):
        yield from _averages(_by_assay(part), "spearman", how, replicates, depth)


def differences(
    first: Predictions, second: Predictions, how: str, replicates: int
) -> Iterator[Metric]:
    """Yield first minus second for every average of `metrics`, and for Spearman of each assay.

    Intervals of averages draw proteins, those of an assay draw variants, the same ones for both.
    PlmscaleError unless both are of the same variants.
    """
    rows, others = _rows(first), _rows(second)
    if rows[["group", "id"]].to_numpy().tolist() != others[["group", "id"]].to_numpy().tolist():
        raise PlmscaleError(
            "fitness: the two predictions are of other variants; make both with the same data and "
            "the same option variants"
        )
    numbers, minus = _by_assay(rows), _by_assay(others)
    groups = zip(
        numbers, minus, rows.groupby("group", sort=False), others.groupby("group", sort=False)
    )
    for one, two, (_, mine), (_, theirs) in groups:
        yield _difference(one, two, mine, theirs, how, len(numbers) <= FEW)
    for one, two in zip(numbers, minus):
        for name in METRICS:
            one.values[name] -= two.values[name]
    for name in METRICS:
        yield from _averages(numbers, name, how, replicates, "")


def _difference(
    one: _Numbers, two: _Numbers, mine: pd.DataFrame, theirs: pd.DataFrame, how: str, primary: bool
) -> Metric:
    """Return the difference of Spearman's correlation on one assay."""
    value = one.values["spearman"] - two.values["spearman"]
    se, ci95 = None, None
    if np.isfinite(value):
        made = paired_difference(
            [mine["target"], mine["prediction"]],
            [theirs["target"], theirs["prediction"]],
            statistic=spearman,
            # The largest assays have half a million variants, and need fewer draws.
            replicates=max(100, min(1000, 5_000_000 // one.n)),
        )
        se, ci95 = made.se, made.ci95
    return Metric(
        split=one.split,
        group=one.assay,
        metric="spearman",
        definition=_words(_MEANING["spearman"], how),
        value=value,
        n=one.n,
        se=se,
        ci95=ci95,
        primary=primary,
    )


def _rows(predictions: Predictions) -> pd.DataFrame:
    """Return the rows that count: scored, or of an assay that the model could not score."""
    missing = [name for name in COLUMNS if name not in predictions.table.column_names]
    if missing:
        raise PlmscaleError(
            f"fitness: the predictions lack the column {missing[0]}; make them again"
        )
    rows = predictions.table.select(COLUMNS).to_pandas()
    return rows[rows["skipped"].isin(["", FAILED])]


def _by_assay(rows: pd.DataFrame) -> list[_Numbers]:
    return [_numbers(str(name), part) for name, part in rows.groupby("group", sort=False)]


def _words(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _by_depth(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (group, rows) by number of mutations; assays that are left with too few are not there."""
    depth = rows["mutations"].clip(upper=_DEEPEST)
    if not (depth > 1).any():
        return
    for number in range(1, _DEEPEST + 1):
        part = rows[(depth == number) & (rows["skipped"] == "")]
        part = part[part.groupby("group")["group"].transform("size") >= 10]
        if len(part):
            yield f"mutations:{number}{'+' if number == _DEEPEST else ''}", part


def _numbers(assay: str, rows: pd.DataFrame) -> _Numbers:
    first = rows.iloc[0]
    about = (assay, first["protein"], first["selection"], first["split"], len(rows))
    if (rows["skipped"] == FAILED).any():
        return _Numbers(*about, dict.fromkeys(METRICS, np.nan))
    target, prediction = rows["target"].to_numpy(float), rows["prediction"].to_numpy(float)
    label = rows["label"].to_numpy(float)
    labelled = not np.isnan(label).any()
    return _Numbers(
        *about,
        {
            "spearman": spearman(target, prediction),
            "auc": of.auc(label, prediction) if labelled else np.nan,
            "mcc": of.mcc(label, prediction) if labelled else np.nan,
            "ndcg": of.ndcg(target, prediction),
            "recall_top10": of.top_recall(target, prediction),
        },
    )


def _of_assay(assay: _Numbers, how: str, few: bool) -> Iterator[Metric]:
    for name, value in assay.values.items():
        interval = of.spearman_interval(value, assay.n) if name == "spearman" else None
        yield Metric(
            split=assay.split,
            group=assay.assay,
            metric=name,
            definition=_words(_MEANING[name], how),
            primary=few and name == "spearman",
            value=value,
            n=assay.n,
            se=interval[0] if interval else None,
            ci95=interval[1] if interval else None,
        )


def _averages(
    numbers: list[_Numbers], name: str, how: str, replicates: int, depth: str
) -> Iterator[Metric]:
    """Yield the averages; `depth` names the part of the variants, empty for all of them."""
    if not numbers:
        return
    items = [Assay(n.assay, n.protein, n.selection, n.values[name]) for n in numbers]

    def row(group: str, mean: Mean, words: str) -> Metric:
        return Metric(
            split=numbers[0].split,
            group="/".join(filter(None, (group, depth))),
            metric=name,
            definition=_words(_MEANING[name], words, how),
            value=mean.value,
            n=mean.assays,
            se=mean.se,
            ci95=mean.ci95,
            primary=name == "spearman" and not depth and group != "assays",
        )

    for group, mean in averages(items, replicates=replicates).items():
        if group == "average":
            known = [kind for kind in mean.types if kind in TYPES]
            over = f"over {len(known)} of {len(TYPES)} selection types"
            yield row(group, mean, f"mean by protein, by selection type, then {over}")
        else:
            yield row(group, mean, "mean by protein, then over the selection type")
    values = [item.value for item in items]
    plain = Mean(float(np.mean(values)), len(items), len(items), None, None, ())
    yield row("assays", plain, "plain mean over assays")
    undefined = sum(not np.isfinite(value) for value in values)
    if undefined and name == "spearman":
        yield Metric(
            split=numbers[0].split,
            group="/".join(filter(None, ("assays", depth))),
            metric="undefined_assays",
            definition=_words("assays without a Spearman correlation", how),
            value=float(undefined),
            n=len(values),
            higher_is_better=False,
        )
