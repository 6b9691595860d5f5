"""`plmscale runs`: the grid as a table, sorted and cut as asked, and a line an experiment."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmscale.errors import PlmscaleError, suggest
from plmscale.files import atomic_write
from plmscale.textable import table

if TYPE_CHECKING:
    from plmscale.grid import Run
    from plmscale.settings import Study

COLUMNS = ["run_id", "experiment", "objective", "n_params", "budget", "tokens", "batch_rows",
           "steps", "lr", "seed", "parent"]  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what `plmscale runs` has beside a selection and --json."""
    command.add_argument(
        "--columns", nargs="+", default=[], metavar="NAME",
        help="which columns to show; `all` for every one",
    )  # fmt: skip
    command.add_argument(
        "--sort", nargs="+", default=[], metavar="NAME",
        help="order by these columns; NAME:desc for the largest first",
    )  # fmt: skip
    command.add_argument("--csv", type=Path, metavar="FILE", help="write the table to FILE")
    command.add_argument("--recipes", action="store_true", help="with --json: whole recipes")


def show(args: argparse.Namespace, study: Study, runs: list[Run], everything: list[Run]) -> None:
    """Print or write `runs`, the chosen ones of `everything`; ends with a line an experiment.

    Raises PlmscaleError for unknown columns, and for options that do not go together.
    """
    if args.recipes and not args.json:
        raise PlmscaleError("--recipes: whole recipes are printed with --json only")
    rows = [run.row() for run in runs]
    known = list(rows[0]) if rows else COLUMNS
    columns = _names(args.columns, known, "--columns")
    columns = known if "all" in columns else columns
    order = _sorted(rows, _names(args.sort, known, "--sort"))
    rows, runs = [rows[i] for i in order], [runs[i] for i in order]
    if args.csv:
        _write_csv(args.csv, rows, columns or known)
    if args.json:
        cut = [{name: row[name] for name in columns or known} for row in rows]
        value = [run.recipe for run in runs] if args.recipes else cut
        print(json.dumps(value, indent=2, sort_keys=True, allow_nan=False))
        return
    if args.csv:
        print(f"written: {args.csv}")
    else:
        print(table(rows, columns or COLUMNS))
    print("\n" + summary_text(study, runs, everything))


def summary(study: Study, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row an experiment, in the study's order, for those that `runs` have.

    A run that several ask for counts in `runs` and `flops_6nd` of each, in `new` and `new_flops`
    of the first alone, so that these add up.
    """
    rows = []
    seen: set[str] = set()
    for name, experiment in study.grid.items():
        own = [run for run in runs if name in run.experiments]
        if not own:
            continue
        new = [run for run in own if run.run_id not in seen]
        seen.update(run.run_id for run in new)
        by_size = sorted(own, key=lambda run: run.recipe["n_params"])
        ends = dict.fromkeys(by_size[i].recipe["architecture"]["name"] for i in (0, -1))
        rows.append(
            {
                "experiment": name,
                "kind": experiment.kind,
                "objectives": "+".join(dict.fromkeys(r.recipe["objective"].upper() for r in own)),
                "sizes": "-".join(ends),
                "runs": len(own),
                "flops_6nd": _flops(own),
                "new": len(new),
                "new_flops": _flops(new),
            }
        )
    return rows


def summary_text(study: Study, runs: Sequence[Run], everything: Sequence[Run]) -> str:
    """Return the summary as a table, the total, and what the runs need from outside."""
    rows = summary(study, runs)
    columns = ["experiment", "kind", "objectives", "sizes", "runs", "flops_6nd", "new", "new_flops"]
    lines = [
        table(rows, columns),
        "",
        f"{study.study}: {len(runs)} runs, {_flops(runs):.3g} FLOPs (6 N D); new: runs that no "
        "line above has",
    ]
    if outside := _parents_outside(runs, everything):
        lines.append(
            f"besides, {len(outside)} parents that are not among them but are trained first: "
            f"{_flops(outside):.3g} FLOPs"
        )
    lines += [
        f"{' and '.join(names)} are one recipe under two names and would be trained twice: ask for "
        "it in one way"
        for names in _under_two_names(runs)
    ]
    return "\n".join(lines)


def _under_two_names(runs: Sequence[Run]) -> list[list[str]]:
    names: dict[str, list[str]] = {}
    for run in runs:
        names.setdefault(run.recipe["fingerprint"], []).append(run.run_id)
    return [same for same in names.values() if len(same) > 1]


def _parents_outside(runs: Sequence[Run], everything: Sequence[Run]) -> list[Run]:
    chosen = {run.run_id for run in runs}
    parents = {run.parent for run in runs if run.parent} - chosen
    return [run for run in everything if run.run_id in parents]


def _flops(runs: Sequence[Run]) -> float:
    return sum(run.recipe["flops_6nd"] for run in runs)


def _names(asked: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    """Return column names given with spaces or commas; `all` and NAME:desc pass."""
    names = [name for text in asked for name in text.split(",") if name]
    for name in names:
        plain = name.removesuffix(":desc") if option == "--sort" else name
        if plain not in known and (plain != "all" or option == "--sort"):
            raise PlmscaleError(f"{option}: runs have no column {plain!r}{suggest(plain, known)}")
    return names


def _sorted(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[int]:
    """Return the places of `rows` in order; what has no value comes last either way."""
    order = list(range(len(rows)))
    for key in reversed(keys):
        name, down = key.removesuffix(":desc"), key.endswith(":desc")
        empty = [i for i in order if rows[i][name] in (None, "")]
        order = [i for i in order if rows[i][name] not in (None, "")]
        order.sort(key=lambda i: rows[i][name], reverse=down)
        order += empty
    return order


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    with atomic_write(path) as handle:
        writer = csv.DictWriter(handle, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
