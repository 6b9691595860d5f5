"""A plan for people: a table by group, a table by size, and the answer in five sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plmscale.grid import si
from plmscale.textable import cell


def text(plan: Mapping[str, Any], by_run: bool = False) -> str:
    """Return the plan that `report.make` returns as text; `by_run` shows runs in place of sizes."""
    parts = [_group_table(plan), _run_table(plan) if by_run else _size_table(plan)]
    parts.append("\n".join(f"{n}. {line}" for n, line in enumerate(sentences(plan), start=1)))
    return "\n\n".join(parts)


def _group_table(plan: Mapping[str, Any]) -> str:
    rows = []
    everything = plan["groups"][-1]
    begun = everything["gpu_hours_left"] < everything["gpu_hours"]
    for group in plan["groups"]:
        row = {
            "experiment": f"{'subset ' if group['kind'] == 'subset' else ''}{group['group']}",
            "runs": group["runs"],
            "to train": group["to_train"],
            "FLOPs (6ND)": f"{group['flops_6nd']:.3g}",
            "tokens": si(group["tokens"]),
            "largest N": si(group["largest_n"]),
            "weights": size_of(group["weights_bytes"]),
            "GPU-hours": count(group["gpu_hours"]),
            **({"left": count(group["gpu_hours_left"])} if begun else {}),
            "longest path": duration(group["path_hours"]),
            "alone it takes": duration(group["hours_alone"]),
        }
        if group["cost"] is not None:
            row["cost"] = money(plan, group["cost"])
        rows.append(row)
    return right_aligned(rows, left=1)


def _size_table(plan: Mapping[str, Any]) -> str:
    walltime = plan["wishes"]["walltime"]
    rows = []
    for size in plan["sizes"]:
        least, most = size["mfu"]
        row = {
            "size": size["size"],
            "N": si(size["n_params"]),
            "runs": size["runs"],
            "batch rows": size["batch_rows"],
            "GPUs a run": span(size["gpus"]),
            "ZeRO": span([str(stage) for stage in size["zero_stage"]]),
            "recompute": "yes" if size["checkpointing"] else "no",
            "memory a run": f"{size['memory_bytes'] / 1e9:.3g} GB",
            "of peak": f"{most:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%}-{most:.0%}",
            "longest run": duration(size["longest_hours"]),
            "GPU-hours": count(size["gpu_hours"]),
        }  # fmt: skip
        if walltime is not None:
            row["jobs"] = size["jobs"]
        rows.append(row)
    return right_aligned(rows, left=1)


def _run_table(plan: Mapping[str, Any]) -> str:
    rows = []
    for run in plan["runs"]:
        parts = run["runs_a_gpu"]
        row = {
            "run_id": run["run_id"],
            "GPUs": str(run["gpus"]) if parts == 1 else f"1/{parts}",
            "ZeRO": str(run["zero_stage"]),
            "micro rows": f"{run['micro_rows']} x {run['accumulation']}",
            "recompute": "yes" if run["checkpointing"] else "no",
            "memory a GPU": f"{run['memory']['total'] / 1e9:.3g} GB",
            "of peak": f"{run['mfu']:.0%}",
            "left": f"{run['share_left']:.0%}",
            "lasts": duration(run["hours"]),
            "starts": duration(run["start_hour"]),
            "ends": duration(run["end_hour"]),
            "GPU-hours left": count(run["gpu_hours_left"]),
        }
        if plan["wishes"]["walltime"] is not None:
            row["jobs"] = str(run["jobs"])
        rows.append(row)
    return right_aligned(rows, left=1)


def sentences(plan: Mapping[str, Any]) -> list[str]:
    """Return the answer: how long, how much, what it waits for, what to ask for, what is assumed."""
    return [_how_long(plan), _how_much(plan), _critical(plan), _ask_for(plan), _assumed(plan)]


def _how_long(plan: Mapping[str, Any]) -> str:
    found, on = plan["schedule"], plan["machine"]
    todo = plan["groups"][-1]["to_train"]
    nodes = f" ({on['nodes']} nodes of {on['gpus_per_node']})" if on["nodes"] > 1 else ""
    least = max(found["work_bound_hours"], found["path_bound_hours"])
    return (
        f"On {on['gpus']} x {on['gpu']}{nodes} the {todo:,} runs to train take "
        f"{duration(found['makespan_hours'])}, with the GPUs {found['utilisation']:.0%} busy; no "
        f"schedule of these runs is shorter than {duration(least)}: all work over all GPUs is "
        f"{duration(found['work_bound_hours'])}, the longest path {duration(found['path_bound_hours'])}."
    )


def _how_much(plan: Mapping[str, Any]) -> str:
    found, cost = plan["schedule"], plan["money"]
    text = f"They use {count(found['gpu_hours'])} GPU-hours"
    if cost is None:
        return text + "; --price says what that costs."
    return (
        f"{text}, {money(plan, cost['used'])} at {cost['price']:g} a GPU-hour, or "
        f"{money(plan, cost['rented'])} where all {plan['machine']['gpus']} GPUs are paid for until "
        "the last run ends."
    )


def _critical(plan: Mapping[str, Any]) -> str:
    found = plan["schedule"]
    chain = " -> ".join(
        f"{step['run_id']} ({duration(step['hours'])})" for step in found["critical_path"]
    )
    others = [f"{duration(o['makespan_hours'])} on {o['gpus']}" for o in plan["other_gpus"]]
    limit = "the GPUs" if found["work_bound_hours"] >= found["path_bound_hours"] else "this path"
    corpus = f"the corpus ({duration(found['corpus_hours'])}) -> " if found["corpus_hours"] else ""
    more = f"; it would be {' and '.join(others)} GPUs" if others else ""
    return f"The critical path is {corpus}{chain or 'empty'}; what limits is {limit}{more}."


def _ask_for(plan: Mapping[str, Any]) -> str:
    disk, on = plan["storage"], plan["machine"]
    widest = max((run["gpus"] for run in plan["runs"]), default=1)
    nodes = f"{widest // on['gpus_per_node']} nodes at once" if widest > on["gpus_per_node"] else (
        f"{widest} GPUs of one node" if widest > 1 else "one GPU"
    )  # fmt: skip
    known = disk["corpus"]["bytes"] is not None
    corpus = size_of(disk["corpus"]["bytes"]) if known else "of unknown size"
    text = (
        f"Ask for {count(plan['schedule']['gpu_hours'])} GPU-hours and a reserve for what fails, at "
        f"most {nodes} for a run, and {size_of(disk['peak_bytes'])} of disk that all nodes see: "
        f"corpus {corpus}, weights {size_of(disk['weights_bytes'])}, checkpoints at most "
        f"{size_of(disk['checkpoints_peak_bytes'])} at a time"
    )
    if disk["trunks_bytes"]:
        text += f", shared beginnings {size_of(disk['trunks_bytes'])}"
    walltime = plan["wishes"]["walltime"]
    if walltime is not None:
        long = [run["jobs"] for run in plan["runs"] if run["to_train"] and run["jobs"] > 1]
        text += f"; {len(long)} runs outlast a job of {walltime:g} hours"
        text += f" and go on in a chain of up to {max(long)}" if long else ""
    return text + "."


def _assumed(plan: Mapping[str, Any]) -> str:
    wishes, mfu = plan["wishes"], plan["mfu"]
    text = [
        f"Behind this: shares of the peak {mfu['origin']}, the same on many GPUs as on one; a job "
        f"needs {mfu['start_hours'] * 60:.0f} minutes to its first step; recomputation adds a third"
    ]
    if wishes["packing"] and any(size["runs_a_gpu"] > 1 for size in plan["sizes"]):
        text.append(
            "small runs share GPUs and each doubling of them adds 40 % up to 0.4 of the peak"
        )
    if wishes["devices"]:
        text.append(f"every run takes {wishes['devices']} GPUs")
    else:
        text.append(f"a run takes the fewest GPUs that end it in {wishes['max_hours']:g} hours")
    if not wishes["corpus_hours"]:
        text.append("the corpus is there (--corpus-hours adds its making)")
    if plan["storage"]["corpus"]["known_by"] == "published":
        text.append("its size is the one its sources publish")
    text.append("nothing fails and no GPU is lost")
    if plan["added"]:
        text.append(f"{len(plan['added'])} runs are added that chosen ones start from")
    return "; ".join(text) + "."


def types_text(rows: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> str:
    """Return the table of GPU-hours by type of GPU."""
    shown = []
    for row in rows:
        known = row["problem"] is None
        line = {
            "GPU": row["gpu"],
            "GPU-hours left": count(row["gpu_hours_left"]) if known else "cannot",
            "most GPUs of a run": str(row["most_gpus"]) if known else "-",
            "longest run": duration(row.get("longest_hours")),
        }
        if plan["wishes"]["price"] is not None:
            line["cost"] = money(plan, row["cost"]) if known else "-"
        shown.append(line)
    notes = [f"{row['gpu']}: {row['problem']}" for row in rows if row["problem"]]
    shares: dict[str, list[str]] = {}
    for row in rows:
        points = ", ".join(f"{si(float(n))} {share:.0%}" for n, share in row["mfu_points"].items())
        shares.setdefault(f"{row['mfu']}: {points}", []).append(row["gpu"])
    for told, names in shares.items():
        on = "" if len(shares) == 1 else f" on {', '.join(names)}"
        notes.append(f"Shares of the peak{on}, {told}; small runs share GPUs where that helps.")
    return "\n".join([right_aligned(shown, left=1), "", *notes])


def right_aligned(rows: Sequence[Mapping[str, str | int]], left: int) -> str:
    """Return a table with all columns but the first `left` flush right, as numbers with units are."""
    columns = list(rows[0])
    lines = [columns, *([cell(row[c]) for c in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    flush = [str.ljust if i < left else str.rjust for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            f(text, width) for f, text, width in zip(flush, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def span(values: Sequence[str]) -> str:
    """Return "1", or "1/4-8" for the first and the last of several."""
    return values[0] if len(values) == 1 else f"{values[0]}-{values[-1]}"


def duration(hours: float | None) -> str:
    """Return hours for people: 12 min, 7.5 h, 3.2 days."""
    if hours is None:
        return "-"
    if hours < 1:
        return f"{hours * 60:.2g} min" if hours else "0"
    if hours < 72:
        return f"{hours:.3g} h"
    days = hours / 24
    return f"{days:.3g} days" if days < 999.5 else f"{days:,.0f} days"


def count(value: float) -> str:
    """Return a number of GPU-hours: 0.34, 8.6, 24,412."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def size_of(value: float | None) -> str:
    """Return bytes for people, powers of ten."""
    if value is None:
        return "-"
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def money(plan: Mapping[str, Any], value: float) -> str:
    """Return an amount with its currency."""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{text} {plan['wishes']['currency']}".rstrip()
