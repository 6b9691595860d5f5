"""What a study will cost before a GPU is named: runs, FLOPs, storage, and hours once measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plmscale import resources
from plmscale.files import read_json
from plmscale.grid import Run, si
from plmscale.planning.storage import CHECKPOINT_BYTES, WEIGHT_BYTES, all_parameters, corpus_bytes
from plmscale.planning.text import right_aligned, size_of
from plmscale.planning.work import is_done
from plmscale.settings import Study


def summarise(study: Study, runs: Sequence[Run]) -> dict[str, Any]:
    """Return counts, FLOPs and storage of `runs`, per experiment and in all.

    Hours are given where finished runs of this study show a rate; nothing is guessed.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        for experiment in run.experiments:
            groups.setdefault(experiment, []).append(run)
    rate = _measured_rate(study)
    memory: dict[Any, int] = {}
    rows = [
        _line(name, members, rate, study, memory)
        for name, members in [*groups.items(), ("all", runs)]
    ]
    return {
        "study": study.study,
        "groups": rows,
        "flops_per_second_measured": rate,
        "corpus": corpus_bytes(study),
    }


def _line(
    name: str, runs: Sequence[Run], rate: float | None, study: Study, memory: dict[Any, int]
) -> dict[str, Any]:
    todo = [run for run in runs if not is_done(study, run)]
    left = sum(run.recipe["flops_6nd"] for run in todo)
    params = [all_parameters(run.recipe) for run in runs]
    return {
        "experiment": name,
        "runs": len(runs),
        "to_train": len(todo),
        "flops_6nd": sum(run.recipe["flops_6nd"] for run in runs),
        "flops": sum(run.recipe["flops"] for run in runs),
        "tokens": sum(run.recipe["tokens"] for run in runs),
        "largest_n": max(run.recipe["n_params"] for run in runs),
        "weights_bytes": WEIGHT_BYTES * sum(params),
        "largest_checkpoint_bytes": CHECKPOINT_BYTES * max(params),
        "largest_memory_mb": max(_memory_mb(run, memory) for run in runs),
        "hours_left_one_run_at_a_time": left / rate / 3600 if rate else None,
    }


def _memory_mb(run: Run, known: dict[Any, int]) -> int:
    """Return MB of the run on a CPU; runs that differ in their length alone need the same."""
    r = run.recipe
    key = (*r["architecture"].items(), r["context"], r["batch_rows"], r["precision"])
    if key not in known:
        known[key] = resources.memory_mb(r)
    return known[key]


def _measured_rate(study: Study) -> float | None:
    """Return 6ND FLOPs a second over all finished runs, or None before the first."""
    flops = seconds = 0.0
    for path in (study.folder / "runs").glob("*/metrics.json"):
        metrics = read_json(path)
        flops += metrics.get("flops_6nd") or 0.0
        seconds += metrics.get("wall_seconds") or 0.0
    return flops / seconds if seconds else None


def text(summary: dict[str, Any]) -> str:
    """Return a brief plan for people."""
    rows = []
    for group in summary["groups"]:
        hours = group["hours_left_one_run_at_a_time"]
        rows.append(
            {
                "experiment": group["experiment"],
                "runs": group["runs"],
                "to train": group["to_train"],
                "FLOPs (6ND)": f"{group['flops_6nd']:.3g}",
                "FLOPs (exact)": f"{group['flops']:.3g}",
                "tokens": si(group["tokens"]),
                "largest N": si(group["largest_n"]),
                "weights": size_of(group["weights_bytes"]),
                "memory of a run on CPU": f"{group['largest_memory_mb'] / 1e3:.3g} GB",
                "hours left": "-" if hours is None else f"{hours:.3g}",
            }
        )
    corpus = summary["corpus"]
    size = {
        "manifest": "as built",
        "published": "by what its sources publish",
        "files": "by the size of its sources' files",
    }[corpus["known_by"]]
    if corpus["bytes"] is None:
        note = f"Corpus: size unknown (no numbers for {', '.join(corpus['unknown'])}). "
    else:
        note = f"Corpus: {size_of(corpus['bytes'])}, {size}. "
    note += (
        "Hours: at the speed of this study's finished runs, one at a time."
        if summary["flops_per_second_measured"]
        else "Hours are shown once a run of this study has finished."
    )
    return f"{right_aligned(rows, left=1)}\n\n{note}"
