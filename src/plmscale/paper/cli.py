"""`plmscale audit` and `plmscale paper-logs`."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from plmscale.textable import table


def add_subcommands(subparsers: Any) -> None:
    """Add the commands of the released logs; each sets `run`, a function of the arguments."""
    audit = subparsers.add_parser("audit", help="released training logs into a runs table")
    audit.add_argument("logs", type=Path, metavar="LOG_DIR")
    audit.add_argument("--out", type=Path, required=True, metavar="DIR")
    audit.add_argument("--last", type=int, default=5, metavar="K",
                       help="last validation points averaged into a run's loss (5)")  # fmt: skip
    audit.add_argument("--jitter", choices=("remove", "keep"), default="remove",
                       help="remove (default): take off what validation batches that other runs "
                       "read too add to a loss; keep: losses as logged")  # fmt: skip
    audit.add_argument("--json", action="store_true", help="print audit.json")
    audit.set_defaults(run=run_audit)

    logs = subparsers.add_parser("paper-logs", help="download the released logs, verified")
    logs.add_argument("--out", type=Path, required=True, metavar="DIR")
    logs.add_argument(
        "--url", help="archive with data/training_logs/; the pinned commit by default"
    )
    logs.add_argument("--checksums", type=Path, metavar="FILE",
                      help="SHA-256 of each file; resources/cheng2024-logs.sha256 by default")  # fmt: skip
    logs.set_defaults(run=run_logs)


def run_audit(args: argparse.Namespace) -> None:
    """Audit, write the tables, print what was found."""
    from plmscale.paper.audit import audit

    summary = audit(args.logs, args.out, args.last, args.jitter)
    if args.json:
        print(json.dumps(summary, indent=2, sort_keys=True, allow_nan=False))
    else:
        print(audit_text(summary))
        print(f"\nwritten: {args.out}/runs.csv, curves/, audit.csv, audit.json")


def run_logs(args: argparse.Namespace) -> None:
    """Download and verify."""
    from plmscale.paper.fetch import CHECKSUMS, URL, fetch_logs

    count = fetch_logs(args.url or URL, args.checksums or CHECKSUMS, args.out)
    print(f"{count} files in {args.out}, all as expected")


def audit_text(summary: dict[str, Any]) -> str:
    """Return the summary as tables: decisions by kind, mistakes, and each changed file."""
    decisions = ("kept", "corrected", "excluded")
    rows = [
        {"kind": kind, "files": sum(counts.values()), **{d: counts.get(d, 0) for d in decisions}}
        for kind, counts in [*summary["kinds"].items(), ("all", summary["decisions"])]
    ]
    parts = [table(rows, ["kind", "files", *decisions])]
    mistakes = [{"found": name, "files": n} for name, n in summary["mistakes"].items()]
    if mistakes:
        parts.append(table(mistakes, ["found", "files"]))
    for decision in decisions[1:]:
        changed = [row for row in summary["changed"] if row["decision"] == decision]
        if changed:
            parts.append("\n".join([f"{decision}:", *map(_changed, changed)]))
    parts.append(_jitter(summary["final_loss"]))
    runs = ", ".join(f"{n} {objective}" for objective, n in summary["runs"].items())
    parts.append(f"runs: {runs}")
    return "\n\n".join(parts)


def _jitter(final: dict[str, Any]) -> str:
    """Say what the final losses are, and what sharing batches did to their jitter."""
    text = f"final losses: means of the last {final['last']} validations"
    if final["jitter"] == "keep":
        return f"{text}, as logged"
    rows = [row for row in final["by_stream"] if row["removed"]]
    if not rows:
        return f"{text}; no three runs of an objective share their validation batches"
    columns = {"stream": "stream", "objective": "objective", "runs": "runs", "removed": "cleaned"}
    shown = [
        {**{new: row[old] for old, new in columns.items()},
         "jitter": f"{row['before']:.4f}", "left": f"{row['after']:.4f}"}
        for row in rows
    ]  # fmt: skip
    lines = table(shown, [*columns.values(), "jitter", "left"])
    return f"{text}, less the jitter of validation batches that others read too:\n{lines}"


def _changed(row: dict[str, Any]) -> str:
    why = textwrap.fill(row["why"], 96, initial_indent="    ", subsequent_indent="    ",
                        break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return f"  {row['file']}\n{why}"
