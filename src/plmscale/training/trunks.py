"""Going on from the kept state of a shorter run with the same beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plmscale.files import fingerprint, read_json
from plmscale.schedule import decay_start, trunk_of
from plmscale.training import checkpoint


def kept_state(
    there: Path | None, recipe: dict[str, Any], precision: str
) -> tuple[Path | None, str]:
    """Return the latest state kept in `there` that `recipe` would have gone through, or None and
    why a state that is there is of no use (empty where there is none)."""
    if there is None or not (there / "recipe.json").exists():
        return None, ""
    other = read_json(there / "recipe.json")
    if fingerprint(trunk_of(other)) != fingerprint(trunk_of(recipe)):
        return None, f"{there} has another beginning"
    step = decay_start(other["steps"], other["schedule"])
    if not 0 < step <= decay_start(recipe["steps"], recipe["schedule"]):
        return None, ""
    # Not yet moved where that run kept its last checkpoint, or was killed at its end.
    places = (there / "trunk" / f"step-{step}", there / f"step-{step}")
    found = next((folder for folder in places if checkpoint.is_whole(folder)), None)
    if found and read_json(found / checkpoint.STATE)["precision"] != precision:
        return None, f"{found} was trained in another precision"
    return found, ""
