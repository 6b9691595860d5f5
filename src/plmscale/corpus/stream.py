"""A FASTA file of any size as a stream of cleaned blocks, on one core or several."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from plmscale.corpus.blocks import Fault, read_blocks
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.fastclean import CleanBlock, LetterRule, clean_by_kernel
from plmscale.corpus.numpyclean import clean_by_numpy

T = TypeVar("T")


def clean_fasta(
    path: str | Path,
    rule: CleanConfig,
    threads: int = 1,
    blocks: Iterator[tuple[bytes, int]] | None = None,
) -> Iterator[CleanBlock]:
    """Yield what stays of the FASTA at `path` (plain, gzip, zstd or xz), block by block, in order.

    `blocks` are what is read in its place, in the way of `read_blocks`; `path` is then what errors
    name. `threads` is how many cores there are: with more than one, one thread reads and unpacks,
    `threads` - 1 clean, and the caller goes on meanwhile; what is yielded is the same. At most
    2 * threads + 4 blocks are in memory. Raises PlmscaleError that names file, record and line
    where something is wrong; blocks before that have then been yielded.
    """
    letters = LetterRule(rule)
    records = lines = 0
    try:
        for blank_lines, found in _cleaned(blocks or read_blocks(path), letters, threads):
            lines += blank_lines
            if isinstance(found, Fault):
                raise found
            block, newlines = found
            yield replace(block, records=block.records + records)
            records += block.counts["read_sequences"]
            lines += newlines
    except Fault as fault:
        raise fault.told(path, records, lines) from None


def clean_block(data: bytes, rule: LetterRule) -> tuple[CleanBlock, int]:
    """Apply `rule` to a block of whole records; return what stays and the block's line ends.

    `records` count from 1 within the block. Raises Fault for the first record that has no name,
    no sequence or (where the rule makes it an error) a sign that is no amino acid.
    """
    return clean_by_kernel(data, rule) or clean_by_numpy(data, rule)


def _cleaned(
    blocks: Iterator[tuple[bytes, int]], letters: LetterRule, threads: int
) -> Iterator[tuple[int, tuple[CleanBlock, int] | Fault]]:
    """Yield (blank lines before a block, the block and its lines, or what is wrong), in order."""

    def work(data: bytes) -> tuple[CleanBlock, int] | Fault:
        try:
            return clean_block(data, letters)
        except Fault as fault:
            return fault

    if threads == 1:
        for data, blank_lines in blocks:
            yield blank_lines, work(data)
        return
    # Unpacking decides how long packed input takes, so it gets a core to itself.
    workers = threads - 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for data, blank_lines in ahead(blocks):
                waiting.append((blank_lines, pool.submit(work, data)))
                if len(waiting) > workers + 1:
                    blank_lines, future = waiting.popleft()
                    yield blank_lines, future.result()
        except Fault as fault:
            # The reader's: what it had read before comes first.
            yield from ((blank_lines, future.result()) for blank_lines, future in waiting)
            raise fault
        yield from ((blank_lines, future.result()) for blank_lines, future in waiting)


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yield `items` made by a thread that keeps up to `depth` of them ready; errors come through.

    Reading and unpacking release Python's lock, so they go on while the caller computes.
    """
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value  # type: ignore[misc]
            if kind == "end":
                return
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
