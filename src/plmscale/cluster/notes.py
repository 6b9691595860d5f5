"""What one job of a run tells the next: how often memory was short, how far it had come."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json

_FILE = "jobs.json"


def read(checkpoint_dir: Path) -> dict[str, Any]:
    """Return the notes: `host_memory`, `device_memory` (times it was short), `requeued_at`."""
    found: dict[str, Any] = {"host_memory": 0, "device_memory": 0, "requeued_at": None}
    # Where no job has left a word, nothing is known.
    with suppress(PlmscaleError, TypeError):
        found |= read_json(checkpoint_dir / _FILE)
    return found


def write(checkpoint_dir: Path, **changes: Any) -> None:
    """Change notes, leave the others."""
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    write_json(checkpoint_dir / _FILE, {**read(checkpoint_dir), **changes})


def steps_saved(checkpoint_dirs: Iterable[Path]) -> int:
    """Return the sum of the steps of these runs' latest checkpoints; a finished run counts most.

    A chain of jobs goes on only while this grows.
    """
    total = 0
    for folder in checkpoint_dirs:
        if (folder / "finished" / "metrics.json").exists():
            total += 1 << 40
        elif (folder / "latest.json").exists():
            total += int(read_json(folder / "latest.json")["step"])
    return total
