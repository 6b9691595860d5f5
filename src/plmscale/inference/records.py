"""FASTA record by record, from a file or standard input, as tokens, with every fault told.

The corpus reader (plmscale.corpus.stream) cleans blocks for throughput; here each record must come
out in order, or be named in an error, and input may be a pipe. Models are slower than this reader.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from plmscale.corpus import alphabet
from plmscale.corpus.openers import (
    DAMAGED,
    START_BYTES,
    open_sequences,
    packing_of,
    unpacked,
)
from plmscale.errors import PlmscaleError

STDIN = "-"
LONGEST_RECORD = 64 << 20
_CHUNK = 1 << 20
_SHOWN = 80
_WHITE = b" \t\r\n\x0b\x0c"

# As the corpus is cleaned by default: lower case is upper case, J is X, the rest of UOBZX stays.
_TOKENS = np.zeros(256, np.uint8)
for _letter in alphabet.LETTERS + "J":
    _token = alphabet.encode("X" if _letter == "J" else _letter)[0]
    _TOKENS[[ord(_letter), ord(_letter.lower())]] = _token


@dataclass(frozen=True)
class Record:
    """Record `number` (from 1) of its file; tokens: uint8 (length,), residues only, length >= 1."""

    number: int
    id: str
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass
class FastaReader:
    """Iterates over the records of `path` (plain, gzip, zstd or xz; `-` is standard input).

    headers: the id is the whole header line instead of its first word.
    skip: leave records at fault out, count them in `skipped` and tell each to `warn`; otherwise
    the first one is an error. A damaged file, and one that is no FASTA, is an error in any case.
    advance: told the bytes read from the file, packed as they are.

    A record is at fault without a name, without a sequence, with a sign that is no amino acid
    (an inner `*`, too; trailing ones are cut), or with more than `longest` bytes.
    """

    path: str | Path
    headers: bool = False
    skip: bool = False
    warn: Callable[[str], object] = lambda text: None
    advance: Callable[[int], object] = lambda count: None
    longest: int = LONGEST_RECORD
    skipped: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        return "standard input" if str(self.path) == STDIN else str(self.path)

    def __iter__(self) -> Iterator[Record]:
        for number, (line, header, sequence) in enumerate(self._records(), 1):
            text = header.decode("utf-8", "replace").strip()
            tokens, fault = tokens_of(sequence)
            if not text:
                fault = "has no name"
            elif len(sequence) > self.longest:
                fault = f"is longer than {self.longest:,} bytes; no protein is: is it a genome?"
            elif not fault and not len(tokens):
                fault = "has no sequence"
            if not fault:
                yield Record(number, text if self.headers else text.split()[0], tokens)
                continue
            where = f"{self.name}: line {line}: record {number} ({text[:_SHOWN]}) {fault}"
            if not self.skip:
                raise PlmscaleError(
                    f"{where}; correct it, or leave such records out: --on-error skip"
                )
            self.skipped += 1
            self.warn(f"left out: {where}")

    def _records(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (line of the header from 1, header without `>`, sequence without white space)."""
        header: bytes | None = None
        begins, size, parts = 0, 0, []
        for line, text in self._lines():
            if text.startswith(b">"):
                if header is not None:
                    yield begins, header, b"".join(parts)
                header, begins, size, parts = text[1:], line, 0, []
            elif stripped := text.translate(None, _WHITE):
                if header is None:
                    found = text[:40].decode("utf-8", "replace").strip()
                    raise PlmscaleError(
                        f"{self.name}: line {line}: expected '>' and a name, found {found!r}; "
                        "is this a FASTA file?"
                    )
                # What is beyond the limit is dropped, so a genome costs no more than the limit.
                if size <= self.longest:
                    parts.append(stripped)
                size += len(stripped)
        if header is None:
            raise PlmscaleError(f"{self.name}: no FASTA records; the file is empty")
        yield begins, header, b"".join(parts)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number from 1, line); a long sequence line comes in pieces of one number."""
        line, rest, last = 1, b"", b""
        try:
            with _opened(self.path, self.advance) as handle:
                read = getattr(handle, "read1", handle.read)
                while chunk := read(_CHUNK):
                    *whole, rest = (rest + chunk).split(b"\n")
                    for text in whole:
                        if text.startswith(b">"):
                            last = text
                        yield line, text
                        line += 1
                    if len(rest) > _CHUNK and not rest.startswith(b">"):
                        yield line, rest
                        # Not empty: a `>` at the start of the next piece is within a line.
                        rest = b" "
        except DAMAGED as error:
            after = f"after the header {last[1 : _SHOWN + 1].decode('utf-8', 'replace').strip()!r}"
            raise PlmscaleError(
                f"{self.name}: the compressed file is truncated or damaged "
                f"{after if last else 'before the first record'}: {error}; fetch it again"
            ) from None
        if rest:
            yield line, rest


def tokens_of(sequence: bytes) -> tuple[np.ndarray, str]:
    """Return the tokens of a sequence, uint8 (length,), and what is wrong with it, or ''."""
    raw = np.frombuffer(sequence.rstrip(b"*"), np.uint8)
    tokens = _TOKENS[raw]
    if len(odd := np.flatnonzero(tokens == 0)):
        sign = bytes(raw[odd[:1]]).decode("latin-1")
        what = "is a stop inside" if sign == "*" else "is no amino acid"
        return tokens, f"has {sign!r} at position {odd[0] + 1}, which {what}"
    return tokens, ""


@contextlib.contextmanager
def _opened(path: str | Path, advance: Callable[[int], object]) -> Iterator[BinaryIO]:
    if str(path) != STDIN:
        with open_sequences(path, advance) as handle:
            yield handle
        return
    source = sys.stdin.buffer
    start = source.read(START_BYTES)
    raw = io.BufferedReader(_Rejoined(start, source, advance))
    with unpacked(raw, packing_of(start)) as handle:
        yield handle


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, rest: BinaryIO, advance: Callable[[int], object]) -> None:
        super().__init__()
        self._start, self._advance = start, advance
        self._read = getattr(rest, "read1", rest.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._start[: len(buffer)] or self._read(len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        self._advance(len(data))
        return len(data)
