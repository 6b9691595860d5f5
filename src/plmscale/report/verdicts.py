"""What of the paper came out again, and what the audit found: rows for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from plmscale.figures.style import OBJECTIVE_NAME

VERDICT_COLUMNS = (
    ("quantity", "nowrap"), ("published", "number"), ("here", "number"), ("95 % interval", "nowrap"),
    ("difference", "number"), ("verdict", "nowrap"), ("remark", "remark"),
)  # fmt: skip

AUDIT_COLUMNS = (
    ("file", "wide"), ("taken for", "text"), ("is", "text"), ("decision", "text"), ("why", "remark"),
)  # fmt: skip

_SKIPPED = "-tag-lm-loss-validation_valid_lm"


def verdict_groups(found: dict[str, Any]) -> list[tuple[str, str, list[list[str]]]]:
    """Return title, remark and rows (in the order of VERDICT_COLUMNS) of each group of verdicts."""
    notes = found.get("notes") or {}
    groups: dict[str, list[list[str]]] = {}
    for row in found.get("rows") or []:
        name = OBJECTIVE_NAME.get(row.get("objective"), "")
        groups.setdefault(row["group"], []).append(
            [
                f"{name} {row['quantity']}".strip(),
                row["published"],
                row["here"],
                row["interval"],
                row["difference"],
                row["verdict"],
                row["why"],
            ]
        )
    return [(title, notes.get(title, ""), rows) for title, rows in groups.items()]


def verdict_sentence(found: dict[str, Any]) -> str:
    """Say how many numbers came out again, and how many did not."""
    rows = [row for row in found.get("rows") or [] if row["verdict"]]
    if not rows:
        return ""
    counts = pd.Series([row["verdict"] for row in rows]).value_counts()
    parts = [f"{count} {verdict}" for verdict, count in counts.items()]
    return f"Of {len(rows)} comparisons with published numbers: {', '.join(parts)}."


def audit_rows(audit: pd.DataFrame) -> list[list[str]]:
    """Return the corrected and excluded files, in the order of AUDIT_COLUMNS."""
    found = audit[audit["decision"] != "kept"].fillna("")
    return [
        [
            # A file's full name is mostly what its exporter added to every one.
            str(row["file"]).replace(_SKIPPED, "…"),
            _what(row, "taken_"),
            _what(row, ""),
            str(row["decision"]),
            str(row["why"]).replace(_SKIPPED, "…"),
        ]
        for row in found.to_dict("records")
    ]


def _what(row: dict[str, Any], prefix: str) -> str:
    size = row["label"] if prefix else row["architecture"]
    parts = [row[f"{prefix}objective"], size, row[f"{prefix}corpus"], row[f"{prefix}split"]]
    budget = row[f"{prefix}budget"]
    return ", ".join([str(part) for part in parts if part] + ([f"{budget:.3g}"] if budget else []))


def audit_sentences(audit: pd.DataFrame) -> list[str]:
    """Say how many files were read, what became of them, and which mistakes there were."""
    counts = audit["decision"].value_counts()
    parts = [
        f"{counts[name]} {name}" for name in ("kept", "corrected", "excluded") if name in counts
    ]
    runs = audit["run_id"].dropna().nunique()
    kinds = audit["mistakes"].fillna("").str.split(r"[;, ]+").explode()
    kinds = kinds[kinds != ""].value_counts()
    told = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in kinds.items())
    return [
        f"{len(audit)} files were read: {', '.join(parts)}. They hold {runs} distinct runs.",
        f"What was found: {told}." if told else "Nothing was found.",
    ]


def without_empty(
    columns: Sequence[tuple[str, str]], rows: list[list[str]]
) -> tuple[tuple[tuple[str, str], ...], list[list[str]]]:
    """Return columns and rows without the columns in which no row says anything."""
    kept = [i for i in range(len(columns)) if any(row[i] not in ("", "–") for row in rows)]
    return tuple(columns[i] for i in kept), [[row[i] for i in kept] for row in rows]


def with_reasons(
    excluded: list[dict[str, str]], audit: pd.DataFrame | None
) -> list[dict[str, str]]:
    """Return the runs in no law, a bare status replaced by what the audit found of that run."""
    if audit is None:
        return excluded
    found = audit[audit["decision"] == "excluded"].dropna(subset=["run_id", "why"])
    reasons = dict(zip(found["run_id"], found["why"], strict=True))
    reasons |= {
        row["run_id"]: "not among the released logs; the run that others start from"
        for row in excluded
        if row["status"] == "missing"
    }
    return [
        {**row, "why": reasons.get(row["run_id"], row["why"])}
        if row["why"].startswith("status is") else row
        for row in excluded
    ]  # fmt: skip


def stream_sentence(audit: pd.DataFrame | None, laws: dict[str, Any]) -> str:
    """Say where the two runs of a repetition pair were validated on other batches; "" if nowhere.

    Runs validated on the same batches share their jitter, which the audit numbers by stream.
    """
    pairs = (laws.get("repetition") or {}).get("pairs") or []
    if audit is None or not pairs or "valid_stream" not in audit:
        return ""
    known = audit.dropna(subset=["run_id", "valid_stream"])
    stream = dict(zip(known["run_id"], known["valid_stream"], strict=True))
    names = [(pair["runs"]["repeated"], pair["runs"]["fresh"]) for pair in pairs]
    apart = sum(stream.get(one) != stream.get(two) for one, two in names)
    if not apart:
        return ""
    return (
        f"{apart} of {len(pairs)} runs that repeat a source do not share the validation jitter of "
        "their partner on the mix: that both were validated on the same proteins is assumed, the "
        "logs do not show it."
    )
