"""Bring in the released logs: one archive of a pinned commit, every file verified."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from plmscale.errors import PlmscaleError

COMMIT = "12acfa0b1324b50e832f757e956bd26753aa5619"
URL = f"https://codeload.github.com/cxysteven/ScalingProteinLM/tar.gz/{COMMIT}"
CHECKSUMS = Path(__file__).parents[3] / "resources" / "cheng2024-logs.sha256"
FOLDER = "data/training_logs"
# The logs are 20 MB; a file beyond this is not one of them.
_LARGEST = 64 << 20


def read_checksums(path: str | Path = CHECKSUMS) -> dict[str, str]:
    """Return {relative path: SHA-256} of a table of lines `sha256  path`.

    Raises PlmscaleError for a missing table, a line of another form, and a path that leaves the
    folder.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PlmscaleError(f"{path}: checksums cannot be read ({error.strerror})") from None
    table = {}
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef") or not _inside(name):
            raise PlmscaleError(f"{path}, line {number}: expected `sha256  relative/path`")
        table[name] = digest
    if not table:
        raise PlmscaleError(f"{path}: no checksums in it")
    return table


def fetch_logs(url: str, checksums: str | Path, out: str | Path) -> int:
    """Download an archive (.zip or .tar.gz) and put the listed log files into the folder `out`.

    Only files below `data/training_logs/` that the table of checksums names are unpacked. `out`
    appears by one rename, when every one of them is there and right; returns their number.

    Raises PlmscaleError when `out` exists, the address does not answer, the archive is damaged,
    or a file is missing or not the one expected (the first such is named).
    """
    from plmscale.download.download import download

    out, table = Path(out), read_checksums(checksums)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()  # Snakemake makes the folders of its outputs
    if out.exists():
        raise PlmscaleError(f"{out}: exists already; remove it or give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        archive, unpacked = Path(scratch) / "archive", Path(scratch) / "logs"
        unpacked.mkdir()
        # Beside the scratch folder, so that the next call goes on from what came.
        download(url, archive, partial=out.parent / f".{out.name}.archive.part")
        found = _unpack(archive, unpacked, table, url)
        for name in sorted(table):
            if name not in found:
                raise PlmscaleError(
                    f"{url}: {FOLDER}/{name} is not in the archive; is it the commit {COMMIT}?"
                )
        unpacked.chmod(0o755)
        try:
            unpacked.rename(out)
        except OSError:
            raise PlmscaleError(f"{out}: another process has just made it") from None
    return len(table)


def _unpack(archive: Path, target: Path, table: dict[str, str], url: str) -> set[str]:
    """Write the listed files below `target`, each only if its checksum is right."""
    found: set[str] = set()
    try:
        for name, data in _members(archive):
            # The first folder is the archive's own: repository and commit.
            inner = PurePosixPath(name).parts[1:]
            place = PurePosixPath(*inner)
            if not _inside(name) or not place.is_relative_to(FOLDER):
                continue
            relative = str(place.relative_to(FOLDER))
            if relative not in table:
                continue
            content = data.read(_LARGEST)
            digest = hashlib.sha256(content).hexdigest()
            if digest != table[relative]:
                raise PlmscaleError(
                    f"{url}: {place} has SHA-256 {digest}, expected {table[relative]}; the archive "
                    "is damaged or another release"
                )
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            found.add(relative)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        raise PlmscaleError(f"{url}: the archive cannot be read ({error}); fetch again") from None
    return found


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, open file) of the plain files of a zip or a tar, links and folders left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                # The upper 16 bits are the Unix mode: 0o12 is a symbolic link.
                if not info.is_dir() and info.external_attr >> 28 != 0o12:
                    with bundle.open(info) as data:
                        yield info.filename, data
        return
    with tarfile.open(archive) as bundle:
        for member in bundle:
            if member.isreg() and (data := bundle.extractfile(member)) is not None:
                yield member.name, data


def _inside(name: str) -> bool:
    """Say whether a path stays below the folder it is relative to."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
