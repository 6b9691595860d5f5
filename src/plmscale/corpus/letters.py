"""The letter rule: what becomes of U, O, B, Z, X, J, `*`, lower case and anything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from plmscale.corpus.alphabet import STANDARD
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.fasta import read_fasta
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write


def apply_letter_rule(
    source: str | Path, target: str | Path, rule: CleanConfig
) -> dict[str, int | dict[str, int]]:
    """Write `source` to `target` as plain FASTA with one line a sequence, and count what was done.

    In this order: upper case; trailing stops cut; records with an inner stop left out; letters
    replaced or their records left out as `rule.letters` says; any other sign is an error that
    names file, record and letter, or with `other: drop` leaves the record out. A name that was
    there before gets `.2`, `.3`, ... appended, because the split tells sequences apart by name.
    """
    lower_to_upper = bytes(c - 32 if 97 <= c <= 122 else c for c in range(256))
    replace = {ord(k): ord(v) for k, v in rule.letters.items() if len(v) == 1}
    table = bytes(replace.get(c, c) for c in range(256))
    dropping = {k.encode() for k, v in rule.letters.items() if v == "drop"}
    known = (STANDARD + "UOBZX" + "".join(rule.letters)).encode()
    counts: Counter[str] = Counter()
    replaced: Counter[str] = Counter()
    names: Counter[str] = Counter()
    with atomic_write(target, "wb") as out:
        for header, raw in read_fasta(source):
            counts["read_sequences"] += 1
            counts["read_residues"] += len(raw)
            sequence = raw.translate(lower_to_upper)
            counts["lower_case_sequences"] += sequence != raw
            if sequence.endswith(b"*"):
                sequence = sequence.rstrip(b"*")
                counts["trailing_stop_sequences"] += 1
            if b"*" in sequence:
                counts["dropped_inner_stop"] += 1
                continue
            if odd := sequence.translate(None, known):
                if rule.other == "error":
                    letter = odd[:1].decode("latin-1")
                    place = sequence.index(odd[:1]) + 1
                    raise PlmscaleError(
                        f"{source}: record {counts['read_sequences']} ({header}): {letter!r} at "
                        f"position {place} is no amino acid; "
                        "correct it, or set corpus.clean.other: drop"
                    )
                counts["dropped_other_letter"] += 1
                continue
            if any(letter in sequence for letter in dropping):
                counts["dropped_letter_rule"] += 1
                continue
            for letter in replace:
                if n := sequence.count(letter):
                    replaced[chr(letter)] += n
            sequence = sequence.translate(table)
            if not sequence:
                counts["dropped_only_stops"] += 1
                continue
            name = header.split()[0]
            names[name] += 1
            if names[name] > 1:
                counts["renamed_duplicate_ids"] += 1
                # `a.2` may be taken by a record of that name; a later one then gets `a.2.2`.
                first = name
                while names[name := f"{first}.{names[first]}"]:
                    names[first] += 1
                names[name] += 1
            out.write(b">" + name.encode() + b"\n" + sequence + b"\n")
            counts["written_sequences"] += 1
    if not counts["written_sequences"]:
        raise PlmscaleError(f"{source}: no sequence is left after the letter rule")
    return {**counts, "replaced_letters": dict(replaced)}
