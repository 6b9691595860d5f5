"""What goes into an offline bundle, and what is not made into one."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_example import script, wheel

from plmscale.bundle.downloads import downloads
from plmscale.bundle.wheels import asked, check_program, machine_of, missing, needed_glibc
from plmscale.corpus.fetch import fetch_file
from plmscale.corpus.source_config import file_names
from plmscale.errors import PlmscaleError
from plmscale.study import load

PROJECT = Path(__file__).resolve().parents[2]

# What goes in.


def test_all_that_an_installation_asks_for_is_asked_of_the_wheels():
    names = {line.split(";")[0].split(">")[0].strip() for line in asked(PROJECT / "pyproject.toml")}
    # The build, a dependency, an extra of an extra, and never plmscale itself.
    assert {"setuptools", "snakemake", "pyrodigal", "snakemake-executor-plugin-slurm"} <= names
    assert {"pytest", "transformers"} <= names and "plmscale" not in names


def test_requirements_are_followed_for_the_python_they_are_meant_for(tmp_path):
    needs = ['old; python_version < "3.12"', 'arm; platform_machine == "aarch64"', "plain[more]>=2"]
    wheel(tmp_path, "top", needs=needs)
    wheel(tmp_path, "plain", "1.5")
    assert missing(tmp_path, ["top"], "3.11", "x86_64") == ["old", "plain>=2"]
    wheel(tmp_path, "plain", "2.1", needs=['extra_one; extra == "more"', 'no; extra == "other"'])
    assert missing(tmp_path, ["top"], "3.12", "x86_64") == ["extra_one"]
    wheel(tmp_path, "extra_one", needs=["top"])
    assert missing(tmp_path, ["top"], "3.12", "x86_64") == []
    assert missing(tmp_path, ["top"], "3.12", "aarch64") == ["arm"]
    assert missing(tmp_path, ["nothing==1"], "3.12", "x86_64") == ["nothing==1"]


def test_the_oldest_glibc_is_that_of_the_newest_file(tmp_path):
    wheels, tools = tmp_path / "wheels", tmp_path / "tools"
    tools.mkdir()
    wheel(wheels, "pure")
    assert needed_glibc(wheels, tools, "2.36") == "2.5"
    # A wheel of two tags serves the older one.
    wheel(wheels, "two", tag="cp311-cp311-manylinux_2_17_x86_64.manylinux_2_28_x86_64")
    assert needed_glibc(wheels, tools, "2.36") == "2.17"
    (tools / "program").write_bytes(b"\x7fELF..GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.9\0")
    assert needed_glibc(wheels, tools, "2.36") == "2.34"
    wheel(wheels, "built_here", tag="cp311-cp311-linux_x86_64")
    assert needed_glibc(wheels, tools, "2.36") == "2.36"


def test_a_program_is_for_the_machine_that_is_asked_for(tmp_path):
    python, here = Path(sys.executable).resolve(), platform.libc_ver()[1]
    assert machine_of(python) == platform.machine()
    check_program(python, platform.machine(), here)
    with pytest.raises(
        PlmscaleError, match=f"{python.name} is for .*, and the bundle is for sparc64"
    ):
        check_program(python, "sparc64", here)
    with pytest.raises(PlmscaleError, match=r"needs glibc 2\.\d+, and the bundle is for 2\.1;"):
        check_program(python, platform.machine(), "2.1")
    script(tmp_path / "seqkit", "exec seqkit")
    with pytest.raises(PlmscaleError, match="is no program of 64-bit Linux"):
        machine_of(tmp_path / "seqkit")


def test_downloads_of_a_study_come_along_where_the_workflow_looks(tmp_path):
    study = load(PROJECT / "studies/smoke.yaml")
    with pytest.raises(PlmscaleError, match="not downloaded yet"):
        list(downloads(study, tmp_path))
    folder = tmp_path / "results/corpora/files"
    for source in study.corpus.sources.values():
        for index, name in enumerate(file_names(source)):
            fetch_file(source, index, folder / name, folder / f"{name}.json", PROJECT)
    found = set(downloads(study, tmp_path))
    assert found == {p.relative_to(tmp_path) for p in folder.iterdir()} and len(found) >= 4
    victim = next(p for p in folder.iterdir() if p.suffix != ".json")
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(PlmscaleError, match=f"{victim.name}: has SHA-256"):
        list(downloads(study, tmp_path))


# What is not made into a bundle.


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with the scripts in it, and nothing that would be downloaded."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("make_bundle.sh", "install_bundle.sh"):
        shutil.copy(PROJECT / "scripts" / name, folder / "scripts")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *words], check=True)
    return folder


def make(checkout, **environment):
    """Run the script where a package index would be needed, with none there."""
    done = subprocess.run(
        ["bash", "scripts/make_bundle.sh"],
        cwd=checkout,
        env={
            **os.environ,
            "VENV": sys.prefix,
            # Some program of this machine: its version is asked for only at the end.
            "SEQKIT": str(Path(sys.executable).resolve()),
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": "",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not list(checkout.glob("build/*.tar"))
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PYTHON_VERSION": "python3"}, "PYTHON_VERSION=python3: expected a version such as 3.12"),
        ({"PLATFORM": "x86_64"}, "PLATFORM=x86_64: expected manylinux_2_N_MACHINE"),
        ({"STUDY": "studies/none.yaml"}, "STUDY=studies/none.yaml: no such file"),
        ({"SEQKIT": "/nowhere/seqkit"}, "seqkit is missing at /nowhere/seqkit; make env brings it"),
        ({"VENV": "/nowhere"}, "/nowhere is missing; make env first"),
        ({"SEQKIT": __file__}, "seqkit: is no program of 64-bit Linux"),
        ({"PLATFORM": "manylinux_2_28_sparc64"}, "and the bundle is for sparc64; give one for it"),
        ({}, "there is no such wheel of torch for Python"),
    ],
    ids=lambda value: next(iter(value), "torch") if isinstance(value, dict) else "",
)
def test_what_cannot_be_made_is_told(checkout, environment, message):
    code, text = make(checkout, **environment)
    assert code == 2 and re.search(f"error: .*{message}|make bundle: {message}", text), text
    assert not list(checkout.glob("build/.bundle*"))


def test_uncommitted_changes_are_refused(checkout):
    with (checkout / "scripts/make_bundle.sh").open("a") as handle:
        handle.write("\n")
    code, text = make(checkout)
    assert code == 2 and "uncommitted changes ( M scripts/make_bundle.sh;)" in text
    shutil.rmtree(checkout / ".git")
    assert "no git checkout of plmscale" in make(checkout)[1]
