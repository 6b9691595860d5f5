"""Which model, batch and corpus a run had, by its axes first and by its labels second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.paper.evidence import (
    BATCH_ROWS,
    CONTEXT,
    EXACT,
    STEPS_PER_VALIDATION,
    n_of_slope,
    shape_of_size,
    sizes_of_slope,
    step_unit,
)
from plmscale.paper.group import Run
from plmscale.paper.logs import Log
from plmscale.paper.names import TOKENS_PER_NAMED_EPOCH, label_size

# A budget in a name is met to this by the model that was meant.
BUDGET_MET = 0.03
_NEAR_LABEL = 0.15


def default_rows(n_params: float) -> int:
    """Return the rows of a batch in the paper's recipe: 512 below 1 B parameters, else 1024."""
    return 512 if n_params < 1e9 else 1024


class Labels:
    """What size labels mean: the table's names, else what the slopes of files so named say."""

    def __init__(self, logs: Iterable[Log]) -> None:
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for log in logs:
            if log.problem or log.axis != "flops" or log.split != "valid":
                continue
            sizes = [s for s in sizes_of_slope(log.grid.unit) if abs(s.off) < EXACT]
            if sizes and log.claim.file_label:
                seen[log.claim.file_label][sizes[0].architecture.name] += 1
        self.seen = {label: names.most_common(1)[0][0] for label, names in seen.items()}

    def knows(self, label: str) -> bool:
        """Say whether a label is a name, and not only near one."""
        return label in PAPER_SIZES or label in self.seen

    def architecture(self, label: str) -> Architecture | None:
        """Return the model a label names, None for one far from every known size."""
        if label in PAPER_SIZES:
            return PAPER_SIZES[label]
        if label in self.seen:
            return PAPER_SIZES[self.seen[label]]
        if not label:
            return None
        n = label_size(label)
        near = min(PAPER_SIZES.values(), key=lambda a: abs(np.log(a.n_params / n)))
        return near if abs(np.log(near.n_params / n)) < 0.1 else None


def settle_size(run: Run, labels: Labels) -> None:
    """Decide `size`, `n_params`, `architecture`, `rows` and `axis_n`; N stays 0 if nothing tells.

    The FLOPs of a validation interval give N x rows; a tokens axis of the same curve gives the
    rows, else the table's exact N do. Where slope and label name two models, a budget in the name
    decides: the model whose 6 N D meets it ran (`_test_label`). Without such, the slope counts.
    """
    named = [labels.architecture(label) for label in run.claims("label")]
    named = list({a.name: a for a in named if a is not None}.values())
    units = _flops_units(run)
    rows = _rows_of_tokens(run)
    if not units:
        if named:
            _take(run, named[0], rows or default_rows(named[0].n_params), None)
            run.size_why = "by its label: no export has a FLOPs axis"
            run.rows_why = "by the tokens of an interval" if rows else "as the recipe has it"
        return
    unit = units[0]
    sizes = [s for s in sizes_of_slope(unit) if rows in (None, s.rows)]
    exact = [s for s in sizes if abs(s.off) < EXACT]
    exact.sort(key=lambda s: s.architecture not in named)
    run.rows_why = "by its FLOPs over its tokens" if rows else "by the exact N"
    if exact:
        _take(run, exact[0].architecture, exact[0].rows, unit)
        run.size_why = f"N to {abs(exact[0].off):.0e} by the slope"
    elif shaped := _shaped(unit, rows, named):
        _take(run, *shaped, unit)
        run.size_why = "N exact for this shape by the slope"
    elif sizes:
        best = next((s for s in sizes if s.architecture in named), sizes[0])
        _take(run, best.architecture, best.rows, unit)
        run.size_why = f"the slope gives N = {run.axis_n:,.0f}, {best.off:+.2%} of the table's"
    else:
        _unlisted(run, unit, rows, named, labels)
        return
    _test_label(run, unit, named)


def _flops_units(run: Run) -> list[float]:
    """Return the GFLOPs of 300 steps on each FLOPs axis: validation first, the longest first."""
    longest = sorted(run.valid, key=lambda log: -len(log.x))
    units = [log.grid.unit for log in longest if log.axis == "flops"]
    single = [step_unit(log.x) for log in run.train if log.axis == "flops"]
    return units + [STEPS_PER_VALIDATION * unit for unit in single if unit]


def _take(run: Run, architecture: Architecture, rows: int, unit: float | None) -> None:
    run.architecture, run.rows = architecture, rows
    run.size, run.n_params = architecture.name, architecture.n_params
    run.axis_n = None if unit is None else n_of_slope(unit, rows)


def _rows_of_tokens(run: Run) -> int | None:
    """Return the rows of a batch that a tokens or samples axis tells, whole numbers only."""
    for log in run.valid:
        size = {"tokens": CONTEXT, "samples": 1}.get(log.axis)
        if size:
            rows = log.grid.unit / (STEPS_PER_VALIDATION * size)
            if abs(rows - round(rows)) < 1e-3:
                return round(rows)
    return None


def _shaped(
    unit: float, rows: int | None, named: list[Architecture]
) -> tuple[Architecture, int] | None:
    """Return (shape, rows) with the label's layers and width but another feed-forward width."""
    for near in named:
        batch = rows or default_rows(near.n_params)
        if (shape := shape_of_size(n_of_slope(unit, batch), near)) is not None:
            return shape, batch
    return None


def _unlisted(
    run: Run, unit: float, rows: int | None, named: list[Architecture], labels: Labels
) -> None:
    """No model of the table has this slope: a wrong axis of the labelled one, or a new model.

    It is a new one when its label is no name of the table but near the slope's N, or when its own
    compute meets the budget in the name and the label's does not.
    """
    tolerance = _NEAR_LABEL if not named else BUDGET_MET
    for label in [x for x in run.claims("label") if not labels.knows(x)]:
        by_batch = {batch: n_of_slope(unit, batch) for batch in ([rows] if rows else BATCH_ROWS)}
        off = {batch: abs(np.log(n / label_size(label))) for batch, n in by_batch.items()}
        batch = min(off, key=off.get)
        if off[batch] < tolerance:
            return _new_model(run, label, by_batch[batch], batch)
    if not named:
        return None
    batch = rows or default_rows(named[0].n_params)
    n = n_of_slope(unit, batch)
    by_slope, by_label = (_misses(run, m, batch) for m in (n, named[0].n_params))
    if by_slope < BUDGET_MET < by_label:
        return _new_model(run, f"{n / 1e6:.4g}M", n, batch)
    _take(run, named[0], batch, unit)
    run.size_why = "by its label: no model of the table has the slope of its axis"
    return None


def _new_model(run: Run, size: str, n: float, rows: int) -> None:
    run.size, run.n_params, run.rows, run.axis_n = size, round(n), rows, n
    run.size_why = f"N = {n:,.0f} by the slope; no shape of the table"


def _test_label(run: Run, unit: float, named: list[Architecture]) -> None:
    if not named or run.architecture in named:
        return
    if _misses(run, run.n_params, run.rows) < BUDGET_MET:
        return
    for other in named:
        batch = _rows_of_tokens(run) or default_rows(other.n_params)
        if _misses(run, other.n_params, batch) < BUDGET_MET:
            _take(run, other, batch, unit)
            run.size_why = "by its label, whose compute meets the budget in the name"
            return


def _misses(run: Run, n_params: float, rows: int) -> float:
    """Return |ln| of 6 N D over the nearest budget in the names; infinite without one.

    D is that of the run's last step, which its FLOPs axis tells whatever N it counts.
    """
    last = max(log.x[-1] for log in run.logs if log.axis == "flops")
    steps = last / _flops_units(run)[0] * STEPS_PER_VALIDATION
    flops = 6 * n_params * steps * rows * CONTEXT
    return min((abs(np.log(flops / b)) for b in run.claims("budget")), default=np.inf)


def tokens_of(run: Run, log: Log) -> np.ndarray:
    """Return the tokens seen at each point of an export, shape (n,), whole steps."""
    if log.axis == "tokens":
        return log.x
    if log.axis == "samples":
        return log.x * CONTEXT
    batch = run.rows * CONTEXT
    if log.axis == "steps":
        return log.x * batch
    # A FLOPs axis counts steps of 6 N batch / 1e9, with whatever N it was computed.
    return np.round(log.x * 1e9 / (6 * (run.axis_n or run.n_params) * batch)) * batch


def read_points(run: Run, labels: Labels) -> None:
    """Choose the best export as `source` and take its points, less a first row of another run.

    Best is most points, then a folder and label that are right, then the IsoFLOP folders.
    """

    def rank(log: Log) -> tuple:
        named = labels.architecture(log.claim.label)
        return (
            -len(log.x),
            log.claim.corpus != run.corpus or log.claim.kind == "corpus_train",
            named is not None and named.name != run.size,
            log.claim.kind != "isoflop",
            log.path,
        )

    run.source = min(run.valid or run.train, key=rank)
    first = 1 if run.source.split == "valid" and run.source.grid.foreign_first else 0
    run.tokens = tokens_of(run, run.source)[first:]
    run.loss = run.source.loss[first:]


def settle_corpus(run: Run, alone: dict[str, int]) -> None:
    """Decide the corpus: file names first, then the folders that hold one curve only.

    `alone` gives the number of distinct validation curves in each folder.
    """
    said = run.claims("file_corpus")
    if len(said) == 1:
        run.corpus = said[0]
        return
    voters = [log for log in run.logs if alone.get(log.folder, 0) <= 1] or run.logs
    run.corpus = Counter(log.claim.corpus for log in voters).most_common(1)[0][0]


def plan_ratio(run: Run) -> float | None:
    """Return the share of its plan a run did, by the named budget or epochs it comes nearest to."""
    ratios = [run.flops_6nd / budget for budget in run.claims("budget")]
    ratios += [
        float(run.tokens[-1]) / (epochs * TOKENS_PER_NAMED_EPOCH)
        for epochs in run.claims("epochs")
        if epochs
    ]
    return min(ratios, key=lambda r: abs(np.log(r))) if ratios else None


def rows_by_loss(run: Run, peers: list[Run]) -> int | None:
    """Return the rows of a batch with which a run of known steps ends on its peers' L(D).

    `peers` are finished runs of the same model and data, at least 3. For each batch size the loss
    at its tokens is interpolated in ln D; None unless one fits at least twice as well as any other.
    """
    points = sorted((float(np.log(p.tokens[-1])), float(p.loss[-1])) for p in peers)
    if len(points) < 3:
        return None
    x, y = np.array(points).T
    steps, loss = run.source.x[-1], float(run.loss[-5:].mean())
    misses = {}
    for rows in BATCH_ROWS:
        at = float(np.log(steps * rows * CONTEXT))
        if x[0] <= at <= x[-1]:
            misses[rows] = abs(float(np.interp(at, x, y)) - loss)
    ranked = sorted(misses, key=misses.get)
    if len(ranked) < 2 or misses[ranked[1]] < 2 * misses[ranked[0]]:
        return None
    return ranked[0]
