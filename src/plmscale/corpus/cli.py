"""`plmscale corpus build | verify | stats | batch`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plmscale.corpus.config import CorpusConfig
from plmscale.errors import PlmscaleError
from plmscale.files import sha256_file
from plmscale.textable import table


def add_subcommands(commands: Any) -> None:
    """Add the corpus commands to an argparse subparsers object."""
    build = commands.add_parser("build", help="FASTA files to a corpus, with default rules")
    build.add_argument("fasta", nargs="+", type=Path, metavar="FASTA", help="a source each")
    build.add_argument("--out", type=Path, required=True)
    build.add_argument(
        "--rules", type=Path, help="YAML with clean:, split: and shards: as in a study"
    )
    build.add_argument("--threads", type=int, default=2)
    build.add_argument("--json", action="store_true")
    build.set_defaults(run=_build)
    check = commands.add_parser("verify", help="every shard against the manifest")
    check.add_argument("dir", type=Path)
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_verify)
    show = commands.add_parser("stats", help="sequences, residues, lengths of a corpus")
    show.add_argument("dir", type=Path)
    show.add_argument("--study", type=Path, metavar="STUDY.yaml",
                      help="also how often its runs read each source, by mix and budget")  # fmt: skip
    show.add_argument("--write", action="store_true", help="also write DIR/stats/*.csv")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_stats)
    batch = commands.add_parser("batch", help="batch K of a run, in readable form")
    batch.add_argument("study", type=Path, metavar="STUDY.yaml")
    batch.add_argument("run_id")
    batch.add_argument("k", type=int, help="step, from 0")
    batch.add_argument("--rows", type=int, default=4, help="rows to show")
    batch.set_defaults(run=_batch)


def _build(args: argparse.Namespace) -> None:
    from plmscale.corpus import steps
    from plmscale.study import read_yaml

    sources: dict[str, dict[str, str]] = {}
    for path in args.fasta:
        name = path.name.split(".")[0].replace("-", "_")
        if name in sources:
            raise PlmscaleError(f"{path}: two files would make a source named {name!r}; rename one")
        if not path.is_file():
            raise PlmscaleError(f"{path}: no such FASTA file")
        sources[name] = {"path": str(path), "sha256": sha256_file(path)}
    rules = read_yaml(args.rules) if args.rules else {}
    try:
        corpus = CorpusConfig.model_validate({"sources": sources, **rules})
    except ValueError as error:
        raise PlmscaleError(f"corpus build: {' '.join(str(error).split())}") from None
    manifest = steps.build(corpus, args.out, args.threads)
    if args.json:
        print(json.dumps(manifest, indent=2, sort_keys=True))
    else:
        _show(args.out)


def _verify(args: argparse.Namespace) -> None:
    from plmscale.corpus.build import verify

    counts = verify(args.dir)
    if args.json:
        print(json.dumps(counts))
    else:
        print(
            f"{args.dir}: {counts['shards']} shards, {counts['residues']:,} residues: "
            "as the manifest says"
        )


def _stats(args: argparse.Namespace) -> None:
    from plmscale.corpus import stats

    tables = stats.write_stats(args.dir) if args.write else stats.corpus_tables(args.dir)
    if args.study:
        tables["epochs"] = _epochs(args.dir, args.study)
    if args.json:
        print(json.dumps({k: json.loads(v.to_json(orient="records")) for k, v in tables.items()}))
        return
    _show(args.dir)
    if args.study:
        print("\nof the longest run of each mix and budget:\n")
        rows = tables["epochs"].astype(object).where(tables["epochs"].notna(), None)
        print(table(rows.to_dict("records"), list(rows.columns)))


def _epochs(corpus_dir: Path, path: Path) -> Any:
    from plmscale import grid, study
    from plmscale.corpus.build import load_manifest
    from plmscale.corpus.epochs import epochs_table

    loaded = study.load(path)
    if loaded.corpus is None:
        raise PlmscaleError(f"{path}: this study has no corpus; it reads released logs")
    manifest = load_manifest(corpus_dir)
    if missing := sorted(set(loaded.corpus.sources) - set(manifest["sources"])):
        raise PlmscaleError(f"{corpus_dir}: no source {', '.join(missing)}, which {path} reads")
    return epochs_table(manifest, [run.recipe for run in grid.expand(loaded)])


def _show(corpus_dir: Path) -> None:
    from plmscale.corpus.stats import corpus_tables

    rows = corpus_tables(corpus_dir)["sources"].to_dict("records")
    shown = ["source", "split", "sequences", "residues", "mean_length", "unigram_entropy"]
    print(table(rows, shown))


def _batch(args: argparse.Namespace) -> None:
    from plmscale import grid, study
    from plmscale.training.show import batch_text

    loaded = study.load(args.study)
    recipes = {run.run_id: run.recipe for run in grid.expand(loaded)}
    if args.run_id not in recipes:
        raise PlmscaleError(
            f"{args.run_id}: no such run in {args.study}; `plmscale runs` lists them"
        )
    print(batch_text(recipes[args.run_id], loaded.folder / "corpus", args.k, args.rows))
