"""The options of `plmscale status`, apart so that naming them costs no import."""

from __future__ import annotations

import argparse
from pathlib import Path

_DEFAULT_SECONDS = 5.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `status` has beside those of all study commands."""
    parser.add_argument(
        "--watch", nargs="?", type=float, const=_DEFAULT_SECONDS, metavar="SECONDS",
        help="show it again every so often (5) until all is done or Ctrl-C",
    )  # fmt: skip
    parser.add_argument(
        "--failed", action="store_true", help="only what failed, with the ends of the logs"
    )
    parser.add_argument("--runs", action="store_true", help="a line a run, however many")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="draw the map of all runs, as .png or .svg"
    )
    parser.add_argument("--gpu", default="", metavar="NAME", help="GPU that the plan is counted on")
    parser.add_argument("--gpus", type=int, metavar="N", help="devices at once from now on")
