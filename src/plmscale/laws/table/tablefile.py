"""Files that people call a table: separators, marks, spreadsheets, and what is none."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

from plmscale.errors import PlmscaleError

SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def read_table(path: Path, notes: list[str]) -> pd.DataFrame:
    """Read a table as text cells (Parquet: typed), each row indexed by its place ("line 4").

    Comma, semicolon or tab separated, UTF-8 or UTF-16, with or without a byte order mark; lines
    without an entry are skipped, decimal commas read where the separator leaves no doubt. What
    was changed is added to `notes`. Raises PlmscaleError for what is no table.
    """
    return _parquet(path) if path.suffix == ".parquet" else _text_table(path, notes)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise PlmscaleError(f"{path}: cannot be read as Parquet ({error})") from None
    if table.empty:
        raise PlmscaleError(f"{path}: the table has no rows")
    return table.set_axis([f"row {i}" for i in range(1, len(table) + 1)])


def _text_table(path: Path, notes: list[str]) -> pd.DataFrame:
    text = _text(path)
    lines = text.splitlines()
    skipped = 0
    # Excel writes and reads `sep=;` as a first line of its own.
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:
        skipped = 1
    while skipped < len(lines) and not lines[skipped].strip():
        skipped += 1
    if skipped == len(lines):
        raise PlmscaleError(f"{path}: the file is empty; expected a header line and rows")
    delimiter = max(",;\t", key=lambda d: len(next(csv.reader([lines[skipped]], delimiter=d))))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    records = [(reader.line_num, cells) for cells in reader][skipped:]
    header = [cell.strip() for cell in records[0][1]]
    if len(header) == 1:
        raise PlmscaleError(
            f"{path}: one column only, {header[0][:60]!r}; separate columns by comma, semicolon or tab"
        )
    _check_header(header, path)
    rows, places = [], []
    for line, cells in records[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(header) :]):
            raise PlmscaleError(
                f"{path}, line {line}: {len(cells)} fields where the header names {len(header)}; "
                "put quotes around a field that holds the separator"
            )
        padded = cells[: len(header)] + [""] * (len(header) - len(cells))
        rows.append([cell.strip() for cell in padded])
        places.append(f"line {line}")
    if not rows:
        raise PlmscaleError(f"{path}: a header line but no rows")
    table = pd.DataFrame(rows, columns=header, index=places)
    # Trailing separators and written-out row numbers make columns without a name.
    table = table.drop(columns=[""]) if "" in header else table
    return table if delimiter == "," else _decimal_points(table, notes, path)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such file") from None
    except OSError as error:
        raise PlmscaleError(f"{path}: cannot be read ({error.strerror})") from None
    if raw.startswith(SPREADSHEETS):
        raise PlmscaleError(f"{path}: a spreadsheet; save the sheet as CSV and give that file")
    try:
        # Excel's "Unicode text" is UTF-16 with a mark at its start.
        wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise PlmscaleError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from None
    if "\0" in text:
        raise PlmscaleError(f"{path}: not a text table; expected CSV")
    return text


def _check_header(header: list[str], path: Path) -> None:
    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    # A number is no name for a column, and any row of runs holds one.
    if any(is_number(name) for name in header):
        raise PlmscaleError(
            f"{path}: the first line holds values, not column names; put a header line above it, "
            "such as objective,n_params,tokens,loss"
        )
    twice = [name for i, name in enumerate(header) if name and name in header[:i]]
    if twice:
        raise PlmscaleError(f"{path}: column {twice[0]!r} stands twice in the header; drop one")


def _decimal_points(table: pd.DataFrame, notes: list[str], path: Path) -> pd.DataFrame:
    """Read decimal commas, as spreadsheets in many countries write them."""
    changed = []
    for name in table:
        filled = table[name][table[name] != ""]
        commas = filled.str.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
        if len(filled) and commas.any():
            table[name] = table[name].str.replace(
                r"^([-+]?\d+),(\d+(?:[eE][-+]?\d+)?)$", r"\1.\2", regex=True
            )
            changed.append(name)
    if changed:
        notes.append(f"{path}: commas read as decimal points in column {', '.join(changed)}")
    return table
