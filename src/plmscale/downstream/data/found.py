"""What a reader is given and returns, and drawing a part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from xxhash import xxh64_intdigest

from plmscale.downstream.base import Example
from plmscale.downstream.data.entries import SourceEntry
from plmscale.downstream.data.letters import Letters
from plmscale.errors import PlmscaleError, suggest


@dataclass(frozen=True)
class Asked:
    """What is to be read.

    paths: the files that are there, by role. resources: the folder of the task's YAML file.
    groups: only these groups (assays), None for all. limit, seed: as for `draw`.
    """

    task: str
    source: SourceEntry
    paths: dict[str, Path]
    resources: Path
    groups: Collection[str] | None = None
    limit: int | None = None
    seed: int = 0


@dataclass
class Found:
    """What a reader found. rows: counted before cleaning, as the source's `rows` has them."""

    examples: list[Example] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def take(self, letters: Letters) -> None:
        """Take over what cleaning counted."""
        self.dropped.update(letters.dropped)
        self.notes += letters.notes()


def check_rows(asked: Asked, found: Found) -> None:
    """Raise PlmscaleError where the source has other splits or another number of rows."""
    expected = asked.source.rows
    for name in [*expected, *(name for name in found.rows if name not in expected)]:
        have, want = found.rows.get(name, 0), expected.get(name, 0)
        if expected and have != want:
            files = ", ".join(path.name for path in asked.paths.values())
            raise PlmscaleError(
                f"{asked.task}: {name} has {have:,} rows, expected {want:,} ({files}); the source "
                "is another release: get the one of the registry, or correct the rows in "
                f"{asked.resources / f'{asked.task}.yaml'}"
            )


def check_groups(asked: Asked, there: Iterable[str]) -> None:
    """Raise PlmscaleError where a group is asked for that is not there."""
    known = sorted(set(there))
    for name in asked.groups or ():
        if name not in known:
            raise PlmscaleError(f"{asked.task}: no group {name!r}{suggest(name, known)}")


def check_ids(asked: Asked, examples: Sequence[Example]) -> None:
    """Raise PlmscaleError where two examples of one group have the same id."""
    seen: set[tuple[str, str]] = set()
    for example in examples:
        key = (example.group, example.id)
        if key in seen:
            raise PlmscaleError(f"{asked.task}: two examples are called {example.id}")
        seen.add(key)


def draw(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """Return at most `limit` examples of each split and group, in their order (see `drawn`)."""
    if limit is None:
        return list(examples)
    places: dict[tuple[str, str], list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault((example.split, example.group), []).append(place)
    kept = [
        own[index]
        for (split, group), own in places.items()
        for index in drawn(len(own), split, group, limit, seed)
    ]
    return [examples[place] for place in sorted(kept)]


def drawn(n: int, split: str, group: str, limit: int | None, seed: int) -> list[int]:
    """Return which of `n` examples are taken, ascending; all where there are no more than `limit`.

    It follows from seed, split, group and n alone; a smaller limit takes a part of what a larger
    one takes.
    """
    if limit is None or n <= limit:
        return list(range(n))
    key = xxh64_intdigest(f"{split}\t{group}".encode())
    return sorted(np.random.default_rng([seed, key]).permutation(n)[:limit].tolist())
