"""`python -m plmscale.figures NAME ...`: draw figures, or `all` of them, as SVG and PNG."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from plmscale.errors import PlmscaleError
from plmscale.figures import DOWNSTREAM, FIGURES


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what was asked for; a mistake in the input is one line on stderr and exit code 2."""
    parser = _parser()
    args = parser.parse_args(argv)
    modules = FIGURES | DOWNSTREAM
    names = list(FIGURES) if "all" in args.names else args.names
    if len(names) > 1 and args.out is None:
        parser.error("more than one figure needs a folder: --out DIR")
    # pandas and matplotlib take a second: not for --help and not for a wrong option.
    from plmscale.figures import data, style

    try:
        inputs = data.load(
            args.runs, args.curves, args.laws, args.findings, args.corpus_stats, args.metrics,
            args.holdout, args.sensitivity, args.points, args.epochs, args.downstream,
            args.evaluation,
        )  # fmt: skip
        for name in names:
            draw = getattr(import_module(f"plmscale.figures.{modules[name]}"), name)
            stem = args.out_stem or args.out / name
            style.save(draw(inputs), stem)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plmscale.figures", description=__doc__)
    parser.add_argument("names", nargs="+", choices=["all", *FIGURES, *DOWNSTREAM],
                        metavar="NAME",
                        help=f"all or some of {', '.join(FIGURES)}; or of an evaluation: "
                        f"{', '.join(DOWNSTREAM)}")  # fmt: skip
    parser.add_argument("--runs", type=Path, help="runs table")
    parser.add_argument("--curves", type=Path, help="folder of <run_id>.csv")
    parser.add_argument("--laws", type=Path, help="laws.json")
    parser.add_argument("--findings", type=Path, help="findings.json")
    parser.add_argument("--corpus-stats", type=Path, help="folder with lengths.csv, residues.csv")
    parser.add_argument("--epochs", type=Path, help="epochs of each source, CSV")
    parser.add_argument("--metrics", type=Path, help="folder of run folders with metrics.json")
    parser.add_argument("--holdout", type=Path, help="holdout.json")
    parser.add_argument("--sensitivity", type=Path, help="sensitivity.json")
    parser.add_argument("--points", type=Path, help="points of a published IsoFLOP figure, CSV")
    parser.add_argument("--downstream", type=Path, help="folder with metrics.csv and scaling.json")
    parser.add_argument("--evaluation", type=Path, help="folder that holds predictions/")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out-stem", type=Path, help="write STEM.svg and STEM.png (one figure)")
    where.add_argument("--out", type=Path, help="folder: write NAME.svg and NAME.png there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
