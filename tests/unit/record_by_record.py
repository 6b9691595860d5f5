"""FASTA and the letter rule record by record: slow, plain, and what the fast path is tested against."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plmscale.corpus.alphabet import STANDARD
from plmscale.corpus.config import CleanConfig
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write

_GZIP = b"\x1f\x8b"


def open_fasta(path: str | Path) -> BinaryIO:
    """Open a plain or gzip file for reading bytes; what it is decides the content, not the name."""
    path = Path(path)
    try:
        with path.open("rb") as handle:
            packed = handle.read(2) == _GZIP
        return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such FASTA file") from None


def read_fasta(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (header without '>', sequence as found, white space removed) of each record.

    CRLF line ends and blank lines are accepted. Raises PlmscaleError for an empty file, text
    before the first record, a record without a name or a sequence, and a truncated or damaged
    .gz, always naming file and record.
    """
    header: str | None = None
    lines: list[bytes] = []
    number = 0

    def record() -> tuple[str, bytes]:
        sequence = b"".join(lines)
        if not sequence:
            raise PlmscaleError(f"{path}: record {number} ({header}) has no sequence")
        return header or "", sequence

    try:
        with open_fasta(path) as handle:
            for line_number, line in enumerate(handle, 1):
                if line.startswith(b">"):
                    if header is not None:
                        yield record()
                    header = line[1:].decode("utf-8", "replace").strip()
                    number += 1
                    lines = []
                    if not header:
                        raise PlmscaleError(
                            f"{path}: line {line_number}: record {number} has no name"
                        )
                elif stripped := b"".join(line.split()):
                    if header is None:
                        found = line[:40].decode("utf-8", "replace").strip()
                        raise PlmscaleError(
                            f"{path}: line {line_number}: expected '>' and a name, "
                            f"found {found!r}; is this a FASTA file?"
                        )
                    lines.append(stripped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        last = f"after record {number} ({header})" if header else "before the first record"
        raise PlmscaleError(
            f"{path}: the .gz is truncated or damaged {last}: {error}; fetch it again"
        ) from None
    if header is None:
        raise PlmscaleError(f"{path}: no FASTA records; the file is empty")
    yield record()


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
