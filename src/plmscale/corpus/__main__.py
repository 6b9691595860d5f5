"""`python -m plmscale.corpus STEP ...`: one step each, as rules/corpus.smk calls them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plmscale.corpus import cli
from plmscale.corpus.config import CleanConfig, CorpusConfig
from plmscale.corpus.source_config import SourceConfig
from plmscale.corpus.split_config import SplitConfig
from plmscale.errors import PlmscaleError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m plmscale.corpus")
    steps = parser.add_subparsers(metavar="STEP", required=True)
    for name, (run, *options) in _STEPS.items():
        step = steps.add_parser(name)
        for flag, settings in options:
            step.add_argument(flag, **settings)
        step.set_defaults(run=run)
    cli.add_subcommands(steps)
    args = parser.parse_args()
    try:
        args.run(args)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    return 0


def _source(text: str) -> SourceConfig:
    return SourceConfig.model_validate(json.loads(text))


def _corpus(text: str) -> CorpusConfig:
    return CorpusConfig.model_validate(json.loads(text))


def _fetch(args: argparse.Namespace) -> None:
    from plmscale.corpus.fetch import fetch_file

    fetch_file(args.source, args.index, args.out, args.found, args.project)


def _extract(args: argparse.Namespace) -> None:
    from plmscale.corpus.steps import extract

    extract(args.source, args.files, args.out, args.threads)


def _clean(args: argparse.Namespace) -> None:
    from plmscale.corpus.steps import clean

    rule = CleanConfig.model_validate(json.loads(args.rule))
    clean(args.source, args.files, args.out, rule, args.threads)


def _deduplicate(args: argparse.Namespace) -> None:
    from plmscale.corpus.steps import deduplicate

    deduplicate(args.folder, args.sources, args.threads)


def _split(args: argparse.Namespace) -> None:
    from plmscale.corpus.steps import hold_out

    rule = SplitConfig.model_validate(json.loads(args.rule))
    hold_out(args.folder, args.sources, args.held_out, rule, args.threads)


def _shards(args: argparse.Namespace) -> None:
    from plmscale.corpus.steps import shards

    shards(args.folder, args.source_name, args.max_residues, args.threads, args.out)


def _manifest(args: argparse.Namespace) -> None:
    from plmscale.corpus.steps import manifest

    manifest(args.folder, args.corpus, args.files, args.folder / "clean" / "seqkit")


def _use(args: argparse.Namespace) -> None:
    """Write the epochs of a study's runs and the link <study>/corpus."""
    from plmscale.corpus.build import load_manifest
    from plmscale.corpus.epochs import epochs_table, write_epochs

    write_epochs(args.epochs, epochs_table(load_manifest(args.corpus_dir), json.loads(args.runs)))
    link: Path = args.link
    if link.exists() and not link.is_symlink():
        raise PlmscaleError(
            f"{link}: is a folder of an older version, where a link to the shared corpus belongs; "
            "move it away"
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(os.path.relpath(args.corpus_dir, link.parent))
    os.replace(temporary, link)


_PATH = {"type": Path, "required": True}
_FOLDER = ("folder", {"type": Path})
_FILES = ("files", {"type": Path, "nargs": "+"})
_OUT = ("--out", _PATH)
_SOURCE = ("--source", {"type": _source, "required": True})
_CORPUS = ("--corpus", {"type": _corpus, "required": True})
_SOURCES = ("--sources", {"nargs": "+", "required": True})
_THREADS = ("--threads", {"type": int, "default": 1})
_STEPS: dict[str, tuple[Callable[[argparse.Namespace], None], *tuple[Any, ...]]] = {
    "fetch": (
        *(_fetch, _SOURCE, ("--index", {"type": int, "default": 0}), _OUT, ("--found", _PATH)),
        ("--project", {"type": Path, "default": Path()}),
    ),
    "extract": (_extract, _FILES, _SOURCE, _THREADS, _OUT),
    "clean": (_clean, _FILES, _SOURCE, ("--rule", {"required": True}), _THREADS, _OUT),
    "deduplicate": (_deduplicate, _FOLDER, _SOURCES, _THREADS),
    "split": (
        *(_split, _FOLDER, _SOURCES, ("--held-out", {"nargs": "*", "default": []})),
        *(("--rule", {"required": True}), _THREADS),
    ),
    "shards": (
        *(_shards, _FOLDER, ("source_name", {}), ("--max-residues", {"type": int})),
        *(_THREADS, _OUT),
    ),
    "manifest": (_manifest, _FOLDER, _CORPUS, ("--files", _PATH)),
    "use": (
        *(_use, ("corpus_dir", {"type": Path}), ("--link", _PATH)),
        *(("--runs", {"required": True}), ("--epochs", _PATH)),
    ),
}


if __name__ == "__main__":
    sys.exit(main())
