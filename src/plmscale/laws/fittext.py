"""laws.json in words and aligned tables, for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from plmscale.laws.estimators import METHODS, holds_law
from plmscale.laws.single import SINGLE_LAWS
from plmscale.textable import table

_LISTED = 10
_OF_METHOD = re.compile(rf"(\w+) ({'|'.join(METHODS)})(?=[,:])")


def fit_text(laws: Mapping[str, Any]) -> str:
    """Return the laws as aligned tables, then what was left out, then warnings."""
    parts = [
        "\n".join([laws["provenance"]["laws"], laws["provenance"]["flops_convention"]]),
        _optimum_table(laws), _parametric_table(laws), _single_table(laws),
        _conventions_table(laws), _sections(laws), "\n".join(_remarks(laws)),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def interval_text(ends: Any) -> str:
    """Return "low to high" with four digits; "?" for an end that is not bounded."""
    if not ends:
        return "-"
    low, high = ("?" if end is None else f"{end:.4g}" for end in ends)
    return f"{low} to {high}"


def _entries(laws: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(o, m, e) for o, entries in laws["laws"].items() for m, e in entries.items()]


def _optimum_table(laws: Mapping[str, Any]) -> str:
    rows = [
        {
            "objective": objective, "method": method, "runs": entry["n_runs"],
            "A": entry["N_opt"]["A"], "a": entry["N_opt"]["a"],
            "a 95 %": interval_text(entry["ci95"].get("a")),
            "B": entry["D_opt"]["B"], "b": entry["D_opt"]["b"],
            "b 95 %": interval_text(entry["ci95"].get("b")),
        }
        for objective, method, entry in _entries(laws)
        if method not in SINGLE_LAWS
    ]  # fmt: skip
    columns = ["objective", "method", "runs", "A", "a", "a 95 %", "B", "b", "b 95 %"]
    return table(rows, columns) if rows else ""


def _parametric_table(laws: Mapping[str, Any]) -> str:
    rows = [
        {"objective": o, **{k: e[k] for k in ("E", "A", "alpha", "B", "beta")},
         "sum of Huber": e["objective"]}
        for o, m, e in _entries(laws)
        if m == "parametric" and e.get("E") is not None
    ]  # fmt: skip
    columns = ["objective", "E", "A", "alpha", "B", "beta", "sum of Huber"]
    return "parametric: L = E + A / N^alpha + B / D^beta\n" + table(rows, columns) if rows else ""


def _single_table(laws: Mapping[str, Any]) -> str:
    rows = [
        {
            "objective": o, "law": m, "points": len(e["points"]),
            "K": e["law"]["K"], "c": e["law"]["c"], "c 95 %": interval_text(e["ci95"].get("c")),
            "with floor E": e["with_floor"]["E"],
            "E 95 %": interval_text((e["ci95"].get("with_floor") or {}).get("E")),
        }
        for o, m, e in _entries(laws)
        if m in SINGLE_LAWS and holds_law(e)
    ]  # fmt: skip
    columns = ["objective", "law", "points", "K", "c", "c 95 %", "with floor E", "E 95 %"]
    head = "one factor alone: L = K x^-c, x = N (loss_n), D (loss_d) or C (loss_c)\n"
    return head + table(rows, columns) if rows else ""


def _conventions_table(laws: Mapping[str, Any]) -> str:
    both = laws.get("flops_conventions") or {}
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for column, found in both.items():
        for objective, entries in found["laws"].items():
            for method, law in entries.items():
                row = cells.setdefault((objective, method), {})
                row |= {"objective": objective, "method": method, f"a, {column}": law["a"],
                        f"a 95 %, {column}": interval_text(law["a_ci95"])}  # fmt: skip
    columns = ["objective", "method"]
    columns += [f"{name}, {column}" for column in both for name in ("a", "a 95 %")]
    head = "\n".join(f"{column}: {found['convention']}" for column, found in both.items())
    return (
        f"compute counted both ways\n{head}\n{table(list(cells.values()), columns)}"
        if cells
        else ""
    )


def _sections(laws: Mapping[str, Any]) -> str:
    """Name the sections that are in the file beside the laws; the report shows them."""
    names = [name for name in ("transfer", "repetition") if name in laws]
    return f"also in the file: {' and '.join(names)}" if names else ""


def _remarks(laws: Mapping[str, Any]) -> list[str]:
    lines = []
    if len(laws["excluded"]) <= _LISTED:
        lines += [f"left out: {row['run_id']}: {row['why']}" for row in laws["excluded"]]
    return [*lines, *(f"warning: {text}" for text in grouped(laws["warnings"]))]


def grouped(warnings: Sequence[str]) -> list[str]:
    """Say once what several methods say alike: `clm a, b: text`."""
    methods: dict[tuple[str, str], list[str]] = {}
    for text in warnings:
        found = _OF_METHOD.match(text)
        key = (found[1], text[found.end() :]) if found else ("", text)
        methods.setdefault(key, []).append(found[2] if found else "")
    return [
        f"{objective} {', '.join(names)}{rest}" if objective else rest
        for (objective, rest), names in methods.items()
    ]
