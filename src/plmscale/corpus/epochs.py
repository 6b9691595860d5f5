"""How often a study reads each source of its corpus, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

COLUMNS = ["mix", "budget", "tokens", "source", "share", "source_tokens", "epochs"]


def epochs_table(manifest: Mapping[str, Any], recipes: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return, for the longest run of each mix and budget, the epochs of each of its sources.

    `manifest` is a corpus's manifest.json, `recipes` those of a study's runs. `budget` is empty
    for runs given by their tokens. Begin and end marks of proteins count as tokens but not as
    residues, so epochs are those of residues plus two marks a protein.
    """
    longest: dict[tuple[str, float], Mapping[str, Any]] = {}
    for recipe in recipes:
        # Runs that are given by tokens have no budget; each number of tokens is one of its own.
        key = (recipe["corpus"]["name"], recipe["budget"] or -float(recipe["tokens"]))
        if key not in longest or recipe["tokens"] > longest[key]["tokens"]:
            longest[key] = recipe
    rows = []
    for (mix, budget), recipe in sorted(longest.items()):
        shares = recipe["corpus"]["mix"]
        total = sum(shares.values())
        for source, weight in shares.items():
            if not weight > 0:
                continue
            part = manifest["sources"][source]["train"]
            once = part["residues"] + 2 * part["sequences"]
            tokens = recipe["tokens"] * weight / total
            rows.append(
                {
                    "mix": mix,
                    "budget": budget if budget > 0 else None,
                    "tokens": recipe["tokens"],
                    "source": source,
                    "share": weight / total,
                    "source_tokens": tokens,
                    "epochs": tokens / once,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)
