"""What a report of an unfinished study lacks, told from missing.json: table, sentences, captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plmscale.figures.style import OBJECTIVE_NAME, flops_text
from plmscale.report import lacking
from plmscale.report.parts import Table
from plmscale.textable import table

STATES = {
    "done": "finished",
    "running": "running",
    "queued": "queued",
    "stopped": "stopped",
    "waiting": "waiting",
    "failed": "failed",
    "diverged": "diverged",
    "parent_failed": "parent lost",
}
"""States of runs as readers see them, in the order of the tables."""
ENDED = ("done", "diverged", "parent_failed")

_STEPS = {
    "fit": "The laws",
    "findings": "The comparisons of runs",
    "holdout": "The test on larger budgets",
    "sensitivity": "The comparison of choices",
    "figures": "The figures",
    "downstream_tables": "The tables of the downstream evaluation",
    "downstream_scaling": "What lower loss buys downstream",
    "downstream_figures": "The figures of the downstream evaluation",
}
_POWER = re.compile("(?:([0-9.]+)×)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
# A line of ids that is longer is of no help.
_FEW = 6


@dataclass(frozen=True)
class Missing:
    """The opening of a report whose study is not finished; text only."""

    lead: str
    sentences: list[str]
    groups: Table
    points: Table
    not_yet: list[str]
    failed: list[tuple[str, str]]


def told(found: Mapping[str, Any]) -> Missing | None:
    """Return the opening for the content of missing.json; None where nothing is missing."""
    if not unfinished(found):
        return None
    return Missing(
        lead=lead(found),
        sentences=_sentences(found),
        groups=groups_table(found),
        points=lacking.points_table(found),
        not_yet=[*lacking.not_yet(found), *_not_made(found)],
        failed=[(r["run_id"], r["error"]) for r in found["runs"] if r["status"] == "failed"],
    )


def unfinished(found: Mapping[str, Any]) -> bool:
    """Return whether a run has not ended; a lost run has. `found` is empty for a whole study."""
    return any(state not in ENDED for state in found.get("counts") or ())


def ended(found: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many runs have ended, and of how many."""
    counts = found["counts"]
    return sum(counts.get(state, 0) for state in ENDED), sum(counts.values())


def lead(found: Mapping[str, Any]) -> str:
    """Return how much of the study there is, in one sentence."""
    there, of = ended(found)
    if there == of:
        return f"All {of} runs have ended."
    share = f"{100 * found['share']:.2g} %"
    verb = "has" if there == 1 else "have"
    if not there:
        return f"Not finished: none of the {of} runs has ended."
    return f"Not finished: {there} of {of} runs {verb} ended, which is {share} of the compute."


def moment(found: Mapping[str, Any]) -> str:
    """Return the time at which runs were looked at: "2025-06-01 12:00 UTC"."""
    return f"{found['time'][:10]} {found['time'][11:16]} UTC"


def stamp(found: Mapping[str, Any]) -> str:
    """Return a line for a figure that is seen without its report; "" where nothing is missing."""
    if not unfinished(found):
        return ""
    there, of = ended(found)
    return f"not finished: {there} of {of} runs, {moment(found)}"


def state_counts(counts: Mapping[str, int]) -> str:
    """Return "4 finished, 1 running, 2 waiting"."""
    return ", ".join(f"{counts[state]} {name}" for state, name in STATES.items() if state in counts)


def _sentences(found: Mapping[str, Any]) -> list[str]:
    evaluated = evaluations(found)
    texts = [
        f"State of {moment(found)}: {state_counts(found['counts'])}.",
        "All that follows is made of the finished runs alone and will change."
        if found["counts"].get("done")
        else "There is nothing to fit yet.",
    ]
    texts += [evaluated] if evaluated else []
    if any(state in found["counts"] for state in ENDED[1:]):
        texts.append("A diverged run, or one whose parent diverged, is an outcome: it is not missing.")  # fmt: skip
    if found["slurm"]:
        texts.append(
            f"Slurm did not answer ({found['slurm']}), so what runs and what waits is by files alone."
        )
    return texts


def evaluations(found: Mapping[str, Any]) -> str:
    """Say how many of the downstream evaluations are there; "" where none is asked for."""
    asked = found.get("evaluated")
    if not asked:
        return ""
    there, of = asked["there"], asked["of"]
    return (
        f"Downstream: {there} of {of} evaluations (a model in a task) "
        f"{'is' if there == 1 else 'are'} there."
    )


def _not_made(found: Mapping[str, Any]) -> list[str]:
    texts = []
    for item in found["not_made"]:
        name = _STEPS.get(item["step"], item["step"].replace("figure_", "The figure ", 1))
        texts.append(f"{name} could not be made: {item['why']}.")
    return texts


def groups_table(found: Mapping[str, Any]) -> Table:
    """Return the states of runs by experiment, objective and budget."""
    states = [state for state in STATES if state in found["counts"]]
    rows = [
        [
            group["experiment"],
            OBJECTIVE_NAME.get(group["objective"], group["objective"]),
            flops_text(float(group["budget"])),
            str(group["runs"]),
            *_counted(group["states"], states),
        ]
        for group in found["groups"]
    ]
    _, of = ended(found)
    # First, because a long table is scrolled.
    rows.insert(0, ["all", "", "", str(of), *_counted(found["counts"], states)])
    several = sum(group["runs"] for group in found["groups"]) > of
    columns = (
        ("experiment", "nowrap"), ("objective", "text"), ("FLOPs", "nowrap"), ("runs", "number"),
        *((STATES[state], "number") for state in states),
    )  # fmt: skip
    note = ["A run that several experiments ask for is counted in each, and once in all."]
    return Table("missing-runs", "Runs", note if several else [], columns, rows)


def _counted(counts: Mapping[str, int], states: Sequence[str]) -> list[str]:
    return [str(counts[state]) if counts.get(state) else "–" for state in states]


def lost_sentence(lost: Sequence[tuple[str, str, str]], of: int) -> str:
    """Say which runs diverged or could not start from a parent that did; "" without any.

    `lost` holds run_id, status and detail of runs that did not end well.
    """
    told_of = [item for item in lost if item[1] in ENDED[1:]]
    if not told_of:
        return ""
    diverged = sum(status == "diverged" for _, status, _ in told_of)
    parts = [
        f"{diverged} diverged" if diverged else "",
        f"{len(told_of) - diverged} could not start, because their parents did"
        if len(told_of) > diverged
        else "",
    ]
    names = [run_id + (f" ({detail})" if detail else "") for run_id, _, detail in told_of[:_FEW]]
    more = f" and {len(told_of) - _FEW} more" if len(told_of) > _FEW else ""
    return (
        f"Of {of} runs {' and '.join(filter(None, parts))}: {', '.join(names)}{more}. They have no "
        "loss and no law uses them."
    )


def caption_note(found: Mapping[str, Any], figure: str) -> str:
    """Return what a figure's caption says of runs that are missing; "" where it shows none."""
    if not unfinished(found) or figure.startswith("corpus_"):
        return ""
    return f"{lacking.figure_basis(found, figure) or _runs(found)}."


def _runs(found: Mapping[str, Any]) -> str:
    there, of = ended(found)
    return f"{there} of {of} runs"


def text(found: Mapping[str, Any]) -> str:
    """Return what is missing for a terminal: a line an experiment, and the points of the laws."""
    part = f" ({found['part']})" if found["part"] else ""
    head = [f"{found['study']}{part}: {lead(found)}"]
    if not unfinished(found):
        counted = f"{state_counts(found['counts']).capitalize()}."
        return "\n".join(filter(None, [*head, counted, evaluations(found)]))
    parts = ["\n".join([*head, *_sentences(found)]), _experiments(found)]
    shown = lacking.points_table(found)
    if shown.rows:
        names = [name for name, _ in shown.columns]
        parts.append(table([dict(zip(names, row, strict=True)) for row in shown.rows], names))
    if texts := [*lacking.not_yet(found), *_not_made(found)]:
        parts.append("\n".join(["Not yet:", *(f"  {line}" for line in texts)]))
    return _ascii("\n\n".join(parts))


def _ascii(text: str) -> str:
    """Return a text as any terminal can show it: 3×10¹⁸ as 3e18."""
    text = _POWER.sub(lambda m: f"{m[1] or 1}e{m[2].translate(_DIGITS)}", text)
    return text.replace("–", "-")


def _experiments(found: Mapping[str, Any]) -> str:
    rows: dict[str, dict[str, Any]] = {}
    for group in found["groups"]:
        row = rows.setdefault(group["experiment"], {"experiment": group["experiment"], "runs": 0})
        row["runs"] += group["runs"]
        for state, n in group["states"].items():
            row[STATES[state]] = row.get(STATES[state], 0) + n
    states = [name for state, name in STATES.items() if state in found["counts"]]
    return table(list(rows.values()), ["experiment", "runs", *states])
