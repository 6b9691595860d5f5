"""What `resources/downstream/TASK.yaml` holds; unknown keys are errors."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from plmscale.fields import Strict

SourceName = Literal["full", "small"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError("must be a path below the folder of the data")
    return value


InnerPath = Annotated[str, AfterValidator(_inside)]


class OptionEntry(Strict):
    """One choice on which the field disagrees: what is taken here, and what else is used."""

    default: str | int | float
    alternatives: tuple[str | int | float, ...] = ()
    meaning: str


class MetricEntry(Strict):
    """A metric: its exact definition in words, with `options` as they stand by default."""

    name: str
    definition: str
    primary: bool = False
    higher_is_better: bool = True
    options: dict[str, OptionEntry] = Field(default_factory=dict)


class FileEntry(Strict):
    """One file of a source.

    path: where it lies, relative to the folder of the data. places: addresses, tried in order;
    none for a file that is laid there by hand. size (bytes) and sha256 are null where they are
    not known: then what came first is written down and any other is refused. about: where the file
    is from and what is verified instead. optional: the source can be read without it.
    """

    path: InnerPath
    places: tuple[str, ...] = ()
    size: Annotated[int, Field(gt=0)] | None = None
    sha256: Sha256 | None = None
    about: str = ""
    optional: bool = False


class SourceEntry(Strict):
    """One source of a task's data.

    form: which reader understands it. files: by the role that the reader knows them under. rows:
    what must be in it before cleaning, by split (or as the reader counts); empty checks nothing.
    columns: names of the source's columns by what they hold. classes: labels are 0 .. classes - 1.
    groups: sizes of parts of a split, where the reader needs them.
    """

    form: str
    files: dict[str, FileEntry]
    rows: dict[str, int] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    classes: int | None = None
    groups: dict[str, int] = Field(default_factory=dict)
    licence: str
    citation: str
    about: str = ""

    @model_validator(mode="after")
    def _distinct(self) -> SourceEntry:
        paths = [file.path for file in self.files.values()]
        if len(set(paths)) != len(paths):
            raise ValueError("two files have the same path")
        return self


class TaskFile(Strict):
    """A task: what it asks for, how it is measured, and where its data are.

    target: what Example.target is. splits: names in the order of use. sources is empty for a task
    whose examples come from the study's own corpus.
    """

    task: str
    title: str
    target: str
    splits: tuple[str, ...] = ()
    metrics: Annotated[tuple[MetricEntry, ...], Field(min_length=1)]
    sources: dict[SourceName, SourceEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> TaskFile:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError("two metrics have the same name")
        if not any(metric.primary for metric in self.metrics):
            raise ValueError("a metric must be primary")
        return self
