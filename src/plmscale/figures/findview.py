"""Reading findings.json: paired differences between runs of the two side studies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from plmscale.figures.lawview import number
from plmscale.figures.style import interval_text


@dataclass(frozen=True)
class Difference:
    """Loss of `run` less loss of `baseline`, in nats per token, with its 95 % interval.

    `corpora` and `epochs` are those of run and baseline (repetition); `source` is the objective
    trained first and `share` its part of the total compute (transfer).
    """

    run: str
    baseline: str
    objective: str
    n_params: float | None
    delta: float
    interval: tuple[float, float] | None
    corpora: tuple[str, ...] = ()
    epochs: tuple[float | None, ...] = ()
    source: str = ""
    share: float | None = None
    basis: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def differences(findings: dict[str, Any], kind: str) -> list[Difference]:
    """Return the differences of "repetition" or "transfer", in the order they were written."""
    found = []
    for item in findings.get(kind) or []:
        delta = number(item.get("difference"))
        run, baseline = (*item.get("runs", ()), "", "")[:2]
        if delta is None:
            continue
        found.append(
            Difference(
                run=str(run),
                baseline=str(baseline),
                objective=str(item.get("objective", "")),
                n_params=number(item.get("n_params")),
                delta=delta,
                interval=_interval(item.get("ci95")),
                corpora=tuple(map(str, item.get("corpora") or ())),
                epochs=tuple(number(value) for value in item.get("epochs") or ()),
                source=str(item.get("from") or ""),
                share=number(item.get("pretraining_share")),
                basis=str(item.get("basis") or ""),
            )
        )
    return found


def _interval(pair: Any) -> tuple[float, float] | None:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    low, high = number(pair[0]), number(pair[1])
    # Without a standard error both ends are unknown: that is no interval at all.
    if low is None and high is None:
        return None
    return (-math.inf if low is None else low, math.inf if high is None else high)


def between(findings: dict[str, Any], run: str, baseline: str) -> Difference | None:
    """Return the difference of exactly these two runs, or None."""
    for kind in ("repetition", "transfer"):
        for item in differences(findings, kind):
            if (item.run, item.baseline) == (run, baseline):
                return item
    return None


def lines(found: Iterable[Difference | None]) -> list[str]:
    """Return the paired differences as notes for a panel, with their intervals.

    The standard error of each loss, which the runs share because they share the validation rows,
    would hide the difference.
    """
    texts = []
    for item in found:
        if item is not None:
            texts.append(f"at the end: {item.delta:+.3f} nats per token".replace("-", "−"))
            texts.append(f"95 %: {interval_text(item.interval, 3)}")
    return texts
