"""The steps from a table of finished runs to laws and figures, as rules/*.smk take them.

Each calls the same command with the same options as its rule, in this process. The test of the
workflow compares the files of both, so that they cannot drift apart.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.files import DiskFull
from plmscale.settings import Study

LAWS = ("fit", "findings", "holdout", "sensitivity")
# Only studies of released logs have what these show.
_OF_LOGS = ("effective_tokens", "transfer_curves", "pretraining_share", "mask_ratio")
Failures = list[dict[str, str]]


def attempt(step: str, view: Path, failures: Failures, work: Callable[[], None]) -> None:
    """Do `work` with its output in logs/<step>.log; note in `failures` why it could not be done.

    Few runs must not cost the report: what cannot be made of them is told in it. Raises DiskFull.
    """
    path = view / "logs" / f"{step}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            work()
        except DiskFull:
            raise
        except PlmscaleError as error:
            print(f"plmscale: error: {error}")
            # The view does not keep the name that it is made under.
            why = str(error).replace(f"{view}/", "").removeprefix(f"{step}: ")
            failures.append({"step": step, "why": why})
        except Exception as error:
            traceback.print_exc(file=log)
            why = f"a fault of plmscale ({type(error).__name__}: {error}); see logs/{step}.log"
            failures.append({"step": step, "why": why})


def fit_laws(study: Study, view: Path, failures: Failures) -> None:
    """Write laws/*.json of the view's runs.csv and curves/; a law that cannot be fitted is left out."""
    from plmscale.laws import cli, robust_cli

    table = [view / "runs.csv", "--curves", view / "curves"]
    flops = ["--flops-column", study.laws.flops]
    seed = ["--seed", study.laws.seed]
    methods = ["--methods", *study.laws.methods]
    up_to = ["--up-to", f"{study.laws.fit_up_to:g}"] if study.laws.fit_up_to else []
    words: dict[str, list[Any]] = {
        "fit": [*table, *methods, *flops, "--boot", study.laws.bootstrap, *seed, "--allow-empty"],
        "findings": [*table, "--run-folders", view / "runs"],
        "holdout": [*table, *up_to, *methods, *flops, *seed, "--allow-empty"],
        "sensitivity": [*table, *flops, *seed],
    }
    add = {"holdout": robust_cli.add_subcommands, "sensitivity": robust_cli.add_subcommands}
    for step in LAWS:
        command = [step, *words[step], "--out", _law_file(view, step)]
        attempt(
            step,
            view,
            failures,
            lambda c=command, s=step: _call(add.get(s, cli.add_subcommands), c),
        )


def _law_file(view: Path, step: str) -> Path:
    return view / "laws" / f"{'laws' if step == 'fit' else step}.json"


def _call(add_subcommands: Callable[[Any], None], words: list[Any]) -> None:
    parser = argparse.ArgumentParser(prog="plmscale")
    add_subcommands(parser.add_subparsers())
    args = parser.parse_args([str(word) for word in words])
    args.run(args)


def made(view: Path, name: str) -> Path | None:
    """Return the path of a file of the view, None where it could not be made."""
    path = view / name
    return path if path.exists() else None


def draw_figures(
    study: Study, view: Path, corpus: Path, stamp: str, some_runs: bool, failures: Failures
) -> None:
    """Write figures/<name>.svg and .png; `stamp` is written above each that shows runs.

    Without any finished run only the corpus is drawn, where it is there already.
    """
    from plmscale.figures import FIGURES, data

    def load() -> Any:
        laws = [made(view, f"laws/{name}.json") for name in ("laws", *LAWS[1:])]
        return data.load(
            view / "runs.csv" if some_runs else None, view / "curves", laws[0], laws[1],
            made(corpus, "stats"), view / "runs", laws[2], laws[3],
            epochs=made(study.folder, "epochs.csv"),
        )  # fmt: skip

    wanted = {
        name: module
        for name, module in FIGURES.items()
        if name not in _OF_LOGS and (some_runs or name.startswith("corpus_"))
    }
    draw("figures", wanted, load, view, stamp, failures)


def draw(
    step: str,
    modules: Mapping[str, str],
    load: Callable[[], Any],
    view: Path,
    stamp: str,
    failures: Failures,
) -> None:
    """Draw each of `modules` (module by figure) from what `load` reads (figures.data.Inputs).

    `step` names the reading among the failures; `stamp` is written above each that shows runs.
    """
    from importlib import import_module

    from plmscale.figures import style

    inputs: Any = None

    def read() -> None:
        nonlocal inputs
        inputs = load()

    def one(name: str) -> None:
        figure = getattr(import_module(f"plmscale.figures.{modules[name]}"), name)(inputs)
        if stamp and not name.startswith("corpus_"):
            # As a title of the whole figure, for which the layout makes room: it covers nothing.
            figure.suptitle(stamp, x=0.99, ha="right", fontsize=7, color=style.WARN)
        style.save(figure, view / "figures" / name)

    (view / "figures").mkdir(parents=True, exist_ok=True)
    before = len(failures)
    attempt(step, view, failures, read)
    for name in modules if len(failures) == before else ():
        attempt(f"figure_{name}", view, failures, lambda n=name: one(n))
