"""The one exception meant for people, and a helping hand with names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlmscaleError(Exception):
    """A mistake in input, config or set-up, told in one line that says what to do next.

    Command lines print it without a traceback and leave with exit code 2.
    """


def suggest(name: object, known: Iterable[object]) -> str:
    """Return `; did you mean ...?` for a name close to known ones, else `; allowed: ...`."""
    names = [str(item) for item in known]
    if close := difflib.get_close_matches(str(name), names, n=2, cutoff=0.5):
        return f"; did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:12])
    return f"; allowed: {shown}{', ...' if len(names) > 12 else ''}"
