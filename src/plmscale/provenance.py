"""Where a result came from: versions, git state, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import plmscale
from plmscale.files import read_json

_PACKAGES = [
    "torch",
    "deepspeed",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "seaborn",
    "matplotlib",
    "pydantic",
    "snakemake",
    "safetensors",
]


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(plmscale.__file__).parent), *args],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def git_state() -> dict[str, str | bool | None]:
    """Return commit (None outside a repository) and whether tracked files were changed.

    A checkout out of a bundle is no repository; what it was made from stands in bundle.json.
    """
    if (told := Path(plmscale.__file__).parents[2] / "bundle.json").exists():
        return {"commit": read_json(told).get("commit"), "dirty": None}
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


@cache
def versions() -> dict[str, str]:
    """Return versions of plmscale, Python and the packages a result depends on, if installed."""
    found = {"plmscale": plmscale.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def hardware() -> str:
    """Return a line that names the processor and the cores this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"
