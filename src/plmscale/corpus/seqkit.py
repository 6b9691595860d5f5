"""The seqkit program: which version; the rules run it through rules/wrappers/seqkit."""

from __future__ import annotations

import subprocess

from plmscale.errors import PlmscaleError


def version() -> str:
    """Return the version seqkit reports, such as `v2.3.0`."""
    try:
        done = subprocess.run(["seqkit", "version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        raise PlmscaleError("seqkit is not on PATH; run `make env`, or install it") from None
    return done.stdout.removeprefix("seqkit").strip()
