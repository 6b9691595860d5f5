"""`python -m plmscale.corpus STEP ...`: one step each, as rules/corpus.smk calls them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from plmscale.corpus import cli
from plmscale.corpus.build import write_shards
from plmscale.corpus.config import CleanConfig, CorpusConfig, SplitConfig
from plmscale.corpus.fetch import fetch
from plmscale.corpus.letters import apply_letter_rule
from plmscale.corpus.split import split
from plmscale.corpus.steps import finish_cleaning
from plmscale.errors import PlmscaleError
from plmscale.files import write_json


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m plmscale.corpus")
    steps = parser.add_subparsers(metavar="STEP", required=True)
    step = steps.add_parser("fetch")
    step.add_argument("places", nargs="+", help="a path or address, then its mirrors")
    step.add_argument("--sha256", required=True)
    step.add_argument("--project", type=Path, default=Path(), help="what a path is relative to")
    step.add_argument("--out", type=Path, required=True)
    step.set_defaults(run=_fetch)
    step = steps.add_parser("letters")
    step.add_argument("fasta", type=Path)
    step.add_argument("--rule", type=json.loads, required=True)
    step.add_argument("--out", type=Path, required=True)
    step.add_argument("--counts", type=Path, required=True)
    step.set_defaults(run=_letters)
    step = steps.add_parser("clean")
    step.add_argument("folder", type=Path)
    step.add_argument("--sources", nargs="+", required=True)
    step.set_defaults(run=lambda a: finish_cleaning(a.folder, a.sources))
    step = steps.add_parser("split")
    step.add_argument("folder", type=Path)
    step.add_argument("--sources", nargs="+", required=True)
    step.add_argument("--rule", type=json.loads, required=True)
    step.add_argument("--threads", type=int, default=1)
    step.set_defaults(run=_split)
    step = steps.add_parser("shards")
    step.add_argument("folder", type=Path)
    step.add_argument("--corpus", type=json.loads, required=True)
    step.set_defaults(run=_shards)
    cli.add_subcommands(steps)
    args = parser.parse_args()
    try:
        args.run(args)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    return 0


def _fastas(folder: Path, sources: list[str]) -> dict[str, Path]:
    return {name: folder / "clean" / f"{name}.fasta" for name in sources}


def _fetch(args: argparse.Namespace) -> None:
    places = [p if "://" in p else str(args.project / p) for p in args.places]
    fetch(places, args.sha256, args.out)


def _letters(args: argparse.Namespace) -> None:
    rule = CleanConfig.model_validate(args.rule)
    write_json(args.counts, apply_letter_rule(args.fasta, args.out, rule))


def _split(args: argparse.Namespace) -> None:
    rule = SplitConfig.model_validate(args.rule)
    split(_fastas(args.folder, args.sources), args.folder / "split", rule, args.threads)


def _shards(args: argparse.Namespace) -> None:
    corpus = CorpusConfig.model_validate(args.corpus)
    fastas = _fastas(args.folder, list(corpus.sources))
    write_shards(fastas, args.folder / "split", args.folder, corpus)


if __name__ == "__main__":
    sys.exit(main())
