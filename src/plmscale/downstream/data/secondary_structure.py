"""Secondary structure in three states (FLIP; NetSurfP-2.0's training set, tested on new chains).

target: str of H, E and C, as long as the sequence. extra: `resolved`, bool (length,), False where
the structure shows no such residue, so that its label says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from plmscale.downstream.base import Example
from plmscale.downstream.data.archive import Archive, open_zip
from plmscale.downstream.data.found import Asked, Found
from plmscale.downstream.data.letters import Letters
from plmscale.errors import PlmscaleError

# (SET, VALIDATION) of a header -> split.
_SPLITS = {
    ("train", "False"): "train",
    ("train", "True"): "valid",
    ("test", "False"): "test",
}
_STATES = frozenset("HEC")


def read_flip(asked: Asked) -> Found:
    """Read FLIP's zip: sequences.fasta, sampled.fasta (labels and splits) and mask.fasta."""
    found, letters = Found(), Letters()
    path = asked.paths["splits"]
    with open_zip(path) as archive:
        sequences = {name: text for name, _, text in _records(archive, "sequences.fasta")}
        masks = {name: text for name, _, text in _records(archive, "mask.fasta")}
        for name, header, states in _records(archive, "sampled.fasta"):
            where = f"{path}, {name}"
            split = _split(header, where)
            found.rows[split] += 1
            raw, mask = sequences.get(name), masks.get(name)
            if raw is None or mask is None:
                raise PlmscaleError(f"{where}: labels without a sequence or without a mask")
            if not len(raw) == len(states) == len(mask):
                raise PlmscaleError(
                    f"{where}: sequence, labels and mask have {len(raw)}, {len(states)} and "
                    f"{len(mask)} letters, expected equal numbers"
                )
            _check_letters(states, mask, where)
            sequence = letters.clean(raw, where)
            if sequence is not None:
                resolved = np.frombuffer(mask.encode(), np.uint8) == ord("1")
                found.examples.append(
                    Example(name, sequence, split, states, extra={"resolved": resolved})
                )
    found.take(letters)
    return found


def _records(archive: Archive, member: str) -> Iterator[tuple[str, str, str]]:
    """Yield (name, rest of the header, text) of a FASTA file in the zip; names are unique."""
    seen: set[str] = set()
    with archive.text(member) as handle:
        for block in handle.read().split(">")[1:]:
            header, _, body = block.partition("\n")
            name, _, rest = header.strip().partition(" ")
            if not name or name in seen:
                raise PlmscaleError(f"{archive.path}, {member}: {name!r} is there twice or empty")
            seen.add(name)
            yield name, rest, "".join(body.split())
    if not seen:
        raise PlmscaleError(f"{archive.path}, {member}: no records; expected FASTA")


def _split(header: str, where: str) -> str:
    tags = dict(tag.partition("=")[::2] for tag in header.split())
    key = (tags.get("SET", ""), tags.get("VALIDATION", ""))
    if key not in _SPLITS:
        raise PlmscaleError(
            f"{where}: header {header!r}; expected SET=train or test and VALIDATION=True or False"
        )
    return _SPLITS[key]


def _check_letters(states: str, mask: str, where: str) -> None:
    if strange := set(states) - _STATES:
        raise PlmscaleError(f"{where}: states {sorted(strange)}, expected H, E and C only")
    if strange := set(mask) - {"0", "1"}:
        raise PlmscaleError(f"{where}: mask has {sorted(strange)}, expected 0 and 1 only")


READERS = {"flip-zip": read_flip}
