"""How often a study reads each source of its corpus, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from plmscale.corpus.mixing import longest_recipes, resolve_capped, tokens_per_epoch, train_part
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write

if TYPE_CHECKING:
    from plmscale.corpus.config import CorpusConfig

COLUMNS = ["mix", "budget", "tokens", "source", "share", "source_tokens", "epochs", "capped"]


def epochs_table(manifest: Mapping[str, Any], recipes: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return, for the longest run of each mix and budget, the epochs of each of its sources.

    `manifest` is a corpus's manifest.json or what `published_manifest` returns, `recipes` those
    of a study's runs. `budget` is empty for runs given by their tokens. `capped` tells the
    sources that max_epochs holds down. Begin and end marks of proteins count as tokens but not
    as residues, so epochs are those of residues plus two marks a protein.
    """
    rows = []
    for (mix, budget), recipe in longest_recipes(recipes).items():
        given = recipe["corpus"].get("rule") or {"weights": recipe["corpus"]["mix"]}
        where = f"corpus.mixes.{mix}"
        shares, capped = resolve_capped(given, manifest, recipe["tokens"], recipe["context"], where)
        for source, share in shares.items():
            tokens = recipe["tokens"] * share
            once = tokens_per_epoch(train_part(manifest, source, where))
            rows.append(
                {
                    "mix": mix,
                    "budget": budget if budget > 0 else None,
                    "tokens": recipe["tokens"],
                    "source": source,
                    "share": share,
                    "source_tokens": tokens,
                    "epochs": tokens / once,
                    "capped": source in capped,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def published_manifest(corpus: CorpusConfig) -> dict[str, Any]:
    """Return what a corpus will hold by the numbers its sources publish, in a manifest's shape.

    Only sources.<name>.train.{sequences, residues} of the sources that are trained on: cleaning,
    duplicates across sources and held-out sequences are not taken off. Raises PlmscaleError that
    names a source without numbers.
    """
    sources = {}
    for name, source in corpus.sources.items():
        if source.role == "held_out":
            continue
        if missing := [key for key in ("sequences", "residues") if not getattr(source, key)]:
            raise PlmscaleError(
                f"corpus.sources.{name}: {' and '.join(missing)} of its release must be given to "
                "foretell epochs before the corpus is built"
            )
        sources[name] = {
            "role": source.role,
            "train": {"sequences": source.sequences, "residues": source.residues},
        }
    return {"sources": sources}


def write_epochs(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table of `epochs_table` as CSV."""
    with atomic_write(path) as handle:
        table.to_csv(handle, index=False, lineterminator="\n")
