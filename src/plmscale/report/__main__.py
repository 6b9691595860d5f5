"""`python -m plmscale.report ...`: write the report of a study as one HTML file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from plmscale.errors import PlmscaleError


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; a mistake in the input is one line on stderr and exit code 2."""
    args = vars(_parser().parse_args(argv))
    out = args.pop("out")
    # pandas takes a second: not for --help and not for a wrong option.
    from plmscale.files import atomic_write
    from plmscale.report.build import Sources, gather, render

    try:
        page = render(gather(Sources(**args)))
        with atomic_write(out) as handle:
            handle.write(page)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plmscale.report", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs table")
    parser.add_argument("--laws", type=Path, required=True, help="laws.json")
    parser.add_argument("--findings", type=Path, help="findings.json")
    parser.add_argument("--figures", type=Path, help="folder of figures")
    parser.add_argument("--corpus", type=Path, help="corpus folder with manifest.json")
    parser.add_argument("--study", type=Path, help="the resolved study, YAML or JSON")
    parser.add_argument("--metrics", type=Path, help="folder of run folders with metrics.json")
    parser.add_argument("--holdout", type=Path, help="holdout.json")
    parser.add_argument("--sensitivity", type=Path, help="sensitivity.json")
    parser.add_argument("--audit", type=Path, help="audit.csv of released logs")
    parser.add_argument("--reproduction", type=Path, help="reproduction.json")
    parser.add_argument("--points", type=Path, help="points of the paper's IsoFLOP figure")
    parser.add_argument("--downstream", type=Path, help="folder with metrics.csv and scaling.json")
    parser.add_argument("--missing", type=Path, help="missing.json of an unfinished study")
    parser.add_argument("--part", default="", help="which part of the study this is, in words")
    parser.add_argument("--out", type=Path, required=True, help="report.html")
    return parser


if __name__ == "__main__":
    sys.exit(main())
