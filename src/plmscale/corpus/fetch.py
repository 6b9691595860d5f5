"""Bring in a source: a local file or an address, verified before anyone reads it."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write

_ATTEMPTS = 4
# Answers that another attempt does not change.
_LOST = (400, 401, 403, 404, 410)


def fetch(place: str, sha256: str, target: str | Path) -> None:
    """Copy a path or download a URL to `target`, which appears only when its SHA-256 is right.

    Raises PlmscaleError for a missing file, an address that does not answer after several
    attempts, and a wrong checksum (naming file, expected and found).
    """
    if "://" not in place:
        if not Path(place).is_file():
            raise PlmscaleError(f"{place}: no such file")
        with open(place, "rb") as handle:
            return _verified_copy(handle, place, sha256, target)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(place, timeout=60) as handle:
                return _verified_copy(handle, place, sha256, target)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            code = error.code if isinstance(error, urllib.error.HTTPError) else 0
            lost = code in _LOST or place.startswith("file:")
            if lost or attempt == _ATTEMPTS:
                raise PlmscaleError(f"{place}: cannot be fetched: {error}") from None
            time.sleep(2**attempt)
    return None


def _verified_copy(handle: IO[bytes], place: str, sha256: str, target: str | Path) -> None:
    digest = hashlib.sha256()

    class Tee:
        def __init__(self, out: IO[bytes]) -> None:
            self.out = out

        def write(self, chunk: bytes) -> None:
            digest.update(chunk)
            self.out.write(chunk)

    with atomic_write(target, "wb") as out:
        shutil.copyfileobj(handle, Tee(out), 1 << 20)
        if digest.hexdigest() != sha256:
            raise PlmscaleError(
                f"{place}: SHA-256 is {digest.hexdigest()}, expected {sha256}; the file is damaged "
                "or another release: fetch it again, or correct its checksum in the study"
            )
