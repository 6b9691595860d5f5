"""Where the records of a block of FASTA lie, found by numpy without a loop over lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plmscale.corpus.blocks import WHITE, Fault, header_text

IS_WHITE = np.zeros(256, dtype=bool)
IS_WHITE[list(WHITE)] = True
# A name ends at what str.split() takes for white space: four separators of ASCII, too.
_ENDS_NAME = IS_WHITE.copy()
_ENDS_NAME[28:32] = True


@dataclass(frozen=True)
class Layout:
    """Where the n records of a block lie: int64 arrays of shape (n,), positions in its bytes.

    A header, its `>` included, is [header, header_end); the lines of its sequence are
    [header_end, end) with `white` bytes of white space in them, so `length` letters.
    `names` holds the names that had to be decoded; any other name is [header + 1, name_end).
    `newlines` are all line ends. `fault` tells what is wrong with record n of the block; it and
    all behind it are left out.
    """

    header: np.ndarray
    header_end: np.ndarray
    end: np.ndarray
    white: np.ndarray
    name_end: np.ndarray
    names: dict[int, bytes]
    newlines: np.ndarray
    fault: Fault | None

    def __len__(self) -> int:
        return len(self.header)

    @property
    def length(self) -> np.ndarray:
        return self.end - self.header_end - self.white


def lay_out(data: bytes) -> Layout:
    """Find the records in a block of whole records, the first of which starts at its first byte.

    The first record without a name or a sequence becomes the `fault` of what is returned.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    # One pass finds all that structures the text: letters lie above the blank.
    blanks = np.flatnonzero(buffer <= 32)
    signs = buffer[blanks]
    structure = _ENDS_NAME[signs]
    if not structure.all():
        blanks, signs = blanks[structure], signs[structure]
    if not data.endswith(b"\n"):
        # A last line without newline: as if there was one behind the last byte.
        blanks, signs = np.append(blanks, len(data)), np.append(signs, np.uint8(10))
    line_ends = np.flatnonzero(signs == 10)  # indices into blanks
    newlines = blanks[line_ends]
    following = buffer[np.minimum(newlines + 1, len(buffer) - 1)]
    before = np.flatnonzero((following == ord(">")) & (newlines + 1 < len(buffer)))

    # Line i ends at newlines[i]; `line` is that of each header, `first` its first blank.
    line = np.concatenate([[0], before + 1])
    first = np.concatenate([[0], line_ends[before] + 1])
    header = np.concatenate([[0], newlines[before] + 1])
    header_end = newlines[line]
    end = np.append(header[1:], len(buffer))
    name_end = blanks[first]
    whites = np.concatenate([[0], np.cumsum(IS_WHITE[signs])])
    white = whites[np.append(first[1:], len(blanks))] - whites[line_ends[line]]
    if newlines[-1] == len(buffer):
        white[-1] -= 1  # the line end that is not there
    return _checked(
        data, Layout(header, header_end, end, white, name_end, {}, newlines, fault=None)
    )


def _checked(data: bytes, found: Layout) -> Layout:
    """Return `found` with the names that need decoding, up to the first record at fault."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    decode = found.name_end == found.header + 1
    if buffer.max() >= 128:
        high = np.flatnonzero(buffer >= 128)
        owner = np.searchsorted(found.header, high, side="right") - 1
        decode[owner[high < found.header_end[owner]]] = True

    def line_of(record: int) -> int:
        return int(np.searchsorted(found.newlines, found.header[record]))

    fault = None
    if len(empty := np.flatnonzero(found.length <= 0)):
        record = int(empty[0])
        header = header_text(data[found.header[record] :])
        fault = Fault(record, line_of(record), header, " has no sequence")
    names: dict[int, bytes] = {}
    for record in np.flatnonzero(decode).tolist():
        if fault and record > fault.record:
            break
        raw = data[found.header[record] + 1 : found.header_end[record]]
        if not (text := raw.decode("utf-8", "replace").strip()):
            fault = Fault(record, line_of(record), "", " has no name")
            break
        names[record] = text.split()[0].encode()
    n = fault.record if fault else len(found)
    return Layout(
        *(array[:n] for array in (found.header, found.header_end, found.end, found.white)),
        name_end=found.name_end[:n],
        names={record: name for record, name in names.items() if record < n},
        newlines=found.newlines,
        fault=fault,
    )
