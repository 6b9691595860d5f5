"""The options of `plmscale report`, apart so that naming them costs no import."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that `report` has beside those of all study commands."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder of the report, its tables and figures (results/STUDY/so-far)",
    )  # fmt: skip
