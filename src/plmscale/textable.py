"""Tables for a terminal: columns that line up, numbers to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def cell(value: Any) -> str:
    """Return a value for people: counts with commas, floats with four digits, unknown as '-'."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return `rows` as aligned text with a header line."""
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    numeric = [
        any(isinstance(row.get(c), int | float) for row in rows)
        and not any(isinstance(row.get(c), str) and row.get(c) for row in rows)
        for c in columns
    ]
    widths = [max([len(c), *(len(line[i]) for line in cells)]) for i, c in enumerate(columns)]

    def join(line: Sequence[str]) -> str:
        parts = zip(line, widths, numeric)
        return "  ".join(t.rjust(w) if n else t.ljust(w) for t, w, n in parts).rstrip()

    return "\n".join([join(columns), *map(join, cells)])
