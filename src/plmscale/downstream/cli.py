"""`plmscale evaluate`: any models through any tasks, without a study. Torch is imported when it runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any, get_args

import yaml

from plmscale.downstream.settings import MethodName, SourceName, TaskName
from plmscale.errors import PlmscaleError
from plmscale.textable import table

_SHOWN = [
    "task",
    "model",
    "method",
    "seed",
    "metric",
    "value",
    "ci95",
    "random",
    "verdict",
]


def add_subcommands(commands: Any) -> None:
    """Add `evaluate`; it sets `run`, a function of the arguments."""
    new = commands.add_parser(
        "evaluate",
        help="put trained models through downstream tasks",
        description="Models through downstream tasks, beside baselines and a twin of each with random "
        "weights. What is in --out already is not made again.",
    )
    new.add_argument("models", nargs="*", metavar="MODEL",
                     help="folder of a run, folder in Hugging Face's format, or hf:ID[@REVISION]; "
                     "NAME=MODEL says what tables call it")  # fmt: skip
    new.add_argument("--task", nargs="+", action="extend", default=[], choices=get_args(TaskName),
                     metavar="TASK", help=f"{', '.join(get_args(TaskName))}; all by default")  # fmt: skip
    new.add_argument("--source", choices=get_args(SourceName), default="full",
                     help="full: the field's data sets, downloaded; small: those for tests (full)")  # fmt: skip
    new.add_argument("--data", type=Path, metavar="FOLDER",
                     help="where the source's files lie, or are brought to (OUT/data)")  # fmt: skip
    new.add_argument("--corpus", type=Path, metavar="FOLDER",
                     help="corpus that runs were trained on: for perplexity and leakage")  # fmt: skip
    new.add_argument("--method", nargs="+", action="extend", default=[], metavar="METHOD",
                     choices=get_args(MethodName), help="all that a task has by default")  # fmt: skip
    new.add_argument("--seeds", type=int, default=1, metavar="N", help="fit N times (1)")
    new.add_argument("--limit", type=int, metavar="N",
                     help="at most N examples of each split and group")  # fmt: skip
    new.add_argument("--option", nargs="+", action="extend", default=[], metavar="TASK.KEY=VALUE",
                     help="an option of a task")  # fmt: skip
    new.add_argument("--as", choices=("clm", "mlm"), dest="use", help="for models that can be both")
    new.add_argument("--no-twins", action="store_true", help="without random twins")
    new.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                     help="auto: a GPU if there is one")  # fmt: skip
    new.add_argument("--download", action="store_true", help="hub models may be fetched")
    new.add_argument("--remote-code", action="store_true",
                     help="Python files that come with a model may run: they can do anything")  # fmt: skip
    new.add_argument("--out", type=Path, metavar="DIR", help="predictions and tables")
    new.add_argument("--list", action="store_true", help="show the tasks and leave")
    new.add_argument("--json", action="store_true", help="the table for machines")
    new.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.list:
        rows = listed()
        if args.json:
            print(json.dumps(rows, indent=2))
        else:
            print(table(rows, list(rows[0])))
        return 0
    if not args.models or args.out is None:
        raise PlmscaleError("evaluate: give a model and --out DIR (or --list to see the tasks)")
    with contextlib.redirect_stdout(sys.stderr):
        # Libraries greet on standard output, which is for the table.
        tables = evaluate(args)
    rows = shown(tables)
    if args.json:
        failures = tables["failures"].to_dict("records")
        print(json.dumps({"metrics": rows, "failures": failures}, indent=2))
    else:
        print(table(named(rows), _SHOWN) if rows else "nothing could be evaluated")
        _say_failures(tables["failures"], args.out)
    return 0 if rows else 1


def listed() -> list[dict[str, Any]]:
    """Return a row a task: what the registry says of it, and what it can do here."""
    from plmscale.downstream import registry, tasks

    rows = []
    for name in get_args(TaskName):
        entry = registry.load(name)
        row = {"task": name, "title": entry.title, "metric": _primary(entry.metrics)}
        for source in get_args(SourceName):
            own = entry.sources.get(source)
            counts = [f"{n:,}" for n in own.rows.values()] if own else []
            row[source] = " / ".join(counts) if own else "the corpus"
        try:
            task = tasks.task(name)
        except ImportError as error:
            rows.append({**row, "methods": f"not run: {error}", "baselines": ""})
            continue
        row |= {"methods": ", ".join(task.methods), "baselines": ", ".join(task.baselines)}
        rows.append(row)
    return rows


def _primary(metrics: Any) -> str:
    return next(metric.name for metric in metrics if metric.primary)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate what the arguments ask for; return the tables by name (collect.collect)."""
    from plmscale.downstream import run
    from plmscale.downstream.collect import collect
    from plmscale.downstream.outcome import Outcome, say
    from plmscale.downstream.plan import has_data
    from plmscale.downstream.store import Store
    from plmscale.files import write_json

    models = _models(args)
    options = _options(args.option)
    if args.seeds < 1:
        raise PlmscaleError(f"--seeds {args.seeds}: give at least 1")
    out, store = args.out, Store(args.out / "store")
    data = args.data or out / "data"
    outcomes: list[Outcome] = []
    leaks: dict[str, Path] = {}
    names = list(dict.fromkeys(args.task)) or list(get_args(TaskName))
    for number, name in enumerate(names, 1):
        say(f"task {number} of {len(names)}: {name}")
        asked = run.Asked(
            name, args.source, data, args.limit, insisted=tuple(args.method) if args.task else (),
            methods=tuple(args.method or get_args(MethodName)), twins=not args.no_twins,
            seeds=tuple(range(1, args.seeds + 1)), options=options.get(name, {}),
            corpus=args.corpus, cache=out / "identity",
        )  # fmt: skip
        ready = run.fetched(asked, out)
        if ready.failed:
            outcomes.append(ready)
            continue
        outcomes.append(run.baselines(asked, out))
        for model, where in models.items():
            outcomes.append(run.evaluate(asked, model, _opener(args, model, where), out, store))
        if args.corpus and has_data(name):
            leaks[name] = out / "leakage" / f"{name}.json"
            write_json(leaks[name], run.leaked(asked, _mixes(outcomes, out), out))
    paths = []
    for outcome in outcomes:
        paths.append(out / "done" / outcome.task / f"{outcome.model or 'fetch'}.json")
        write_json(paths[-1], outcome.to_dict())
    return collect(paths, out, out, options, leaks)


def shown(tables: Any) -> list[dict[str, Any]]:
    """Return rows of the primary metrics, models beside their random twins."""
    from plmscale.downstream.base import RANDOM

    metrics, gains = tables["metrics"], tables["gains"]
    key = ["task", "model", "method", "seed", "split", "group", "metric", "definition"]
    gains = gains[gains["against"] == RANDOM]
    random = gains.set_index(key)[["other", "verdict"]].to_dict("index") if len(gains) else {}
    rows = []
    for row in metrics[metrics["primary"].astype(bool)].to_dict("records"):
        if row["twin"]:
            continue
        twin = random.get(tuple(row[name] for name in key), {})
        both = row["ci95_low"], row["ci95_high"]
        ci95 = "" if both[0] is None or both[0] != both[0] else f"{both[0]:.3g} to {both[1]:.3g}"
        value = row["value"] if row["value"] == row["value"] else None
        rows.append(
            {**{name: row[name] for name in key}, "value": value, "ci95": ci95,
             "random": twin.get("other"), "verdict": twin.get("verdict", "")}
        )  # fmt: skip
    return rows


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with a name for `metric` that says what tells it from the others: its group,
    split or definition, as in the report."""
    from plmscale.figures.downstreamview import Measure, labels

    measures = [
        Measure(
            row["task"], "", *(row[name] for name in ("split", "group", "metric", "definition"))
        )
        for row in rows
    ]
    names = {}
    for task in dict.fromkeys(measure.task for measure in measures):
        names |= labels(dict.fromkeys(m for m in measures if m.task == task))
    # A baseline's method is its name again.
    return [
        {
            **row,
            "metric": names[measure],
            "method": row["method"] if row["method"] != row["model"] else "",
        }
        for row, measure in zip(rows, measures, strict=True)
    ]


def _say_failures(failures: Any, out: Path) -> None:
    from plmscale.downstream.outcome import say

    failed = failures[failures["status"] == "failed"]
    if len(failed):
        say(f"{len(failed)} failed; see {out / 'failures.csv'}. First: {failed['reason'].iloc[0]}")
    say(f"all numbers: {out / 'metrics.csv'}; trained minus random: {out / 'gains.csv'}")


def _models(args: argparse.Namespace) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in args.models:
        name, _, where = text.rpartition("=")
        name = name or where.removeprefix("hf:").rstrip("/").rpartition("/")[2].replace("@", "-")
        if not name or "/" in name or name in found:
            raise PlmscaleError(f"evaluate: {text}: two models have this name; write NAME=MODEL")
        found[name] = where
    return found


def _opener(args: argparse.Namespace, name: str, where: str) -> Any:
    def opened() -> Any:
        from plmscale.downstream import models

        return models.open(
            where, name, args.use, args.device, download=args.download,
            remote_code=args.remote_code,
        )  # fmt: skip

    return opened


def _options(texts: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        task, dot, name = key.partition(".")
        if not sign or not dot or task not in get_args(TaskName):
            raise PlmscaleError(f"--option {text}: expected TASK.KEY=VALUE")
        found.setdefault(task, {})[name] = yaml.safe_load(value)
    return found


def _mixes(outcomes: Any, out: Path) -> list[tuple[str, ...]]:
    """Return the sources that the models of these predictions were trained on, each set once."""
    from plmscale.downstream.base import Predictions

    found = set()
    for entry in (entry for outcome in outcomes for entry in outcome.predictions):
        info = Predictions.read_about(out / entry["path"])["model"] or {}
        if info.get("sources"):
            found.add(tuple(sorted(info["sources"])))
    return sorted(found)
