"""config.yaml and its schema, both written from the typed study so that they cannot drift."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from plmscale.corpus.mix_config import MixConfig
from plmscale.settings import Study

_WIDTH = 100
_HEAD = """\
# plmscale: a study with every key. config.yaml is the default one, a demo that trains on this
# machine's processor in minutes. Another study is a file under studies/ that says what it
# `overlays` and states what it changes; `plmscale runs STUDY.yaml` prints the grid that results.
# Comments here come from the types in src/plmscale (settings.py, training_settings.py, experiments.py,
# corpus/): change values freely, then `make config` rewrites
# the comments and rules/schemas/study.schema.json.
"""


def schema_text() -> str:
    """Return the JSON schema of a complete study file, for editors and tests."""
    return json.dumps(Study.model_json_schema(), indent=2, sort_keys=True) + "\n"


def render(data: Mapping[str, Any]) -> str:
    """Return YAML with every key of the study, commented; keys absent in `data` get defaults.

    `data` must be a valid study (plmscale.study.validate).
    """
    study = Study.model_validate(data)
    return _HEAD + "\n" + "\n".join(_model(study, 0)) + "\n"


def _model(model: BaseModel, depth: int) -> Iterator[str]:
    pad = "  " * depth
    fields = type(model).model_fields
    # `kind` says which keys an entry may have, so it comes first.
    for name in sorted(fields, key=lambda field: field != "kind"):
        info = fields[name]
        if info.description:
            if depth == 0:
                yield ""
            for line in textwrap.wrap(info.description, _WIDTH - len(pad) - 2):
                yield f"{pad}# {line}"
        yield from _entry(name, getattr(model, name), depth)


def _entry(name: str, value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, MixConfig):
        value = value.short()
    if isinstance(value, BaseModel):
        yield f"{pad}{name}:"
        yield from _model(value, depth + 1)
    elif isinstance(value, Mapping) and value and _deep(value):
        yield f"{pad}{name}:"
        commented: set[type] = set()
        for key, item in value.items():
            lines = list(_entry(_scalar(key), item, depth + 1))
            # One commented example of each kind of entry is enough to read the others by.
            if isinstance(item, BaseModel) and type(item) in commented:
                lines = [line for line in lines if not line.lstrip().startswith("# ")]
            commented.add(type(item))
            yield from lines
    elif isinstance(value, Mapping):
        inner = ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items())
        yield f"{pad}{name}: {{{inner}}}"
    else:
        yield f"{pad}{name}: {_flow(value)}"


def _deep(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(item, BaseModel | Mapping) for item in value.values())


def _flow(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e5:
            return str(int(value))
        text = f"{value:.12g}"
        if value >= 1e5:
            mantissa, exponent = f"{value:.11e}".split("e")
            text = f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
        # YAML 1.1 reads 1e+11 as a string; it wants a dot.
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        return text
    line = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return line.removesuffix("\n").removesuffix("\n...").strip()
