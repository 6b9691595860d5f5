"""How far a pass over a FASTA file is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TextIO

_LINE = 30.0  # seconds between two lines of a log


class Pass:
    """Counts records, residues and seconds of a pass; `total` bytes (None: not known) to read."""

    def __init__(self, name: str, total: int | None, stream: TextIO | None = None) -> None:
        self.name, self.total = name, total
        self.stream = sys.stderr if stream is None else stream
        self.records = self.residues = self._read = 0
        self._began = self._told = time.monotonic()
        self._bar = None
        if self.stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=name, unit="B", unit_scale=True, file=self.stream, leave=False
            )

    def __enter__(self) -> Pass:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def advance(self, count: int) -> None:
        """Bytes that were read."""
        self._read += count
        if self._bar is not None:
            self._bar.update(count)

    def done(self, records: int, residues: int) -> None:
        """Count what is finished, and tell if it is time to."""
        self.records, self.residues = self.records + records, self.residues + residues
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.records:,} records, {self.rate:,.0f} residues/s")
        elif time.monotonic() - self._told >= _LINE:
            self._told = time.monotonic()
            share = f" ({self._read / self.total:.0%} read)" if self.total else ""
            self.say(f"{self.name}: {self.records:,} records{share}, {self.rate:,.0f} residues/s")

    @property
    def rate(self) -> float:
        """Residues a second since the start."""
        return self.residues / max(self.seconds, 1e-9)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        with self._bar.external_write_mode(self.stream) if self._bar is not None else nullcontext():
            print(f"plmscale: {text}", file=self.stream, flush=True)


@contextmanager
def passing(name: str, path: str | Path) -> Iterator[Pass]:
    """Yield the Pass over the file at `path`, or over a stream of unknown length."""
    file = Path(path)
    with Pass(name, file.stat().st_size if file.is_file() else None) as progress:
        yield progress
