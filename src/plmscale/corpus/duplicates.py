"""Exact duplicates across sources: the first source keeps the sequence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from plmscale.corpus.fasta import read_fasta
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write


def remove_across(sources: Sequence[Path], targets: Sequence[Path]) -> list[dict[str, int]]:
    """Copy each FASTA to its target without sequences an earlier one holds; return counts of each.

    Sequences are told apart by 128 bits of BLAKE2b.
    """
    seen: set[bytes] = set()
    counts = []
    for source, target in zip(sources, targets, strict=True):
        kept = residues = dropped = 0
        with atomic_write(target, "wb") as out:
            for header, sequence in read_fasta(source):
                digest = hashlib.blake2b(sequence, digest_size=16).digest()
                if digest in seen:
                    dropped += 1
                    continue
                seen.add(digest)
                out.write(b">" + header.encode() + b"\n" + sequence + b"\n")
                kept += 1
                residues += len(sequence)
        if not kept:
            raise PlmscaleError(f"{source}: every sequence is in an earlier source; drop this one")
        counts.append(
            {"duplicates_across_sources": dropped, "sequences": kept, "residues": residues}
        )
    return counts
