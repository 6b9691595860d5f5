"""A column of a Parquet file as a stream of FASTA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plmscale.errors import PlmscaleError, suggest

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"
# About a block of 1 MiB of proteins.
_ROWS = 4096


def parquet_blocks(
    path: str | Path,
    column: str,
    id_column: str = "",
    advance: Callable[[int], object] | None = None,
) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of FASTA as `read_blocks` does, of a column of the Parquet file at `path`.

    A column inside another one is `outer.inner`. Names are those of `id_column`, or the numbers of
    the rows, from 1. `advance` is told bytes of the file, by the share of its rows. Raises
    PlmscaleError for a column that is not there or holds no text, and names the row of an empty
    sequence or name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            columns = [column, *([id_column] if id_column else [])]
            for name in columns:
                _must_be_there(path, file, name)
            total, rows = file.metadata.num_rows, 0
            size = Path(path).stat().st_size
            if not total:
                raise PlmscaleError(f"{path}: has no rows")
            for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
                sequences = _texts(path, batch, column, rows)
                names = _names(path, batch, id_column, rows)
                yield _joined(path, names, sequences, column, rows), 0
                if advance:
                    done, before = rows + len(batch), rows
                    advance(size * done // total - size * before // total)
                rows += len(batch)
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        words = str(error).split("\n")[0]
        raise PlmscaleError(
            f"{path}: cannot be read as Parquet ({words}); it is another format, or damaged: then "
            "fetch it again"
        ) from None


def _must_be_there(path: str | Path, file: Any, name: str) -> None:
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    if name not in paths:
        raise PlmscaleError(f"{path}: has no column {name!r}{suggest(name, paths)}")


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column by its path, structs taken apart; null outside is null inside."""
    import pyarrow.compute as pc

    if name in batch.schema.names:
        return batch.column(name)
    outer, *inner = name.split(".")
    found = batch.column(outer)
    return pc.struct_field(found, inner)


def _texts(path: str | Path, batch: pa.RecordBatch, name: str, before: int) -> pa.Array:
    """Return a column as large strings; raise where it holds something else, or nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _column(batch, name)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    text = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view]
    raw = [pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view]
    if not any(test(kind) for test in [*text, *raw]):
        raise PlmscaleError(f"{path}: column {name!r} holds {kind}, not text")
    values = values.cast(pa.large_string())
    empty = pc.fill_null(pc.equal(pc.binary_length(values), 0), True)
    if (rows := _rows_where(empty)).size:
        raise PlmscaleError(f"{path}: row {before + rows[0] + 1}: column {name!r} is empty")
    return values


def _names(path: str | Path, batch: pa.RecordBatch, id_column: str, before: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not id_column:
        return pa.array(np.arange(before + 1, before + len(batch) + 1)).cast(pa.large_string())
    values = _column(batch, id_column)
    if pa.types.is_integer(values.type):
        if values.null_count:
            row = before + int(_rows_where(values.is_null())[0]) + 1
            raise PlmscaleError(f"{path}: row {row}: column {id_column!r} is empty")
        return values.cast(pa.large_string())
    names = _texts(path, batch, id_column, before)
    # A name ends at white space; in the middle of a header a line end would begin a sequence.
    return pc.replace_substring_regex(names, r"[\s]+", "_")


def _joined(
    path: str | Path, names: pa.Array, sequences: pa.Array, column: str, before: int
) -> bytes:
    """Return `>name`, line end, sequence, line end of every row as one text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    end = pa.scalar("\n", pa.large_string())
    records = pc.binary_join_element_wise(
        pa.scalar(">", pa.large_string()),
        names,
        end,
        sequences,
        end,
        pa.scalar("", pa.large_string()),
    )
    offsets = np.frombuffer(records.buffers()[1], np.int64)[records.offset :][: len(records) + 1]
    text = records.buffers()[2][int(offsets[0]) : int(offsets[-1])].to_pybytes()
    if text.count(b"\n") != 2 * len(records):
        row = before + int(_rows_where(pc.match_substring(sequences, "\n"))[0]) + 1
        raise PlmscaleError(f"{path}: row {row}: column {column!r} holds more than one line")
    return text


def _rows_where(mask: pa.Array) -> np.ndarray:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))
