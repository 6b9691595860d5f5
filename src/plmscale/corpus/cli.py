"""`plmscale corpus build | verify | stats | batch`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.textable import table


def add_subcommands(commands: Any) -> None:
    """Add the corpus commands to an argparse subparsers object."""
    build = commands.add_parser("build", help="sequence files to a corpus, with default rules")
    build.add_argument("files", nargs="+", type=Path, metavar="FILE",
                       help="a source each: FASTA (plain, .gz, .zst, .xz), Parquet or an MMseqs2 database")  # fmt: skip
    build.add_argument("--held-out", nargs="+", type=Path, default=[], metavar="FILE",
                       help="sources that nothing near them is to be trained on: the test set")  # fmt: skip
    build.add_argument("--out", type=Path, required=True)
    build.add_argument(
        "--rules", type=Path, help="YAML with clean:, split: and shards: as in a study"
    )
    build.add_argument("--threads", type=int, default=2)
    build.add_argument("--json", action="store_true")
    build.set_defaults(run=_build)
    check = commands.add_parser("verify", help="every file against the manifest")
    check.add_argument("dir", type=Path)
    check.add_argument("--study", type=Path, metavar="STUDY.yaml",
                       help="also that it is the corpus of this study's sources and rules")  # fmt: skip
    check.add_argument("--threads", type=int, default=2)
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_verify)
    show = commands.add_parser("stats", help="sequences, residues, duplicates, epochs of a corpus")
    show.add_argument("dir", type=Path, nargs="?", help="without it: --study, as published")
    show.add_argument("--study", type=Path, metavar="STUDY.yaml",
                      help="also how often its runs read each source, by mix and budget")  # fmt: skip
    show.add_argument("--write", action="store_true", help="also write DIR/stats/*.csv")
    show.add_argument("--threads", type=int, default=2)
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
    from plmscale.corpus.config import CorpusConfig
    from plmscale.corpus.settling import settle
    from plmscale.study import read_yaml

    sources: dict[str, dict[str, Any]] = {}
    for path in [*args.files, *args.held_out]:
        name = path.name.split(".")[0].replace("-", "_")
        if name in sources:
            raise PlmscaleError(f"{path}: two files would make a source named {name!r}; rename one")
        if not path.exists():
            raise PlmscaleError(f"{path}: no such file")
        role = "held_out" if path in args.held_out else "train"
        sources[name] = {"path": str(path), "role": role}
    rules = read_yaml(args.rules) if args.rules else {}
    try:
        corpus = CorpusConfig.model_validate({"sources": sources, **rules})
    except ValueError as error:
        raise PlmscaleError(f"corpus build: {' '.join(str(error).split())}") from None
    manifest = steps.build(settle(corpus, Path()), args.out, args.threads)
    if args.json:
        print(json.dumps(manifest, indent=2, sort_keys=True))
    else:
        _show(args.out)


def _verify(args: argparse.Namespace) -> None:
    from plmscale.corpus.build import verify

    key = _study(args.study).corpus.key() if args.study else None
    counts = verify(args.dir, args.threads, key)
    if args.json:
        print(json.dumps(counts))
    else:
        print(
            f"{args.dir}: {counts['files']} files, {counts['shards']} shards, "
            f"{counts['residues']:,} residues: as the manifest says"
        )


def _stats(args: argparse.Namespace) -> None:
    from plmscale import grid
    from plmscale.corpus import stats
    from plmscale.corpus.build import load_manifest
    from plmscale.corpus.epochs import epochs_table, published_manifest

    study = _study(args.study) if args.study else None
    if args.dir and study:
        missing = sorted(set(study.corpus.sources) - set(load_manifest(args.dir)["sources"]))
        if missing:
            raise PlmscaleError(
                f"{args.dir}: no source {', '.join(missing)}, which {args.study} reads"
            )
    recipes = [run.recipe for run in grid.expand(study)] if study else None
    if args.dir:
        make = stats.write_stats if args.write else stats.corpus_tables
        tables = make(args.dir, recipes, args.threads)
    elif study:
        tables = {"epochs": epochs_table(published_manifest(study.corpus), recipes or [])}
    else:
        raise PlmscaleError("corpus stats: give a corpus folder, or --study STUDY.yaml")
    if args.json:
        print(json.dumps({k: json.loads(v.to_json(orient="records")) for k, v in tables.items()}))
        return
    titles = {
        "sources": "what is in it:",
        "duplicates": "copies left out, by the source that kept the sequence:",
        "identity": "held-out sequences by their highest identity to what is trained on:",
        "epochs": "how often the longest run of each mix and budget reads each source"
        + ("" if args.dir else ", by the published sizes")
        + ":",
    }
    parts = [
        f"{title}\n\n{_text(tables[name], _SHOWN.get(name))}"
        for name, title in titles.items()
        if name in tables and len(tables[name])
    ]
    print("\n\n".join(parts))


_SHOWN = {
    "sources": [
        *("source", "part", "sequences", "residues", "mean_length", "unigram_entropy"),
        "low_complexity",
    ],
    "epochs": ["mix", "budget", "tokens", "source", "share", "source_tokens", "epochs", "capped"],
}


def _text(frame: Any, columns: list[str] | None = None) -> str:
    frame = frame[columns or list(frame.columns)]
    rows = frame.astype(object).where(frame.notna(), None)
    return table(rows.to_dict("records"), list(rows.columns))


def _study(path: Path) -> Any:
    from plmscale import study

    loaded = study.load(path)
    if loaded.corpus is None:
        raise PlmscaleError(f"{path}: this study has no corpus; it reads released logs")
    return loaded


def _show(corpus_dir: Path) -> None:
    from plmscale.corpus.stats import corpus_tables

    shown = ["source", "part", "sequences", "residues", "mean_length", "unigram_entropy"]
    print(_text(corpus_tables(corpus_dir, sample=0)["sources"], shown))


def _batch(args: argparse.Namespace) -> None:
    from plmscale import grid, snakefile
    from plmscale.training.show import batch_text

    loaded = _study(args.study)
    recipes = {run.run_id: run.recipe for run in grid.expand(loaded)}
    if args.run_id not in recipes:
        raise PlmscaleError(
            f"{args.run_id}: no such run in {args.study}; `plmscale runs` lists them"
        )
    folder = snakefile.corpus_folder(loaded)
    print(batch_text(recipes[args.run_id], folder, args.k, args.rows))
