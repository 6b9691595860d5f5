"""The 145 points of the paper's IsoFLOP figure as a runs table, and `plmscale paper-points`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("objective", "budget_flops", "model_size_label", "n_params", "final_validation_loss")


def read_points(path: str | Path) -> pd.DataFrame:
    """Return the points as rows of a runs table: D = C / 6 N, no learning curves.

    N is the one the authors used for the label, which differs from the exact count by up to
    0.6 %. Raises PlmscaleError for a file that is no such table.
    """
    # Here, because every `plmscale` command reads this module for its options.
    import pandas as pd

    try:
        points = pd.read_csv(path).rename(columns=str.lower)
    except (OSError, ValueError) as error:
        raise PlmscaleError(f"{path}: cannot be read as a table ({error})") from None
    if missing := [name for name in _COLUMNS if name not in points]:
        raise PlmscaleError(f"{path}: missing column {', '.join(missing)}")
    objective = points["objective"].str.lower()
    budget = points["budget_flops"].astype(float)
    size = points["n_params"].astype(float)
    label = points["model_size_label"]
    return pd.DataFrame(
        {
            "run_id": objective + "-" + label + "-" + budget.map("{:.0e}".format).str.replace("+", ""),
            "study": "cheng2024-points",
            "objective": objective,
            "architecture": label,
            "n_params": size,
            "tokens": budget / (6 * size),
            "flops_6nd": budget,
            "flops": budget,
            "budget": budget,
            "loss": points["final_validation_loss"].astype(float),
            "source": "table",
            "status": "done",
        }
    )  # fmt: skip


def add_subcommand(subparsers: Any) -> None:
    """Add `paper-points` to `plmscale`."""
    parser = subparsers.add_parser(
        "paper-points", help="bring in the points of the paper's IsoFLOP figure, verified"
    )
    parser.add_argument("place", help="path or address of isoflop_points.csv")
    parser.add_argument("--sha256", help="its checksum; an address needs one")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from plmscale.corpus.fetch import fetch

    if args.sha256:
        fetch(args.place, args.sha256, args.out)
    elif "://" in args.place:
        raise PlmscaleError(f"{args.place}: an address needs its checksum, --sha256")
    else:
        read_points(args.place)
        with open(args.place, "rb") as source, atomic_write(args.out, "wb") as target:
            shutil.copyfileobj(source, target)
