"""Variants of a wild type: read, checked against it, told apart from what cannot be scored.

A mutation is written as ProteinGym does: `A24G`, position counted from 1 in the wild type; several
are joined by `:`. A variant without any (`WT`, or empty) is the wild type itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from plmscale.corpus.alphabet import STANDARD
from plmscale.errors import PlmscaleError

_MUTATION = re.compile(r"([A-Za-z*])(\d+)([A-Za-z*])")
_WILD = ("", "wt", "_wt", "wild-type", "wildtype")
# Why a variant has no score.
STOP = "stop codon"
MISFIT = "does not fit the wild type"
NONSTANDARD = "non-standard residue"
INDEL = "not a substitution"
UNREADABLE = "unreadable mutation"
REASONS = (STOP, MISFIT, NONSTANDARD, INDEL, UNREADABLE)
# Above this share of variants that do not fit, it is the wild type or the numbering that is wrong.
MAX_MISFITS = 0.05


@dataclass(frozen=True)
class Variant:
    """Mutations as (position from 0, wild-type letter, new letter), ascending; why it is skipped.

    `sequence` is what the mutations make of the wild type; None if skipped. A synonymous mutation
    (`A24A`) changes nothing and is not among the mutations.
    """

    mutations: tuple[tuple[int, str, str], ...]
    sequence: str | None
    skipped: str = ""


def parse(mutant: str) -> list[tuple[int, str, str]] | None:
    """Return (position from 0, old, new) of each mutation as written; None for what is none."""
    if mutant.strip().lower() in _WILD:
        return []
    found = []
    for word in mutant.strip().split(":"):
        match = _MUTATION.fullmatch(word.strip())
        if not match or int(match[2]) < 1:
            return None
        found.append((int(match[2]) - 1, match[1].upper(), match[3].upper()))
    return found


def read(wild: str, mutant: str | None, sequence: str | None = None) -> Variant:
    """Return the variant `mutant` of the wild type.

    `sequence` is the mutated one as the source has it: it must agree with `mutant`, and stands in
    for it where `mutant` is None. Never raises: what cannot be scored says why.
    """
    if mutant is None:
        if sequence is None or len(sequence) != len(wild):
            return Variant((), None, INDEL)
        pairs = enumerate(zip(wild, sequence))
        written = [(i, old, new) for i, (old, new) in pairs if old != new]
    else:
        parsed = parse(mutant)
        if parsed is None:
            return Variant((), None, UNREADABLE)
        written = parsed
    if any(new == "*" for _, _, new in written) or (sequence and "*" in sequence):
        return Variant((), None, STOP)
    positions = [position for position, _, _ in written]
    fits = len(set(positions)) == len(positions) and all(
        position < len(wild) and wild[position] == old for position, old, _ in written
    )
    if not fits:
        return Variant((), None, MISFIT)
    mutations = tuple(sorted(m for m in written if m[1] != m[2]))
    if any(old not in STANDARD or new not in STANDARD for _, old, new in mutations):
        return Variant((), None, NONSTANDARD)
    letters = list(wild)
    for position, _, new in mutations:
        letters[position] = new
    made = "".join(letters)
    if sequence is not None and sequence != made:
        return Variant((), None, MISFIT if len(sequence) == len(wild) else INDEL)
    return Variant(mutations, made)


def check_assay(assay: str, variants: Iterable[Variant]) -> Counter[str]:
    """Return how many variants are skipped, by reason.

    Raises PlmscaleError where more than MAX_MISFITS of them do not fit the wild type, or none is
    left: scores of such an assay would be of another protein.
    """
    reasons = Counter(variant.skipped for variant in variants)
    total, scored = reasons.total(), reasons.pop("", 0)
    if reasons[MISFIT] > MAX_MISFITS * total:
        raise PlmscaleError(
            f"assay {assay}: {reasons[MISFIT]:,} of {total:,} variants do not fit the wild type; "
            "check its sequence and that positions count from 1"
        )
    if not scored:
        told = ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items()))
        raise PlmscaleError(f"assay {assay}: no variant can be scored ({told or 'it has none'})")
    return +reasons
