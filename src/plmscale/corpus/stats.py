"""What is in a corpus, as three tables for people and figures.

lengths.csv   source, split, length (residues, exact), sequences
residues.csv  source, split, residue, count, frequency
sources.csv   source, split, sequences, residues, mean_length, median_length, unigram_entropy
              (nats a residue), and for split `train` what cleaning removed (from clean/*.json)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plmscale.corpus.alphabet import FIRST_RESIDUE, LETTERS
from plmscale.corpus.build import load_manifest
from plmscale.files import atomic_write, read_json

_RESIDUE_COLUMNS = ["source", "split", "residue", "count", "frequency"]


def corpus_tables(corpus_dir: str | Path) -> dict[str, pd.DataFrame]:
    """Return the three tables (see the module's head) of a built corpus."""
    corpus_dir = Path(corpus_dir)
    lengths, residues, sources = [], [], []
    for name, source in load_manifest(corpus_dir)["sources"].items():
        for part in ("train", "valid"):
            counts = np.zeros(256, dtype=np.int64)
            sizes = []
            for shard in source[part]["shards"]:
                tokens = np.memmap(corpus_dir / shard["file"], dtype=np.uint8, mode="r")
                counts += np.bincount(tokens, minlength=256)
                sizes.append(np.diff(np.load(corpus_dir / shard["index"], allow_pickle=False)))
            size = np.concatenate(sizes)
            for length, n in zip(*np.unique(size, return_counts=True), strict=True):
                lengths.append((name, part, int(length), int(n)))
            letters = counts[FIRST_RESIDUE : FIRST_RESIDUE + len(LETTERS)]
            share = letters / letters.sum()
            for letter, n, f in zip(LETTERS, letters, share, strict=True):
                residues.append((name, part, letter, int(n), float(f)))
            seen = share[share > 0]
            row: dict[str, Any] = {
                "source": name,
                "split": part,
                "sequences": len(size),
                "residues": int(size.sum()),
                "mean_length": float(size.mean()),
                "median_length": float(np.median(size)),
                "unigram_entropy": float(-(seen * np.log(seen)).sum()),
            }
            cleaned = corpus_dir / "clean" / f"{name}.json"
            if part == "train" and cleaned.exists():
                removed = read_json(cleaned).items()
                row |= {k: v for k, v in removed if isinstance(v, int) and k not in row}
            sources.append(row)
    return {
        "lengths": pd.DataFrame(lengths, columns=["source", "split", "length", "sequences"]),
        "residues": pd.DataFrame(residues, columns=_RESIDUE_COLUMNS),
        "sources": pd.DataFrame(sources),
    }


def write_stats(corpus_dir: str | Path) -> dict[str, pd.DataFrame]:
    """Write `corpus_dir`/stats/{lengths,residues,sources}.csv and return the tables."""
    tables = corpus_tables(corpus_dir)
    for name, table in tables.items():
        with atomic_write(Path(corpus_dir) / "stats" / f"{name}.csv") as handle:
            table.to_csv(handle, index=False, lineterminator="\n")
    return tables
