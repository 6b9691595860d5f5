"""Which runs are finished at this moment, and a copy of what laws, figures and report read of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plmscale.grid import Run
from plmscale.status.reading import read_object


def take(study_folder: Path, runs: Sequence[Run], view: Path) -> dict[str, dict[str, Any]]:
    """Copy what a report reads of each finished run into `view`; return metrics by run_id.

    Written are curves/<run_id>.csv, and in runs/<run_id>/ recipe.json, metrics.json and
    validation.csv. A run is finished when its metrics.json is of its recipe and both tables stand
    beside it, in its folder or where results are kept beside its checkpoints: there they are until
    a pack's are put in place, and while Snakemake starts a job again. Everything after this reads
    the copy, so that the whole report is of one moment.
    """
    for name in ("runs", "curves"):
        (view / name).mkdir(parents=True, exist_ok=True)
    taken = {}
    for run in runs:
        places = (
            study_folder / "runs" / run.run_id,
            study_folder / "checkpoints" / run.run_id / "finished",
        )
        for place in places:
            metrics = read_object(place / "metrics.json").value
            if metrics is None or metrics.get("fingerprint") != run.recipe["fingerprint"]:
                continue
            if _take_tables(place, run.run_id, view):
                folder = view / "runs" / run.run_id
                # Not atomic and not synced: the view becomes visible as a whole, and can be made again.
                (folder / "recipe.json").write_text(json.dumps(run.recipe), encoding="utf-8")
                (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
                taken[run.run_id] = metrics
                break
    return taken


def _take_tables(place: Path, run_id: str, view: Path) -> bool:
    """Link or copy curve and validation rows; return False, and leave nothing, where one is missing."""
    folder, curve = view / "runs" / run_id, view / "curves" / f"{run_id}.csv"
    folder.mkdir()
    try:
        _link(place / "curve.csv", curve)
        _link(place / "validation.csv", folder / "validation.csv")
    except FileNotFoundError:
        shutil.rmtree(folder)
        curve.unlink(missing_ok=True)
        return False
    return True


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it: training replaces its files, it never edits them."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # Another file system, one without links, or files of someone else.
        shutil.copyfile(source, target)
