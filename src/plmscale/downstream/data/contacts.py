"""Contacts between residues.

target: int32 (k, 2), 0-based pairs i < j closer than 8 angstrom, however near in the sequence: the
least separation is the task's choice. extra: `resolved`, bool (length,), False for a residue whose
place is not known. Which atoms are measured differs by source and stands in Data.notes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from plmscale.downstream.base import Example
from plmscale.downstream.data.components import related, split_by_relation
from plmscale.downstream.data.found import Asked, Found
from plmscale.downstream.data.letters import Letters
from plmscale.downstream.data.tables import parquet, text_rows
from plmscale.errors import PlmscaleError

CUTOFF = 8.0  # angstrom
_BOND = 3.8  # angstrom between the C-alpha of neighbours in a chain
# Splits of the chains of the small source, made by `split_by_relation`.
_SPLIT_TABLE = "contacts-small.tsv"
_CUT = (
    f"contacts: C-alpha closer than {CUTOFF:g} angstrom; pairs with an unresolved residue are not"
)


def read_parquet(asked: Asked) -> Found:
    """Read one Parquet file a split, with columns for sequence and a list of pairs [i, j].

    The pairs hold the diagonal and neighbours; a residue that is in none, not even with itself or
    its neighbour, has no known place.
    """
    found, letters = Found(), Letters()
    names = [asked.source.columns["sequence"], asked.source.columns["target"]]
    for split in ("train", "valid", "test"):
        path = asked.paths[split]
        table = parquet(path, names)
        found.rows[split] = table.num_rows
        lists = table[names[1]].combine_chunks()
        if not _is_pairs(lists.type):
            raise PlmscaleError(
                f"{path}, split {split}: column {names[1]} is {lists.type}, expected lists of "
                "pairs of integers"
            )
        for row, raw in enumerate(table[names[0]].to_pylist()):
            where = f"{path}, split {split}, row {row}"
            sequence = letters.clean(raw, where)
            if sequence is None:
                continue
            pairs = _pairs(lists[row].values, len(sequence), where)
            resolved = np.zeros(len(sequence), bool)
            resolved[pairs.ravel()] = True
            _add(found, f"{split}-{row}", sequence, split, _ordered(pairs), resolved)
    found.take(letters)
    found.notes.append(
        f"contacts: the authors' pairs, closer than {CUTOFF:g} angstrom (the file does not name "
        "the atoms); a residue in no pair at all counts as unresolved"
    )
    return found


def read_chains(asked: Asked) -> Found:
    """Read C-alpha places of chains from an .npz: ids, seqs, lens, xyz (NaN: not resolved).

    xyz are angstrom or tenths of it: told apart by the distance of neighbours in a chain.
    """
    found, letters = Found(), Letters()
    path = asked.paths["chains"]
    names, sequences, places = _chains(path)
    found.rows["chains"] = len(names)
    splits, how = _splits(asked, dict(zip(names, sequences, strict=True)))
    places, unit = _in_angstrom(places, path)
    for name, raw, own in zip(names, sequences, places, strict=True):
        sequence = letters.clean(raw, f"{path}, chain {name}")
        if sequence is not None:
            resolved = ~np.isnan(own).any(axis=1)
            _add(found, name, sequence, splits[name], _close(own, resolved), resolved)
    found.take(letters)
    found.notes += [_CUT, f"coordinates in {unit}", how]
    return found


def _add(
    found: Found, name: str, sequence: str, split: str, pairs: np.ndarray, resolved: np.ndarray
) -> None:
    """Add an example, unless nothing is known of its structure."""
    if not resolved.any():
        found.dropped["no coordinates"] += 1
        return
    found.examples.append(Example(name, sequence, split, pairs, extra={"resolved": resolved}))


def _is_pairs(kind: pa.DataType) -> bool:
    for _ in range(2):
        if not pa.types.is_nested(kind) or not hasattr(kind, "value_type"):
            return False
        kind = kind.value_type
    return pa.types.is_integer(kind)


def _pairs(inner: pa.Array | None, length: int, where: str) -> np.ndarray:
    """Return a row's pairs as they are, int32 (k, 2); places must lie in the sequence."""
    if inner is None:
        return np.zeros((0, 2), np.int32)
    flat = np.asarray(inner.flatten(), dtype=np.int64)
    if len(flat) != 2 * len(inner):
        raise PlmscaleError(f"{where}: {len(flat)} numbers in {len(inner)} pairs")
    if len(flat) and (flat.min() < 0 or flat.max() >= length):
        raise PlmscaleError(
            f"{where}: a pair has the place {flat.max()}, expected 0 to {length - 1}; places count "
            "from 0"
        )
    return flat.astype(np.int32).reshape(-1, 2)


def _ordered(pairs: np.ndarray) -> np.ndarray:
    """Return the pairs i < j, each once, in order; the diagonal is left out."""
    first, second = np.minimum(pairs[:, 0], pairs[:, 1]), np.maximum(pairs[:, 0], pairs[:, 1])
    keys = np.unique((first.astype(np.int64) << 32 | second)[first < second])
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1).astype(np.int32)


def _chains(path: Path) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Return names, sequences, and places (length, 3) of each chain."""
    try:
        # Never unpickled: an array of objects is an error here.
        with np.load(path, allow_pickle=False) as file:
            ids, seqs, lens, xyz = (file[key] for key in ("ids", "seqs", "lens", "xyz"))
    except KeyError as error:
        raise PlmscaleError(f"{path}: no array {error}; expected ids, seqs, lens, xyz") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PlmscaleError(f"{path}: not a whole .npz of plain arrays ({error})") from None
    names, sequences = [str(name) for name in ids], [str(text) for text in seqs]
    lengths = [len(text) for text in sequences]
    if len(names) != len(sequences) or lens.tolist() != lengths or xyz.shape != (sum(lengths), 3):
        raise PlmscaleError(
            f"{path}: {len(names)} ids, {len(lengths)} sequences of {sum(lengths)} letters, places "
            f"{xyz.shape}; expected a place for each letter"
        )
    return names, sequences, np.split(xyz.astype(np.float64), np.cumsum(lengths)[:-1])


def _in_angstrom(places: list[np.ndarray], path: Path) -> tuple[list[np.ndarray], str]:
    """Return places in angstrom, and the unit that they were in."""
    steps = [np.linalg.norm(np.diff(own, axis=0), axis=1) for own in places]
    all_steps = np.concatenate(steps) if steps else np.zeros(0)
    known = all_steps[~np.isnan(all_steps)]
    step = float(np.median(known)) if len(known) else _BOND
    for unit, factor in (("angstrom", 1.0), ("tenths of an angstrom", 0.1)):
        if abs(step * factor - _BOND) < 0.2:
            return [own * factor for own in places], unit
    raise PlmscaleError(
        f"{path}: neighbours in a chain are {step:.2f} apart, expected {_BOND} (angstrom) or "
        f"{10 * _BOND:g} (tenths); are xyz the C-alpha of consecutive residues?"
    )


def _close(places: np.ndarray, resolved: np.ndarray) -> np.ndarray:
    """Return pairs i < j of resolved residues closer than the cut-off, int32 (k, 2)."""
    index = np.flatnonzero(resolved)
    own = places[index]
    distance = np.sqrt(((own[:, None] - own[None]) ** 2).sum(-1))
    i, j = np.nonzero(np.triu(distance < CUTOFF, k=1))
    return np.stack([index[i], index[j]], axis=1).astype(np.int32)


def _splits(asked: Asked, sequences: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the split of each chain, and how it came."""
    table = asked.resources / _SPLIT_TABLE
    rule = "no two chains of 30 % identity over 80 % of one of them are in different splits"
    if table.is_file():
        known = {name: split for _, (name, split) in text_rows(table, ("id", "split"))}
        if set(known) == set(sequences):
            return known, f"splits: {rule} ({_SPLIT_TABLE})"
    return split_by_relation(sequences, related(sequences)), f"splits: {rule} (MMseqs2)"


READERS = {"pairs-parquet": read_parquet, "ca-npz": read_chains}
