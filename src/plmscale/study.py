"""Study files: read, laid over one another, checked; mistakes told by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from plmscale.corpus.settling import settle
from plmscale.errors import PlmscaleError, suggest
from plmscale.experiments import KINDS
from plmscale.settings import Study

PROJECT = Path(__file__).resolve().parents[2]
# Sections that an overlay replaces as a whole: merging two grids or two lists of sources entry
# by entry would leave runs in a study that its file does not show.
REPLACED_WHOLE = (
    ("grid",),
    ("sizes",),
    ("subsets",),
    ("downstream",),
    ("corpus", "sources"),
    ("corpus", "mixes"),
    ("training", "batch_rows"),
    ("training", "lr"),
)


def merge(
    base: Mapping[str, Any], over: Mapping[str, Any], path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Lay `over` on `base`: mappings key by key, all else and REPLACED_WHOLE as a whole."""
    merged = dict(base)
    for key, value in over.items():
        here = (*path, key)
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = (
            merge(merged[key], value, here) if both and here not in REPLACED_WHOLE else value
        )
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping; duplicate keys, syntax errors and other types name the file."""
    path = Path(path)
    try:
        data = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such study file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlmscaleError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise PlmscaleError(f"{path}: expected a mapping of keys, found {type(data).__name__}")
    return data


class _NoDuplicates:
    """YAML lets a later key silently win; a study must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Loader(_NoDuplicates, yaml.SafeLoader):
    """YAML's own parser, whose errors show the line."""


class _FastLoader(_NoDuplicates, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """The same by libyaml where there is one: every job reads the study, and this takes a tenth."""


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_FastLoader)
    except yaml.YAMLError:
        return yaml.load(text, Loader=_Loader)


def resolve(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Follow `overlays:` (a path relative to `folder`) down to a complete mapping."""
    data = dict(data)
    below = data.pop("overlays", None)
    if below is None:
        return data
    base_path = (folder / str(below)).resolve()
    return merge(resolve(read_yaml(base_path), base_path.parent), data)


def validate(data: Mapping[str, Any], name: str = "config") -> Study:
    """Return the typed study, or raise PlmscaleError naming each key at fault and what is allowed."""
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise PlmscaleError(f"{name}: " + "; ".join(_explain(e) for e in error.errors())) from None


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Load a study file with everything it overlays; `overrides` are laid on top."""
    path = Path(path)
    data = resolve(read_yaml(path), path.parent)
    return settled(validate(merge(data, overrides or {}), str(path)), PROJECT)


def settled(study: Study, project: str | Path) -> Study:
    """Return `study` with the checksums of local sources, relative to `project`, filled in."""
    if study.corpus is None:
        return study
    return study.model_copy(update={"corpus": settle(study.corpus, project)})


def _explain(error: Any) -> str:
    parts = [str(p) for p in error["loc"]]
    # pydantic inserts the union's tag after grid.<name>; a reader knows no such key.
    if len(parts) > 2 and parts[0] == "grid" and parts[2] in KINDS:
        del parts[2]
    where = ".".join(parts)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{suggest(parts[-1], _keys_beside(error['loc']))}"
    if error["type"] == "union_tag_invalid":
        kind = error["ctx"]["tag"]
        return f"{where}.kind: {kind!r} is unknown{suggest(kind, KINDS)}"
    if error["type"] == "union_tag_not_found":
        return f"{where}.kind: this key is required; allowed: {', '.join(KINDS)}"
    if error["type"] == "missing":
        return f"{where}: this key is required"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (found {error['input']!r})"


def _keys_beside(loc: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed where an unknown one was found, by walking the schema."""
    schema = Study.model_json_schema()
    node: dict[str, Any] = schema

    def deref(item: dict[str, Any]) -> dict[str, Any]:
        # A section that may be absent is "this or null".
        item = next((one for one in item.get("anyOf", []) if "$ref" in one), item)
        while "$ref" in item:
            item = schema["$defs"][item["$ref"].rsplit("/", 1)[1]]
        return item

    for part in loc[:-1]:
        node = deref(node)
        mapping = node.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            node = {"$ref": mapping[part]}
        elif part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = node.get("additionalProperties") or node.get("items") or {}
        if not isinstance(node, dict):
            return []
    return list(deref(node).get("properties", {}))
