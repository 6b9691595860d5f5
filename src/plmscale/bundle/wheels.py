"""A folder of wheels: whether all that is needed is there, and which glibc it needs."""

from __future__ import annotations

import mmap
import re
import tomllib
from collections.abc import Iterable, Iterator
from email.parser import BytesHeaderParser
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from plmscale.bundle.contents import number
from plmscale.errors import PlmscaleError

_MANYLINUX = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
_SYMBOL = re.compile(rb"GLIBC_(2\.\d+)")
# e_machine in the header of a program.
_MACHINES = {62: "x86_64", 183: "aarch64", 21: "ppc64le"}


def asked(pyproject: Path) -> list[str]:
    """Return what `pip install -e '.[dev]'` asks for, and what its build does."""
    data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project, extras = data["project"], data["project"]["optional-dependencies"]
    words = [*data["build-system"]["requires"], *project["dependencies"]]
    waiting, seen = ["dev"], set()
    while waiting:
        seen.add(extra := waiting.pop())
        for text in extras[extra]:
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) == project["name"]:
                waiting += requirement.extras - seen
            else:
                words.append(text)
    return words


def missing(wheels: Path, roots: Iterable[str], python: str, machine: str) -> list[str]:
    """Return the requirements that no wheel in a folder meets, as pip writes them, sorted.

    From `roots` on along all wheels' own requirements, with markers read for CPython `python` on
    Linux: pip, where it downloads for another Python, reads them for its own. Raises PlmscaleError
    for a file that is no wheel.
    """
    there = _versions(wheels)
    found: set[str] = set()
    waiting = [(Requirement(text), frozenset({""})) for text in roots]
    done: set[tuple[Path, frozenset[str]]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        if not _applies(requirement, extras, python, machine):
            continue
        named = there.get(canonicalize_name(requirement.name), {})
        fitting = [version for version in named if requirement.specifier.contains(version, True)]
        if not fitting:
            found.add(f"{requirement.name}{requirement.specifier}")
            continue
        key = named[max(fitting)], frozenset({"", *requirement.extras})
        if key not in done:
            done.add(key)
            waiting += [(inner, key[1]) for inner in _requirements(key[0])]
    return sorted(found)


def _versions(wheels: Path) -> dict[str, dict[Version, Path]]:
    found: dict[str, dict[Version, Path]] = {}
    for path in wheels.glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(path.name)
        found.setdefault(name, {})[version] = path
    return found


def _applies(requirement: Requirement, extras: Iterable[str], python: str, machine: str) -> bool:
    if requirement.marker is None:
        return True
    target = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    return any(requirement.marker.evaluate({**target, "extra": extra}) for extra in extras)


def _requirements(wheel: Path) -> list[Requirement]:
    try:
        with ZipFile(wheel) as content:
            inner = (n for n in content.namelist() if n.count("/") == 1)
            name = next(n for n in inner if n.endswith(".dist-info/METADATA"))
            headers = BytesHeaderParser().parsebytes(content.read(name))
    except (BadZipFile, StopIteration):
        raise PlmscaleError(f"{wheel}: is no wheel; remove it and make the bundle anew") from None
    return [Requirement(text) for text in headers.get_all("Requires-Dist", [])]


def needed_glibc(wheels: Path, tools: Path, own: str) -> str:
    """Return the oldest glibc on which all wheels and programs start.

    `own` stands for wheels without such a statement, which were built here.
    """
    needs = ["2.5"]
    for path in wheels.glob("*.whl"):
        tags = {tag.platform for tag in parse_wheel_filename(path.name)[3]}
        if tags & {"any"}:
            continue
        # Any of a wheel's tags will do, so the oldest counts.
        needs.append(min((_glibc_of(tag) or own for tag in tags), key=number))
    for path in tools.iterdir():
        needs += _symbols(path)
    return max(needs, key=number)


def _glibc_of(tag: str) -> str:
    if found := re.match(r"manylinux_(\d+)_(\d+)_", tag):
        return f"{found[1]}.{found[2]}"
    return _MANYLINUX.get(tag.split("_")[0], "")


def _symbols(program: Path) -> Iterator[str]:
    with program.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as m:
        yield from {found[1].decode() for found in _SYMBOL.finditer(m)}


def check_program(program: Path, machine: str, glibc: str) -> None:
    """Raise PlmscaleError where a program is for another machine, or needs a newer glibc."""
    give = f"make bundle {program.name.upper()}=/path/to/{program.name}"
    if (found := machine_of(program)) != machine:
        raise PlmscaleError(
            f"{program.name} is for {found}, and the bundle is for {machine}; give one for it: {give}"
        )
    needed = max(_symbols(program), key=number, default="")
    if number(needed) > number(glibc):
        raise PlmscaleError(
            f"{program.name} needs glibc {needed}, and the bundle is for {glibc}; give one that is "
            f"linked statically: {give}"
        )


def machine_of(program: Path) -> str:
    """Return the machine a program is for; raise where it is no program of 64-bit Linux."""
    with program.open("rb") as handle:
        header = handle.read(20)
    if header[:6] != b"\x7fELF\x02\x01":
        raise PlmscaleError(
            f"{program}: is no program of 64-bit Linux; give one, as from "
            "https://bioinf.shenwei.me/seqkit/download"
        )
    code = int.from_bytes(header[18:20], "little")
    return _MACHINES.get(code, f"machine {code}")
