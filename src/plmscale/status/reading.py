"""Files that others are writing: read whole or not at all, never an exception."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A reader that met a file in the middle of being replaced finds the new one after so long.
_PAUSE = 0.02
_TRIES = 3
# What a log's end is looked for in: hundreds of progress lines, or a long traceback.
TAIL_BYTES = 48 * 1024


@dataclass(frozen=True)
class Found:
    """What a JSON file holds. `there`: it exists; `value` is None where it is no JSON object."""

    there: bool
    value: dict[str, Any] | None = None
    modified: float = 0.0


def read_object(path: Path) -> Found:
    """Read a JSON object; a file that cannot be read as one is tried again before it is given up."""
    found = Found(False)
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        try:
            with open(path, "rb") as handle:
                modified = os.fstat(handle.fileno()).st_mtime
                text = handle.read()
        except (FileNotFoundError, NotADirectoryError):
            return Found(False)
        except OSError:
            # NFS tells a reader whose file was replaced "stale file handle".
            continue
        found = Found(True, None, modified)
        try:
            value = json.loads(text)
        except ValueError:
            continue
        return Found(True, value, modified) if isinstance(value, dict) else found
    return found


def read_tail(path: Path, limit: int = TAIL_BYTES) -> tuple[list[str], float]:
    """Return the last whole lines of a log and its time of change; no lines where it is not there.

    A terminal's carriage returns count as line ends, so that a copied screen reads like a log.
    """
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - limit))
            data = handle.read(limit)
            modified = os.fstat(handle.fileno()).st_mtime
    except OSError:
        return [], 0.0
    lines = data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    if size > limit:
        # Begun in the middle of a line.
        del lines[0]
    return [line.rstrip() for line in lines if line.strip()], modified


def number(value: Any, kind: type = float) -> Any:
    """Return `value` as a finite int or float, or None: a damaged file must not end a table."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return kind(value) if value == value and abs(value) != float("inf") else None


def table_of(value: Any) -> dict[str, Any]:
    """Return `value` where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}
