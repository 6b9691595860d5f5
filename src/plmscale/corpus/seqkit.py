"""The seqkit program for corpora built without Snakemake; the rules use rules/wrappers/seqkit."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from plmscale.errors import PlmscaleError


def run(command: str, options: Sequence[str | int], source: Path, target: Path) -> None:
    """Run a seqkit command on protein FASTA, one line a sequence; a failure is a PlmscaleError."""
    # Left to guess, seqkit takes a first sequence of A, C, G and T for DNA.
    common = ["--seq-type", "protein", "--line-width", "0", "--out-file", str(target), str(source)]
    _call([command, *map(str, options), *common])


def version() -> str:
    """Return the version seqkit reports, such as `v2.3.0`."""
    return _call(["version"]).removeprefix("seqkit").strip()


def _call(arguments: list[str]) -> str:
    try:
        done = subprocess.run(["seqkit", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise PlmscaleError("seqkit is not on PATH; run `make env`, or install it") from None
    except subprocess.CalledProcessError as error:
        raise PlmscaleError(
            f"seqkit {arguments[0]} failed: {error.stderr.strip()[-300:]}"
        ) from None
    return done.stdout
