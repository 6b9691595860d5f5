"""The state of a study for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plmscale.grid import si
from plmscale.settings import Study
from plmscale.status.overview import first_aid, rerun
from plmscale.status.reading import read_tail
from plmscale.textable import table

SIGNS = {
    "done": "#",
    "running": ">",
    "queued": "q",
    "stopped": "s",
    "waiting": ".",
    "failed": "F",
    "diverged": "D",
    "parent_failed": "P",
}
"""A sign a state, in the map of a terminal."""
# A table of all runs where there are no more than that; of more, only those that move.
_FEW = 40
_TAIL_LINES = 15
# A command that names more stopped runs than that is of no help: all of them go on together.
_FEW_NAMES = 12


def headline(found: Mapping[str, Any]) -> str:
    """Return the counts of each state and the share of the FLOPs that is done."""
    parts = ", ".join(f"{n} {state}" for state, n in found["counts"].items())
    runs = len(found["runs"])
    return f"{runs} run{'s' if runs != 1 else ''}: {parts}; {percent(found['share'])} of the FLOPs done"


def percent(share: float) -> str:
    """Return a share in percent, rounded down: 100 % is all of it."""
    # Sums of floats may miss 1 by their last digits.
    return f"{math.floor(100 * share + 1e-9)} %"


def text(
    study: Study,
    study_file: Path,
    found: Mapping[str, Any],
    every_run: bool = False,
    summary_first: bool = False,
) -> str:
    """Return maps, tables and hours as one text; the summary last, where a terminal ends, or first,
    where a screen may cut off the rest."""
    rows = found["runs"]
    details = []
    if every_run or len(rows) <= _FEW:
        details.append(_runs_table(rows))
    else:
        details += [*_maps(found["cells"]), _legend(found["counts"]), _budget_table(found)]
        moving = [r for r in rows if r["status"] in ("running", "stopped")]
        if moving:
            details.append(_runs_table(moving))
    summary = [f"{found['study']}: {headline(found)}", "\n".join(_hour_lines(found["hours"]))]
    if found["slurm"]:
        summary.append(f"Slurm does not answer ({found['slurm']}): states are by files alone.")
    steps = _next_steps(study, study_file, rows)
    parts = [*summary, *details] if summary_first else [*details, *summary]
    return "\n\n".join([*parts, *steps])


def failed_text(study: Study, study_file: Path, found: Mapping[str, Any]) -> str:
    """Return the failed runs, each with the end of its log, and how to start them again."""
    rows = [row for row in found["runs"] if row["status"] == "failed"]
    if not rows:
        return f"{found['study']}: no failed runs"
    parts = []
    for row in rows:
        log = study.folder / "checkpoints" / row["run_id"] / "train.log"
        lines, _ = read_tail(log)
        shown = [f"  | {line}" for line in lines[-_TAIL_LINES:]] or ["  | (no log)"]
        parts.append("\n".join([f"{row['run_id']}: {row['error']}", f"  {log}", *shown]))
    return "\n\n".join([*parts, *_next_steps(study, study_file, rows)])


def _runs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = []
    for row in rows:
        loss = row["loss"]
        place = " ".join(filter(None, [row["host"], row["job"] and f"job {row['job']}"]))
        shown.append(
            {
                "run_id": row["run_id"],
                "status": row["status"],
                "%": math.floor(100 * row["share"] + 1e-9),
                "step": row["step"] or None,
                "steps": row["steps"],
                "tokens": si(row["tokens"]) if row["tokens"] else None,
                "loss": None if loss is None else f"{loss:.4f}{' train' if row['loss_of'] == 'train' else ''}",
                "tokens/s": round(row["tokens_per_second"]) if row["tokens_per_second"] else None,
                "left": None if row["status"] == "done" else duration(row["seconds_left"]),
                "note": "; ".join(filter(None, [place if row["status"] == "running" else "", row["detail"], row["error"][:100]])),
            }
        )  # fmt: skip
    columns = list(shown[0])
    if not any(row["note"] for row in shown):
        columns.remove("note")
    return table(shown, columns)


def _maps(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a map an objective: sizes down, budgets across, the states of a cell's runs in it."""
    maps = []
    for objective in dict.fromkeys(cell["objective"] for cell in cells):
        own = [cell for cell in cells if cell["objective"] == objective]
        budgets = sorted({cell["budget"] for cell in own}, key=float)
        sizes = {c["size"]: c["n_params"] for c in sorted(own, key=lambda c: c["n_params"])}
        at = {(cell["size"], cell["budget"]): cell for cell in own}
        lines = []
        for size in sizes:
            line = {objective: size}
            for budget in budgets:
                cell = at.get((size, budget))
                line[budget] = _cell(cell) if cell else " "
            lines.append(line)
        maps.append(table(lines, [objective, *budgets]))
    return maps


def _cell(cell: Mapping[str, Any]) -> str:
    """Return `#` for a run that is done, `>45%` for one that runs, `3# 1F` for several."""
    states = cell["states"]
    parts = []
    for state, n in states.items():
        far = f"{math.floor(100 * cell['running_share'])}%" if state == "running" else ""
        parts.append(f"{n if cell['runs'] > 1 else ''}{SIGNS[state]}{far}")
    return " ".join(parts)


def _legend(counts: Mapping[str, int]) -> str:
    return "   ".join(f"{SIGNS[state]} {state} ({n})" for state, n in counts.items())


def _budget_table(found: Mapping[str, Any]) -> str:
    lines = []
    for group in found["by_budget"]:
        line = {"objective": group["objective"], "budget": group["budget"], "runs": group["runs"]}
        line |= {state: group["states"].get(state) for state in found["counts"]}
        line |= {
            "% of FLOPs": math.floor(100 * group["share"] + 1e-9),
            "best loss": None if group["best_loss"] is None else f"{group['best_loss']:.4f}",
            "hours spent": _hours(group["device_hours"]),
            "hours left": _hours(group["device_hours_left"]),
        }
        lines.append(line)
    return table(lines, list(lines[0]))


def _hour_lines(hours: Mapping[str, Any]) -> list[str]:
    unit, gpu = hours["unit"], hours["gpu"]
    line = f"Spent: {amount(hours['spent'])} {unit}"
    if hours["planned"] is not None:
        line += (
            f"; by plan {amount(hours['planned_so_far'])} for as much, "
            f"{amount(hours['planned'])} for all ({gpu})"
        )
    lines = [f"{line}."]
    if hours["speed"] == "unknown":
        return [*lines, "Left: unknown until a run shows its speed; --gpu NAME counts by the plan."]
    if not hours["left"]:
        return [*lines, "Left: nothing."]
    sizes = hours["measured_sizes"]
    by = (
        f"at speeds measured at {len(sizes)} size{'s' if len(sizes) > 1 else ''} "
        f"({si(sizes[0])}{f' to {si(sizes[-1])}' if len(sizes) > 1 else ''})"
        if sizes
        else f"at the plan's assumed share of {gpu}; no run has shown a speed yet"
    )
    lines.append(f"Left: {amount(hours['left'])} {unit} {by}.")
    if (end := hours["hours_to_end"]) is not None:
        where = "" if hours["devices_known"] else " (--gpus N for another number)"
        many = f"{hours['devices']} device{'s' if hours['devices'] > 1 else ''}"
        lines.append(f"Time to the end on {many} at once: {duration(3600 * end)} at least{where}.")
    return lines


def _next_steps(study: Study, study_file: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [row for row in rows if row["status"] == "failed"]
    stopped = [row for row in rows if row["status"] == "stopped"]
    parts = []
    if failed:
        lines = ["Failed; why, and how to start them again:"]
        for row in failed:
            lines.append(f"  {row['run_id']}: {row['error']}")
            if aid := first_aid(study, row):
                lines.append(f"    {aid}")
        parts.append("\n".join([*lines, f"  {rerun(study_file, failed, failed)}"]))
    if stopped:
        named = stopped if len(stopped) <= _FEW_NAMES else []
        beside = "" if named else ", and what waits begins,"
        parts.append(f"Stopped; they go on{beside} with:\n  {rerun(study_file, stopped, named)}")
    return parts


def amount(value: float | None) -> str | None:
    """Return hours for people, with as many digits as matter; None stays unknown."""
    if value is None:
        return None
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _hours(value: float | None) -> float | int | None:
    """Return hours as a number that a table writes short."""
    return value if value is None or value < 100 else round(value)


def duration(seconds: float | None) -> str | None:
    """Return a time for people in its two largest units; None stays unknown."""
    if seconds is None:
        return None
    whole = round(seconds)
    for unit, smaller, size, small in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
