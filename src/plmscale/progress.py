"""How far long work is: a line that updates on a terminal, a line now and then in a log."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable
from typing import TextIO

# Seconds between two updates, and between two lines of a log; the rate is that of the last ones.
_UPDATE, _LINE, _WINDOW = 0.2, 30.0, 60.0
# What takes less is not worth a word.
_SHORT = 2.0


class Progress:
    """Counts bytes; `clock` gives seconds."""

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.clock = name, clock
        self.stream = sys.stderr if stream is None else stream
        self.done, self.total = 0, None
        self.began = self.told = clock()
        self.recent = collections.deque([(self.began, 0)])
        self.brought = 0
        self.line = ""

    def at(self, done: int, total: int | None) -> None:
        """Set where the count stands: `done` bytes are there, of `total` if that is known."""
        self.done, self.total = done, total

    def add(self, count: int) -> None:
        """Count bytes that came, and show it if it is time to."""
        self.done, self.brought = self.done + count, self.brought + count
        now = self.clock()
        terminal = self.stream.isatty()
        if now - self.told < (_UPDATE if terminal else _LINE):
            return
        self.told = now
        self.recent.append((now, self.brought))
        while len(self.recent) > 2 and now - self.recent[0][0] > _WINDOW:
            self.recent.popleft()
        if terminal:
            self._show(self._text(now))
        else:
            print(f"plmscale: {self._text(now)}", file=self.stream, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._show("")
        print(f"plmscale: {text}", file=self.stream, flush=True)

    def end(self) -> None:
        """Tell what came and how fast, unless it took no time to speak of."""
        self._show("")
        spent = self.clock() - self.began
        if spent > _SHORT and self.brought:
            rate = _size(self.brought / spent)
            self.say(f"{self.name}: {_size(self.done)} in {_time(spent)}, {rate}/s")

    def _text(self, now: float) -> str:
        start, before = self.recent[0]
        rate = (self.brought - before) / max(now - start, 1e-9)
        text = f"{self.name}: {_size(self.done)}"
        if self.total is not None:
            text += f" of {_size(self.total)} ({self.done / max(self.total, 1):.0%})"
        text += f", {_size(rate)}/s"
        if self.total is not None and rate > 0:
            text += f", {_time((self.total - self.done) / rate)} left"
        return text

    def _show(self, line: str) -> None:
        if line or self.line:
            pad = " " * (len(self.line) - len(line))
            self.stream.write(f"\r{line}{pad}" + ("" if line else "\r"))
            self.stream.flush()
        self.line = line


def _size(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
