"""The cases of metrics that stored scores give, one for each definition in use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from plmscale.downstream.base import Predictions
from plmscale.downstream.cases import Case
from plmscale.downstream.contacts.metrics import FRACTIONS, LENGTHS, RANGES, Counts, count
from plmscale.downstream.contacts.record import Record, records
from plmscale.downstream.statistics import mean, ratio
from plmscale.errors import PlmscaleError

AVERAGES = ("macro", "micro")
CURVE = "train="
_PRIMARY = ((">=6", "L/5"), (">=12", "L/5"), (">=24", "L/5"))


def curve_size(group: str) -> int | None:
    """Return the number of training proteins of a point of the learning curve, else None."""
    return int(group.removeprefix(CURVE)) if group.startswith(CURVE) else None


def definition(where: str, average: str, length: str, no_contacts: str) -> str:
    """Return a metric's definition in words, as tables show it."""
    apart = f"|i-j|{where}"
    if where[0] != ">":
        low, high = where.split("-")
        apart = f"{low}<=|i-j|<={high}"
    rule = ", proteins without a contact left out" if no_contacts == "skip" else ""
    return f"{apart}, {average}, L={length}{rule}"


def cases(predictions: Predictions, no_contacts: str) -> Iterator[Case]:
    """Yield the cases of the predictions; a row is a protein.

    Group "" holds what the largest training set gives, under every definition. Where the head was
    trained on several sizes, groups `train=N` are the learning curve: P@L/5, macro, L=sequence. A
    definition that no protein meets (all chains too short for it) is left out.
    """
    found = list(records(predictions))
    if not found:
        raise PlmscaleError("contacts: the predictions hold no protein; make them again")
    sizes = sorted({record.train_size for record in found})
    for size in sizes:
        own = [record for record in found if record.train_size == size]
        counts = counted(own)
        if size == sizes[-1]:
            for definition in product(RANGES, FRACTIONS, AVERAGES, LENGTHS):
                yield from _case(own, counts, "", definition, no_contacts)
        if len(sizes) > 1:
            for where, part in _PRIMARY:
                definition = (where, part, "macro", "sequence")
                yield from _case(own, counts, f"{CURVE}{size}", definition, no_contacts)


def counted(found: list[Record]) -> Counts:
    """Return what precisions are made of, one row a record."""
    each = [count(record.scores, record.contacts, record.resolved) for record in found]
    return Counts(*(np.stack(part) for part in zip(*each, strict=True)))


def _case(
    own: list[Record],
    counts: Counts,
    group: str,
    which: tuple[str, str, str, str],
    no_contacts: str,
) -> Iterator[Case]:
    where, part, average, length = which
    kept, hits, chosen = counts.of(where, length, part, no_contacts)
    if not kept.any():
        return
    hits, chosen = hits[kept], chosen[kept].astype(float)
    shown = not group and (average, length) == ("macro", "sequence")
    yield Case(
        split=own[0].split,
        group=group,
        metric=f"P@{part}",
        definition=definition(where, average, length, no_contacts),
        statistic=mean if average == "macro" else ratio,
        # A crop is part of the name: the same protein cropped otherwise is another test.
        ids=[f"{own[row].id}:{len(own[row].resolved)}" for row in np.flatnonzero(kept)],
        values=(hits / chosen,) if average == "macro" else (hits, chosen),
        n=int(kept.sum()),
        primary=shown and (where, part) in _PRIMARY,
    )
