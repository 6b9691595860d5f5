"""Offline bundles: what is verified and refused before anything is written, and the installer itself.

A real bundle (half a gigabyte, minutes, a package index) is made and tried by hand: `make bundle`, then
scripts/check_bundle.sh, which cuts the network off. What goes into one: test_bundle_making.py.
"""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_example import script, wheel

from plmscale.bundle import contents
from plmscale.errors import PlmscaleError

PROJECT = Path(__file__).resolve().parents[2]
HERE = contents.Facts(
    version="0.1.0",
    commit="0" * 40,
    python=".".join(map(str, sys.version_info[:2])),
    machine=platform.machine(),
    glibc="2.5",
    torch="9.9+here",
)
# All of the checkout that install.sh uses; the project in it is a small one.
PARTS = [
    "scripts/make_env.sh",
    *(f"src/plmscale/{name}" for name in ("__init__.py", "errors.py", "files.py")),
    *(f"src/plmscale/bundle/{name}" for name in ("__init__.py", "__main__.py", "contents.py")),
    *(f"src/plmscale/paper/{name}" for name in ("__init__.py", "fetch.py")),
]
# Builds a wheel without setuptools, so that the bundle needs none.
BACKEND = """
import pathlib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "plmscale-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        info = "plmscale-0.1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: plmscale\\nVersion: 0.1.0\\nProvides-Extra: dev\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name

build_editable = build_wheel
"""


@pytest.fixture
def bundle(tmp_path):
    """A bundle with everything in its place, of a project that needs torch alone."""
    folder = tmp_path / "bundle"
    for part in PARTS:
        (folder / "plmscale" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / part, folder / "plmscale" / part)
    shutil.copy(PROJECT / "scripts/install_bundle.sh", folder / "install.sh")
    wheel(folder / "wheels", "torch", "9.9+here", needs=["needed"])
    wheel(folder / "wheels", "needed", "1.0")
    for name in ("seqkit", "mmseqs"):
        script(folder / "tools" / name, f"echo {name} v1 of the bundle")
    project = folder / "plmscale"
    (project / "requirements.lock").write_text("torch==9.9\n")
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    contents.write(folder, HERE)
    return folder


def install(bundle, *words, **environment):
    done = subprocess.run(
        ["bash", str(bundle / "install.sh"), *map(str, words)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def tree(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


# What is verified.


def test_sums_are_those_of_sha256sum_and_leave_no_file_out(bundle):
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, text=True)
    assert done.returncode == 0
    listed = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    there = {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()}
    assert listed == there - {"SHA256SUMS"} and "bundle.json" in listed
    assert contents.check_files(bundle) == len(listed)


def damage(bundle):
    with (bundle / "wheels/torch-9.9+here-py3-none-any.whl").open("r+b") as handle:
        handle.seek(40)
        handle.write(b"?")


def remove(bundle):
    (bundle / "tools/seqkit").unlink()


def add_wheel(bundle):
    wheel(bundle / "wheels", "numpy", "99.0")


def lead_out(bundle):
    """A file that is as it should be, but not in the bundle."""
    inside = bundle / "tools/seqkit"
    inside.rename(bundle.parent / "seqkit")
    inside.symlink_to(bundle.parent / "seqkit")


def name_a_path_above(bundle):
    with (bundle / "SHA256SUMS").open("a") as handle:
        handle.write(f"{'0' * 64}  ../elsewhere\n")


def forget_the_facts(bundle):
    lines = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (bundle / "SHA256SUMS").write_text("".join(x for x in lines if "bundle.json" not in x))


FAULTS = {
    damage: r"wheels/torch-9\.9\+here-py3-none-any\.whl: has SHA-256 [0-9a-f]{64}, expected",
    remove: r"tools/seqkit: is missing",
    add_wheel: r"wheels/numpy-99\.0-py3-none-any\.whl: is not part of the bundle",
    lead_out: r"tools/seqkit: is a link out of the bundle",
    name_a_path_above: r"SHA256SUMS, line \d+: expected",
    forget_the_facts: r"bundle\.json is not listed",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_bundle_that_is_not_whole_is_refused_by_name(bundle, fault):
    fault(bundle)
    with pytest.raises(PlmscaleError, match=FAULTS[fault]):
        contents.check_files(bundle)


def test_the_installer_writes_nothing_where_a_checksum_is_wrong(bundle, tmp_path):
    damage(bundle)
    before = tree(bundle)
    code, text = install(bundle, tmp_path / "target")
    assert code == 2 and "has SHA-256" in text and "Traceback" not in text
    assert tree(bundle) == before and not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"python": "3.9"}, "this bundle is for Python 3.9, and "),
        ({"machine": "sparc64"}, "this bundle is for Linux on sparc64, and this is Linux on "),
        (
            {"glibc": "2.999"},
            "this bundle needs glibc 2.999 or newer, and this machine has glibc 2.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_python_or_machine_is_refused_before_anything_is_written(bundle, change, message):
    contents.write(bundle, replace(HERE, **change))
    before = tree(bundle)
    code, text = install(bundle)
    assert code == 2 and message in text and "Traceback" not in text
    assert tree(bundle) == before


def test_a_folder_in_use_is_not_written_to(bundle, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    code, text = install(bundle, tmp_path / "mine")
    assert code == 2 and "exists already; remove it or give a new folder" in text
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


# What is installed.


def test_the_bundle_alone_is_installed_from(bundle, tmp_path):
    # All that pip is told otherwise leads to another version, or nowhere.
    wheel(tmp_path / "other", "needed", "2.0")
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {tmp_path / 'other'}\n")
    script(tmp_path / "bin/seqkit", "echo of the machine")
    target = tmp_path / "a checkout"
    code, text = install(
        bundle,
        target,
        PIP_FIND_LINKS=str(tmp_path / "other"),
        PIP_INDEX_URL="http://127.0.0.1:9",
        PIP_CONFIG_FILE=str(tmp_path / "pip.conf"),
        HTTPS_PROXY="http://127.0.0.1:9",
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    )
    assert code == 0, text
    # No index was even asked.
    assert "Retrying" not in text
    python = target / ".venv/bin/python"
    done = subprocess.run(
        [python, "-c", "import needed, torch; print(torch.version, needed.version)"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "9.9+here 1.0\n"
    said = subprocess.run([target / ".venv/bin/seqkit"], capture_output=True, text=True).stdout
    assert said == "seqkit v1 of the bundle\n"
    assert (target / ".venv/.ready").exists() and not (bundle / "plmscale/.venv").exists()
    # What was installed from is as it was, so that it can be installed from again.
    assert contents.check_files(bundle) > 0
    assert install(bundle, target)[0] == 2


def test_a_folder_without_wheels_is_named(bundle, tmp_path):
    done = subprocess.run(
        ["bash", "scripts/make_env.sh"],
        cwd=bundle / "plmscale",
        env={**os.environ, "PYTHON": sys.executable, "WHEELS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and f"WHEELS={tmp_path} holds no wheel of torch" in done.stderr
    assert not (bundle / "plmscale/.venv").exists()
