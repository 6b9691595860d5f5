"""One source as rows of tokens, in an order that is a pure function of (seed, source, epoch).

Proteins are taken in chunks of 64 neighbours, which lie together on disk. Each epoch permutes the
chunks, cuts them into windows of up to 1,024 (65,536 proteins), and permutes all proteins of a
window. So what must be known of a whole epoch is one number per chunk, and a window is all of the
source that is ever in memory. A source of one window is permuted as a whole.

Every permutation is the order of Philox words with the key (seed, source) and the counter
(0, 0, epoch, block). Block w is for the proteins of window w, in ascending number, and the last
block, 2^64 - 1, for the chunks. A counter-based generator (Salmon et al. 2011) gives any block
without those before, hence any window of any epoch.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from plmscale.corpus.alphabet import BOS, EOS
from plmscale.errors import PlmscaleError
from plmscale.native.rows import cut, pack
from plmscale.training.objectives import random_words
from plmscale.training.shards import Proteins

WINDOW_CHUNKS = 1024
_CHUNK_BLOCK = 2**64 - 1


def shuffled(seed: int, stream: int, epoch: int, block: int, count: int) -> np.ndarray:
    """Return a permutation of `count` numbers, int64: the order of the words of a Philox block.

    Sorting raw words, not Generator.permutation: only the raw stream is promised to stay.
    """
    return np.argsort(random_words(seed, stream, epoch, count, block), kind="stable")


@dataclass(frozen=True)
class Epoch:
    """The order of one epoch as far as chunks decide it.

    `chunks` int32 (chunks,) are their numbers as they come, window after window; `ends` int64
    (windows,) the tokens of the epoch up to the end of each window.
    """

    chunks: np.ndarray
    ends: np.ndarray


class _Ahead(threading.Thread):
    """Loads a window while the one before it is read. Ends with `stream`, or None if it failed."""

    def __init__(self, rows: PackedRows, epoch: int, window: int) -> None:
        super().__init__(name=f"window {rows.proteins.name} {epoch} {window}")
        self.place, self.stream = (epoch, window), None
        self._rows = rows

    def run(self) -> None:
        # Whoever needs the window loads it again and meets the same error.
        with suppress(Exception):
            self.stream = self._rows.load(*self.place)


class PackedRows:
    """One source as rows of `context` tokens, without end.

    The proteins of an epoch are written BOS residues EOS, one after another, and the stream is
    cut into rows; a protein cut by a row's edge goes on in the next row without a second BOS. The
    incomplete last row of an epoch is dropped, less than one row an epoch.

    In memory: the last two windows, with `ahead` a third that a thread prepares (started with the
    first row, so that a process may be forked before), and 4 bytes per chunk.
    """

    def __init__(
        self,
        proteins: Proteins,
        context: int,
        seed: int,
        window_chunks: int = WINDOW_CHUNKS,
        ahead: bool = False,
    ) -> None:
        self.proteins = proteins
        self.context = context
        self.tokens_per_epoch = proteins.tokens
        self.rows_per_epoch = self.tokens_per_epoch // context
        self.windows = -(-proteins.chunks // window_chunks)
        if not len(proteins):
            raise PlmscaleError(
                f"corpus: source {proteins.name} has no sequences; leave the source out of the mix "
                "or build a corpus in which it has some"
            )
        if self.rows_per_epoch < 1:
            raise PlmscaleError(
                f"corpus: source {proteins.name} has {self.tokens_per_epoch} tokens, less than one "
                f"row of {context}; add sequences or lower `context`"
            )
        self._seed = seed
        self._stream = int.from_bytes(
            hashlib.sha256(f"order:{proteins.name.split('.')[0]}".encode()).digest()[:8], "little"
        )
        self._window_chunks = window_chunks
        self._epochs: dict[int, Epoch] = {}
        self._streams: dict[tuple[int, int], np.ndarray] = {}
        self._prefetch = ahead and self.windows > 1
        self._ahead: _Ahead | None = None

    def row(self, number: int) -> np.ndarray:
        """Return row `number` >= 0 as (context,) uint8; numbers run on through the epochs."""
        return self.rows(np.array([number]))[0]

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of `numbers`, int64 (k,), as (k, context) uint8."""
        out = np.empty((len(numbers), self.context), np.uint8)
        self.fill(out, np.arange(len(numbers)), numbers)
        return out

    def fill(self, out: np.ndarray, places: np.ndarray, numbers: np.ndarray) -> None:
        """Write row numbers[i] to out[places[i]], for all i; `out` is uint8 (any, context)."""
        if not len(numbers):
            return
        last = int(numbers.max()) // self.rows_per_epoch
        for epoch in range(int(numbers.min()) // self.rows_per_epoch, last + 1):
            begins = (numbers - epoch * self.rows_per_epoch) * self.context
            mine = (begins >= 0) & (begins < self.rows_per_epoch * self.context)
            if mine.all():
                self._fill(out, places, epoch, begins)
            elif mine.any():
                self._fill(out, places[mine], epoch, begins[mine])

    def _fill(self, out: np.ndarray, places: np.ndarray, epoch: int, begins: np.ndarray) -> None:
        """Write the rows that begin at `begins`, in tokens of `epoch`."""
        if epoch not in self._epochs:
            self._wait()
        ends = self._epoch(epoch).ends
        finals = begins + (self.context - 1)
        first = int(np.searchsorted(ends, begins.min(), side="right"))
        last = int(np.searchsorted(ends, finals.max(), side="right"))
        for window in range(first, last + 1):
            before = int(ends[window - 1]) if window else 0
            # Rows that were asked for one by one may be far apart.
            if first == last or ((begins < ends[window]) & (finals >= before)).any():
                cut(self._enter(epoch, window), before, begins, places, out)

    def _enter(self, epoch: int, window: int) -> np.ndarray:
        """Return a window's tokens, and have the next one prepared."""
        place = (epoch, window)
        if place not in self._streams:
            self._wait()
            stream = self._ahead.stream if self._ahead and self._ahead.place == place else None
            self._ahead = None
            if stream is None:
                stream = self.load(epoch, window)
            # Rows of one batch may lie in the window before.
            self._streams = dict([*list(self._streams.items())[-1:], (place, stream)])
            if self._prefetch:
                after = (epoch, window + 1) if window + 1 < self.windows else (epoch + 1, 0)
                self._ahead = _Ahead(self, *after)
                self._ahead.start()
        return self._streams[place]

    def _wait(self) -> None:
        # In a fork of a process that was loading there is no such thread, and this returns.
        if self._ahead is not None:
            self._ahead.join()

    def load(self, epoch: int, window: int) -> np.ndarray:
        """Return all tokens of a window of an epoch, uint8, read and put in order."""
        first = window * self._window_chunks
        chunks = self._epoch(epoch).chunks[first : first + self._window_chunks]
        residues, lengths = self.proteins.read(np.sort(chunks))
        order = shuffled(self._seed, self._stream, epoch, window, len(lengths))
        starts = np.cumsum(lengths) - lengths
        return pack(residues, starts[order], lengths[order], BOS, EOS)

    def _epoch(self, epoch: int) -> Epoch:
        if epoch not in self._epochs:
            count, size = self.proteins.chunks, self._window_chunks
            if self.windows > 1:
                order = shuffled(self._seed, self._stream, epoch, _CHUNK_BLOCK, count)
                chunks = order.astype(np.int32)
            else:
                chunks = np.arange(count, dtype=np.int32)
            tokens = np.add.reduceat(self.proteins.chunk_tokens()[chunks], range(0, count, size))
            # The one before is still being read while the next one is prepared.
            kept = list(self._epochs.items())[-1:]
            self._epochs = dict([*kept, (epoch, Epoch(chunks, np.cumsum(tokens)))])
        return self._epochs[epoch]
