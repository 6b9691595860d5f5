"""Metrics of one model, and differences of two, from the same few lines a task writes.

A task says for each number which rows it is made of and by which statistic (`Case`); intervals and
pairing are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plmscale.downstream.base import Metric
from plmscale.downstream.statistics import Statistic, bootstrap, paired_difference
from plmscale.errors import PlmscaleError


@dataclass(frozen=True)
class Case:
    """One number of a metrics table before it is computed.

    ids: name of each row, a row being what the bootstrap draws (a protein). values: arguments of
    `statistic`, each with one entry a row. n: examples it is made of. Other fields as in Metric.
    """

    split: str
    group: str
    metric: str
    definition: str
    statistic: Statistic
    ids: Sequence[str]
    values: tuple[np.ndarray, ...]
    n: int
    primary: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.split, self.group, self.metric, self.definition


def metrics(cases: Iterable[Case], replicates: int) -> list[Metric]:
    """Return the metrics; a case without rows is left out, an undefined one is NaN."""
    result = []
    for case in cases:
        if case.n:
            value = case.statistic(*case.values)
            spread = bootstrap(*case.values, statistic=case.statistic, replicates=replicates)
            result.append(_metric(case, value, *spread))
    return result


def differences(
    first: Iterable[Case], second: Iterable[Case], replicates: int, common: bool = False
) -> list[Metric]:
    """Return first minus second of every metric, with paired intervals.

    common: metrics that only one of the two has are left out, instead of an error.
    Raises PlmscaleError unless both are of the same examples: else a difference would be one of
    their test sets.
    """
    result = []
    others = {case.key: case for case in second if case.n}
    for case in first:
        if not case.n:
            continue
        other = others.pop(case.key, None)
        if other is None and common:
            continue
        if other is None or list(case.ids) != list(other.ids) or case.n != other.n:
            _unlike(case)
        made = paired_difference(
            case.values, other.values, statistic=case.statistic, replicates=replicates
        )
        result.append(_metric(case, made.value, made.se, made.ci95))
    for case in others.values() if not common else ():
        _unlike(case)
    return result


def _unlike(case: Case) -> None:
    where = " ".join(filter(None, (case.split, case.group)))
    raise PlmscaleError(
        f"{case.metric} ({where}): the two predictions are of other examples; make both from the "
        "same data, with the same max_test"
    )


def _metric(case: Case, value: float, se: float | None, ci95: tuple[float, float] | None) -> Metric:
    undefined = np.isnan(value)
    return Metric(
        split=case.split,
        group=case.group,
        metric=case.metric,
        definition=case.definition,
        value=value,
        n=case.n,
        se=None if undefined else se,
        ci95=None if undefined else ci95,
        primary=case.primary,
    )
