"""A second name for a finished run's results, where Snakemake does not delete them.

Snakemake removes a job's outputs before it starts it, and again where it believes that the job failed.
After a kill of the workflow, a requeue or a status that got lost, a job may be started for a run that
another one has just finished: it then finds the results here and is done in a second, instead of
training again. These are links to the same files, so they take no space; where a file system knows no
links, copies.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.training.launch import OUTPUTS, all_there

_FOLDER = "finished"


def keep(run_dir: Path, checkpoint_dir: Path) -> None:
    """Give the results in `run_dir` a second name; metrics.json last, which makes them whole."""
    _link_all(run_dir, checkpoint_dir / _FOLDER)


def restore(recipe: dict[str, Any], run_dir: Path, checkpoint_dir: Path) -> bool:
    """Put the kept results of this recipe back into `run_dir`; return whether there were any."""
    kept = checkpoint_dir / _FOLDER
    if not is_kept(recipe, checkpoint_dir):
        return False
    _link_all(kept, run_dir)
    return True


def is_kept(recipe: dict[str, Any], checkpoint_dir: Path) -> bool:
    """Return whether whole results of this recipe are kept."""
    kept = checkpoint_dir / _FOLDER
    if not all_there(kept):
        return False
    try:
        found = read_json(kept / "metrics.json")
    except PlmscaleError:
        return False
    return found.get("fingerprint") == recipe.get("fingerprint")


def _link_all(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # What stands there is no longer whole from here on.
    (target / OUTPUTS[-1]).unlink(missing_ok=True)
    for name in OUTPUTS:
        temporary = target / f".{name}.{os.getpid()}"
        try:
            os.link(source / name, temporary)
        except OSError:
            shutil.copy2(source / name, temporary)
        os.replace(temporary, target / name)
