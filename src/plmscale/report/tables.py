"""The tables of the report as plain rows of text, so that the template only lays them out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from plmscale.figures import lawview
from plmscale.figures.style import OBJECTIVE_NAME, flops_text, interval_text, si
from plmscale.report import words


@dataclass(frozen=True)
class Cell:
    """What is shown, and the value a column is sorted by."""

    text: str
    key: float | str


def count(value: Any) -> Cell:
    """Return a cell for a number of parameters or tokens, "–" for unknown."""
    known = lawview.number(_plain(value))
    return Cell("–", -math.inf) if known is None else Cell(si(known), known)


def number(value: Any, digits: int) -> Cell:
    """Return a cell for a decimal number, "–" for unknown."""
    known = lawview.number(_plain(value))
    return Cell("–", -math.inf) if known is None else Cell(f"{known:.{digits}f}", known)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


RUN_COLUMNS = (
    ("run", "text"), ("objective", "text"), ("status", "text"), ("loss", "number"),
    ("± s.e.", "number"), ("N", "number"), ("D (tokens)", "number"), ("C (FLOPs)", "number"),
    ("epochs", "number"), ("corpus", "text"), ("seconds", "number"),
)  # fmt: skip


def run_rows(runs: pd.DataFrame, metrics: list[dict[str, Any]]) -> list[list[Cell]]:
    """Return one row of cells a run, in the order of RUN_COLUMNS."""
    seconds = {item["run_id"]: item.get("wall_seconds") for item in metrics}
    rows = []
    # Whole steps make FLOPs of one budget differ a little; sizes should still stand in order.
    compute = runs["budget"].fillna(runs["flops_6nd"])
    ordered = runs.assign(compute=compute).sort_values(
        ["objective", "compute", "n_params", "run_id"]
    )
    for row in ordered.itertuples():
        flops = lawview.number(_plain(row.flops_6nd))
        rows.append(
            [
                Cell(row.run_id, row.run_id),
                Cell(OBJECTIVE_NAME.get(row.objective, row.objective), row.objective),
                Cell(row.status or "done", row.status or "done"),
                number(row.loss, 4),
                number(row.loss_sd, 4),
                count(row.n_params),
                count(row.tokens),
                Cell(flops_text(flops or 0), flops or 0.0),
                number(row.epochs, 2),
                Cell(row.corpus, row.corpus),
                number(seconds.get(row.run_id), 1),
            ]
        )
    return rows


def law_rows(laws: dict[str, Any]) -> list[list[str]]:
    """Return objective, method, a, its interval, b, its interval, runs; the paper's rows too."""
    rows = []
    for objective in lawview.objectives(laws):
        spoken = lawview.preferred(laws, objective)
        for name, entry in lawview.methods(laws, objective).items():
            cells = [OBJECTIVE_NAME.get(objective, objective), lawview.METHODS.get(name, name)]
            for which in ("N_opt", "D_opt"):
                law = lawview.power_law(entry, which)
                cells.append("–" if law is None else f"{law.exponent:.3f}".replace("-", "−"))
                text = "–" if law is None else interval_text(law.interval)
                cells.append(text.replace("-", "−"))
            cells.append(str(entry.get("n_runs", "–")))
            cells.append("yes" if name == spoken else "")
            rows.append(cells)
        if objective in lawview.PUBLISHED:
            paper = lawview.PUBLISHED[objective]
            a, b = paper["N_opt"][1], paper["D_opt"][1]
            rows.append(
                [OBJECTIVE_NAME[objective], "Cheng et al. 2024", f"{a:.3f}", "not given",
                 f"{b:.3f}", "not given", "–", "paper"]
            )  # fmt: skip
    return rows


CONVENTION_COLUMNS = (
    ("objective", "text"), ("method", "nowrap"), ("a, C = 6ND", "number"), ("95 % interval", "nowrap"),
    ("a, with attention", "number"), ("95 % interval", "nowrap"),
)  # fmt: skip


def convention_rows(laws: dict[str, Any]) -> list[list[str]]:
    """Return the exponent a with compute counted both ways, in the order of CONVENTION_COLUMNS."""
    found = laws.get("flops_conventions") or {}
    both = [(found.get(name) or {}).get("laws") or {} for name in ("flops_6nd", "flops")]
    rows = []
    for objective in lawview.objectives(laws) if all(both) else []:
        for method in lawview.METHODS:
            entries = [side.get(objective, {}).get(method) or {} for side in both]
            values = [lawview.number(entry.get("a")) for entry in entries]
            if None in values:
                continue
            cells = [OBJECTIVE_NAME.get(objective, objective), lawview.METHODS[method]]
            for value, entry in zip(values, entries, strict=True):
                ends = lawview.pair(entry.get("a_ci95"))
                cells += [f"{value:.3f}", interval_text(ends)]
            rows.append(cells)
    return rows


def corpus_rows(manifest: dict[str, Any]) -> list[list[str]]:
    """Return source, sizes of its parts (training, validation, test), and licence."""
    rows = []
    for name, source in (manifest.get("sources") or {}).items():
        about = source.get("provenance") or {}
        row = [name]
        for part in ("train", "valid", "test"):
            numbers = source.get(part) or {}
            row += [f"{numbers.get(key, 0):,}" for key in ("sequences", "residues")]
        told = (about.get(key) for key in ("release", "licence", "citation"))
        row.append(", ".join(str(text) for text in told if text))
        rows.append(row)
    return rows


def provenance_rows(
    metrics: list[dict[str, Any]], laws: dict[str, Any], manifest: dict[str, Any], seeds: list[int]
) -> list[tuple[str, str]]:
    """Return label and text of all that a reader needs to make the result again."""
    about = laws.get("provenance") or {}
    rows = [("hardware", _distinct(item.get("hardware") for item in metrics))]
    rows.append(("precision", _distinct(item.get("precision") for item in metrics)))
    rows.append(("seeds of the weights", ", ".join(map(str, seeds)) or "–"))
    rows.append(("git commit of the runs", _distinct(map(_git, metrics))))
    rows.append(("git commit of the laws", _git(about)))
    rows.append(("corpus, SHA-256 over its shards", str(manifest.get("content_sha256", "–"))))
    split = manifest.get("split") or {}
    if split:
        rows.append(
            (
                "split",
                f"no validation protein reaches {split.get('min_seq_id')} identity over "
                f"{split.get('coverage')} of its length with a training protein; "
                f"{split.get('violations')} violations in the search after the fact",
            )
        )
    for name, sha in sorted((about.get("inputs") or {}).items()):
        rows.append((f"SHA-256 of {name}", str(sha)))
    if about.get("flops_convention"):
        rows.append(("compute", str(about["flops_convention"])))
    if about.get("n_boot") is not None:
        rows.append(("bootstrap", f"{about['n_boot']} replicates, seed {about.get('seed')}"))
    tools = {**(manifest.get("tools") or {}), **_versions(metrics, about)}
    rows.append(("versions", ", ".join(f"{name} {tools[name]}" for name in sorted(tools))))
    memory = [m.get("peak_memory_bytes") for m in metrics if m.get("peak_memory_bytes")]
    if memory:
        rows.append(("largest memory of a run", f"{max(memory) / 2**30:.2f} GiB"))
    resumed = sum(int(item.get("resumed") or 0) for item in metrics)
    if resumed:
        rows.append(("resumed from a checkpoint", f"{resumed} times"))
    # Runs read from logs have no hardware, seeds or corpus that anyone wrote down.
    return rows if metrics else [(label, text) for label, text in rows if text != "–"]


def _versions(metrics: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for item in [*metrics, about]:
        for name, version in (item.get("versions") or {}).items():
            found.setdefault(name, set()).add(str(version))
    return {name: " and ".join(sorted(versions)) for name, versions in found.items()}


def _distinct(values: Any) -> str:
    found = sorted({str(value) for value in values if value})
    if len(found) > 3:
        return f"{found[0]} and {len(found) - 1} others"
    return "; ".join(found) or "–"


def _git(item: dict[str, Any]) -> str:
    state = item.get("git") or {}
    commit = state.get("commit")
    if not commit:
        return "not in a git repository"
    return str(commit) + (" with uncommitted changes" if state.get("dirty") else "")


def time_parts(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return label and time of each part of the runs, with its share, from speed.time_table."""
    from plmscale.figures.speed import PARTS

    sums = table[list(PARTS)].sum()
    total = float(sums.sum())
    if not total > 0:
        return []
    return [
        (PARTS[name][0], f"{words.duration(float(sums[name]))} ({sums[name] / total:.0%})")
        for name in PARTS
    ]
