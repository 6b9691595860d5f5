"""`plmscale report`: the report of what is finished, beside whatever trains."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from plmscale import configfile, snakefile
from plmscale.files import atomic_write, write_json
from plmscale.grid import Run, expand
from plmscale.settings import Study
from plmscale.sofar.folder import replaced
from plmscale.status import rows as status

MARK = "missing.json"


def run(args: argparse.Namespace, study: Study, runs: list[Run]) -> int:
    """Make the report of the finished ones of `runs` and print what is missing; return 0.

    Raises PlmscaleError where the folder cannot be written.
    """
    choice = {"subset": args.subset, "select": ",".join(args.select)}
    folder = args.out or Path(snakefile.view_folder(str(study.folder), choice)) / "so-far"
    with replaced(folder, MARK) as view:
        found = make(study, runs, view, snakefile.part_text(choice, len(runs), len(expand(study))))
    if args.json:
        print(json.dumps({**found, "folder": str(folder)}, indent=2, sort_keys=True))
        return 0
    from plmscale.report import missing as told

    print(told.text(found))
    print(f"\nReport: {folder / 'report.html'}")
    for item in found["not_made"]:
        print(f"plmscale: warning: {item['step']}: {item['why']}", file=sys.stderr)
    return 0


def make(study: Study, runs: list[Run], view: Path, part: str) -> dict[str, Any]:
    """Write tables, laws, figures and report of the finished runs into `view`.

    Returns the content of missing.json.
    """
    # The status first: what finishes in between then counts as finished.
    rows, slurm = status.collect(study, runs)
    # pandas, SciPy and matplotlib take seconds: not before options were found to be right.
    from plmscale import collect
    from plmscale.files import read_json
    from plmscale.report import build
    from plmscale.report import missing as told
    from plmscale.sofar import missing, steps
    from plmscale.sofar.evaluated import evaluated
    from plmscale.sofar.finished import take
    from plmscale.tables import read_runs

    taken = take(study.folder, runs, view)
    collect.write_table([view / "runs" / run_id for run_id in taken], view / "runs.csv")
    failures: steps.Failures = []
    if taken:
        _say(f"{len(taken)} of {len(runs)} runs have ended; fitting laws to them")
        steps.fit_laws(study, view, failures)
    if steps.made(view, "laws/laws.json") is None:
        why = [item["why"] for item in failures if item["step"] == "fit"]
        warning = why[0] if why else "no run is finished yet"
        write_json(
            view / "laws/laws.json",
            {"schema": 1, "laws": {}, "excluded": [], "warnings": [warning]},
        )
    found = missing.describe(
        study, runs, missing.runs_by_state(rows, taken),
        read_runs(view / "runs.csv") if taken else missing.planned_table([]),
        read_json(view / "laws/laws.json"), part=part, slurm=slurm,
    )  # fmt: skip
    corpus = Path(snakefile.corpus_folder(study))
    _say("drawing figures")
    stamp = told.stamp(found)
    steps.draw_figures(study, view, corpus, stamp, bool(taken), failures)
    found["evaluated"] = evaluated(study, runs, taken, view, stamp, failures)
    with atomic_write(view / "study.yaml") as handle:
        handle.write(configfile.render(study.model_dump()))
    found["not_made"] = failures
    write_json(view / MARK, found)
    sources = build.Sources(
        runs=view / "runs.csv", laws=view / "laws/laws.json", figures=view / "figures",
        findings=steps.made(view, "laws/findings.json"),
        holdout=steps.made(view, "laws/holdout.json"),
        sensitivity=steps.made(view, "laws/sensitivity.json"),
        corpus=steps.made(corpus, ""), study=view / "study.yaml", metrics=view / "runs",
        missing=view / MARK, part=part,
        downstream=view / "downstream" if steps.made(view, "downstream/scaling.json") else None,
    )  # fmt: skip
    with (view / "logs/report.log").open("w", encoding="utf-8") as log, redirect_stderr(log):
        page = build.render(build.gather(sources))
    with atomic_write(view / "report.html") as handle:
        handle.write(page)
    return found


def _say(text: str) -> None:
    """Tell a person who waits what is being done; a log needs none of it."""
    if sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)
