"""Command-line options of every command that reads anyone's table of runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from plmscale.errors import PlmscaleError

if TYPE_CHECKING:
    import pandas as pd

    from plmscale.laws.table.usertable import UserTable


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the table itself, its curves, and what makes it readable."""
    parser.add_argument("runs", type=Path, metavar="RUNS.csv", help="or .tsv, or .parquet")
    parser.add_argument("--rename", nargs="+", action="extend", default=[], metavar="NAME=YOURS",
                        help="columns under other names, such as n_params=N loss=val_loss")  # fmt: skip
    parser.add_argument("--objective", choices=("clm", "mlm"), help="of rows that name none")
    parser.add_argument("--loss-unit", choices=("nats", "bits", "perplexity"), default="nats",
                        help="of loss and loss_sd, a token (nats)")  # fmt: skip
    parser.add_argument("--curves", type=Path, metavar="DIR",
                        help="folder of learning curves, <run_id>.csv")  # fmt: skip
    parser.add_argument("--flops-column", choices=("flops_6nd", "flops"), default="flops_6nd",
                        help="compute that counts: 6 N D, or the table's exact count")  # fmt: skip


def read_with_options(
    args: argparse.Namespace,
) -> tuple[UserTable, dict[str, pd.DataFrame] | None]:
    """Return the table and its curves (None without --curves).

    Raises PlmscaleError for a table or curves that cannot be read.
    """
    from plmscale.laws.table.curvefiles import read_curves
    from plmscale.laws.table.usertable import read_user_table

    read = read_user_table(
        args.runs, rename=_pairs(args.rename), objective=args.objective, loss_unit=args.loss_unit
    )
    if not args.curves:
        return read, None
    return read, read_curves(args.curves, read.runs["run_id"], args.loss_unit)


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        new, _, old = text.partition("=")
        if not (new and old):
            raise PlmscaleError(f"--rename {text}: expected NAME=YOURS, such as n_params=N")
        found[new] = old
    return found
