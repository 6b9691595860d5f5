"""Cleaning a block of FASTA by numpy alone: the reference of the compiled kernel, and its stand-in.

It is what finds and tells faults, too: the kernel declines a block that has one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from plmscale.corpus import alphabet
from plmscale.corpus.blocks import WHITE, Fault, header_text
from plmscale.corpus.fastclean import LOWER, OTHER, STOP, CleanBlock, LetterRule, hash_sequences
from plmscale.corpus.layout import IS_WHITE, Layout, lay_out


def clean_by_numpy(data: bytes, rule: LetterRule) -> tuple[CleanBlock, int]:
    """Apply `rule` to a block of whole records; return what stays and the block's line ends.

    `records` count from 1 within the block. Raises Fault for the first record that has no name,
    no sequence or (where the rule makes it an error) a sign that is no amino acid.
    """
    layout = lay_out(data)
    n = len(layout)
    codes = np.frombuffer(
        _join(data, layout.header_end, layout.end).translate(rule.read, WHITE), dtype=np.uint8
    )
    offsets = np.concatenate([[0], np.cumsum(layout.length)])
    counts: Counter[str] = Counter(read_sequences=n, read_residues=len(codes))
    if n and codes.max() >= LOWER:
        counts["lower_case_sequences"] = int(
            np.count_nonzero(np.maximum.reduceat(codes, offsets[:-1]) >= LOWER)
        )
        codes = codes & (LOWER - 1)
    # All that is no standard amino acid; its record is found by position.
    odd = np.flatnonzero(codes >= alphabet.FIRST_EXTRA)
    sign = codes[odd]
    owner = np.searchsorted(offsets, odd, side="right") - 1
    starts = offsets[:-1]
    ends, stopped, inner_stop = _cut_stops(odd[sign == STOP], owner[sign == STOP], offsets)
    counts["trailing_stop_sequences"] = stopped

    keep = ~inner_stop
    counts["dropped_inner_stop"] = n - int(keep.sum())
    wrong = (sign == OTHER) & keep[owner]
    if rule.other_is_error and wrong.any():
        at = int(np.argmax(wrong))
        raise _no_amino_acid(data, layout, int(owner[at]), int(odd[at] - offsets[owner[at]]))
    if layout.fault:
        raise layout.fault
    counts["dropped_other_letter"] = _drop(keep, owner[wrong])
    counts["dropped_letter_rule"] = _drop(keep, owner[rule.drop[sign]])
    replaced: Counter[str] = Counter()
    stays = keep[owner]
    if rule.replace:
        codes = _replace(codes, odd[stays], sign[stays], rule, replaced)
    length = ends - starts
    counts["dropped_only_stops"] = _drop(keep, np.flatnonzero(length == 0))
    outside = (length < rule.min_length) | (length > rule.max_length)
    counts["dropped_by_length"] = _drop(keep, np.flatnonzero(outside))

    kept = np.flatnonzero(keep)
    counts["written_sequences"] = len(kept)
    flat = _join(codes.tobytes(), starts[kept], ends[kept])
    kept_offsets = np.concatenate([[0], np.cumsum(length[kept])])
    ids, id_offsets = _names(data, layout, kept)
    block = CleanBlock(
        tokens=np.frombuffer(flat, dtype=np.uint8),
        offsets=kept_offsets,
        ids=ids,
        id_offsets=id_offsets,
        records=kept + 1,
        hashes=hash_sequences(flat, kept_offsets),
        counts=+counts,
        replaced=replaced,
    )
    return block, len(layout.newlines)


def _join(data: bytes, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """Return the parts [start, end) of `data`, in order, one after another."""
    if len(starts):
        # Neighbours are copied in one go: few records are left out.
        breaks = np.flatnonzero(starts[1:] != ends[:-1])
        starts = starts[np.concatenate([[0], breaks + 1])]
        ends = ends[np.append(breaks, len(ends) - 1)]
        view = memoryview(data)  # its slices are no copies
    return b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist())])


def _cut_stops(
    stops: np.ndarray, owner: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray]:
    """Return (ends without trailing stops, how many had some, which hold a stop inside).

    `stops` are the positions of all `*`, ascending, and `owner` their records.
    """
    ends = offsets[1:].copy()
    inside = np.zeros(len(ends), dtype=bool)
    if not len(stops):
        return ends, 0, inside
    # Runs of stops; one that reaches the end of its record is trailing.
    new = np.flatnonzero((np.diff(stops) != 1) | (np.diff(owner) != 0)) + 1
    first = np.concatenate([[0], new])
    last = np.append(new, len(stops)) - 1
    trailing = stops[last] + 1 == offsets[owner[last] + 1]
    ends[owner[first[trailing]]] = stops[first[trailing]]
    inside[owner[first[~trailing]]] = True
    return ends, int(trailing.sum()), inside


def _drop(keep: np.ndarray, records: np.ndarray) -> int:
    """Clear `records` in `keep`; return how many were still set."""
    before = int(keep.sum())
    keep[records] = False
    return before - int(keep.sum())


def _replace(
    codes: np.ndarray, odd: np.ndarray, sign: np.ndarray, rule: LetterRule, replaced: Counter[str]
) -> np.ndarray:
    """Return `codes` with letters replaced at the positions `odd`, which hold `sign`; count."""
    changes = [(odd[sign == code], letter, to) for code, (letter, to) in rule.replace.items()]
    if not any(len(at) for at, _, _ in changes):
        return codes
    codes = codes.copy()
    for at, letter, to in changes:
        codes[at] = to
        if len(at):
            replaced[letter] += len(at)
    return codes


def _names(data: bytes, layout: Layout, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the names of the records `kept`, one after another as uint8, and their offsets."""
    starts, ends = layout.header[kept] + 1, layout.name_end[kept]
    # Names are so short that copies cost less than slices of a memoryview.
    parts = [data[a:b] for a, b in zip(starts.tolist(), ends.tolist())]
    length = ends - starts
    if layout.names:
        for i in np.flatnonzero(np.isin(kept, list(layout.names))).tolist():
            parts[i] = layout.names[int(kept[i])]
            length[i] = len(parts[i])
    offsets = np.concatenate([[0], np.cumsum(length)])
    return np.frombuffer(b"".join(parts), dtype=np.uint8), offsets


def _no_amino_acid(data: bytes, layout: Layout, record: int, place: int) -> Fault:
    """Return the fault of the sign at `place` (from 0) in the sequence of `record`."""
    start, end = int(layout.header_end[record]), int(layout.end[record])
    lines = np.frombuffer(data, dtype=np.uint8)[start:end]
    at = start + int(np.flatnonzero(~IS_WHITE[lines])[place])
    sign = data[at : at + 1].upper().decode("latin-1")
    return Fault(
        record,
        int(np.searchsorted(layout.newlines, at)),
        header_text(data[layout.header[record] : layout.header_end[record]]),
        f": {sign!r} at position {place + 1} is no amino acid; "
        "correct it, or set corpus.clean.other: drop",
    )
