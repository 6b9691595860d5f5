"""`plmscale export`: a finished run as a folder that transformers loads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_subcommands(subparsers: Any) -> None:
    """Add the command to `plmscale`."""
    command = subparsers.add_parser(
        "export", help="a finished run as a Hugging Face folder, verified by its logits"
    )
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="results/STUDY/runs/RUN_ID")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--as", dest="objective", choices=["clm", "mlm"],
        help="which model to make of a run with objective mixed; default: mlm",
    )  # fmt: skip
    command.add_argument(
        "--dtype", choices=["fp32", "bf16"], default="fp32",
        help="of the weights; bf16 halves the folder, and logits then differ",
    )  # fmt: skip
    command.add_argument(
        "--remote-code", action="store_true",
        help="write our own class as Python files instead of rewriting for a class of transformers",
    )  # fmt: skip
    command.add_argument("--force", action="store_true", help="replace DIR if it holds something")
    command.add_argument(
        "--no-verify", action="store_true", help="do not load the folder and compare logits"
    )
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    """Export and print what was written and how far its logits are from the run's own."""
    from plmscale.export.folder import export_run

    done = export_run(
        args.run_dir,
        args.out,
        objective=args.objective,
        dtype=args.dtype,
        remote_code=args.remote_code,
        force=args.force,
        verify=not args.no_verify,
    )
    for warning in done.warnings:
        print(f"plmscale: warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(done.to_dict(), indent=2, sort_keys=True, allow_nan=False))
        return
    print(f"{done.out}: {done.class_name}, {done.objective}, weights {done.dtype}")
    print(f"files: {', '.join(done.files)}")
    if done.compared is None:
        print(f"not verified: {done.not_verified}")
        return
    rounded = "; bf16 rounds the weights, so logits differ" if done.dtype == "bf16" else ""
    print(
        f"largest difference of logits to the run's own: {done.compared.difference:.2g} "
        f"(logits up to {done.compared.largest_logit:.3g}){rounded}"
    )
