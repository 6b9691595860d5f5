"""The registry of tasks and the one way to their data.

`load` reads resources/downstream/TASK.yaml; `fetch` brings in a source's files; `data` reads them
into examples, the same whichever source they come from.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import get_args

import yaml
from pydantic import ValidationError

from plmscale.downstream.base import Data
from plmscale.downstream.data import files
from plmscale.downstream.data.entries import SourceEntry, SourceName, TaskFile
from plmscale.downstream.data.fitness import Assay, read_assays
from plmscale.downstream.data.found import Asked, Found, check_groups, check_ids, check_rows, draw
from plmscale.downstream.tasks import NAMES
from plmscale.errors import PlmscaleError, suggest

RESOURCES = Path(__file__).parents[3] / "resources" / "downstream"


def load(task: str, resources: str | Path = RESOURCES) -> TaskFile:
    """Return the registry's entry of a task.

    Raises PlmscaleError for an unknown task, and for a file of another form (naming the key).
    """
    if task not in NAMES:
        raise PlmscaleError(f"task {task!r} is unknown{suggest(task, NAMES)}")
    path = Path(resources) / f"{task}.yaml"
    try:
        entry = TaskFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PlmscaleError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise PlmscaleError(f"{path}, line {line}: not valid YAML") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise PlmscaleError(f"{path}: {key}: {first['msg']}") from None
    if entry.task != task:
        raise PlmscaleError(f"{path}: task is {entry.task!r}, expected {task!r}")
    return entry


def source(task: str, name: str, resources: str | Path = RESOURCES) -> SourceEntry:
    """Return one source of a task; PlmscaleError for a task without data and an unknown name."""
    sources = load(task, resources).sources
    if not sources:
        raise PlmscaleError(f"{task} has no data of its own; it uses the study's corpus")
    if name not in sources:
        raise PlmscaleError(f"{task}: no source {name!r}{suggest(name, get_args(SourceName))}")
    return sources[name]


def fetch(
    task: str, name: str = "full", folder: str | Path = "", resources: str | Path = RESOURCES
) -> list[str]:
    """Bring a source's files into `folder`; return notes on optional ones that could not be had.

    Raises PlmscaleError where a file cannot be had, or is not the one expected.
    """
    return files.fetch(task, name, source(task, name, resources), Path(folder))


def data(
    task: str,
    source: str = "full",
    folder: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    groups: Collection[str] | None = None,
    resources: str | Path = RESOURCES,
) -> Data:
    """Return a task's examples, read from the source's files in `folder`.

    At most `limit` examples of each split and group, drawn by `seed` (a smaller limit takes a part
    of what a larger one takes); `groups` takes only these groups (assays). Nothing is downloaded:
    `fetch` does that. What Example.target and extra hold stands in the reader's docstring
    (plmscale.downstream.data.TASK).

    Raises PlmscaleError for a missing file, one that is not what it was, and a source with other
    rows, columns, classes or letters than expected; it names file, split, expected and found.
    """
    if limit is not None and limit < 1:
        raise PlmscaleError(f"{task}: limit is {limit}, expected at least 1")
    asked, digests, lock = _asked(task, source, folder, resources, groups, limit, seed)
    found = _read(asked)
    check_rows(asked, found)
    check_ids(asked, found.examples)
    examples = draw(found.examples, limit, seed)
    if not examples:
        raise PlmscaleError(
            f"{task}: nothing is left of the source {source}: {dict(found.dropped)}"
        )
    # Only now, so that a wrong file is not the one that is held on to.
    if not lock.write():
        found.notes.append(f"{folder} cannot be written: no checksums were kept for the next time")
    if limit is not None:
        found.notes.append(
            f"at most {limit:,} examples of each split and group, drawn by seed {seed}"
        )
    return Data(
        task=task,
        source=source,
        examples=tuple(examples),
        sha256=files.combined(digests),
        dropped=dict(sorted(found.dropped.items())),
        notes=tuple(found.notes),
    )


def assays(
    source: str = "full", folder: str | Path | None = None, *, resources: str | Path = RESOURCES
) -> dict[str, Assay]:
    """Return ProteinGym's assays of a source by id: target sequence, UniProt id, selection type.

    Those of the reference file, whether or not the source has their variants.
    """
    asked, _, _ = _asked("fitness", source, folder, resources, None, None, 0)
    return read_assays(asked.paths["reference"])


def _asked(
    task: str,
    name: str,
    folder: str | Path | None,
    resources: str | Path,
    groups: Collection[str] | None,
    limit: int | None,
    seed: int,
) -> tuple[Asked, dict[str, str], files.Lock]:
    entry = source(task, name, resources)
    if folder is None:
        raise PlmscaleError(f"{task} ({name}): say in which folder its files lie")
    paths = files.present(task, name, entry, Path(folder))
    digests, lock = files.verify(task, name, entry, paths, Path(folder))
    asked = Asked(task, entry, paths, Path(resources), groups, limit, seed)
    return asked, digests, lock


def _read(asked: Asked) -> Found:
    readers = importlib.import_module(f"plmscale.downstream.data.{asked.task}").READERS
    form = asked.source.form
    if form not in readers:
        path = asked.resources / f"{asked.task}.yaml"
        raise PlmscaleError(f"{path}: form {form!r} has no reader{suggest(form, readers)}")
    found: Found = readers[form](asked)
    if asked.groups is not None:
        check_groups(asked, (example.group for example in found.examples))
        found.examples = [e for e in found.examples if e.group in asked.groups]
    return found
