"""Exports of one training run belong together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plmscale.architecture import Architecture
from plmscale.paper.evidence import CONTEXT, same_curve
from plmscale.paper.logs import Log

SAME_RUN = 0.9


@dataclass
class Run:
    """One training run and its exports: of validation losses and of training losses.

    `axis_n` is the N that its FLOPs axis was computed with, None without such an axis.
    `architecture` is None where N is known but no shape. Arrays are over the points of `source`,
    the best validation export. `stream` numbers the validation batches it shares with others
    (streams.py), 0 where that cannot be told. `stuck` says that its loss never fell. `size_why`
    and `rows_why` tell how size and batch were found.
    """

    valid: list[Log]
    train: list[Log] = field(default_factory=list)
    size: str = ""
    architecture: Architecture | None = None
    n_params: int = 0
    axis_n: float | None = None
    rows: int = 0
    size_why: str = ""
    rows_why: str = ""
    corpus: str = "unimeta"
    stream: int = 0
    stuck: bool = False
    source: Log | None = None
    run_id: str = ""
    budget: float | None = None
    budget_why: str = ""
    status: str = "done"
    tokens: np.ndarray = field(default_factory=lambda: np.empty(0))
    loss: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def logs(self) -> list[Log]:
        return [*self.valid, *self.train]

    @property
    def objective(self) -> str:
        return self.logs[0].claim.objective

    @property
    def tokens_a_step(self) -> int:
        return self.rows * CONTEXT

    @property
    def flops_6nd(self) -> float:
        return 6.0 * self.n_params * float(self.tokens[-1])

    def claims(self, name: str) -> list[Any]:
        """Return the distinct things that the exports' names say about `name`, in order."""
        said = [getattr(log.claim, name) for log in self.logs]
        return list(dict.fromkeys(value for value in said if value not in (None, "")))


def group(logs: Iterable[Log]) -> list[Run]:
    """Return one Run per distinct validation curve; training losses join the run they are of.

    Two exports are one run when 90 % of the shorter one's values stand in the other, in order.
    """
    usable = [log for log in logs if not log.problem]
    runs = [Run(members) for members in _twins([x for x in usable if x.split == "valid"])]
    for members in _twins([x for x in usable if x.split == "train"]):
        if (home := _home(members[0], runs)) is not None:
            home.train += members
        else:
            runs.append(Run([], members))
    return runs


def _twins(logs: list[Log]) -> list[list[Log]]:
    groups: list[list[Log]] = []
    for log in logs:
        mine = [g for g in groups if _alike(g, log)]
        groups = [g for g in groups if not any(g is m for m in mine)]
        groups.append([other for g in mine for other in g] + [log])
    return groups


def _alike(members: list[Log], log: Log) -> bool:
    return members[0].claim.objective == log.claim.objective and any(
        same_curve(other.loss, log.loss) > SAME_RUN for other in members
    )


def _home(log: Log, runs: list[Run]) -> Run | None:
    """Return the run of a training loss: the only one of its name, else of its whole plan."""
    claim = log.claim
    same = [run for run in runs if run.valid and run.objective == claim.objective]
    named = [run for run in same if claim.stem in run.claims("stem")]
    planned = [
        run
        for run in same
        if claim.parent is not None
        and claim.parent in run.claims("parent")
        and claim.budget in run.claims("budget")
    ]
    return next((found[0] for found in (named, planned) if len(found) == 1), None)
