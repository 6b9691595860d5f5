"""Genes of contigs, found with pyrodigal (Prodigal) in its mode for metagenomes."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from plmscale.corpus.formats import archives
from plmscale.corpus.openers import DAMAGED, open_sequences
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write

# IUPAC's nucleotides and their ambiguities; X and gaps stand for an unknown base.
_BASES = b"ACGTURYSWKMBDHVNXacgturyswkmbdhvnx-"
# Of the letters that only proteins have.
_PROTEIN = re.compile(rb"[EFILPQZOJ*]", re.IGNORECASE)


def find_genes(files: Sequence[Path], member: str, out: Path, threads: int) -> dict[str, int]:
    """Write the proteins of all genes found in the contigs of `files` as FASTA to `out`.

    Headers are those of Prodigal: contig_number # begin # end # strand # partial=xy, where x and y
    are 1 for a gene that runs over the begin or end of its contig. Genes stand in the order of the
    contigs, whatever `threads`. Contigs too short for any gene are counted and left out. Raises
    PlmscaleError that names file and record where a sequence is no nucleotides, and for a file
    without a gene.
    """
    try:
        import pyrodigal
    except ImportError:
        raise PlmscaleError(
            f"{files[0]}: genes in contigs are found by pyrodigal, which is missing: "
            "pip install pyrodigal (its licence is the GPL), or conda install -c bioconda pyrodigal"
        ) from None
    counts: Counter[str] = Counter()
    finder = pyrodigal.GeneFinder(meta=True)
    shortest = finder.min_edge_gene

    def work(name: str, bases: bytes) -> tuple[str, int, int]:
        # It gives Python's lock back while it computes, so threads are as good as processes.
        return _genes(name, finder.find_genes(bases))

    # A few contigs for each thread, so that none waits for the writer.
    ahead = 4 * threads
    with atomic_write(out, "w") as target, ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[str, int, int]]] = deque()

        def finish() -> None:
            text, genes, partial = waiting.popleft().result()
            target.write(text)
            counts.update(genes=genes, partial_genes=partial)

        for file in files:
            for name, bases in _contigs(file, member):
                counts["contigs"] += 1
                if len(bases) < shortest:
                    counts["contigs_too_short"] += 1
                    continue
                waiting.append(pool.submit(work, name, bases))
                if len(waiting) > ahead:
                    finish()
        while waiting:
            finish()
        if not counts["genes"]:
            raise PlmscaleError(
                f"{files[0]}: no gene was found in {counts['contigs']:,} contigs "
                f"({counts['contigs_too_short']:,} too short)"
            )
    keys = ("contigs", "contigs_too_short", "genes", "partial_genes")
    return {key: counts[key] for key in keys}


def _genes(contig: str, genes: Any) -> tuple[str, int, int]:
    """Return the genes of a contig as FASTA, how many they are, and how many are partial."""
    lines, partial = [], 0
    for number, gene in enumerate(genes, 1):
        edges = f"{gene.partial_begin:d}{gene.partial_end:d}"
        partial += edges != "00"
        place = f"{gene.begin} # {gene.end} # {gene.strand} # partial={edges}"
        protein = gene.translate(include_stop=False)
        lines.append(f">{contig}_{number} # {place}\n{protein}\n")
    return "".join(lines), len(genes), partial


def _contigs(path: Path, member: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bases) of the records of a FASTA file, plain or packed, or of a tar's member."""
    with ExitStack() as stack:
        if member:
            handle: IO[bytes] = stack.enter_context(archives.open_member(path, member))
        else:
            handle = stack.enter_context(open_sequences(path))  # type: ignore[assignment]
        name, parts, record, found = "", [], 0, False
        try:
            for line in _lines(handle):
                line = line.rstrip()
                if line.startswith(b">"):
                    if found:
                        yield name, _checked(path, record, name, parts)
                    record, found, parts = record + 1, True, []
                    name = (line[1:].split() or [b""])[0].decode("utf-8", "replace")
                    if not name:
                        raise PlmscaleError(f"{path}: record {record} has no name")
                elif found:
                    parts.append(line)
                elif line:
                    start = line[:40].decode("utf-8", "replace")
                    raise PlmscaleError(
                        f"{path}: expected '>' and a name, found {start!r}; is this a FASTA file?"
                    )
        except DAMAGED as error:
            raise PlmscaleError(
                f"{path}: the file is truncated or damaged in record {record} ({name}): {error}; "
                "fetch it again"
            ) from None
        if not found:
            raise PlmscaleError(f"{path}: no FASTA records; the file is empty")
        yield name, _checked(path, record, name, parts)


def _lines(handle: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream; a chromosome may be one of them."""
    begun: list[bytes] = []
    while chunk := handle.read(1 << 20):
        first, *lines = chunk.split(b"\n")
        begun.append(first)
        if lines:
            yield b"".join(begun)
            yield from lines[:-1]
            begun = lines[-1:]
    yield b"".join(begun)


def _checked(path: Path, record: int, name: str, parts: list[bytes]) -> bytes:
    bases = b"".join(parts)
    if strange := bases.translate(None, _BASES):
        sign = chr(strange[0])
        advice = "; are these proteins? then leave format: contigs out"
        raise PlmscaleError(
            f"{path}: record {record} ({name}) holds {sign!r}, which is no nucleotide"
            f"{advice if _PROTEIN.search(strange) else ''}"
        )
    return bases.upper().replace(b"U", b"T").replace(b"-", b"N")
