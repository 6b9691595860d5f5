"""`plmscale reproduce`: the table of published numbers and what came out again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plmscale.textable import table


def add_subcommand(subparsers: Any) -> None:
    """Add the command to `plmscale`."""
    parser = subparsers.add_parser(
        "reproduce", help="the paper's numbers beside those from its logs, with verdicts"
    )
    parser.add_argument("logs", type=Path, metavar="LOG_DIR", help="the released logs, as they are")
    parser.add_argument("--points", type=Path, required=True, help="isoflop_points.csv")
    parser.add_argument("--laws", type=Path, required=True, help="laws.json of the audited logs")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv of the audit")
    parser.add_argument("--curves", type=Path, required=True, help="curves of the audit")
    parser.add_argument("--audit", type=Path, help="audit.csv, for the reasons of some verdicts")
    parser.add_argument("--out", type=Path, required=True, metavar="reproduction.json")
    parser.add_argument("--boot", type=int, default=400, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the file")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    import pandas as pd

    from plmscale.files import read_json, write_json
    from plmscale.laws.table.curvefiles import read_curves
    from plmscale.paper.logs import read_logs
    from plmscale.paper.points import read_points
    from plmscale.paper.reproduce import late_jitter, reproduce
    from plmscale.paper.table_a9 import labelled_curves, published_parametric
    from plmscale.tables import read_runs

    logs = read_logs(args.logs)
    parametric = {
        objective: published_parametric(labelled_curves(logs, objective), objective)
        for objective in ("clm", "mlm")
    }
    runs = read_runs(args.runs)
    curves = read_curves(args.curves, runs["run_id"])
    found = reproduce(
        read_points(args.points), read_json(args.laws), parametric, late_jitter(runs, curves),
        audit=pd.read_csv(args.audit) if args.audit else None, n_boot=args.boot, seed=args.seed,
    )  # fmt: skip
    found["parametric"] = parametric
    write_json(args.out, found)
    if args.json:
        print(json.dumps(found, indent=2, sort_keys=True))
        return
    columns = ["objective", "quantity", "published", "here", "interval", "difference", "verdict"]
    for group in dict.fromkeys(row["group"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["group"] == group]
        print(f"{group}\n\n{table(rows, columns)}\n")
    print("; ".join(f"{count} {name or 'shown'}" for name, count in found["verdicts"].items()))
