"""One source, of one file or many, to a store: read, letter rule, length limits, hash, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.blocks import read_blocks
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.store import StoreWriter
from plmscale.corpus.stream import clean_fasta
from plmscale.errors import PlmscaleError
from plmscale.progress import Progress

Blocks = Iterator[tuple[bytes, int]]


def clean_source(
    files: Sequence[Path],
    rule: CleanConfig,
    out: Path,
    threads: int = 1,
    blocks_of: Callable[..., Blocks] = read_blocks,
    progress: bool = True,
) -> dict[str, Any]:
    """Clean `files` one after another into the store `out`; return its counts.json.

    `blocks_of(path, advance=...)` reads what is no FASTA, in the way of `read_blocks`; it tells
    `advance` the bytes it read of the file. `threads` is as for `clean_fasta`; the store is the
    same for any number. Raises PlmscaleError that names file, record and line where something is
    wrong, or where no sequence is left; no store is then written, and one that was there before
    stays as it was.
    """
    shown = Progress(f"clean {out.name}")
    advance = shown.add if progress else lambda count: None
    shown.at(0, sum(path.stat().st_size for path in files if path.exists()))
    read = partial(blocks_of, advance=advance)
    counts: Counter[str] = Counter()
    replaced: Counter[str] = Counter()
    writer = StoreWriter(out)
    try:
        for path in files:
            for block in clean_fasta(path, rule, threads, read(path)):
                writer.add(
                    block.tokens,
                    np.diff(block.offsets),
                    block.hashes,
                    block.ids,
                    np.diff(block.id_offsets),
                )
                counts.update(block.counts)
                replaced.update(block.replaced)
        if not writer.sequences:
            raise PlmscaleError(
                f"{', '.join(map(str, files[:3]))}{' ...' if len(files) > 3 else ''}: no sequence "
                f"is left of {counts['read_sequences']:,} after the letter rule and length limits; "
                "see corpus.clean"
            )
        result = writer.close({**counts, "replaced_letters": dict(replaced)})
    except BaseException:
        writer.discard()
        raise
    finally:
        if progress:
            shown.end()
    return result
