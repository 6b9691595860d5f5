"""The section `downstream:` of a study: which models, which tasks, how often; free of torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from plmscale.fields import Slug, Strict

# Written out: plmscale.downstream.tasks brings pyarrow along, which reading a study does not need.
TaskName = Literal[
    "perplexity", "generation", "contacts", "fold", "fluorescence", "fitness",
    "secondary_structure",
]  # fmt: skip
# Their examples come from the study's corpus; `source` decides how many alone.
ON_CORPUS = ("perplexity", "generation")
MethodName = Literal["zero-shot", "attention", "probe", "lora"]
SourceName = Literal["full", "small"]


class TaskConfig(Strict):
    source: SourceName | None = Field(
        None, description="Where the data come from; default: `source` of the section."
    )
    limit: int | None = Field(
        None, ge=1, description="At most so many examples of each split and group, drawn."
    )
    methods: list[MethodName] = Field(
        [], description="How models are used; default: all that the section and the task have."
    )
    seeds: list[int] = Field([], description="Default: `seeds` of the section.")
    options: dict[str, Any] = Field({}, description="The task's own options (docs/downstream.md).")


class ExtraModelConfig(Strict):
    where: str = Field(
        description="hf:ID or hf:ID@REVISION of the Hugging Face hub, or the folder of a model or run."
    )
    use: Literal["clm", "mlm"] | None = Field(
        None, description="As what it is used, where a model can be both."
    )
    download: bool = Field(
        False, description="A hub model may be fetched; else it must be in this machine's cache."
    )
    remote_code: bool = Field(
        False, description="Python files that come with the model may run: they can do anything."
    )


def _by_name(value: Any) -> Any:
    """A list of names stands for these tasks as they are by default."""
    if isinstance(value, list | tuple):
        return {name: {} for name in value}
    if isinstance(value, Mapping):
        return {name: {} if own is None else own for name, own in value.items()}
    return value


def _as_where(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: {"where": own} if isinstance(own, str) else own for name, own in value.items()}


class DownstreamConfig(Strict):
    tasks: Annotated[dict[TaskName, TaskConfig], BeforeValidator(_by_name)] = Field(
        min_length=1, description="Tasks, each with what differs from its defaults; or their names."
    )
    source: SourceName = Field(
        "full",
        description="full: the field's data sets, downloaded; small: the folder of small ones for tests, and "
        "less of all that tasks do by default.",
    )
    folder: str = Field(
        "",
        description="Folder of the data, below which files laid by hand are found; empty: one "
        "folder for all studies, in `results`.",
    )
    runs: dict[str, Any] | None = Field(
        {},
        description="Which of the study's runs, as column: value or list of values; null: none.",
    )
    best: list[str] = Field(
        [],
        description="Of these runs only the one of lowest loss for each set of equal values in "
        "these columns of the runs table.",
    )
    models: Annotated[dict[Slug, ExtraModelConfig], BeforeValidator(_as_where)] = Field(
        {}, description="Further models by the name tables show, each with `where` it is."
    )
    methods: list[MethodName] = Field(
        ["zero-shot", "attention", "probe", "lora"],
        min_length=1,
        description="How models are used, where the task knows it.",
    )
    seeds: list[int] = Field(
        [1, 2, 3], min_length=1, description="What is fitted is fitted once with each."
    )
    twins: bool = Field(
        True, description="Each model also with random weights: a claim is trained minus random."
    )

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value) or min(value) < 0:
            raise ValueError("must be different numbers, none below 0")
        return value

    @model_validator(mode="after")
    def _usable(self) -> DownstreamConfig:
        if self.runs is None and not self.models:
            raise ValueError("runs: null leaves no model; name some under `models`")
        for name, task in self.tasks.items():
            small = (task.source or self.source) == "small"
            if small and name not in ON_CORPUS and not self.folder:
                raise ValueError(
                    f"folder: {name}'s small source is not downloaded; say where it lies"
                )
            if task.options:
                _check_options(name, task.options)
        return self


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that the task does not take.

    A task that cannot be imported is told as not run when its turn comes.
    """
    try:
        task = importlib.import_module("plmscale.downstream.tasks").task(name)
    except ImportError:
        return
    try:
        task.options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("tasks", name, "options", *first["loc"])))
        raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
