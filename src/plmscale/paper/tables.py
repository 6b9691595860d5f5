"""Runs, curves and audit as tables, and the runs of a reader who trusts every label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from plmscale.architecture import Architecture
from plmscale.paper.decide import BUDGET_TOLERANCE, BUDGETS, flops_text
from plmscale.paper.evidence import CONTEXT
from plmscale.paper.final_loss import FinalLoss
from plmscale.paper.group import Run
from plmscale.paper.logs import Log
from plmscale.paper.names import MLM_MASK, TOKENS_PER_NAMED_EPOCH
from plmscale.paper.size import Labels, tokens_of
from plmscale.paper.verdict import Finding

STUDY = "cheng2024"
# 15.2 B residues of UniRef50/S and their separators.
UR50_EPOCH = 15.4e9


def curve_table(run: Run) -> pd.DataFrame:
    """Return a run's curve: its validation points, then training points where there are any."""
    parts = [_part(run, run.tokens, run.loss, "valid")] if run.valid else []
    if run.train:
        log = max(run.train, key=lambda x: len(x.x))
        parts.append(_part(run, tokens_of(run, log), log.loss, "train"))
    return pd.concat(parts, ignore_index=True)


def _part(run: Run, tokens: np.ndarray, loss: np.ndarray, split: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"step": np.round(tokens / (run.rows * CONTEXT)).astype(np.int64),
         "tokens": np.round(tokens).astype(np.int64),
         "flops_6nd": 6.0 * run.n_params * tokens, "split": split, "loss": loss}
    )  # fmt: skip


def runs_table(runs: list[Run], losses: Mapping[str, FinalLoss]) -> pd.DataFrame:
    """Return one row per run, and one of status `missing` per parent without logs.

    `losses` gives `loss` and `loss_sd` by run_id; runs without a validation curve are not in it.
    """
    rows = [_row(run, losses.get(run.run_id)) for run in runs]
    rows += _missing_parents(runs)
    return pd.DataFrame(rows).sort_values("run_id", kind="stable").reset_index(drop=True)


def _row(run: Run, final: FinalLoss | None) -> dict[str, Any]:
    tokens = float(run.tokens[-1])
    masks = run.claims("mask_ratio")
    return {
        **_size_columns(run.architecture, run.size, run.n_params, tokens),
        "run_id": run.run_id, "objective": run.objective, "flops_6nd": run.flops_6nd,
        "budget": run.budget, "corpus": run.corpus, "parent": _parent_id(run),
        "epochs": tokens / (UR50_EPOCH if "ur50" in run.corpus else TOKENS_PER_NAMED_EPOCH),
        "mask_ratio": (masks or [MLM_MASK])[0] if run.objective == "mlm" else None,
        "loss": final.loss if final else None,
        "loss_sd": final.sd if final else None,
        "source": run.source.path, "status": run.status,
    }  # fmt: skip


def _size_columns(a: Architecture | None, size: str, n: float, tokens: float) -> dict[str, Any]:
    """Return the columns that size and tokens fix; exact FLOPs need a known shape."""
    return {
        "study": STUDY, "architecture": size, "n_params": n, "tokens": tokens,
        "n_layers": a.n_layers if a else None, "d_model": a.d_model if a else None,
        "flops": tokens * a.flops_per_token(CONTEXT) if a else None,
    }  # fmt: skip


def _parent_id(run: Run) -> str:
    parents = run.claims("parent")
    return f"{parents[0][0]}-{run.size}-{flops_text(parents[0][1])}" if parents else ""


def _missing_parents(runs: list[Run]) -> list[dict[str, Any]]:
    """Return rows for parents whose logs are not there: size and compute are known, no loss."""
    known, rows = {run.run_id for run in runs}, []
    for run in runs:
        name = _parent_id(run)
        if not name or name in known:
            continue
        known.add(name)
        objective, flops = run.claims("parent")[0]
        tokens = flops / (6 * run.n_params)
        rows.append(
            {**_size_columns(run.architecture, run.size, run.n_params, tokens), "run_id": name,
             "objective": objective, "flops_6nd": flops, "corpus": "unimeta", "parent": "",
             "epochs": tokens / TOKENS_PER_NAMED_EPOCH, "source": "", "status": "missing",
             "mask_ratio": MLM_MASK if objective == "mlm" else None}
        )  # fmt: skip
    return rows


def as_labelled(logs: list[Log], labels: Labels) -> pd.DataFrame:
    """Return the IsoFLOP runs as a reader sees them who trusts every file.

    N from the folder, C from the axis as it stands, D = C / 6 N, the last logged value; copies
    are in, the budget is the grid's nearest within the tolerance.
    """
    rows, seen = [], defaultdict(int)
    for log in logs:
        a = labels.architecture(log.claim.label) if log.claim else None
        if log.problem or a is None or (log.claim.kind, log.claim.axis) != ("isoflop", "flops"):
            continue
        flops = float(log.x[-1]) * 1e9
        tokens = flops / (6 * a.n_params)
        near = min(BUDGETS, key=lambda b: abs(flops / b - 1))
        name = f"{log.claim.objective}-{a.name}-{log.claim.stem}"
        seen[name] += 1
        rows.append(
            {**_size_columns(a, a.name, a.n_params, tokens),
             "run_id": name if seen[name] == 1 else f"{name}-{seen[name]}",
             "objective": log.claim.objective, "flops_6nd": flops,
             "budget": near if abs(flops / near - 1) < BUDGET_TOLERANCE else None,
             "epochs": tokens / TOKENS_PER_NAMED_EPOCH, "corpus": "unimeta", "parent": "",
             "mask_ratio": MLM_MASK if log.claim.objective == "mlm" else None,
             "loss": float(log.loss[-1]), "source": log.path, "status": "done"}
        )  # fmt: skip
    return pd.DataFrame(rows)


def audit_table(logs: list[Log], runs: list[Run], findings: dict[str, Finding]) -> pd.DataFrame:
    """Return one row per file: what it was taken for, what it is, the decision, and why.

    `taken_...` are the claims of folder and name (N by the label); the same names without it are
    what was found, empty for a file that is no curve. `valid_stream` numbers the runs that were
    validated on the same batches. `points` counts those of the file.
    """
    homes = {log.path: run for run in runs for log in run.logs}
    labels = Labels(logs)
    rows = [_audit_row(log, homes.get(log.path), labels, findings[log.path]) for log in logs]
    return pd.DataFrame(rows).convert_dtypes()


def _audit_row(log: Log, run: Run | None, labels: Labels, finding: Finding) -> dict[str, Any]:
    claim = log.claim
    taken = labels.architecture(claim.label) if claim else None
    tokens = float(tokens_of(run, log)[-1]) if run else None
    return {
        "file": log.path,
        "kind": claim.kind if claim else None,
        "label": claim.label if claim else None,
        "taken_objective": claim.objective if claim else None,
        "taken_n_params": taken.n_params if taken else None,
        "taken_axis": claim.axis if claim else None,
        "taken_split": claim.split if claim else None,
        "taken_unit": claim.unit if claim else None,
        "taken_corpus": claim.corpus if claim else None,
        "taken_budget": claim.budget if claim else None,
        "taken_epochs": claim.epochs if claim else None,
        "objective": run.objective if run else None,
        "architecture": run.size if run else None,
        "n_params": run.n_params if run else None,
        "axis": log.axis or None,
        "split": log.split or None,
        "unit": log.unit or None,
        "corpus": run.corpus if run else None,
        "batch_rows": run.rows if run else None,
        "valid_stream": (run.stream or None) if run else None,
        "tokens": tokens,
        "flops_6nd": 6.0 * run.n_params * tokens if run else None,
        "budget": run.budget if run else None,
        "budget_by": run.budget_why if run else None,
        "points": len(log.x),
        "decision": finding.decision,
        "mistakes": ";".join(finding.mistakes),
        "run_id": run.run_id if run else None,
        "why": "; ".join(finding.why),
    }
