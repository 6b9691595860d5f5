"""Reading FASTA with errors that name file and record."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plmscale.errors import PlmscaleError

_GZIP = b"\x1f\x8b"


def open_fasta(path: str | Path) -> BinaryIO:
    """Open a plain or gzip file for reading bytes; what it is decides the content, not the name."""
    path = Path(path)
    try:
        with path.open("rb") as handle:
            packed = handle.read(2) == _GZIP
        return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such FASTA file") from None


def read_fasta(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (header without '>', sequence as found, white space removed) of each record.

    CRLF line ends and blank lines are accepted. Raises PlmscaleError for an empty file, text
    before the first record, a record without a name or a sequence, and a truncated or damaged
    .gz, always naming file and record.
    """
    header: str | None = None
    lines: list[bytes] = []
    number = 0

    def record() -> tuple[str, bytes]:
        sequence = b"".join(lines)
        if not sequence:
            raise PlmscaleError(f"{path}: record {number} ({header}) has no sequence")
        return header or "", sequence

    try:
        with open_fasta(path) as handle:
            for line_number, line in enumerate(handle, 1):
                if line.startswith(b">"):
                    if header is not None:
                        yield record()
                    header = line[1:].decode("utf-8", "replace").strip()
                    number += 1
                    lines = []
                    if not header:
                        raise PlmscaleError(
                            f"{path}: line {line_number}: record {number} has no name"
                        )
                elif stripped := b"".join(line.split()):
                    if header is None:
                        found = line[:40].decode("utf-8", "replace").strip()
                        raise PlmscaleError(
                            f"{path}: line {line_number}: expected '>' and a name, "
                            f"found {found!r}; is this a FASTA file?"
                        )
                    lines.append(stripped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        last = f"after record {number} ({header})" if header else "before the first record"
        raise PlmscaleError(
            f"{path}: the .gz is truncated or damaged {last}: {error}; fetch it again"
        ) from None
    if header is None:
        raise PlmscaleError(f"{path}: no FASTA records; the file is empty")
    yield record()
