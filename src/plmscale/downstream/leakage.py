"""How much of a test set a model could have seen: its nearest relatives in the pre-training corpus.

Every test set is searched by MMseqs2 against what is trained on (plmscale.downstream.identity). Of
variants of one protein the protein is searched: it says the same of all of them. What is leaked is
stated for runs of the study alone: nobody knows what a hub model has seen, and a random twin has seen
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from plmscale.downstream.base import Data, Example
from plmscale.errors import PlmscaleError

# A test protein with a training protein at this identity, over 80 % of it, counts as leaked.
IDENTITY = 0.5
_FLUORESCENCE = "fluorescence"


def searched(data: Data) -> dict[str, str]:
    """Return the test set's sequences to search, by a name of their own, each once."""
    return {str(n): text for n, text in enumerate(dict.fromkeys(map(_letters(data), _test(data))))}


def summary(data: Data, found: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return {group: {n, leaked, hit}}, "" for the whole test set.

    found: `identity.nearest` of `searched(data)`. n: examples; leaked: share of them with identity
    of at least IDENTITY; hit: share with any hit. Empty where nothing is known of a sequence.
    """
    if (found["status"] == "unknown").any():
        return {}
    by_text = dict(zip(searched(data).values(), found.index, strict=True))
    letters = _letters(data)
    rows = [(example.group, by_text[letters(example)]) for example in _test(data)]
    table = pd.DataFrame(rows, columns=["group", "at"])
    hit = found["status"].eq("hit")
    table["hit"] = hit.loc[table["at"]].to_numpy()
    table["leaked"] = (hit & found["identity"].ge(IDENTITY)).loc[table["at"]].to_numpy()
    groups = {"": table, **{str(name): part for name, part in table.groupby("group") if name}}
    return {
        name: {"n": len(part), "leaked": part["leaked"].mean(), "hit": part["hit"].mean()}
        for name, part in groups.items()
    }


def leakage(
    data: Data,
    corpus: Path,
    mixes: Iterable[tuple[str, ...]],
    cache: Path | None = None,
    threads: int = 2,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return each searched sequence's nearest training protein, and the summary, for each mix.

    mixes: the sources that runs were trained on. The table has the columns of `identity.nearest`,
    `sequence` and `sources`; the summary is {sources joined by "+": as of `summary`}.
    """
    from plmscale.downstream import identity

    queries, tables, summaries = searched(data), [], {}
    for sources in dict.fromkeys(mixes):
        found = identity.nearest(queries, corpus, sources, cache, threads)
        summaries[mix_name(sources)] = summary(data, found)
        tables.append(found.assign(sequence=list(queries.values()), sources=mix_name(sources)))
    return pd.concat(tables, ignore_index=True), summaries


def mix_name(sources: Iterable[str]) -> str:
    """Return what a mix is called in the summary."""
    return "+".join(sorted(sources))


def of_group(summaries: Mapping[str, Any], sources: Iterable[str], group: str) -> dict[str, float]:
    """Return what is known for a run's mix and a metric's group; its test set's where it has none."""
    own = summaries.get(mix_name(sources), {})
    return own.get(group) or own.get("") or {}


def _test(data: Data) -> list[Example]:
    try:
        return data.split("test")
    except PlmscaleError:
        return list(data.examples)


def _letters(data: Data) -> Any:
    if data.task == _FLUORESCENCE:
        from plmscale.downstream.data.fluorescence import WILD_TYPE

        return lambda example: WILD_TYPE
    return lambda example: example.extra.get("target_seq") or example.sequence
