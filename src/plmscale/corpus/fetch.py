"""Bring in a source: a local file or an address, verified before anyone reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def fetch(
    place: str | Sequence[str],
    sha256: str | None,
    target: str | Path,
    *,
    md5: str | None = None,
    size: int | None = None,
) -> None:
    """Copy a path or download a URL to `target`, which appears only when it is as expected.

    `place` may be several mirrors, tried in order. `sha256` and `md5` are hex, `size` is in bytes;
    at least one checksum is needed. What came before a failure is kept beside the target, and the
    next call goes on from it (plmscale.download).

    Raises PlmscaleError for a missing file, an address that does not answer after several
    attempts, and a wrong checksum (naming file, expected and found).
    """
    from plmscale.download.download import download

    if not (sha256 or md5):
        raise ValueError(f"{place}: a source needs a checksum")
    download(place, target, sha256=sha256, md5=md5, size=size)
