"""The tasks, by name; a module is imported when its task is used."""

from __future__ import annotations

import importlib

from plmscale.downstream.base import Task
from plmscale.errors import PlmscaleError, suggest

NAMES = (
    "perplexity",
    "generation",
    "contacts",
    "fold",
    "fluorescence",
    "fitness",
    "secondary_structure",
)


def task(name: str) -> Task:
    """Return the task called `name`; PlmscaleError with a suggestion for a name that is none."""
    if name not in NAMES:
        raise PlmscaleError(f"task {name!r} is unknown{suggest(name, NAMES)}")
    return importlib.import_module(f"plmscale.downstream.tasks.{name}").TASK
