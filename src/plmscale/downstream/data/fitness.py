"""Variants measured by deep mutational scans (ProteinGym's substitutions), for zero-shot scoring.

target: float, DMS_score, higher is fitter. group: the assay (DMS_id). id: the mutant (`A1P:D2N`,
places from 1 on the assay's target sequence). extra: `mutant`, `wild_type` (the assay whose target
sequence was mutated), `target_seq`, `uniprot`, `selection` (coarse selection type) and
`DMS_score_bin` (0 or 1). All are of the split `test`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plmscale.downstream.base import Example
from plmscale.downstream.data.archive import Archive, open_zip
from plmscale.downstream.data.found import Asked, Found, check_groups, drawn
from plmscale.downstream.data.letters import Letters
from plmscale.downstream.data.tables import delimited, opened_text, text_rows
from plmscale.errors import PlmscaleError

# What ProteinGym's average is over, one after the other.
SELECTIONS = ("Activity", "Binding", "Expression", "OrganismalFitness", "Stability")
_COLUMNS = ("mutant", "mutated_sequence", "DMS_score", "DMS_score_bin")


@dataclass(frozen=True)
class Assay:
    """An assay as ProteinGym's reference file has it; `cutoff`: scores above it are fit (bin 1)."""

    id: str
    uniprot: str
    target_seq: str
    selection: str
    mutants: int
    cutoff: float


# A row of an assay: place in the file, mutant, mutated sequence (empty: from the mutant), score,
# bin (empty: from the cut-off).
_Row = tuple[str, str, str, str, str]


def read_assays(path: Path) -> dict[str, Assay]:
    """Return the assays of ProteinGym's DMS_substitutions.csv, gzipped or not, by DMS_id."""
    columns = ("DMS_id", "UniProt_ID", "target_seq", "coarse_selection_type")
    columns += ("DMS_total_number_mutants", "DMS_binarization_cutoff")
    assays: dict[str, Assay] = {}
    letters = Letters()
    for line, (name, uniprot, target, selection, mutants, cutoff) in text_rows(path, columns, ","):
        where = f"{path}, line {line}"
        sequence = letters.clean(target, where)
        if selection not in SELECTIONS:
            raise PlmscaleError(f"{where}: selection {selection!r}, expected {SELECTIONS}")
        if sequence is None or name in assays or not mutants.isdigit():
            raise PlmscaleError(f"{where}: {name!r} is there twice, or incomplete")
        assays[name] = Assay(
            name, uniprot, sequence, selection, int(mutants), _number(cutoff, where)
        )
    return assays


def substitutions(mutant: str, target: str, where: str = "mutant") -> list[tuple[int, str]]:
    """Return (place from 0, new letter) of `A1P:D2N`.

    Raises PlmscaleError where the mutant is not of that form, or does not fit the target sequence.
    """
    changes = []
    for text in mutant.split(":"):
        old, number, new = text[:1], text[1:-1], text[-1:]
        if not number.isdecimal() or not (old + new).isascii() or new != new.upper():
            raise PlmscaleError(f"{where}: {text!r} is no substitution such as A1P")
        place = int(number) - 1
        there = target[place] if 0 <= place < len(target) else "nothing"
        if there != old:
            raise PlmscaleError(
                f"{where}: {text} does not fit the target sequence, which has {there} at "
                f"{number} (of {len(target)})"
            )
        changes.append((place, new))
    return changes


def read_zip(asked: Asked) -> Found:
    """Read ProteinGym's zip: one CSV an assay, each streamed; all of the reference must be there."""
    assays = read_assays(asked.paths["reference"])
    found, letters = Found(), Letters()
    with open_zip(asked.paths["assays"]) as archive:
        _check_members(archive, assays)
        found.rows["assays"] = len(assays)
        for assay in _wanted(asked, assays):
            rows = _csv_rows(archive, assay.id)
            _add(asked, found, letters, assay, rows)
    found.take(letters)
    return found


def read_files(asked: Asked) -> Found:
    """Read single files, each under its assay's id as role.

    Columns as ProteinGym has them, or `mutant` and a score column of another name (the source's
    `columns` give it by assay): then sequence and bin follow from the reference.
    """
    assays = read_assays(asked.paths["reference"])
    found, letters = Found(), Letters()
    here = [role for role in asked.paths if role != "reference"]
    if unknown := [role for role in here if role not in assays]:
        raise PlmscaleError(f"{asked.paths[unknown[0]]}: {unknown[0]} is no assay of the reference")
    for assay in _wanted(asked, {role: assays[role] for role in here}):
        path = asked.paths[assay.id]
        rows = _file_rows(path, asked.source.columns.get(assay.id, ""))
        _add(asked, found, letters, assay, rows)
    found.rows["assays"] = len(here)
    found.take(letters)
    return found


def _wanted(asked: Asked, assays: dict[str, Assay]) -> list[Assay]:
    check_groups(asked, assays)
    return [a for a in assays.values() if asked.groups is None or a.id in asked.groups]


def _check_members(archive: Archive, assays: dict[str, Assay]) -> None:
    there, expected = archive.endings(".csv"), {f"{name}.csv" for name in assays}
    if there != expected:
        missing, more = sorted(expected - there), sorted(there - expected)
        named = ", ".join([*(f"no {n}" for n in missing[:2]), *(f"{n} unknown" for n in more[:2])])
        raise PlmscaleError(
            f"{archive.path}: {len(there):,} assays, expected {len(expected):,} ({named}); zip and "
            "reference are of different releases"
        )


def _csv_rows(archive: Archive, assay: str) -> Iterator[_Row]:
    name = f"{assay}.csv"
    where = f"{archive.path}, {name}"
    with archive.text(name) as handle:
        for line, values in delimited(handle, where, _COLUMNS):
            yield (f"{where}, line {line}", *values)  # type: ignore[misc]


def _file_rows(path: Path, score: str) -> Iterator[_Row]:
    with opened_text(path) as handle:
        if score:
            for line, (mutant, value) in delimited(handle, str(path), ("mutant", score)):
                yield (f"{path}, line {line}", mutant, "", value, "")
            return
        for line, values in delimited(handle, str(path), _COLUMNS):
            yield (f"{path}, line {line}", *values)  # type: ignore[misc]


def _add(asked: Asked, found: Found, letters: Letters, assay: Assay, rows: Iterable[_Row]) -> None:
    """Add an assay's examples, a part of them where a limit is asked for."""
    count, scored = 0, []
    for row in rows:
        count += 1
        if math.isfinite(score := _number(row[3] or "nan", row[0])):
            scored.append((row, score))
    if count != assay.mutants:
        raise PlmscaleError(
            f"{assay.id}: {count:,} mutants, expected {assay.mutants:,} by the reference; the "
            "file is of another release, or damaged"
        )
    if count > len(scored):
        found.dropped["no score"] += count - len(scored)
    shared = {
        "wild_type": assay.id,
        "target_seq": assay.target_seq,
        "uniprot": assay.uniprot,
        "selection": assay.selection,
    }
    for index in drawn(len(scored), "test", assay.id, asked.limit, asked.seed):
        (where, mutant, sequence, _, fit), score = scored[index]
        expected = _mutated(mutant, assay.target_seq, where)
        mutated = letters.clean(sequence or expected, where)
        if mutated is None:
            continue
        if mutated != expected:
            raise PlmscaleError(f"{where}: the sequence is not the target with {mutant} in it")
        if fit not in ("", "0", "1", "0.0", "1.0"):
            raise PlmscaleError(f"{where}: DMS_score_bin {fit!r}, expected 0 or 1")
        extra = {
            "mutant": mutant,
            **shared,
            "DMS_score_bin": int(float(fit)) if fit else int(score > assay.cutoff),
        }
        found.examples.append(Example(mutant, mutated, "test", score, assay.id, extra))


def _mutated(mutant: str, target: str, where: str) -> str:
    for place, letter in substitutions(mutant, target, where):
        target = target[:place] + letter + target[place + 1 :]
    return target


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PlmscaleError(f"{where}: {text!r} is no number") from None


READERS = {"proteingym-zip": read_zip, "assay-files": read_files}
