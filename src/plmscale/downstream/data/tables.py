"""Tables with checked columns: Parquet, and delimited text that may be gzipped."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from plmscale.errors import PlmscaleError

# The longest field is a protein of 40,000 letters; a larger one is not a table of proteins.
_LONGEST_FIELD = 1 << 20


def parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return these columns of a Parquet file. Raises PlmscaleError naming what is missing."""
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, columns, file.schema_arrow.names)
            return file.read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise PlmscaleError(f"{path}: not a whole Parquet file ({error}); fetch it again") from None


def text_rows(
    path: Path, columns: Sequence[str], delimiter: str = "\t"
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values of `columns`) of a text table with a header, gzipped or not.

    Raises PlmscaleError for a missing column, a row of another length, a truncated gzip, and what
    is no text.
    """
    with opened_text(path) as handle:
        yield from delimited(handle, str(path), columns, delimiter)


def delimited(
    handle: Iterable[str], where: str, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yield as `text_rows` from an open text file that is called `where` in errors."""
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader(handle, delimiter=delimiter)
    try:
        header = next(rows, [])
        _check_columns(where, columns, header)
        wanted = [header.index(name) for name in columns]
        for row in rows:
            if len(row) != len(header):
                raise PlmscaleError(
                    f"{where}, line {rows.line_num}: {len(row)} fields, expected {len(header)}; "
                    "the file is damaged: fetch it again"
                )
            yield rows.line_num, [row[index] for index in wanted]
    except csv.Error as error:
        raise PlmscaleError(f"{where}, line {rows.line_num}: not a table ({error})") from None


@contextmanager
def opened_text(path: Path) -> Iterator[IO[str]]:
    """Open text, unzipping a gzip by its first bytes; PlmscaleError where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            zipped = handle.read(2) == b"\x1f\x8b"
        opener = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8", newline="") as handle:
            yield handle
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PlmscaleError(
            f"{path}: the gzip cannot be read to its end ({error}); fetch it again"
        ) from None
    except UnicodeDecodeError as error:
        raise PlmscaleError(f"{path}: not text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise PlmscaleError(f"{path}: cannot be read ({error.strerror})") from None


def _check_columns(where: str | Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in there]:
        raise PlmscaleError(
            f"{where}: no column {', '.join(missing)}; expected {', '.join(wanted)}, found "
            f"{', '.join(there) or 'none'}: the source has changed"
        )
