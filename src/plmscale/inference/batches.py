"""Proteins as batches of rows: groups of records, pieces of long proteins, rows of like length.

A group of consecutive records is all that is in memory. Inside it rows are sorted by length, so
that little of a batch is padding, and results go back to where their residue stands. So the
batches decide how fast it goes, not what comes out. Measured against packing several proteins
into one row: sorted rows are faster, because attention is quadratic in the row and needs no
mask (on a processor 1.2 to 2 times as fast).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from plmscale.corpus.alphabet import BOS, EOS, PAD
from plmscale.errors import PlmscaleError
from plmscale.inference.records import Record

_GROUP_RECORDS = 8192


def groups(records: Iterable[Record], tokens: int) -> Iterator[list[Record]]:
    """Yield consecutive records, about `tokens` tokens (> 0) at a time, at least one record."""
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record) + 2
        if size >= tokens or len(group) == _GROUP_RECORDS:
            yield group
            group, size = [], 0
    if group:
        yield group


def windows(length: int, window: int, causal: bool) -> list[tuple[int, int, int, int]]:
    """Cut `length` tokens into windows; return [(start, stop, first, last)] for each.

    Tokens [start, stop) are one row, and what the model says of [first, last) of them is used:
    every token once. One window if `length` <= `window` or `window` is 0. Otherwise all have
    `window` tokens and neighbours overlap by half a window, the last two by more. Causal: a window
    is used from where the one before ends, so with half a window of what precedes, or more.
    Otherwise: up to the middle of the overlap, so with a quarter on both sides, or more.
    """
    if not window or length <= window:
        return [(0, length, 0, length)]
    starts = [*range(0, length - window, window - window // 2), length - window]
    found, first = [], 0
    for i, start in enumerate(starts):
        stop = start + window
        last = stop
        if not causal and i + 1 < len(starts):
            last = (starts[i + 1] + stop) // 2
        found.append((start, stop, first, last))
        first = last
    return found


@dataclass(frozen=True)
class Layout:
    """A group of records as one string of tokens, and the pieces of it that are rows.

    tokens: uint8 (n,), BOS residues EOS of one record after another. begins: int64 (records,),
    the place of each BOS. pieces: int64 (pieces, 4) of start, stop, first, last as of `windows`,
    as places in `tokens`. owners: int64 (pieces,), the record of each piece.
    """

    tokens: np.ndarray
    begins: np.ndarray
    pieces: np.ndarray
    owners: np.ndarray
    lengths: np.ndarray

    @property
    def windowed(self) -> np.ndarray:
        """Whether a record is cut into windows, bool (records,)."""
        return np.bincount(self.owners, minlength=len(self.begins)) > 1


def lay_out(records: list[Record], window: int, causal: bool, last_token: bool = True) -> Layout:
    """Return the layout of a group; without `last_token` no piece holds an EOS."""
    lengths = np.array([len(record) for record in records])
    begins = np.cumsum(lengths + 2) - (lengths + 2)
    tokens = np.empty(int((lengths + 2).sum()), np.uint8)
    pieces: list[tuple[int, int, int, int]] = []
    owners: list[int] = []
    for i, (record, begin) in enumerate(zip(records, begins.tolist())):
        end = begin + len(record) + 1
        tokens[begin], tokens[end] = BOS, EOS
        tokens[begin + 1 : end] = record.tokens
        for cut in windows(len(record) + 1 + last_token, window, causal):
            pieces.append(tuple(begin + place for place in cut))  # type: ignore[arg-type]
            owners.append(i)
    return Layout(tokens, begins, np.array(pieces), np.array(owners), lengths)


@dataclass(frozen=True)
class Batch:
    """Rows of a layout. numbers: which item each row is, (rows,); tokens: uint8 (rows, s), PAD
    behind the end; places: int64 (rows, s) in the layout's tokens; used: bool (rows, s), what
    `windows` says is to be used; padded: whether there is any PAD."""

    numbers: np.ndarray
    tokens: np.ndarray
    places: np.ndarray
    used: np.ndarray
    padded: bool


def batches(layout: Layout, items: np.ndarray, batch_tokens: int) -> Iterator[Batch]:
    """Yield rows for `items`, the piece of each row, int64 (rows,); a piece may come again.

    The longest come first, so that what does not fit into memory fails at once. A batch has at
    most `batch_tokens` tokens, or one row.
    """
    length = (layout.pieces[:, 1] - layout.pieces[:, 0])[items]
    order = np.argsort(-length, kind="stable")
    at = 0
    while at < len(order):
        widest = int(length[order[at]])
        numbers = order[at : at + max(1, batch_tokens // widest)]
        at += len(numbers)
        start, stop, first, last = layout.pieces[items[numbers]].T[:, :, None]
        places = start + np.arange(widest)
        inside = places < stop
        places = np.minimum(places, stop - 1)
        tokens = np.where(inside, layout.tokens[places], np.uint8(PAD))
        used = inside & (places >= first) & (places < last)
        yield Batch(numbers, tokens, places, used, not inside.all())


def check_batch_tokens(batch_tokens: int | None, cuda: bool) -> int:
    """Return how many tokens a batch has at most; None is the default of the device."""
    if batch_tokens is None:
        return 65536 if cuda else 8192
    if batch_tokens < 1:
        raise PlmscaleError(f"--batch-tokens {batch_tokens}: at least 1")
    return batch_tokens
