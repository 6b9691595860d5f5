"""FASTA in large blocks of whole records: memory of a few blocks, whatever the file's size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from plmscale.corpus.openers import DAMAGED, open_sequences, packing
from plmscale.errors import PlmscaleError

WHITE = b" \t\n\r\x0b\x0c"  # what bytes.split() takes for white space
# Large enough that calls cost nothing beside their work, small enough for the caches and for an
# allocator that hands memory back from some size on: 1 MiB was the fastest of 1/8 to 4 MiB.
BLOCK_BYTES = 1 << 20
LONGEST_RECORD = 64 << 20
_HEADER_SHOWN = 200


class Fault(Exception):
    """What is wrong with a record, by one who knows only a block: whoever counts blocks tells.

    `record` and `line` count from 0 within the block; `line` is None where it is not known.
    """

    def __init__(
        self, record: int, line: int | None, header: str, after: str, before: str = ""
    ) -> None:
        super().__init__(before + header + after)
        self.record, self.line, self.header = record, line, header
        self.before, self.after = before, after

    def told(self, path: str | Path, records: int, lines: int) -> PlmscaleError:
        """Return the error for people; `records` and `lines` of the file lie before the block."""
        line = "" if self.line is None else f"line {lines + self.line + 1}: "
        header = f" ({self.header})" if self.header else ""
        record = f"record {records + self.record + 1}{header}"
        return PlmscaleError(f"{path}: {line}{self.before}{record}{self.after}")


class _Stream:
    """A packed or plain file of which everything before a damage is handed out before it is told."""

    def __init__(self, handle: BinaryIO) -> None:
        # read1 gives what one step of unpacking gave, so an error costs nothing read before it.
        self._read = getattr(handle, "read1", handle.read)
        self._damage: BaseException | None = None

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end or where the damage begins."""
        if self._damage:
            raise self._damage
        parts: list[bytes] = []
        try:
            while size and (part := self._read(size)):
                parts.append(part)
                size -= len(part)
        except DAMAGED as error:
            if not parts:
                raise
            self._damage = error
        return parts[0] if len(parts) == 1 else b"".join(parts)


def read_blocks(
    path: str | Path,
    block_bytes: int = BLOCK_BYTES,
    longest_record: int = LONGEST_RECORD,
    advance: Callable[[int], object] | None = None,
) -> Iterator[tuple[bytes, int]]:
    """Yield (whole records, number of blank lines before them), `block_bytes` (> 0) or so a time.

    A block starts with `>`; only before the first one may there be blank lines. A record longer
    than a block is read whole, up to about `longest_record` bytes. Raises PlmscaleError for an
    empty file and for text before the first record; Fault, counted from the end of the last block
    yielded, for a record that is too long and for a cut or damaged file. `advance` is told the
    bytes read from the file, packed as they are.
    """
    with open_sequences(path, advance) as handle:
        stream = _Stream(handle)
        rest, blank_lines = _skip_to_first_record(path, stream, block_bytes)
        whole = rest.rfind(b"\n>") + 1
        if whole:
            yield rest[:whole], blank_lines
            rest, blank_lines = rest[whole:], 0
        while True:
            if len(rest) > longest_record:
                wrong = f" is longer than {longest_record:,} bytes; no protein is: is it a genome?"
                raise Fault(0, None, header_text(rest), wrong)
            try:
                # For a long record as much again, so that its cost stays linear in its length.
                chunk = stream.read(max(block_bytes, len(rest)))
            except DAMAGED as error:
                raise Fault(
                    0, None, header_text(rest), f": {error}; fetch it again", _damaged(path) + "in "
                ) from None
            if not chunk:
                yield rest, blank_lines
                return
            if whole := chunk.rfind(b"\n>") + 1:
                # One copy of the block, and a short rest.
                yield b"".join([rest, memoryview(chunk)[:whole]]), blank_lines
                rest, blank_lines = chunk[whole:], 0
            elif rest.endswith(b"\n") and chunk.startswith(b">"):
                yield rest, blank_lines
                rest, blank_lines = chunk, 0
            else:
                rest += chunk


def _skip_to_first_record(path: str | Path, stream: _Stream, block_bytes: int) -> tuple[bytes, int]:
    """Return what was read, from the first `>` on, and the number of blank lines before it."""
    blank_lines, begun = 0, b""
    try:
        while True:
            if not (chunk := stream.read(block_bytes)):
                raise PlmscaleError(f"{path}: no FASTA records; the file is empty")
            text = chunk.lstrip(WHITE)
            blank = begun + chunk[: len(chunk) - len(text)]
            blank_lines += blank.count(b"\n")
            begun = blank[blank.rfind(b"\n") + 1 :][:40]  # blanks before the text in its own line
            if text.startswith(b">") and not begun:
                return text, blank_lines
            if text:
                break
    except DAMAGED as error:
        raise PlmscaleError(
            f"{path}: {_damaged(path)}before the first record: {error}; fetch it again"
        ) from None
    with contextlib.suppress(*DAMAGED):  # what was found is wrong, whatever comes after it
        text += stream.read(40)
    found = (begun + text).split(b"\n", 1)[0][:40].decode("utf-8", "replace").strip()
    raise PlmscaleError(
        f"{path}: line {blank_lines + 1}: expected '>' and a name, found {found!r}; "
        "is this a FASTA file?"
    )


def header_text(record: bytes) -> str:
    """Return the header of a record's bytes as text without its `>`, the start of a long one."""
    start = record[1 : _HEADER_SHOWN + 1].split(b"\n", 1)[0]
    return start.decode("utf-8", "replace").strip()


def _damaged(path: str | Path) -> str:
    kind = {"gzip": ".gz", "zstd": ".zst", "xz": ".xz"}.get(packing(path), "file")
    return f"the {kind} is truncated or damaged "
