"""What the report is put together from: tables, figures as data, and raised exponents."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from plmscale.report.captions import CAPTIONS, GROUPS
from plmscale.report.downstreamcaptions import DOWNSTREAM_CAPTIONS


@dataclass(frozen=True)
class Figure:
    """One picture of the report, as a data URI so that the file stands alone.

    `note` says of which runs it is where not all are finished.
    """

    name: str
    title: str
    caption: str
    uri: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table under its own title: sentences that say what it shows, columns, rows, a figure."""

    anchor: str
    title: str
    sentences: list[str]
    columns: tuple[tuple[str, str], ...]
    rows: list[list[str]]
    figure: Figure | None = None


class Figures:
    """The pictures in a folder, which may hold any part of them; `note` is asked by their names."""

    def __init__(self, folder: Path | None, note: Callable[[str], str] = lambda name: "") -> None:
        self.folder, self.note = folder, note

    def one(self, name: str) -> Figure | None:
        """Return one picture, None where it is not there."""
        for suffix, kind in ((".svg", "image/svg+xml"), (".png", "image/png")):
            path = self.folder / f"{name}{suffix}" if self.folder else None
            if path and path.is_file():
                encoded = base64.b64encode(path.read_bytes()).decode("ascii")
                title, caption = (CAPTIONS | DOWNSTREAM_CAPTIONS)[name]
                uri = f"data:{kind};base64,{encoded}"
                return Figure(name, title, caption, uri, self.note(name))
        return None

    def groups(self, placed: set[str]) -> list[tuple[str, list[Figure]]]:
        """Return those that are there by group, without those that stand beside a table."""
        found = []
        for title, names in GROUPS:
            figures = [self.one(name) for name in names if name not in placed]
            if any(figures):
                found.append((title, [figure for figure in figures if figure]))
        return found


def raised(text: str) -> Markup:
    """Return `text` escaped, with "C^0.58" as a raised exponent."""
    # No line break between a number and its unit.
    text = html.escape(text).replace(" %", "\u00a0%")
    return Markup(re.sub(r"\^([-−]?[\d.]*\d)", r"<sup>\1</sup>", text))
