"""From files to runs with a size, a corpus, a budget and a name, and a verdict on every file."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from plmscale.paper.evidence import never_learned
from plmscale.paper.group import Run, group
from plmscale.paper.logs import Log
from plmscale.paper.names import MLM_MASK
from plmscale.paper.size import (
    Labels,
    default_rows,
    plan_ratio,
    read_points,
    rows_by_loss,
    settle_corpus,
    settle_size,
)
from plmscale.paper.streams import streams
from plmscale.paper.verdict import Finding, judge

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21)
BUDGET_TOLERANCE = 0.15
# A cosine schedule ends at the run's own last step: one that stops earlier says another thing.
PLAN_MET = 0.9


def decide(logs: list[Log]) -> tuple[list[Run], dict[str, Finding]]:
    """Return the runs, and the finding of every file by its path."""
    findings = {log.path: Finding() for log in logs}
    labels = Labels(logs)
    runs = group(logs)
    alone = Counter(folder for run in runs for folder in {log.folder for log in run.valid})
    for run in runs:
        settle_corpus(run, alone)
        settle_size(run, labels)
    known = [run for run in runs if run.n_params]
    for run in known:
        read_points(run, labels)
        ratio = plan_ratio(run)
        run.stuck = bool(run.valid) and not pretrained(run) and never_learned(run.loss)
        lost = not run.valid or (ratio or 1) < PLAN_MET or run.stuck
        run.status = "excluded" if lost else "done"
    _streams(known)
    _budgets(known)
    _names(known)
    homes = {log.path: run for run in runs for log in run.logs}
    starts = _first_losses(known)
    for log in logs:
        judge(log, homes.get(log.path), labels, starts, findings[log.path])
    return known, findings


def pretrained(run: Run) -> bool:
    """Say whether a run started from another one's weights, by its names."""
    return bool(run.claims("parent"))


def _plain(run: Run) -> bool:
    """Say whether a run samples L(N, D): finished, from scratch, on the mixture."""
    return run.status == "done" and not pretrained(run) and run.corpus == "unimeta"


def _first_losses(runs: list[Run]) -> dict[tuple[str, int], float]:
    """Return the lowest first loss among runs from scratch, by objective and N."""
    starts: dict[tuple[str, int], float] = {}
    for run in runs:
        if run.valid and not pretrained(run):
            key = (run.objective, run.n_params)
            starts[key] = min(starts.get(key, np.inf), float(run.loss[0]))
    return starts


def _streams(runs: list[Run]) -> None:
    """Number the groups of runs validated on the same batches, and settle unknown batch sizes.

    Where only steps are known, runs of the same stream tell the rows, else finished runs of the
    model by their loss, else the recipe. A mask ratio of 15 % is what the others have, so its run
    speaks for its folder.
    """
    unsure = [run for run in runs if {log.axis for log in run.valid} == {"steps"}]
    told: dict[str, tuple[int, str]] = {}
    for number, members in enumerate(streams(runs), start=1):
        if len(members) == 1:
            break
        known = Counter(run.rows for run in members if run not in unsure)
        for run in members:
            run.stream = number
            if known:
                rows, count = known.most_common(1)[0]
                why = f"as the {count} runs whose validation jitter it shares"
                told[run.source.path] = (rows, why)
    for run in unsure:
        if run.source.path in told or run.claims("mask_ratio") not in ([], [MLM_MASK]):
            continue
        peers = [
            p for p in runs
            if _plain(p) and p not in unsure
            and (p.objective, p.n_params) == (run.objective, run.n_params)
        ]  # fmt: skip
        if (rows := rows_by_loss(run, peers)) is not None:
            why = f"by its loss among {len(peers)} runs of the model with known tokens"
            told[run.source.folder] = (rows, why)
    for run in unsure:
        usual = told.get(run.source.folder, (default_rows(run.n_params), "as the recipe has it"))
        rows, run.rows_why = told.get(run.source.path, usual)
        run.tokens, run.rows = run.tokens / run.rows * rows, rows


def _budgets(runs: list[Run]) -> None:
    """Give each run its budget: the named one where the compute agrees to 15 %.

    A run named otherwise counts for a grid budget it comes as near to, unless a run from scratch
    of that model was meant for it: a second one at another compute would not be a replicate.
    """
    meant = set()
    for run in runs:
        near = [b for b in run.claims("budget") if _off(run, b) < BUDGET_TOLERANCE]
        if near and run.status == "done":
            run.budget = min(near, key=lambda b: _off(run, b))
            run.budget_why = "named"
            if _plain(run):
                meant.add((run.objective, run.n_params, run.budget))
    for run in runs:
        if run.budget is not None or not _plain(run) or run.claims("mask_ratio"):
            continue
        near = min(BUDGETS, key=lambda b: _off(run, b))
        if _off(run, near) >= BUDGET_TOLERANCE:
            continue
        off = run.flops_6nd / near - 1
        if (run.objective, run.n_params, near) in meant:
            run.budget_why = f"none: {near:.0e} is {off:+.1%} off and has its own run of this model"
        else:
            run.budget, run.budget_why = near, f"nearest of the grid, {off:+.1%} off"


def _off(run: Run, budget: float) -> float:
    return abs(run.flops_6nd / budget - 1)


def _names(runs: list[Run]) -> None:
    """Set readable run_ids; of several alike the first by path has no number."""
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        alike[_base_name(run)].append(run)
    for name, same in alike.items():
        for i, run in enumerate(sorted(same, key=lambda r: r.source.path), start=1):
            run.run_id = name if i == 1 else f"{name}-{i}"


def _base_name(run: Run) -> str:
    parts = [run.objective, run.size]
    masks, budgets = run.claims("mask_ratio"), run.claims("budget")
    epochs, parents = run.claims("epochs"), run.claims("parent")
    if masks:
        parts.append(f"mask{masks[0]:.2f}")
    elif run.corpus != "unimeta":
        parts.append(run.corpus)
    elif budgets:
        parts.append(flops_text(budgets[0]))
    elif epochs:
        parts.append(f"{epochs[0]:g}ep")
    if parents:
        parts.append(f"from-{parents[0][0]}-{flops_text(parents[0][1])}")
    if run.status == "excluded":
        parts.append("flat" if run.stuck else "stopped" if run.valid else "training")
    return "-".join(parts)


def flops_text(flops: float) -> str:
    """Return 1e+20 as 1e20 and 5.3e+20 as 5.3e20."""
    return f"{flops:g}".replace("e+", "e")
