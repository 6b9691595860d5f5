"""Splits that keep related sequences together: no two of them across, by MMseqs2."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from plmscale.corpus import mmseqs

# Related: so much identity over so much of either sequence (the shorter one, then).
IDENTITY, COVERAGE, MAX_EVALUE = 0.3, 0.8, 1e-3
_SENSITIVITY = 7.5


def related(sequences: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the pairs of names (smaller first) of related sequences, searched all against all."""
    names = list(sequences)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fasta = "".join(f">{index}\n{sequences[name]}\n" for index, name in enumerate(names))
        (work / "all.fasta").write_text(fasta)
        database, hits, table = work / "db", work / "hits", work / "hits.tsv"
        mmseqs.run("createdb", work / "all.fasta", database, "--shuffle", 0, "--dbtype", 1)
        # Coverage of the query (mode 2), in both directions; identities of the alignment (mode 3).
        mmseqs.run(
            "search", database, database, hits, work / "tmp", "-s", _SENSITIVITY,
            "--min-seq-id", IDENTITY, "-c", COVERAGE, "--cov-mode", 2, "--alignment-mode", 3,
            "-e", MAX_EVALUE, "--max-seqs", max(300, len(names)), "--threads", 1,
        )  # fmt: skip
        mmseqs.run(
            "convertalis", database, database, hits, table, "--format-output", "query,target"
        )
        rows = [line.split() for line in table.read_text().splitlines()]
    pairs = {tuple(sorted((names[int(a)], names[int(b)]))) for a, b in rows if a != b}
    return pairs  # type: ignore[return-value]


def split_by_relation(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return {name: train, valid or test}: 3 of 16 test, 3 of 32 validate, the rest trains.

    Names that are related, also through others, share a split. Components come in the order of a
    hash of their first name and go where they still fit: the test set first, then validation.
    """
    parent = {name: name for name in sorted(names)}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for a, b in pairs:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    components: dict[str, list[str]] = {}
    for name in parent:
        components.setdefault(root(name), []).append(name)
    room = {"test": len(parent) * 3 // 16, "valid": len(parent) * 3 // 32, "train": len(parent)}
    splits: dict[str, str] = {}
    for first in sorted(components, key=lambda name: hashlib.sha256(name.encode()).digest()):
        members = components[first]
        split = next(name for name, left in room.items() if len(members) <= left)
        room[split] -= len(members)
        splits.update(dict.fromkeys(members, split))
    return splits
