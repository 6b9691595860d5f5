"""The report's section on downstream evaluation: what was found, in sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from plmscale.figures import data
from plmscale.figures import downstreamview as view
from plmscale.figures.style import OBJECTIVE_NAME, flops_text, interval_text, si
from plmscale.files import read_json
from plmscale.report import downstreamtables as rows
from plmscale.report.parts import Figure, Figures, Table

_FIGURE_OF = {
    "contacts": "downstream_contacts",
    "perplexity": "downstream_identity",
    "fitness": "downstream_fitness",
    "generation": "downstream_generation",
}
_VERDICTS = ("better", "worse", "not resolved")


@dataclass(frozen=True)
class Section:
    """What the template shows; text only."""

    sentences: list[str]
    lead: list[Figure]
    tables: list[Table]


def section(folder: Path, figures: Figures) -> Section | None:
    """Return the section for a folder of plmscale.downstream's tables; None where none is there.

    Raises PlmscaleError for a table that is there and cannot be read.
    """
    if not (folder / "metrics.csv").is_file():
        return None
    found = data.read_downstream(folder)
    metrics, failures = found["metrics"], rows.not_run(found["metrics"], found["failures"])
    scaling = read_json(folder / "scaling.json") if (folder / "scaling.json").is_file() else {}
    tables = []
    if scaling.get("trends"):
        tables.append(rows.trend_table(scaling))
    if scaling.get("transfer"):
        tables.append(_transfer_table(scaling["transfer"]))
    for task, title in view.TASKS.items():
        own = metrics[metrics["task"] == task]
        if own.empty:
            continue
        figure = figures.one(_FIGURE_OF[task]) if task in _FIGURE_OF else None
        make = rows.generation_table if task == "generation" else rows.task_table
        tables.append(make(title, own, found["gains"], figure))
    if len(failures):
        tables.append(rows.failure_table(failures))
    lead = [figure for figure in [figures.one("downstream_loss")] if figure]
    return Section(_sentences(metrics, scaling, failures), lead, tables)


def _sentences(
    metrics: pd.DataFrame, scaling: Mapping[str, Any], failures: pd.DataFrame
) -> list[str]:
    trained = metrics[~metrics["twin"] & (metrics["origin"] != "baseline")]
    ours = trained.loc[trained["origin"] == "run", "model"].nunique()
    others = trained.loc[trained["origin"] != "run", "model"].nunique()
    tasks = metrics["task"].nunique()
    texts = [
        f"{_many(ours, 'run')} of this study"
        + (f" and {_many(others, 'model')} from elsewhere" if others else "")
        + f" went through {_many(tasks, 'task')}. All numbers were measured here; none is taken "
        "from a publication.",
    ]
    texts += [answer_sentence(scaling)] if scaling.get("trends") else []
    texts += [_transfer_sentence(scaling["transfer"])] if scaling.get("transfer") else []
    texts.append(
        "What training adds is a model's number minus that of the same architecture with random "
        "weights, on the same examples; where the 95 % interval of that holds zero, it is not "
        "resolved. Leakage is the share of test proteins that the corpus holds at 50 % identity or "
        "more."
    )
    left = scaling.get("left_out") or []
    if left:
        named = "; ".join(f"{row['run_id']} {row['why']}" for row in left[:4])
        more = f"; and {len(left) - 4} more" if len(left) > 4 else ""
        texts.append(f"In no comparison with loss: {named}{more}.")
    if len(failures):
        texts.append(
            "Not everything could be done on this machine: see the list at the end of this section."
        )
    return texts


def answer_sentence(scaling: Mapping[str, Any]) -> str:
    """Say how many questions on loss were answered, of gains over random weights where known."""
    asked = [
        row for row in scaling["trends"] if row["against"] == "loss" and row["task"] != "perplexity"
    ]
    gains = [row for row in asked if row["of"] == "gain"]
    asked, what = (gains, "the gain over random weights") if gains else (asked, "the metric itself")
    if not asked:
        return "Only perplexity was measured, which is loss under another name."
    few = sum(row["verdict"] == "too few models" for row in asked)
    least = "five runs of one objective are the least that can show a trend"
    if few == len(asked):
        return f"Whether lower loss buys anything cannot be said: {least}."
    counts = [
        f"{sum(row['verdict'] == verdict for row in asked)} {name}"
        for verdict, name in zip(
            _VERDICTS, ("better with lower loss", "worse with it", "not resolved"), strict=True
        )
    ]
    told = f"Of {_many(len(asked) - few, 'question')} on {what}: {', '.join(counts)}."
    told += " By chance alone about one question in twenty would seem resolved."
    return told + (f" For {few} more there are too few runs; {least}." if few else "")


def _transfer_sentence(moved: Sequence[Mapping[str, Any]]) -> str:
    counts = [f"{sum(row['verdict'] == name for row in moved)} {name}" for name in _VERDICTS]
    pairs = len({(row["transferred"], row["scratch"]) for row in moved})
    return (
        f"Runs that were trained with the other objective first, against runs from scratch with the "
        f"same total compute ({_many(pairs, 'pair')}, {_many(len(moved), 'number')}): "
        f"{', '.join(counts)}."
    )


def _transfer_table(moved: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        ("task", "nowrap"), ("use", "nowrap"), ("metric", "nowrap"), ("transferred", "number"),
        ("scratch", "number"), ("difference (95 %)", "nowrap"), ("transfer is", "nowrap"),
        ("N", "number"), ("FLOPs in all", "nowrap"), ("run", "nowrap"), ("from scratch", "nowrap"),
    )  # fmt: skip
    order = {name: k for k, name in enumerate(view.TASKS)}
    measures = [view.Measure(*(row[name] for name in view.KEY)) for row in moved]
    labels = view.labels(dict.fromkeys(replace(measure, method="") for measure in measures))
    made = [
        [
            view.TASKS[row["task"]], row["method"], labels[replace(measure, method="")],
            rows.number(row["value"]), rows.number(row["value_scratch"]),
            f"{rows.number(row['difference'])} ({interval_text(_ends(row), 3)})", row["verdict"],
            si(row["n_params"]), flops_text(row["total_flops"]),
            f"{row['transferred']} ({OBJECTIVE_NAME[row['from']]} first)", row["scratch"],
        ]
        for row, measure in sorted(
            zip(moved, measures, strict=True),
            key=lambda pair: (pair[0]["transferred"], order[pair[0]["task"]]),
        )
    ]  # fmt: skip
    note = (
        "The parent's compute counts. Intervals are paired by test example; what another seed of the "
        "training would change is not in them."
    )
    return Table("downstream-transfer", "Transfer at equal compute", [note], columns, made)


def _ends(row: Mapping[str, Any]) -> tuple[float, float] | None:
    return tuple(row["ci95"]) if row["ci95"] else None


def _many(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
