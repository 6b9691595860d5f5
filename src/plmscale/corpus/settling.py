"""Sources before they are read: patterns spelled out, checksums of local files computed once."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from plmscale.corpus.source_config import FileConfig, SourceConfig, is_pattern
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint, sha256_file
from plmscale.progress import Progress

if TYPE_CHECKING:
    from plmscale.corpus.config import CorpusConfig


def settle(corpus: CorpusConfig, project: str | Path) -> CorpusConfig:
    """Return `corpus` with every file of its sources named and pinned.

    Patterns and databases become lists of files, and local files get their checksums, because the
    key of a corpus must be known before it is built. Checksums are remembered by path, size and
    date in the user's cache: hashing costs a second a gigabyte. Paths are relative to `project`.
    Raises PlmscaleError for a file that is not there.
    """
    settled = {}
    for name, source in corpus.sources.items():
        files = [
            found
            for file in source.all_files()
            for found in _settled(f"corpus.sources.{name}", source, file, Path(project))
        ]
        if files != source.all_files():
            settled[name] = _with_files(source, files)
    if not settled:
        return corpus
    return corpus.model_copy(update={"sources": {**corpus.sources, **settled}})


def _with_files(source: SourceConfig, files: list[FileConfig]) -> SourceConfig:
    if len(files) == 1 and not source.files:
        changes = files[0].model_dump()
    else:
        blank = FileConfig().model_dump()
        changes = {**blank, "files": [file.model_dump() for file in files]}
    # What stood for it before is settled now.
    return SourceConfig.model_validate({**source.model_dump(), **changes})


def _settled(
    where: str, source: SourceConfig, file: FileConfig, project: Path
) -> Iterable[FileConfig]:
    """Return the files that `file` stands for, with checksums; an address is left as it is."""
    if not file.path or file.sha256:
        return [file]
    paths = [project / file.path]
    if is_pattern(file.path) and not paths[0].exists():
        found = glob.glob(str(paths[0]), recursive=True)
        paths = [Path(path) for path in sorted(found) if not os.path.isdir(path)]
        if not paths:
            raise PlmscaleError(f"{where}: no file fits {file.path}")
    elif source.reads_as == "mmseqs":
        paths = _parts_of_database(where, paths[0])
    given = file.model_copy(update={"size": None, "md5": ""}) if len(paths) > 1 else file
    return [
        given.model_copy(
            update={
                "path": str(path) if os.path.isabs(file.path) else os.path.relpath(path, project),
                "sha256": remembered_sha256(where, path),
            }
        )
        for path in paths
    ]


def _parts_of_database(where: str, path: Path) -> list[Path]:
    """Return the files of the MMseqs2 database(s) at `path`: a folder, an archive, a main file."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not any(p.name.endswith(".dbtype") for p in found):
            raise PlmscaleError(f"{where}: {path} holds no MMseqs2 database (no *.dbtype)")
        return found
    if not path.with_name(f"{path.name}.dbtype").exists():
        return [path]
    beside = [p for p in path.parent.iterdir() if p.is_file()]
    return sorted(p for p in beside if belongs_to_database(p.name, path.name))


def belongs_to_database(file: str, database: str) -> bool:
    """Return whether a file of this name is one that reading the sequences of `database` takes.

    Data (one file, or pieces that end in a number), index and type, of sequences and headers.
    """
    for base in (database, f"{database}_h"):
        rest = file.removeprefix(base)
        if file.startswith(base) and (
            rest in ("", ".index", ".dbtype") or (rest[:1] == "." and rest[1:].isdigit())
        ):
            return True
    return False


def remembered_sha256(where: str, path: Path) -> str:
    """Return the SHA-256 of a file, from the cache where it has not changed since."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise PlmscaleError(f"{where}: {path}: no such file") from None
    except OSError as error:
        raise PlmscaleError(f"{where}: {path}: cannot be read: {error.strerror}") from None
    if path.is_dir():
        raise PlmscaleError(f"{where}: {path} is a folder; name a file, or {path}/*")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plmscale/sha256"
    entry = cache / fingerprint([str(path.resolve()), status.st_size, status.st_mtime_ns])[:32]
    try:
        return str(json.loads(entry.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        digest = hash_file(path)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"sha256": digest, "path": str(path)}))
        os.replace(temporary, entry)
    except OSError:
        pass  # A cache that cannot be written only costs time.
    return digest


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex, and show how far it is where that takes its time."""
    progress = Progress(f"SHA-256 of {path.name}")
    try:
        progress.at(0, path.stat().st_size)
        return sha256_file(path, progress.add)
    except OSError as error:
        raise PlmscaleError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        progress.end()
