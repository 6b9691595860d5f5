"""Brightness of GFP's variants (Sarkisyan et al. 2016), split as TAPE does by number of mutations.

target: float, log10 of the brightness, in single precision as TAPE has it. id: the substitutions
on the 237 residues without the first M, positions from 0 (`K77R:K212*`), or `wild-type`. extra:
`mutations` (int), `stop` (bool: the variant has a stop, `*` in its sequence).
"""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np

from plmscale.downstream.base import Example
from plmscale.downstream.data.found import Asked, Found
from plmscale.downstream.data.letters import STOP, Letters
from plmscale.downstream.data.stops import with_stops
from plmscale.downstream.data.tables import parquet, text_rows
from plmscale.errors import PlmscaleError

WILD_TYPE = (
    "SKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKD"
    "DGNYKTRAEVKFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPDNHYLST"
    "QSALSKDPNEKRDHMVLLEFVTAAGITHGMDELYK"
)
_WILD_TYPE = np.frombuffer(WILD_TYPE.encode(), np.uint8)
# Variants up to this many mutations train and validate, the others test.
_NEAR = 3
# TAPE validates on a fifth of them; which fifth is known only to the full source.
_VALID = 0.2
_MUTATION = re.compile(r"S([A-Z])(\d+)([A-Z*])")


def read_parquet(asked: Asked) -> Found:
    """Read one Parquet file a split, with columns for sequence and target.

    TAPE leaves stops out of its sequences, which are then shorter: they are put back.
    """
    found, letters, restored = Found(), Letters(stops=True), 0
    names = [asked.source.columns["sequence"], asked.source.columns["target"]]
    for split in ("train", "valid", "test"):
        path = asked.paths[split]
        table = parquet(path, names)
        found.rows[split] = table.num_rows
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        for row, (raw, value) in enumerate(rows):
            where = f"{path}, split {split}, row {row}"
            sequence = letters.clean(raw, where)
            if sequence is None or not _has_value(found, value, where):
                continue
            whole = with_stops(sequence, WILD_TYPE)
            restored += whole != sequence
            example = _example(whole, value, split, where)
            _check_split(example, split, where)
            found.examples.append(example)
    found.take(letters)
    if restored:
        found.notes.append(
            f"{restored:,} sequences were shorter than the wild type: stops put back where they "
            "fit best (of the published genotypes 96 % get theirs at its own place)"
        )
    return found


def read_genotypes(asked: Asked) -> Found:
    """Read the published table of genotypes; train and valid are told apart by a hash of the id."""
    path = asked.paths["genotypes"]
    found, letters = Found(), Letters(stops=True)
    near: list[Example] = []
    for line, (genotype, value) in text_rows(path, ("aaMutations", "medianBrightness")):
        where = f"{path}, line {line}"
        sequence = letters.clean(_mutated(genotype, where), where)
        if sequence is None or not _has_value(found, value, where):
            continue
        example = _example(sequence, value, "test", where)
        (near if example.extra["mutations"] <= _NEAR else found.examples).append(example)
    order = sorted(near, key=lambda example: hashlib.sha256(example.id.encode()).digest())
    valid = {example.id for example in order[: round(_VALID * len(near))]}
    for example in near:
        split = "valid" if example.id in valid else "train"
        found.examples.append(
            Example(
                example.id, example.sequence, split, example.target, example.group, example.extra
            )
        )
    found.rows.update(example.split for example in found.examples)
    found.take(letters)
    found.notes.append(
        f"train and valid: variants of up to {_NEAR} mutations, as TAPE's; which of them validate "
        "follows from a hash of the genotype, TAPE's own choice is not in this source"
    )
    return found


def _example(sequence: str, value: object, split: str, where: str) -> Example:
    if len(sequence) != len(WILD_TYPE):
        raise PlmscaleError(
            f"{where}: the sequence has {len(sequence)} letters, expected {len(WILD_TYPE)} (or "
            "fewer, where stops are left out); the source has changed"
        )
    places = np.flatnonzero(np.frombuffer(sequence.encode(), np.uint8) != _WILD_TYPE)
    changes = [f"{WILD_TYPE[place]}{place}{sequence[place]}" for place in places]
    extra = {"mutations": len(changes), "stop": STOP in sequence}
    target = float(np.float32(value))
    return Example(":".join(changes) or "wild-type", sequence, split, target, extra=extra)


def _mutated(genotype: str, where: str) -> str:
    """Return the wild type with the substitutions `SA108D:SN144S` in it."""
    sequence = list(WILD_TYPE)
    for text in filter(None, genotype.split(":")):
        match = _MUTATION.fullmatch(text)
        if not match or int(match[2]) >= len(sequence):
            raise PlmscaleError(f"{where}: {text!r} is no substitution such as SA108D")
        place = int(match[2])
        if WILD_TYPE[place] != match[1]:
            raise PlmscaleError(f"{where}: {text}: the wild type has {WILD_TYPE[place]} at {place}")
        sequence[place] = match[3]
    return "".join(sequence)


def _check_split(example: Example, split: str, where: str) -> None:
    """Raise where a variant is in the wrong split; a stop put back may hide a mutation."""
    mutations = example.extra["mutations"]
    if not example.extra["stop"] and (mutations <= _NEAR) != (split != "test"):
        limit = f"up to {_NEAR}" if split != "test" else f"more than {_NEAR}"
        raise PlmscaleError(
            f"{where}: the variant has {mutations} mutations, expected {limit} in {split}; the "
            "source is split in another way"
        )


def _has_value(found: Found, value: object, where: str) -> bool:
    """Say whether there is a number; count it as left out where it is absent or not finite."""
    try:
        if value not in (None, "") and math.isfinite(float(value)):  # type: ignore[arg-type]
            return True
    except (TypeError, ValueError):
        raise PlmscaleError(f"{where}: brightness {value!r} is no number") from None
    found.dropped["no target"] += 1
    return False


READERS = {"tape-parquet": read_parquet, "genotypes": read_genotypes}
