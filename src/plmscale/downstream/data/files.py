"""A source's files: where they lie, bringing them in, and making sure that they stay the same."""

from __future__ import annotations

import contextlib
from pathlib import Path

from plmscale.downstream.data.entries import FileEntry, SourceEntry
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint, read_json, sha256_file, write_json


def present(task: str, source: str, entry: SourceEntry, folder: Path) -> dict[str, Path]:
    """Return the files that are there, by role.

    Raises PlmscaleError for a missing one, with what to do.
    """
    if not folder.is_dir():
        raise PlmscaleError(
            f"{folder}: no such folder; the data of {task} ({source}) are looked for there"
        )
    paths = {}
    for role, file in entry.files.items():
        path = folder / file.path
        if path.is_file():
            paths[role] = path
        elif not file.optional:
            raise PlmscaleError(f"{path}: missing; {_by_hand(task, source, file, path)}")
    return paths


def fetch(task: str, source: str, entry: SourceEntry, folder: Path) -> list[str]:
    """Bring in what is not there yet; return notes on optional files that could not be had.

    A file whose SHA-256 is known, from the registry or from the first time, must have it. Files
    laid in place by hand are taken. A cut download is gone on from by the next call
    (plmscale.download). Raises PlmscaleError as that, and says how to lay the file by hand.
    """
    from plmscale.download.download import download

    lock, notes = Lock(task, source, folder), []
    for file in entry.files.values():
        path = folder / file.path
        known = file.sha256 or lock.sha256(file.path)
        if path.is_file() and (not known or sha256_file(path) == known):
            continue
        try:
            if not file.places:
                raise PlmscaleError(f"{path}: missing; no address is known")
            path.parent.mkdir(parents=True, exist_ok=True)
            download(file.places, path, sha256=known or None, size=file.size)
        except PlmscaleError as error:
            if not file.optional:
                hand = _by_hand(task, source, file, path)
                raise PlmscaleError(f"{task} ({source}): {error}; {hand}") from None
            notes.append(f"{path.name} could not be fetched ({error})")
    paths = present(task, source, entry, folder)
    _, lock = verify(task, source, entry, paths, folder)
    lock.write()
    return notes


def verify(
    task: str, source: str, entry: SourceEntry, paths: dict[str, Path], folder: Path
) -> tuple[dict[str, str], Lock]:
    """Return the SHA-256 of each file by role, and the lock, which the caller may write.

    Compared with the registry's where that has one, else with what was written down the first time
    (`TASK-SOURCE.lock.json` in the folder). Raises PlmscaleError where they differ.
    """
    lock, digests = Lock(task, source, folder), {}
    for role, path in paths.items():
        file = entry.files[role]
        size = path.stat().st_size
        if file.size and size != file.size:
            raise PlmscaleError(
                f"{path}: has {size:,} bytes, expected {file.size:,}; the file is damaged or "
                f"another release: {_by_hand(task, source, file, path)}"
            )
        digests[role] = sha256 = sha256_file(path)
        if file.sha256 and sha256 != file.sha256:
            raise PlmscaleError(
                f"{path}: SHA-256 is {sha256}, expected {file.sha256}; the file is damaged or "
                f"another release: {_by_hand(task, source, file, path)}"
            )
        if not file.sha256:
            lock.check(file.path, path, sha256)
    return digests, lock


def combined(digests: dict[str, str]) -> str:
    """Return one SHA-256 for what was read: the file's own, or of all roles and their digests."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    return fingerprint(digests)


class Lock:
    """SHA-256 of files that the registry knows none of, as they were when first read."""

    def __init__(self, task: str, source: str, folder: Path) -> None:
        self.path = folder / f"{task}-{source}.lock.json"
        self.known: dict[str, str] = {}
        if self.path.is_file():
            known = read_json(self.path)
            if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
                raise PlmscaleError(f"{self.path}: expected an object of path: SHA-256; remove it")
            self.known = known
        self.changed = False

    def sha256(self, name: str) -> str:
        """Return what is known of the file `name`, or nothing."""
        return self.known.get(name, "")

    def check(self, name: str, path: Path, sha256: str) -> None:
        """Compare with the first time, or make this the first time."""
        if (first := self.known.setdefault(name, sha256)) != sha256:
            raise PlmscaleError(
                f"{path}: SHA-256 is {sha256}, but was {first} the first time; get that file "
                f"back, or remove its line from {self.path} if the new one is meant"
            )
        self.changed = True

    def write(self) -> bool:
        """Keep what is new; False where the folder cannot be written."""
        if not self.changed or (self.path.is_file() and read_json(self.path) == self.known):
            return True
        with contextlib.suppress(OSError):
            write_json(self.path, self.known)
            return True
        return False


def _by_hand(task: str, source: str, file: FileEntry, path: Path) -> str:
    where = f"download it from {file.places[0]}" if file.places else "see docs/downstream.md"
    return f"{where} and lay it at {path} (resources/downstream/{task}.yaml, source {source})"
