"""Sources of any format as FASTA: blocks of text where that streams, one file where it does not.

parquet     a column of a Parquet file                                  streamed
tables      lines of key and sequence, plain or inside an archive       streamed
archives    members of tar archives, read as a stream, never by a path of theirs
databases   MMseqs2 databases                                           extracted by mmseqs
contigs     genes of nucleotide sequences                               extracted by pyrodigal
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from plmscale.corpus.blocks import BLOCK_BYTES, read_blocks
from plmscale.corpus.formats import archives, parquet, tables
from plmscale.corpus.source_config import SourceConfig
from plmscale.errors import PlmscaleError

_NUCLEOTIDES = b"ACGTUNacgtun"
# Proteins have A, C, G, T and N in a quarter of their letters.
_TOO_MANY_NUCLEOTIDES = 0.9
_LOOKED_AT = 100_000


def sequence_blocks(
    path: str | Path,
    source: SourceConfig,
    block_bytes: int = BLOCK_BYTES,
    advance: Callable[[int], object] | None = None,
) -> Iterator[tuple[bytes, int]]:
    """Yield (whole FASTA records, number of blank lines before them) of one file of `source`.

    As `read_blocks` does, for the formats that stream: FASTA, Parquet, tables of key and sequence.
    `advance` is told the bytes read from the file, packed as they are. Raises PlmscaleError that
    names the file where it is not of the source's format, or holds nucleotides.
    """
    match source.reads_as:
        case "parquet":
            blocks = parquet.parquet_blocks(path, source.column, source.id_column, advance)
        case "tsv":
            blocks = tables.table_blocks(path, source.member, block_bytes, advance)
        case _:
            _refuse_what_is_no_fasta(path)
            blocks = read_blocks(path, block_bytes, advance=advance)
    first = next(blocks, None)
    if first is None:
        return
    _refuse_nucleotides(path, first[0])
    yield first
    yield from blocks


def extract(
    source: SourceConfig,
    files: Sequence[str | Path],
    out: str | Path,
    threads: int,
    work: str | Path,
) -> Mapping[str, int]:
    """Write the proteins in `files`, which are those of `source` in its order, as FASTA to `out`.

    `work` is a folder for what lies around meanwhile; it is removed. Returns counts of what was
    found, and says them on stderr. `out` appears only when it is whole. Raises PlmscaleError that
    names the file at fault.
    """
    paths, out, work = [Path(file) for file in files], Path(out), Path(work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        if source.reads_as == "mmseqs":
            from plmscale.corpus.formats.databases import extract_databases

            names = [Path(file.place).name for file in source.all_files()]
            counts = extract_databases(paths, names, source.member, out, work)
        elif source.reads_as == "contigs":
            from plmscale.corpus.formats.contigs import find_genes

            counts = find_genes(paths, source.member, out, threads)
        else:
            archives.copy_member(paths, source.member, out)
            first = next(read_blocks(out), None)
            if first:
                _refuse_nucleotides(paths[0], first[0])
            counts = {"files": len(paths)}
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    print(f"plmscale: {out.name}: {told}", file=sys.stderr)
    return counts


def _refuse_what_is_no_fasta(path: str | Path) -> None:
    """Tell a file of another format from a FASTA file that is merely wrong."""
    if archives.is_tar(path):
        shown = archives.listed(path)
        raise PlmscaleError(
            f"{path}: is a tar archive; name the file inside it as member: of the source{shown}"
        )
    with open(path, "rb") as handle:
        start = handle.read(4)
    if start == parquet.MAGIC:
        raise PlmscaleError(f"{path}: is a Parquet file; give the source format: parquet")
    if start.startswith(b"@"):
        raise PlmscaleError(f"{path}: is a FASTQ file; assemble its reads and give the contigs")


def _refuse_nucleotides(path: str | Path, block: bytes) -> None:
    text = re.sub(rb">[^\n]*|\s+", b"", block[:_LOOKED_AT])
    others = len(text.translate(None, _NUCLEOTIDES))
    if len(text) >= 100 and others < (1 - _TOO_MANY_NUCLEOTIDES) * len(text):
        raise PlmscaleError(
            f"{path}: holds nucleotides where proteins belong; for contigs, in which genes are "
            "still to be found, give the source format: contigs"
        )
