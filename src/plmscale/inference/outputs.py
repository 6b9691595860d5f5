"""Tables and arrays written as they come; a name appears when all of it is on the disk."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, disk_full_is_told, follow_umask

PARQUET = (".parquet", ".pq")
_TEXT = {".tsv": "\t", ".csv": ","}
_ROWS, _BYTES = 4096, 64 << 20  # of a row group: whichever comes first

Add = Callable[[dict[str, Any]], None]


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that is there already: it cannot be replaced in one step."""
    if folder.exists():
        raise PlmscaleError(f"{folder}: is there already; remove it or name another with --out")


@contextmanager
def table_writer(out: Path | None, schema: pa.Schema) -> Iterator[Add]:
    """Yield a function that adds a row; None writes TSV to standard output.

    The suffix decides the format: .tsv, .csv, .parquet or .pq.
    """
    if out is None:
        yield _text_rows(sys.stdout, schema, "\t")
    elif out.suffix in PARQUET:
        with parquet_writer(out, schema) as add:
            yield add
    elif out.suffix in _TEXT:
        with atomic_write(out) as handle:
            yield _text_rows(handle, schema, _TEXT[out.suffix])
    else:
        raise PlmscaleError(f"--out {out}: the name must end in .tsv, .csv or .parquet")


def _text_rows(handle: TextIO, schema: pa.Schema, delimiter: str) -> Add:
    """Numbers with nine digits: all that fp32 arithmetic can tell."""
    writer = csv.writer(handle, delimiter=delimiter, lineterminator="\n")
    writer.writerow(schema.names)

    def add(row: dict[str, Any]) -> None:
        values = (row[name] for name in schema.names)
        writer.writerow([f"{v:.9g}" if isinstance(v, float) else v for v in values])

    return add


@contextmanager
def parquet_writer(out: Path, schema: pa.Schema) -> Iterator[Add]:
    """Yield a function that adds a row; they are written a row group at a time."""
    waiting: dict[str, list[Any]] = {name: [] for name in schema.names}
    size = 0

    with (
        atomic_write(out, "wb") as handle,
        pq.ParquetWriter(handle, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            nonlocal size
            arrays = [_array(waiting[f.name], f.type) for f in schema]
            writer.write_table(pa.table(arrays, schema=schema))
            for values in waiting.values():
                values.clear()
            size = 0

        def add(row: dict[str, Any]) -> None:
            nonlocal size
            for name, values in waiting.items():
                values.append(row[name])
                size += getattr(row[name], "nbytes", 0)
            if size >= _BYTES or len(waiting[schema.names[0]]) >= _ROWS:
                flush()

        yield add
        if waiting[schema.names[0]]:
            flush()


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return a column; arrays (d,) or (length, d) float32 become lists without Python floats."""
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.concatenate(values), pa.float32())
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    if pa.types.is_list(kind):
        ends = np.cumsum([len(v) for v in values])
        rows = pa.array(np.concatenate([v.ravel() for v in values]), pa.float32())
        inner = pa.FixedSizeListArray.from_arrays(rows, kind.value_type.list_size)
        return pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), inner)
    return pa.array(values, kind)


@contextmanager
def matrix_writer(out: Path, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that adds a row (width,) to the float32 matrix in the .npy file `out`."""
    rows = 0
    with atomic_write(out, "wb") as handle:
        handle.write(_npy_header(0, width))

        def add(values: np.ndarray) -> None:
            nonlocal rows
            handle.write(np.ascontiguousarray(values, "<f4").tobytes())
            rows += 1

        yield add
        handle.seek(0)
        handle.write(_npy_header(rows, width))


def _npy_header(rows: int, width: int) -> bytes:
    """Return a header of 128 bytes, whatever the number of rows (NPY format 1.0)."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


@contextmanager
def folder_writer(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` when the block ends well, and is removed otherwise."""
    check_new_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        with disk_full_is_told(out):
            yield folder
        follow_umask(folder)
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def save_array(path: Path, values: np.ndarray) -> None:
    """Write one float32 array as .npy."""
    with open(path, "wb") as handle:
        np.save(handle, np.ascontiguousarray(values, np.float32))


def fasta_text(header: str, sequence: str, width: int = 60) -> str:
    """Return a record of FASTA in lines of `width` letters."""
    lines = [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return "\n".join([f">{header}", *lines, ""])
