"""Fold of a domain (SCOP 1.75, 1,195 classes; TAPE's remote homology).

target: int, the class. group of test examples: `fold`, `superfamily` or `family`, the level at
which nothing related was trained on; empty where the source does not tell. extra: `class`, the
fold's name in SCOP (`a.1`), empty where no class map is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plmscale.downstream.base import Example
from plmscale.downstream.data.found import Asked, Found
from plmscale.downstream.data.letters import Letters
from plmscale.downstream.data.levels import LEVELS, levels_of, read_list
from plmscale.downstream.data.tables import opened_text, parquet, text_rows
from plmscale.errors import PlmscaleError

# Names of splits in the table of domains -> split, group.
_SPLITS = {
    "training": ("train", ""),
    "validation": ("valid", ""),
    **{f"test_{level}": ("test", level) for level in LEVELS},
}


def read_parquet(asked: Asked) -> Found:
    """Read one Parquet file a split, with columns for sequence and class; the test set is merged."""
    found, letters = Found(), Letters()
    names = [asked.source.columns["sequence"], asked.source.columns["target"]]
    classes = _class_map(asked.paths["classes"]) if "classes" in asked.paths else {}
    titles = {label: name for name, label in classes.items()}
    for split in ("train", "valid", "test"):
        path = asked.paths[split]
        table = parquet(path, names)
        found.rows[split] = table.num_rows
        sequences, values = (table[name].to_pylist() for name in names)
        where = f"{path}, split {split}"
        labels = [_label(asked, v, f"{where}, row {row}") for row, v in enumerate(values)]
        groups = _levels(asked, found, labels, classes) if split == "test" else [""] * len(labels)
        for row, raw in enumerate(sequences):
            sequence = letters.clean(raw, f"{where}, row {row}")
            if sequence is not None:
                extra = {"class": titles.get(labels[row], "")}
                found.examples.append(
                    Example(f"{split}-{row}", sequence, split, labels[row], groups[row], extra)
                )
    return _finished(found, letters)


def read_domains(asked: Asked) -> Found:
    """Read a table of domains with columns split, sid, fold, label and sequence."""
    found, letters = Found(), Letters()
    path = asked.paths["domains"]
    classes = _class_map(asked.paths["classes"])
    columns = ("split", "sid", "fold", "label", "sequence")
    for line, (name, sid, fold, value, raw) in text_rows(path, columns):
        where = f"{path}, line {line}"
        if name not in _SPLITS:
            raise PlmscaleError(f"{where}: split {name!r}; expected {', '.join(_SPLITS)}")
        split, group = _SPLITS[name]
        found.rows[group or split] += 1
        label = _label(asked, value, where)
        if classes.get(fold) != label:
            raise PlmscaleError(
                f"{where}: fold {fold} has label {label}, in the class map {classes.get(fold)}"
            )
        sequence = letters.clean(raw, where)
        if sequence is not None:
            found.examples.append(Example(sid, sequence, split, label, group, {"class": fold}))
    return _finished(found, letters)


def _finished(found: Found, letters: Letters) -> Found:
    found.take(letters)
    trained = {example.target for example in found.examples if example.split == "train"}
    unseen = [e for e in found.examples if e.split == "test" and e.target not in trained]
    if unseen:
        found.notes.append(
            f"{len(unseen):,} test examples are of {len({e.target for e in unseen}):,} classes that "
            "no training example has"
        )
    return found


def _label(asked: Asked, value: object, where: str) -> int:
    text = str(value)
    classes = asked.source.classes
    if not text.isdigit() or (classes is not None and int(text) >= classes):
        raise PlmscaleError(
            f"{where}: class {text}, expected a number from 0 to {(classes or 0) - 1}; the source "
            "has other classes"
        )
    return int(text)


def _class_map(path: Path) -> dict[str, int]:
    """Return {fold: label} of lines `a.1<tab>0`."""
    classes: dict[str, int] = {}
    with opened_text(path) as handle:
        for number, line in enumerate(handle, start=1):
            fold, _, label = line.strip().partition("\t")
            if not label.isdigit() or fold in classes:
                raise PlmscaleError(f"{path}, line {number}: expected `fold<tab>number`, each once")
            classes[fold] = int(label)
    if sorted(classes.values()) != list(range(len(classes))):
        raise PlmscaleError(f"{path}: the labels are not 0 to {len(classes) - 1}, each once")
    return classes


def _levels(asked: Asked, found: Found, labels: list[int], classes: Mapping[str, int]) -> list[str]:
    """Return the level of each row of the merged test set, and note where it is not known."""
    lists = {}
    if all(level in asked.paths for level in LEVELS) and classes:
        lists = {level: read_list(asked.paths[level], classes) for level in LEVELS}
        for level, labelled in lists.items():
            want = asked.source.groups.get(level, len(labelled))
            if len(labelled) != want:
                raise PlmscaleError(
                    f"{asked.paths[level]}: {len(labelled):,} domains, expected {want:,}"
                )
        if levels := levels_of(labels, lists):
            found.notes.append(
                "levels of the test set: from the published lists, whose folds are the test set's, "
                "row by row"
            )
            return levels
    reason = "its rows are not in the order of the lists" if lists else "the lists are not there"
    found.notes.append(
        f"levels of the test set (fold, superfamily, family) are not known, because {reason}: only "
        "the merged set can be reported"
    )
    return [""] * len(labels)


READERS = {"tape-parquet": read_parquet, "domains": read_domains}
