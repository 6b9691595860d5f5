"""The command line: `plmscale COMMAND ...`. Commands that need torch import it themselves."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plmscale
from plmscale.errors import PlmscaleError
from plmscale.textable import table


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors meant for people are one line on stderr and exit code 2."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `plmscale runs ... | head` is no error; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    from plmscale import runs_cli
    from plmscale.corpus import cli as corpus_cli
    from plmscale.downstream import cli as downstream_cli
    from plmscale.export import cli as export_cli
    from plmscale.inference import cli as inference_cli
    from plmscale.laws import cli as laws_cli
    from plmscale.laws import robust_cli
    from plmscale.paper import cli as paper_cli
    from plmscale.paper import points, reproduce_cli
    from plmscale.planning import command as plan_options
    from plmscale.sofar import options as report_options
    from plmscale.status import options as status_options

    parser = argparse.ArgumentParser(
        prog="plmscale",
        description="How large a protein language model, on how many tokens, for a compute budget?",
    )
    parser.add_argument("--version", action="version", version=f"plmscale {plmscale.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    runs = _study_command(commands, "runs", "the grid of a study, expanded", _runs)
    runs_cli.add_options(runs)
    plan = _study_command(
        commands, "plan", "runs, FLOPs, hours and storage, before anything starts", _plan
    )
    plan_options.add_options(plan)
    status_options.add_options(
        _study_command(
            commands, "status", "done, running, queued, failed, waiting; time left", _status
        )
    )
    report_options.add_options(
        _study_command(
            commands, "report", "the report of what is finished, while the rest trains", _report
        )
    )
    show = commands.add_parser("sizes", help="the architectures of the paper, with exact N")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_sizes)
    check = commands.add_parser("check", help="validate a study file and print it, resolved")
    check.add_argument("study", type=Path)
    check.set_defaults(run=_check)
    laws_cli.add_subcommands(commands)
    robust_cli.add_subcommands(commands)
    paper_cli.add_subcommands(commands)
    points.add_subcommand(commands)
    reproduce_cli.add_subcommand(commands)
    export_cli.add_subcommands(commands)
    inference_cli.add_subcommands(commands)
    downstream_cli.add_subcommands(commands)
    corpus = commands.add_parser("corpus", help="build, verify or describe a corpus")
    corpus_cli.add_subcommands(corpus.add_subparsers(metavar="STEP", required=True))
    return parser


def _study_command(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    command.add_argument("study", type=Path, metavar="STUDY.yaml")
    command.add_argument(
        "--select", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="only runs with this value; one key twice means either; also KEY=LOW..HIGH, 'KEY>X', "
        "'KEY=1*', 'KEY!=VALUE'",
    )  # fmt: skip
    command.add_argument("--subset", default="", metavar="NAME", help="a named subset of the study")
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=run)
    return command


def _chosen(args: argparse.Namespace) -> tuple[Any, list[Any]]:
    from plmscale import grid, study

    loaded = study.load(args.study)
    if loaded.logs:
        raise PlmscaleError(
            f"{args.study}: this study reads finished runs from logs, so it has no grid; its runs "
            f"stand in {loaded.folder}/runs.csv after snakemake --configfile {args.study}"
        )
    return loaded, grid.chosen_runs(loaded, args.subset, ",".join(args.select))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, allow_nan=False))


def _runs(args: argparse.Namespace) -> None:
    from plmscale import grid, runs_cli

    study, runs = _chosen(args)
    runs_cli.show(args, study, runs, grid.expand(study))


def _plan(args: argparse.Namespace) -> None:
    from plmscale.planning import command

    command.run(args, *_chosen(args))


def _status(args: argparse.Namespace) -> int:
    from plmscale.status import command

    return command.run(args, *_chosen(args))


def _report(args: argparse.Namespace) -> int:
    from plmscale.sofar import command

    return command.run(args, *_chosen(args))


def _sizes(args: argparse.Namespace) -> None:
    from plmscale.architecture import PAPER_SIZES

    rows = [{**a.to_dict(), "n_params": a.n_params} for a in PAPER_SIZES.values()]
    if args.json:
        _print_json(rows)
    else:
        print(table(rows, ["name", "n_params", "n_layers", "d_model", "n_heads", "d_ff"]))


def _check(args: argparse.Namespace) -> None:
    from plmscale import configfile, grid, study

    loaded = study.load(args.study)
    grid.expand(loaded)
    print(configfile.render(loaded.model_dump()), end="")


if __name__ == "__main__":
    sys.exit(main())
