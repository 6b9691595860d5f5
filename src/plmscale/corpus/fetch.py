"""Bring in the files of a source: local files or addresses, verified before anyone reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from plmscale.corpus.metalink import PublishedFile, published, read_metalink
from plmscale.corpus.settling import hash_file
from plmscale.corpus.source_config import FileConfig, SourceConfig
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json


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


def fetch_file(
    source: SourceConfig,
    index: int,
    out: str | Path,
    found: str | Path,
    project: str | Path = "",
) -> dict[str, object]:
    """Bring file number `index` of `source` to `out`; write what it is to `found` as JSON.

    That is its name, address, size, SHA-256, MD5 where published, release, and what it was
    verified by; nothing of this machine. Paths are relative to `project`. A file that is there
    already and as expected is left as it is. Raises PlmscaleError as `fetch`, and where a metalink
    is of another release than the study.
    """
    from plmscale.download.download import download

    out, found = Path(out), Path(found)
    file = source.all_files()[index]
    out.parent.mkdir(parents=True, exist_ok=True)
    known: PublishedFile | None = None
    if source.metalink:
        known = _ask_metalink(source, file)
    size = _agreed(file, "size", file.size, known and known.size)
    md5 = _agreed(file, "md5", file.md5, known and known.md5)
    places = [str(Path(project, file.path)) if file.path else file.url, *file.mirrors]
    if known:
        usable = [url for url in known.urls if url.startswith(("http://", "https://"))]
        places += [url for url in usable if url not in places]
    verified_by = "sha256" if file.sha256 else "md5" if md5 else ""
    if verified_by or not _came_before(out, found):
        download(
            places,
            out,
            sha256=file.sha256 or None,
            md5=str(md5) if md5 else None,
            size=size,  # type: ignore[arg-type]
        )
    record: dict[str, object] = {
        "name": Path(file.place).name,
        "url": file.url,
        "size": out.stat().st_size,
        "sha256": file.sha256 or hash_file(out),
        "release": source.release,
        "verified_by": verified_by or "nothing: the server publishes no checksum",
    }
    if md5:
        record["md5"] = md5
    write_json(found, record)
    return record


def _ask_metalink(source: SourceConfig, file: FileConfig) -> PublishedFile:
    from plmscale.download.download import download

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "RELEASE.metalink"
        download(source.metalink, path)
        metalink = read_metalink(path, source.metalink)
    name = Path(file.url).name
    return published(metalink, name, source.release, source.metalink, file.url)


def _agreed(file: FileConfig, what: str, ours: object, theirs: object) -> object:
    """Return what the study or the metalink says; raise where both do, and differ."""
    given = ours not in (None, "")
    if given and theirs is not None and ours != theirs:
        raise PlmscaleError(
            f"{file.url}: the study gives {what} {ours}, its metalink {theirs}; the file is another "
            "release: correct the study"
        )
    return ours if given else theirs


def _came_before(out: Path, found: Path) -> bool:
    """Return whether an unverified file is the one that an earlier fetch wrote down."""
    if not (out.is_file() and found.is_file()):
        return False
    return read_json(found).get("size") == out.stat().st_size
