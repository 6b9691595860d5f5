"""`plmscale status`: once, as JSON, or again and again."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from plmscale.errors import PlmscaleError
from plmscale.grid import Run
from plmscale.settings import Study
from plmscale.status import text
from plmscale.status.overview import overview, rerun
from plmscale.status.rows import ENDED, collect

# A controller that hung is left alone for so long; a figure is drawn no more often.
_PATIENCE = 60.0
_COLOURS = {"#": "32", ">": "36", "q": "34", "s": "33", "F": "31;1", "D": "35", "P": "35"}
_IMAGES = (".png", ".svg")


def run(args: argparse.Namespace, study: Study, runs: list[Run]) -> int:
    """Show the state of `runs` as `args` ask; return the exit code.

    Raises PlmscaleError for an option that makes no sense, before anything is read.
    """
    if args.watch is not None and not 0.2 <= args.watch < 1e6:
        raise PlmscaleError(f"status: --watch {args.watch:g}: give seconds, at least 0.2")
    if args.figure is not None and args.figure.suffix not in _IMAGES:
        raise PlmscaleError(f"status: --figure {args.figure}: name a .png or .svg file")
    view = View(args, study, runs)
    if args.watch is None:
        view.look()
        view.draw()
        print(view.text())
        return 0
    return watch(view, args.watch, sys.stdout)


class View:
    """What was found when one last looked, and how it is shown."""

    def __init__(self, args: argparse.Namespace, study: Study, runs: list[Run]) -> None:
        self.args, self.study, self.runs = args, study, runs
        self.found: dict[str, Any] = {}
        self.on_screen = False
        self._silent_until = self._drawn = -_PATIENCE
        self._problem = ""

    def look(self) -> None:
        """Read everything again; a Slurm that did not answer is asked again only after a while."""
        now = time.monotonic()
        ask = now >= self._silent_until
        rows, problem = collect(self.study, self.runs, ask=ask)
        if ask:
            self._problem = problem
            self._silent_until = time.monotonic() + _PATIENCE if problem else -_PATIENCE
        self.found = overview(
            self.study, self.runs, rows, self._problem, self.args.gpu, self.args.gpus
        )

    @property
    def ended(self) -> bool:
        return all(row["status"] in ENDED for row in self.found["runs"])

    def draw(self) -> None:
        """Draw the figure if one is asked for and the last one is old."""
        if self.args.figure is None or time.monotonic() - self._drawn < _PATIENCE:
            return
        from plmscale.figures import progress_map

        progress_map.write(self.found, self.args.figure)
        self._drawn = time.monotonic()

    def text(self) -> str:
        """Return the JSON or the text that was asked for."""
        args, study = self.args, self.study
        if args.json:
            failed = [row for row in self.found["runs"] if row["status"] == "failed"]
            shown = {**self.found, "rerun": rerun(args.study, failed, failed)}
            if args.failed:
                shown["runs"] = failed
            # One document a line when there are many.
            return json.dumps(
                shown, indent=None if args.watch else 2, sort_keys=True, allow_nan=False
            )
        if args.failed:
            return text.failed_text(study, args.study, self.found)
        return text.text(study, args.study, self.found, args.runs, self.on_screen)


def watch(view: View, seconds: float, out: TextIO, sleep: Callable[[float], None] = time.sleep) -> int:  # fmt: skip
    """Show `view` every `seconds` until all runs have ended, or Ctrl-C or SIGTERM; return 0.

    A terminal's screen is rewritten, and is afterwards what it was before, with the last state
    below; into a file or pipe one state is written after the other.
    """
    screen = out.isatty() and not view.args.json
    before = signal.signal(signal.SIGTERM, _interrupt)
    view.on_screen = screen
    if screen:
        # Another screen, no cursor.
        out.write("\x1b[?1049h\x1b[?25l")
    try:
        while True:
            view.look()
            view.draw()
            _show(view, seconds, out, screen)
            if view.ended:
                break
            sleep(seconds)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        if screen:
            out.write("\x1b[?25h\x1b[?1049l")
            out.flush()
    view.on_screen = False
    if screen and view.found:
        print(view.text(), file=out)
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _show(view: View, seconds: float, out: TextIO, screen: bool) -> None:
    shown = view.text()
    if not screen:
        stamp = "" if view.args.json else f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        print(stamp + shown, file=out, flush=True)
        return
    width, height = shutil.get_terminal_size()
    lines = shown.split("\n")
    head = f"{time.strftime('%H:%M:%S')}, every {seconds:g} s, Ctrl-C ends"
    lines = [head, "", *lines]
    if len(lines) > height:
        more = len(lines) - height + 1
        lines = [
            *lines[: height - 1],
            f"... {more} lines more: a taller window, or without --watch",
        ]
    body = "\n".join(_paint(line[:width]) + "\x1b[K" for line in lines)
    out.write(f"\x1b[H{body}\x1b[J")
    out.flush()


def _paint(line: str) -> str:
    """Colour a line of a terminal by the state it tells, unless NO_COLOR says otherwise."""
    if os.environ.get("NO_COLOR"):
        return line
    words = line.split()
    states = {name: _COLOURS.get(sign) for name, sign in text.SIGNS.items()}
    found = next((states[w] for w in words[1:2] if states.get(w)), None)
    return f"\x1b[{found}m{line}\x1b[0m" if found else line
