"""The steps of the corpus in order, as the rules run them one by one and `build` all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plmscale.corpus import build as shards
from plmscale.corpus import seqkit
from plmscale.corpus.config import CorpusConfig
from plmscale.corpus.duplicates import remove_across
from plmscale.corpus.fetch import fetch
from plmscale.corpus.letters import apply_letter_rule
from plmscale.corpus.split import split
from plmscale.files import read_json, write_json


def build(corpus: CorpusConfig, out: Path, threads: int = 2) -> dict[str, Any]:
    """Run every step for `corpus` into `out` and return the manifest."""
    clean = out / "clean"
    names = list(corpus.sources)
    for name, source in corpus.sources.items():
        fetched = out / "sources" / f"{name}.{source.sha256[:12]}.fasta"
        fetch(source.path or source.url, source.sha256, fetched)
        letters = clean / f"{name}.letters.fasta"
        counts = apply_letter_rule(fetched, letters, corpus.clean)
        write_json(clean / f"{name}.letters.json", counts)
        limits = ["--min-len", corpus.clean.min_length, "--max-len", corpus.clean.max_length]
        seqkit.run("seq", [*limits, "--remove-gaps"], letters, clean / f"{name}.length.fasta")
        # Without it a protein that reads backwards like another one is dropped.
        forward = ["--by-seq", "--only-positive-strand"]
        seqkit.run("rmdup", forward, clean / f"{name}.length.fasta", clean / f"{name}.unique.fasta")
    finish_cleaning(clean, names)
    for name in names:
        for step in ("letters", "length", "unique"):
            (clean / f"{name}.{step}.fasta").unlink()
    fastas = {name: clean / f"{name}.fasta" for name in names}
    split(fastas, out / "split", corpus.split, threads)
    return shards.write_shards(fastas, out / "split", out, corpus)


def finish_cleaning(clean: Path, names: list[str]) -> None:
    """Remove duplicates across sources and write what each step took away to <source>.json."""
    across = remove_across(
        [clean / f"{name}.unique.fasta" for name in names],
        [clean / f"{name}.fasta" for name in names],
    )
    for name, counts in zip(names, across, strict=True):
        before = read_json(clean / f"{name}.letters.json")
        within_length = _records(clean / f"{name}.length.fasta")
        unique = _records(clean / f"{name}.unique.fasta")
        write_json(
            clean / f"{name}.json",
            {
                **before,
                "dropped_by_length": before["written_sequences"] - within_length,
                "duplicates_within_source": within_length - unique,
                **counts,
            },
        )


def _records(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(line.startswith(b">") for line in handle)
