"""The kernel that cleans a block of FASTA, and pieces of bytes for the hash; with its tables.

Codes are those of plmscale.corpus.fastclean.LetterRule: below 32 a token or one of J, stop and
other; 32 more for lower case.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from plmscale import native

_WHITE, _ODD = 64, 128
_DROP, _KEEP = 254, 255
COUNTS = (
    "read_sequences",
    "read_residues",
    "lower_case_sequences",
    "trailing_stop_sequences",
    "dropped_inner_stop",
    "dropped_other_letter",
    "dropped_letter_rule",
    "dropped_only_stops",
    "dropped_by_length",
    "written_sequences",
)


@dataclass(frozen=True)
class Tables:
    """A letter rule as the kernel reads it: 256 bytes by the byte read, 32 by the code."""

    read: bytes
    becomes: bytes

    @classmethod
    def of(
        cls, read: bytes, white: bytes, first_odd: int, replace: dict[int, int], drop: np.ndarray
    ) -> Tables:
        """Make them from `read`, the code of each byte, and what is done with odd codes.

        Codes from `first_odd` on (lower case aside) are no standard amino acid: they are replaced
        by `replace` {code: token}, drop their record (`drop`, bool (32,)), or stay.
        """
        codes = np.frombuffer(read, np.uint8).copy()
        codes[(codes & 31) >= first_odd] |= _ODD
        codes[list(white)] = _WHITE
        becomes = np.full(32, _KEEP, np.uint8)
        becomes[drop] = _DROP
        becomes[list(replace)] = list(replace.values())
        return cls(codes.tobytes(), becomes.tobytes())


@dataclass(frozen=True)
class Cleaned:
    """What stays of a block: arrays as of CleanBlock, `replaced` int (32,) by code."""

    tokens: bytearray
    offsets: np.ndarray
    names: np.ndarray
    name_offsets: np.ndarray
    records: np.ndarray
    counts: dict[str, int]
    replaced: list[int]
    newlines: int


def clean(
    data: bytes, tables: Tables, min_length: int, max_length: int, other_is_error: bool
) -> Cleaned | None:
    """Clean a block of whole records, without Python's lock.

    Returns None where there is no kernel, and for a block in which something is at fault or a
    name is not ASCII: numpy then finds out.
    """
    kernel = native.load("_fasta")
    if kernel is None:
        return None
    # The kernel compares 64-bit numbers.
    limits = min(min_length, 2**62), min(max_length, 2**62)
    found = kernel.clean(data, tables.read, tables.becomes, *limits, other_is_error)
    if found is None:
        return None
    tokens, offsets, names, name_offsets, records, counts, replaced, newlines = found
    return Cleaned(
        tokens,
        np.frombuffer(offsets, np.int64),
        np.frombuffer(names, np.uint8),
        np.frombuffer(name_offsets, np.int64),
        np.frombuffer(records, np.int64),
        dict(zip(COUNTS, counts, strict=True)),
        replaced,
        newlines,
    )


def pieces(data: bytes | bytearray, offsets: np.ndarray) -> list[bytes]:
    """Return data[offsets[i]:offsets[i + 1]] for each i; offsets are int64 (n + 1,)."""
    kernel = native.load("_fasta")
    if kernel is not None:
        return kernel.pieces(data, np.ascontiguousarray(offsets, np.int64))
    return [data[a:b] for a, b in pairwise(offsets.tolist())]
