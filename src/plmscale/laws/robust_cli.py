"""`plmscale holdout` and `plmscale sensitivity`: does a law hold, and how much of it is choice?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.laws.table.options import add_table_options, read_with_options
from plmscale.textable import table


def add_subcommands(subparsers: Any) -> None:
    """Add the two commands to `plmscale`."""
    hold = subparsers.add_parser(
        "holdout", help="fit small budgets, foretell large ones, compare with what was seen"
    )
    _shared(hold, "holdout.json", 400)
    hold.add_argument("--up-to", type=float, metavar="FLOPS",
                      help="largest budget to fit; default: the largest but one")  # fmt: skip
    hold.add_argument("--methods", nargs="+", metavar="METHOD", help="all by default")
    hold.add_argument("--allow-empty", action="store_true",
                      help="write holdout.json even where --up-to leaves nothing to foretell")  # fmt: skip
    hold.set_defaults(run=run_holdout)

    sens = subparsers.add_parser(
        "sensitivity", help="the exponent under every choice of method, compute and table"
    )
    _shared(sens, "sensitivity.json", 200)
    sens.add_argument("--variant", action="append", default=[], metavar="NAME=RUNS.csv",
                      help="another runs table, by the name of the choice it stands for")  # fmt: skip
    sens.set_defaults(run=run_sensitivity)


def _shared(parser: argparse.ArgumentParser, out: str, boot: int) -> None:
    add_table_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar=out)
    parser.add_argument("--boot", type=int, default=boot, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the file")


def _read(args: argparse.Namespace) -> dict[str, Any]:
    read, curves = read_with_options(args)
    return {"runs": read.runs, "curves": curves, "flops_column": args.flops_column,
            "n_boot": args.boot, "seed": args.seed}  # fmt: skip


def run_holdout(args: argparse.Namespace) -> None:
    """Write holdout.json and print the errors as a table."""
    from plmscale.files import write_json
    from plmscale.laws.holdout import holdout

    found = holdout(
        up_to=args.up_to, methods=args.methods, allow_empty=args.allow_empty, **_read(args)
    )
    write_json(args.out, found)
    print(json.dumps(found, indent=2, sort_keys=True) if args.json else holdout_text(found))


def run_sensitivity(args: argparse.Namespace) -> None:
    """Write sensitivity.json and print what each choice does to the exponent."""
    from plmscale.files import write_json
    from plmscale.laws.sensitivity import sensitivity
    from plmscale.tables import read_runs

    variants = {}
    for text in args.variant:
        name, _, path = text.partition("=")
        if not (name and path):
            raise PlmscaleError(f"--variant {text!r}: expected NAME=RUNS.csv")
        variants[name] = read_runs(path)
    found = sensitivity(variants=variants, **_read(args))
    write_json(args.out, found)
    print(json.dumps(found, indent=2, sort_keys=True) if args.json else sensitivity_text(found))


def holdout_text(found: dict[str, Any]) -> str:
    """Return the comparison as a table that lines up."""
    rows = [
        {
            "objective": objective,
            "asked for": f"{target['flops']:.3g} FLOPs"
            if target["kind"] == "budget" else target["run_id"],
            "method": item["method"],
            "N foretold / seen": "" if "n_ratio" not in item else f"{item['n_ratio']:.2f}",
            "within": _said(item.get("n_inside")),
            "loss foretold": f"{item['loss']['value']:.4f}",
            "minus seen": f"{item['loss_error']:+.4f}",
            "within ": _said(item["loss_inside"]),
        }
        for objective, part in found["objectives"].items()
        for target in part["targets"]
        for item in target["predictions"]
    ]  # fmt: skip
    if not rows:
        return found["note"] or "no law could be asked: the budgets kept are too few for any method"
    head = f"Fitted to budgets up to {found['up_to']:.3g} FLOPs alone"
    return head + "\n\n" + table(rows, list(rows[0]))


def sensitivity_text(found: dict[str, Any]) -> str:
    """Return the effect of each choice on the exponent a."""
    rows = []
    for objective, effect in found["effects"].items():
        for choice, item in effect.get("choices", {}).items():
            levels = sorted(item["levels"].items(), key=lambda pair: pair[1])
            rows.append({
                "objective": objective, "choice": choice, "sd of a": f"{item['sd']:.3f}",
                "lowest": f"{levels[0][1]:.3f}  {levels[0][0]}",
                "highest": f"{levels[-1][1]:.3f}  {levels[-1][0]}",
            })  # fmt: skip
        if effect.get("data_sd") is not None:
            rows.append({"objective": objective, "choice": "(data)",
                         "sd of a": f"{effect['data_sd']:.3f}", "lowest": "", "highest": ""})  # fmt: skip
    return table(rows, ["objective", "choice", "sd of a", "lowest", "highest"])


def _said(inside: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[inside]
