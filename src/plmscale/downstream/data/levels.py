"""Which of TAPE's three test sets a domain of the merged test set is of.

The merged set says nothing of it. Lists of the three (name, length and fold of each domain) are
published; where the labels of the merged set are those of the lists, one after the other in some
order, row by row, the level of each row is known. Otherwise it stays unknown: nothing is guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from plmscale.downstream.data.tables import opened_text
from plmscale.errors import PlmscaleError

LEVELS = ("fold", "superfamily", "family")


def read_list(path: Path, classes: Mapping[str, int]) -> list[int]:
    """Return the labels of a list of domains, whose last column is the fold (`a.1`)."""
    labels = []
    with opened_text(path) as handle:
        for number, line in enumerate(handle, start=1):
            fold = line.split()[-1] if line.strip() else ""
            if fold not in classes:
                raise PlmscaleError(f"{path}, line {number}: {fold!r} is no fold of the class map")
            labels.append(classes[fold])
    return labels


def levels_of(labels: Sequence[int], lists: Mapping[str, Sequence[int]]) -> list[str] | None:
    """Return the level of each row with `labels`; None where the lists do not fit it."""
    for order in itertools.permutations(LEVELS):
        if list(labels) == [label for level in order for label in lists[level]]:
            return [level for level in order for _ in lists[level]]
    return None
