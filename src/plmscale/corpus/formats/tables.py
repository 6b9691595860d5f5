"""Tables of two columns, key and sequence, as a stream of FASTA: ColabFold's archives hold these.

ColabFold publishes its databases as one archive of four tables: NAME.tsv has the sequences that
stand for the clusters, NAME_seq.tsv those of all members, NAME_h.tsv headers and NAME_aln.tsv
alignments. `mmseqs tsv2exprofiledb` makes databases of them; of the sequences alone a stream gives
the same without a terabyte of files in between. The keys, numbers, become the names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from plmscale.corpus.formats import archives
from plmscale.corpus.openers import DAMAGED, open_sequences
from plmscale.corpus.stream import ahead
from plmscale.errors import PlmscaleError

_LONGEST_LINE = 64 << 20


def table_blocks(
    path: str | Path, member: str, block_bytes: int, advance: Callable[[int], object] | None = None
) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of FASTA as `read_blocks` does, of the table at `path`, or `member` of it.

    Raises PlmscaleError that names file and line where a line is not key, tab, sequence.
    """
    name = f"{path} ({member})" if member else str(path)
    with contextlib.ExitStack() as stack:
        if not archives.is_tar(path):
            if member:
                raise PlmscaleError(
                    f"{path}: is no tar archive, so it has no member; leave member: of the source out"
                )
            handle: IO[bytes] = stack.enter_context(open_sequences(path, advance))  # type: ignore[assignment]
        elif member:
            handle = stack.enter_context(archives.open_member(path, member, advance))
        else:
            raise PlmscaleError(
                f"{path}: is a tar archive; name the table inside it as member: of the source"
                f"{archives.listed(path)}"
            )
        lines = 0
        # Unpacking goes on in a thread of its own meanwhile.
        for text in ahead(_whole_lines(name, handle, block_bytes)):
            fasta, count = _as_fasta(name, text, lines)
            lines += count
            yield fasta, 0
        if not lines:
            raise PlmscaleError(f"{name}: the table is empty")


def _whole_lines(name: str, handle: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    rest = b""
    while True:
        try:
            chunk = handle.read(max(block_bytes, len(rest)))
        except DAMAGED as error:
            raise PlmscaleError(
                f"{name}: the file is truncated or damaged ({error}); fetch it again"
            ) from None
        if not chunk:
            break
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
            rest = chunk[end:]
        else:
            rest += chunk
        if len(rest) > _LONGEST_LINE:
            raise PlmscaleError(
                f"{name}: a line is longer than {_LONGEST_LINE:,} bytes; is it a table of key and "
                "sequence?"
            )
    if rest:
        yield rest + b"\n"


def _as_fasta(name: str, text: bytes, before: int) -> tuple[bytes, int]:
    """Return whole lines `key<tab>sequence` as FASTA, and their number."""
    signs = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(signs == 10)
    tabs = np.flatnonzero(signs == 9)
    starts = np.concatenate([[0], ends[:-1] + 1])
    # One tab in each line, not at its start or end.
    good = len(tabs) == len(ends) and bool(((tabs > starts) & (tabs < ends - 1)).all())
    if not good:
        inside = np.searchsorted(tabs, ends) - np.searchsorted(tabs, starts)
        first = np.searchsorted(tabs, starts)
        tab = tabs[np.minimum(first, max(len(tabs) - 1, 0))] if len(tabs) else starts
        wrong = (inside != 1) | (tab <= starts) | (tab >= ends - 1)
        line = int(np.argmax(wrong))
        found = text[starts[line] : ends[line]][:60].decode("utf-8", "replace")
        raise PlmscaleError(
            f"{name}: line {before + line + 1}: expected key, tab, sequence, found {found!r}; "
            "which table of the archive is it?"
        )
    fasta = b">" + text[:-1].replace(b"\n", b"\n>").replace(b"\t", b"\n") + b"\n"
    return fasta, len(ends)
