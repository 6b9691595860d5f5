"""`plmscale plan`: its options, and what it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.grid import Run
from plmscale.planning.machine import PER_NODE, Wishes
from plmscale.settings import Study

# Options that mean nothing without --gpu, by their name in the namespace.
_OF_A_GPU = ("gpus", "gpus_per_node", "walltime", "corpus_hours", "gantt", "runs")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plmscale plan` beside those that all commands on a study have."""
    add = parser.add_argument
    add("--gpu", metavar="NAME", help="plan on these GPUs; without it: GPU-hours on every kind")
    add("--gpus", type=int, metavar="N", help="all there are; default: one node's")
    add("--gpus-per-node", type=int, metavar="N", help=f"default {PER_NODE}")
    add(
        "--mfu",
        type=float,
        metavar="X",
        help="share of the peak that training reaches at all sizes",
    )
    add("--mfu-table", type=Path, metavar="FILE", help="the same by size: lines of N and share")
    add(
        "--devices", metavar="N", help="GPUs of every run, or auto: by size; default: the study's "
        "execution.devices where it is above 1, else auto",
    )  # fmt: skip
    add(
        "--max-hours", type=float, default=Wishes.max_hours, metavar="H",
        help="a run gets the fewest GPUs that end it in this time; default %(default)g",
    )  # fmt: skip
    add("--no-packing", action="store_true", help="small runs do not share a GPU")
    add(
        "--walltime",
        type=float,
        metavar="H",
        help="longest job: how many a long run needs in a chain",
    )
    add(
        "--corpus-hours",
        type=float,
        metavar="H",
        help="from now until the corpus is there; default 0",
    )
    add("--price", type=float, metavar="P", help="of a GPU-hour")
    add("--currency", default="", metavar="NAME", help="of the price, such as EUR")
    add("--runs", action="store_true", help="a line a run, not a size")
    add("--gantt", type=Path, metavar="FILE", help="draw the schedule as .svg or .png")


def run(args: argparse.Namespace, study: Study, runs: Sequence[Run]) -> None:
    """Print the plan of `runs`, as text or JSON, and draw it where asked for."""
    from plmscale.planning import report, text

    wishes = _wishes(args, study)
    if args.gpu is None:
        _without_gpu(args, study, runs, wishes)
        return
    from plmscale.planning.machine import machine
    from plmscale.planning.rates import rates

    _check_figure(args.gantt)
    node = PER_NODE if args.gpus_per_node is None else args.gpus_per_node
    on = machine(args.gpu, max(node, 1) if args.gpus is None else args.gpus, node)
    shares = rates(study, on.gpu.name, args.mfu, args.mfu_table, wishes.packing)
    whole_study = not (args.subset or args.select)
    plan, schedule, works = report.make(study, runs, on, wishes, shares, by_subset=whole_study)
    if args.gantt is not None:
        from plmscale.figures import gantt

        gantt.write(args.gantt, gantt.gantt(schedule, works, on.nodes))
    _print(args.json, plan, text.text(plan, args.runs))


def _without_gpu(
    args: argparse.Namespace, study: Study, runs: Sequence[Run], wishes: Wishes
) -> None:
    from plmscale.planning import brief, report, text

    if asked := [name for name in _OF_A_GPU if getattr(args, name) not in (None, False)]:
        raise PlmscaleError(f"plan: --{asked[0].replace('_', '-')} needs --gpu NAME")
    summary = brief.summarise(study, list(runs))
    summary["gpu_types"] = report.gpu_types(study, runs, wishes, args.mfu, args.mfu_table)
    summary["wishes"] = {"price": wishes.price, "currency": wishes.currency}
    said = [brief.text(summary), text.types_text(summary["gpu_types"], summary)]
    _print(args.json, summary, "\n\n".join(said))


def _wishes(args: argparse.Namespace, study: Study) -> Wishes:
    devices = args.devices
    if devices is None:
        count = study.execution.devices if study.execution.devices > 1 else 0
    elif devices == "auto":
        count = 0
    elif devices.isdecimal() and int(devices) > 0:
        count = int(devices)
    else:
        raise PlmscaleError(f"--devices {devices} is neither a positive number nor auto")
    return Wishes(
        max_hours=args.max_hours,
        walltime=args.walltime,
        price=args.price,
        currency=args.currency,
        devices=count,
        packing=not args.no_packing,
        corpus_hours=args.corpus_hours or 0.0,
    )


def _check_figure(path: Path | None) -> None:
    """Refuse a kind of file before the work, not after it."""
    if path is not None and path.suffix not in (".svg", ".png"):
        raise PlmscaleError(f"--gantt {path}: the name must end in .svg or .png")


def _print(as_json: bool, plan: Any, text: str) -> None:
    if as_json:
        print(json.dumps(plan, indent=2, sort_keys=True, allow_nan=False))
    else:
        print(text)
