"""Filters over the columns of runs: values, wildcards, ranges and what must not be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from plmscale.errors import PlmscaleError, suggest

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([kMBT]?)")
_SPECIAL = re.compile(r"[*?<>]|\.\.")
_UNKNOWN = ("none", "null", "")


def parse_select(text: str) -> dict[str, list[str]]:
    """Parse `key:value,key:value` (also `=`; `!=`, `<` and the like are `:!`, `:<`).

    A key given twice means either value. Raises PlmscaleError for a part that is no pair.
    """
    chosen: dict[str, list[str]] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.match(r"([^:=<>!]*)(!=|[<>]=?|[:=])(.*)", part, re.DOTALL)
        key, sign, value = (s.strip() for s in found.groups()) if found else ("", "", "")
        if not key or not value:
            raise PlmscaleError(
                f"select: {part!r} is not KEY:VALUE (for example objective:mlm, "
                "budget:1e18..1e20, n_params:>1e9, architecture:1* or corpus:!mix)"
            )
        sign = {"!=": "!", ":": "", "=": ""}.get(sign, sign)
        chosen.setdefault(key, []).append(sign + value)
    return chosen


def matching(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> list[int]:
    """Return the places of the rows that fit: per column any of its values, none of its `!` values.

    A value is a text or number that a row has, a pattern with * and ?, a range `low..high` (ends
    included, either may be missing), or a comparison `>x`, `>=x`, `<x`, `<=x`; `!` before any of
    these turns it round. Numbers may have a unit: 470M, 1.2B. A column that holds several names
    (experiment) fits with any of them.

    Raises PlmscaleError for an unknown column, and for a value that fits no row at all.
    """
    if chosen and not rows:
        raise PlmscaleError("select: there are no runs to choose from; leave the selection out")
    left = list(range(len(rows)))
    for key, asked in chosen.items():
        columns = list(rows[0])
        if key not in columns:
            raise PlmscaleError(f"select: runs have no column {key!r}{suggest(key, columns)}")
        asked = list(asked) if isinstance(asked, list | tuple) else [asked]
        fits = _column(key, [row[key] for row in rows], asked)
        left = [i for i in left if fits[i]]
    if rows and not left:
        said = ",".join(
            f"{key}:{value}"
            for key, values in chosen.items()
            for value in (values if isinstance(values, list | tuple) else [values])
        )
        raise PlmscaleError(
            f"select: no run fits all of {said}, though each alone fits some; leave one out"
        )
    return left


def _column(key: str, values: Sequence[Any], asked: Sequence[Any]) -> list[bool]:
    """Return which `values` of one column fit what is asked of it."""
    parts = [v.split(",") if key == "experiment" else [v] for v in values]
    known = dict.fromkeys(part for group in parts for part in group)
    wanted: set[Any] = set()
    unwanted: set[Any] = set()
    only_not = True
    for one in asked:
        text = "" if one is None else str(one)
        negated, text = text.startswith("!"), text.removeprefix("!")
        plain = text in known and not _SPECIAL.search(text)
        found = {text} if plain else {value for value in known if _fits(key, text, value)}
        if not found:
            raise PlmscaleError(f"select: no run has {key} {text!r}{_known(text, list(known))}")
        (unwanted if negated else wanted).update(found)
        only_not = only_not and negated
    return [
        (only_not or not wanted.isdisjoint(group)) and unwanted.isdisjoint(group) for group in parts
    ]


def _fits(key: str, asked: str, own: Any) -> bool:
    limits = _range(key, asked, own)
    if own is None or own == "":
        return limits is None and asked.lower() in _UNKNOWN
    if limits is not None:
        low, high, open_ends = limits
        return low < own < high if open_ends else low <= own <= high
    if isinstance(own, int | float):
        value = _number(asked)
        return value is not None and math.isclose(value, own, rel_tol=1e-9)
    # Names with brackets do not occur, but [ in a pattern would read as a set of letters.
    return fnmatchcase(str(own), asked.replace("[", "[[]"))


def _range(key: str, asked: str, own: Any) -> tuple[float, float, bool] | None:
    """Return (low, high, ends excluded) of a range, None for a plain value.

    Raises PlmscaleError for ends that are no numbers and for a column of words.
    """
    if found := re.fullmatch(r"([<>])(=?)(.*)", asked):
        sign, same, end = found.groups()
        ends = ("", end) if sign == "<" else (end, "")
        excluded = not same
    elif ".." in asked:
        low, _, high = asked.partition("..")
        ends, excluded = (low, high), False
    else:
        return None
    limits = [
        _number(end) if end.strip() else side for end, side in zip(ends, (-math.inf, math.inf))
    ]
    if None in limits or not any(end.strip() for end in ends):
        raise PlmscaleError(
            f"select: {key} {asked!r} is no range of numbers (for example 1e18..1e20 or >1e9)"
        )
    if isinstance(own, str) and own:
        raise PlmscaleError(f"select: {key} holds words, so {asked!r} cannot be compared with it")
    if limits[0] > limits[1]:
        raise PlmscaleError(f"select: {key} {asked!r} ends below its beginning; turn it round")
    return limits[0], limits[1], excluded


def _number(text: str) -> float | None:
    found = _NUMBER.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


def _known(asked: str, known: Sequence[Any]) -> str:
    numbers = sorted(v for v in known if isinstance(v, int | float))
    if not numbers:
        words = sorted(str(v) for v in known if v not in (None, ""))
        return suggest(asked, words) if words else "; this column is empty"
    if _SPECIAL.search(asked) or len(numbers) > 12:
        return f"; it goes from {numbers[0]:.6g} to {numbers[-1]:.6g}"
    return f"; allowed: {', '.join(f'{v:.6g}' for v in numbers)}"
