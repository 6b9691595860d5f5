"""`plmscale fit`, `plmscale findings` and `plmscale advise`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.textable import cell, table


def add_subcommands(subparsers: Any) -> None:
    """Add the commands of the laws to `plmscale`; each sets `run`, a function of the arguments."""
    fit = subparsers.add_parser("fit", help="laws with intervals from a runs table")
    fit.add_argument("runs", type=Path, metavar="RUNS.csv")
    fit.add_argument("--out", type=Path, required=True, metavar="laws.json")
    fit.add_argument("--flops-column", choices=("flops_6nd", "flops"), default="flops_6nd",
                     help="compute that counts: 6 N D, or the table's exact count")  # fmt: skip
    fit.add_argument("--methods", nargs="+", metavar="METHOD", help="all by default")
    fit.add_argument("--boot", type=int, default=1000, metavar="N", help="bootstrap replicates")
    fit.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    fit.add_argument("--json", action="store_true", help="print laws.json")
    fit.set_defaults(run=run_fit)

    findings = subparsers.add_parser("findings", help="repetition and transfer, in words")
    findings.add_argument("runs", type=Path, metavar="RUNS.csv")
    findings.add_argument("--out", type=Path, required=True, metavar="findings.json")
    findings.add_argument("--curves", type=Path, metavar="DIR", help="folder of <run_id>.csv")
    findings.add_argument("--run-folders", type=Path, metavar="DIR",
                          help="runs/, whose validation.csv allow paired comparisons")  # fmt: skip
    findings.add_argument("--json", action="store_true", help="print findings.json")
    findings.set_defaults(run=run_findings)

    ask = subparsers.add_parser("advise", help="N, D and loss for a compute budget")
    ask.add_argument("--laws", type=Path, required=True, metavar="laws.json")
    ask.add_argument("--objective", choices=("clm", "mlm"), required=True)
    ask.add_argument("--flops", type=float, help="training FLOPs; or give --gpu and --hours")
    ask.add_argument("--gpu", metavar="NAME", help="a GPU of resources/hardware.tsv")
    ask.add_argument("--gpus", type=int, default=1, metavar="N")
    ask.add_argument("--hours", type=float, metavar="H")
    ask.add_argument("--mfu", type=float, help="share of the peak that training reaches (0.4)")
    ask.add_argument("--method", help="a method of laws.json; a sound one by default")
    ask.add_argument("--json", action="store_true", help="for machines")
    ask.set_defaults(run=run_advise)


def run_fit(args: argparse.Namespace) -> None:
    """Fit, write laws.json, print a summary."""
    from plmscale.files import sha256_file, write_json
    from plmscale.laws.fit import fit_laws
    from plmscale.tables import read_runs

    runs = read_runs(args.runs)
    laws = fit_laws(
        runs, methods=args.methods, flops_column=args.flops_column, n_boot=args.boot,
        seed=args.seed, inputs={args.runs.name: sha256_file(args.runs)},
    )  # fmt: skip
    write_json(args.out, laws)
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
    from plmscale.laws.advise import advise

    flops, machine = _compute(args)
    answer = advise(read_json(args.laws), args.objective, flops, args.method)
    answer["hardware"] = machine
    print(_dump(answer) if args.json else advice_text(answer))


def _compute(args: argparse.Namespace) -> tuple[float, dict[str, Any] | None]:
    from plmscale.laws.hardware import DEFAULT_MFU, find_gpu

    if args.gpu is None:
        if args.flops is None:
            raise PlmscaleError("advise needs --flops, or --gpu and --hours")
        if args.hours is not None:
            raise PlmscaleError("--hours needs --gpu")
        return args.flops, None
    mfu = DEFAULT_MFU if args.mfu is None else args.mfu
    if not 0 < mfu <= 1:
        raise PlmscaleError(f"--mfu {mfu:g} is not a share between 0 and 1")
    if args.gpus < 1:
        raise PlmscaleError(f"--gpus {args.gpus} is not a positive number")
    gpu = find_gpu(args.gpu)
    machine = {"gpu": gpu.name, "gpus": args.gpus, "mfu": mfu, "assumed": args.mfu is None,
               "peak_flops": gpu.peak_flops, "format": gpu.format}  # fmt: skip
    if args.flops is not None:
        if args.hours is not None:
            raise PlmscaleError("give --flops or --hours, not both")
        return args.flops, {**machine, "hours": args.flops / gpu.flops(args.gpus, 1.0, mfu)}
    if args.hours is None or not args.hours > 0:
        raise PlmscaleError("--gpu without --flops needs --hours, a positive number")
    return gpu.flops(args.gpus, args.hours, mfu), {**machine, "hours": args.hours}


def fit_text(laws: dict[str, Any]) -> str:
    """Return the laws as an aligned table, then what was left out, then warnings."""
    rows = [
        {
            "objective": objective, "method": method, "runs": entry["n_runs"],
            "A": entry["N_opt"]["A"], "a": entry["N_opt"]["a"],
            "a 95 %": _range(entry["ci95"].get("a")),
            "B": entry["D_opt"]["B"], "b": entry["D_opt"]["b"],
            "b 95 %": _range(entry["ci95"].get("b")),
        }
        for objective, entries in laws["laws"].items()
        for method, entry in entries.items()
    ]  # fmt: skip
    lines = [laws["provenance"]["laws"], laws["provenance"]["flops_convention"], ""]
    lines.append(table(rows, ["objective", "method", "runs", "A", "a", "a 95 %", "B", "b",
                              "b 95 %"]))  # fmt: skip
    fits = [
        {"objective": o, **{k: e[k] for k in ("E", "A", "B", "alpha", "beta", "objective")},
         "law": o}
        for o, entries in laws["laws"].items()
        for m, e in entries.items()
        if m == "parametric" and e["E"] is not None
    ]  # fmt: skip
    if fits:
        lines += ["", "L = E + A / N^alpha + B / D^beta"]
        lines.append(table(fits, ["law", "E", "A", "alpha", "B", "beta", "objective"]))
    lines += [f"left out: {row['run_id']}: {row['why']}" for row in laws["excluded"]]
    lines += [f"warning: {text}" for text in laws["warnings"]]
    return "\n".join(lines)


def advice_text(answer: dict[str, Any]) -> str:
    """Return an answer for people."""
    rows = [
        {"": label, "value": answer[key]["value"], "95 %": _range(answer[key]["ci95"])}
        for key, label in (
            ("n_params", "parameters N"), ("tokens", "tokens D"), ("loss", "loss, nats a token"),
        )
    ]  # fmt: skip
    near, far = answer["architecture"], answer["extrapolation"]
    lines = [f"{answer['objective']} at {answer['flops']:.3g} FLOPs, by {answer['method']}: "
             f"{answer['why']}", "", table(rows, ["", "value", "95 %"]), ""]  # fmt: skip
    if machine := answer.get("hardware"):
        lines.append(
            f"hardware: {machine['gpus']} x {machine['gpu']}, {machine['hours']:.4g} hours at "
            f"{machine['mfu']:.0%} of {machine['peak_flops']:.3g} FLOP/s ({machine['format']}"
            f"{'; the share is assumed' if machine['assumed'] else ''})"
        )
    lines += [
        f"tokens a parameter: {answer['tokens_per_param']:.4g}",
        f"nearest of the paper's sizes: {near['name']} ({near['n_layers']} x {near['d_model']}, "
        f"{cell(near['n_params'])} parameters, {near['ratio']:.2f} of N)",
        f"fitted on {far['fitted'][0]:.3g} to {far['fitted'][1]:.3g} FLOPs; this is "
        + (f"{far['decades']:.1f} decades outside" if far["decades"] else "inside"),
        "methods: " + ", ".join(f"{k} {v['n_params']['value']:.3g}"
                                for k, v in answer["methods"].items())
        + f" (factor {answer['agreement']:.2f} apart)",
    ]  # fmt: skip
    lines += [f"warning: {text}" for text in answer["warnings"]]
    return "\n".join(lines)


def _range(ends: list[float | None] | None) -> str:
    if ends is None:
        return "-"
    low, high = ("?" if end is None else f"{end:.4g}" for end in ends)
    return f"{low} to {high}"


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
