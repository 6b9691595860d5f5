"""`plmscale fit`, `plmscale findings` and `plmscale advise`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.laws.table.options import add_table_options, read_with_options


def add_subcommands(subparsers: Any) -> None:
    """Add the commands of the laws to `plmscale`; each sets `run`, a function of the arguments."""
    _add_fit(subparsers)
    _add_findings(subparsers)
    _add_advise(subparsers)


def _add_fit(subparsers: Any) -> None:
    fit = subparsers.add_parser(
        "fit",
        help="laws with intervals from a runs table",
        description="Fit scaling laws to a table with a header line and the columns objective "
        "(clm or mlm), n_params (without embeddings), tokens and loss (nats a token); flops, "
        "budget, seed, loss_sd and others of a runs table are used where they are there. "
        "docs/laws.md explains every method.",
    )
    add_table_options(fit)
    fit.add_argument("--out", type=Path, required=True, metavar="laws.json")
    fit.add_argument("--noise-sd", type=float, metavar="NATS",
                     help="how far the loss of a rerun would differ, if you know it")  # fmt: skip
    fit.add_argument("--methods", nargs="+", metavar="METHOD", help="all by default")
    fit.add_argument("--boot", type=int, default=1000, metavar="N", help="bootstrap replicates")
    fit.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    fit.add_argument("--allow-empty", action="store_true",
                     help="write laws.json even where no law can be fitted")  # fmt: skip
    fit.add_argument("--json", action="store_true", help="print laws.json")
    fit.set_defaults(run=run_fit)


def _add_findings(subparsers: Any) -> None:
    findings = subparsers.add_parser("findings", help="repetition and transfer, in words")
    findings.add_argument("runs", type=Path, metavar="RUNS.csv")
    findings.add_argument("--out", type=Path, required=True, metavar="findings.json")
    findings.add_argument("--curves", type=Path, metavar="DIR", help="folder of <run_id>.csv")
    findings.add_argument("--run-folders", type=Path, metavar="DIR",
                          help="runs/, whose validation.csv allow paired comparisons")  # fmt: skip
    findings.add_argument("--json", action="store_true", help="print findings.json")
    findings.set_defaults(run=run_findings)


def _add_advise(subparsers: Any) -> None:
    ask = subparsers.add_parser(
        "advise",
        help="N, D and loss for a compute budget",
        description="The best size, tokens and loss for a compute budget, from any laws.json; the "
        "budget as --flops, or as --gpu NAME --gpus N --hours H.",
    )
    ask.add_argument("--laws", type=Path, required=True, metavar="laws.json")
    ask.add_argument("--objective", required=True,
                     choices=("clm", "mlm", "clm-then-mlm", "mlm-then-clm"))  # fmt: skip
    ask.add_argument("--flops", type=float, help="training FLOPs; with --gpu: how long they take")
    ask.add_argument("--gpu", metavar="NAME", help="such as H100, A100, MI300X")
    ask.add_argument("--gpus", type=int, default=1, metavar="N", help="how many (1)")
    ask.add_argument("--hours", type=float, metavar="H", help="of all of them together")
    ask.add_argument("--mfu", type=float, help="share of the peak that training reaches (0.4)")
    ask.add_argument("--method", help="a method of laws.json; a sound one by default")
    ask.add_argument("--json", action="store_true", help="for machines")
    ask.set_defaults(run=run_advise)


def run_fit(args: argparse.Namespace) -> None:
    """Fit, write laws.json, print a summary."""
    from plmscale.files import sha256_file, write_json
    from plmscale.laws.estimators import holds_law
    from plmscale.laws.fit import fit_laws
    from plmscale.laws.fittext import fit_text
    from plmscale.laws.sections import add_sections

    read, curves = read_with_options(args)
    if curves == {} and not args.allow_empty:
        example = f"{read.runs['run_id'].iloc[0]}.csv"
        raise PlmscaleError(f"{args.curves}: no curve of any run; expected {example}")
    if curves is None and "envelope" in (args.methods or ()):
        raise PlmscaleError("method envelope is made of learning curves; add --curves DIR")
    laws = fit_laws(
        read.runs, curves=curves, methods=args.methods, flops_column=args.flops_column,
        n_boot=args.boot, seed=args.seed, noise_sd=args.noise_sd, where=str(args.runs),
        inputs={args.runs.name: sha256_file(args.runs)},
    )  # fmt: skip
    entries = [entry for found in laws["laws"].values() for entry in found.values()]
    if not (args.allow_empty or any(map(holds_law, entries))):
        why = laws["warnings"][0] if laws["warnings"] else "too few runs"
        raise PlmscaleError(f"{args.runs}: no law can be fitted: {why}")
    laws = add_sections(laws, read.runs, curves=curves, methods=args.methods)
    laws["warnings"] = [*read.warnings, *laws["warnings"]]
    laws["provenance"]["loss_unit_of_the_table"] = args.loss_unit
    try:
        write_json(args.out, laws)
    except OSError as error:
        raise PlmscaleError(f"{args.out}: cannot be written ({error.strerror})") from None
    print(_dump(laws) if args.json else fit_text(laws))


def run_findings(args: argparse.Namespace) -> None:
    """Compare, write findings.json, print it in words."""
    import pandas as pd

    from plmscale.files import write_json
    from plmscale.laws.findings import findings
    from plmscale.tables import read_runs

    def reader(folder: Path | None, pattern: str) -> Any:
        def read(run_id: str) -> pd.DataFrame | None:
            path = folder / pattern.format(run_id)
            return pd.read_csv(path) if path.exists() else None

        return None if folder is None else read

    found = findings(
        read_runs(args.runs),
        curves=reader(args.curves, "{}.csv"),
        validation=reader(args.run_folders, "{}/validation.csv"),
    )
    write_json(args.out, found)
    if args.json:
        print(_dump(found))
        return
    for item in [*found["repetition"], *found["transfer"]]:
        print(item["text"])
    for text in found["warnings"]:
        print(f"warning: {text}")


def run_advise(args: argparse.Namespace) -> None:
    """Answer for FLOPs, or for GPUs and hours."""
    from plmscale.files import read_json
    from plmscale.laws.advice.advise import advise
    from plmscale.laws.advice.hardware import machine_and_flops
    from plmscale.laws.advice.text import advice_text

    flops, machine = machine_and_flops(args.flops, args.gpu, args.gpus, args.hours, args.mfu)
    laws = read_json(args.laws)
    if not isinstance(laws, dict) or not isinstance(laws.get("laws"), dict):
        raise PlmscaleError(f"{args.laws}: not a laws.json; plmscale fit RUNS.csv --out makes one")
    answer = advise(laws, args.objective, flops, args.method)
    answer["hardware"] = machine
    print(_dump(answer) if args.json else advice_text(answer))


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
