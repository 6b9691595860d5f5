"""What a bundle says of itself, and whether a folder and this machine are as it says.

`bundle.json` holds what it was made from and for, `SHA256SUMS` a line for every other file, in the form that
`sha256sum -c` reads. Only the standard library is used: this runs before anything is installed.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, read_json, sha256_file, write_json
from plmscale.paper.fetch import read_checksums

FACTS, SUMS = "bundle.json", "SHA256SUMS"
# What is installed from; a file too many in one of these would be installed, too.
CLOSED = ("wheels", "tools")


@dataclass(frozen=True)
class Facts:
    """What a bundle was made from and for.

    commit: of the checkout; python: `3.11`; machine: `x86_64`; glibc: the oldest on which all of it
    starts, `2.34`; torch: its version; tools: version of each program; study: file whose downloads
    come along, empty for none.
    """

    version: str
    commit: str
    python: str
    machine: str
    glibc: str
    torch: str
    tools: dict[str, str] = field(default_factory=dict)
    study: str = ""


def number(version: str) -> tuple[int, ...]:
    """Return `2.34` as (2, 34), so that versions compare; an empty one is older than any."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def read_facts(folder: Path) -> Facts:
    """Read bundle.json. Raises PlmscaleError where it is missing or of another form."""
    found = read_json(folder / FACTS)
    try:
        return Facts(**found)
    except TypeError:
        names = ", ".join(f.name for f in fields(Facts))
        raise PlmscaleError(
            f"{folder / FACTS}: expected the keys {names}; make the bundle anew"
        ) from None


def write(folder: Path, facts: Facts) -> int:
    """Write bundle.json and SHA256SUMS over all files of `folder`; return their number."""
    write_json(folder / FACTS, asdict(facts))
    names = [name for name in _files(folder) if name != SUMS]
    with atomic_write(folder / SUMS) as handle:
        for name in names:
            handle.write(f"{sha256_file(_inside(folder, name))}  {name}\n")
    return len(names)


def check_machine(facts: Facts) -> None:
    """Raise PlmscaleError where this Python or this machine is not the one a bundle is for."""
    here = ".".join(map(str, sys.version_info[:2]))
    if sys.implementation.name != "cpython" or here != facts.python:
        raise PlmscaleError(
            f"this bundle is for CPython {facts.python}, and {sys.executable} is "
            f"{platform.python_implementation()} {platform.python_version()}; set "
            f"PYTHON=/path/to/python{facts.python}, or make the bundle with PYTHON_VERSION={here}"
        )
    if (platform.system(), platform.machine()) != ("Linux", facts.machine):
        raise PlmscaleError(
            f"this bundle is for Linux on {facts.machine}, and this is {platform.system()} on "
            f"{platform.machine()}; make the bundle on such a machine, or with PLATFORM"
        )
    name, version = platform.libc_ver()
    if name != "glibc" or number(version) < number(facts.glibc):
        raise PlmscaleError(
            f"this bundle needs glibc {facts.glibc} or newer, and this machine has "
            f"{f'{name} {version}'.strip() or 'none'}; make the bundle with "
            "PLATFORM=manylinux_2_N_MACHINE for glibc 2.N, or use the container"
        )


def check_files(folder: Path) -> int:
    """Verify every file of a bundle; return their number.

    Raises PlmscaleError, naming the file, for one that is missing, is not what the bundle was made
    with, or lies where things are installed from without being listed.
    """
    sums = read_checksums(folder / SUMS)
    if FACTS not in sums:
        raise PlmscaleError(f"{folder / SUMS}: {FACTS} is not listed; make the bundle anew")
    for name in _files(folder):
        if name.split("/")[0] in CLOSED and name not in sums:
            raise PlmscaleError(
                f"{folder / name}: is not part of the bundle; remove it, or unpack the bundle anew"
            )
    for name, expected in sums.items():
        path = _inside(folder, name)
        if not path.is_file():
            raise PlmscaleError(f"{path}: is missing; unpack the bundle anew")
        if (found := sha256_file(path)) != expected:
            raise PlmscaleError(
                f"{path}: has SHA-256 {found}, expected {expected}; unpack the bundle anew, or "
                "copy it here again"
            )
    return len(sums)


def _files(folder: Path) -> list[str]:
    """Return all files below a folder by their names relative to it, sorted."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file; raise where links lead out of the bundle."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PlmscaleError(f"{path}: is a link out of the bundle; unpack the bundle anew")
    return path
