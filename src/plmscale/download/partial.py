"""The unfinished file of a download: one process's at a time, and any later one goes on from it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plmscale.download.sources import CHUNK, Buffer, Version
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json

# File systems mounted without locks (Lustre without -o flock, some network mounts).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Partial:
    """The bytes so far, from byte 0 on, and a small JSON beside them that says of which file.

    `sums` are the checksums the whole file must have, {"sha256": hex, "md5": hex}, any of them.
    """

    def __init__(self, path: Path, handle: Any, sums: dict[str, str]) -> None:
        self.path, self.handle, self.sums = path, handle, sums
        self.note = path.with_name(path.name + ".json")
        self.place, self.version = "", Version()
        self._forget_digests()
        self._recall()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self.handle.fileno()).st_size

    def kept(self) -> str:
        """Return what to tell a person about the bytes so far, or nothing when there are none."""
        if not self.size:
            return ""
        return f"; {self.size / 1e6:,.1f} MB are kept in {self.path}, and the next start goes on from them"

    def restart(self, place: str, version: Version) -> None:
        """Forget the bytes; those to come are of `version`, the file at `place`."""
        self.handle.truncate(0)
        self._forget_digests()
        self.place, self.version = place, version
        # Only now, when no byte of another file is left, may the note vouch for what follows.
        write_json(self.note, {"place": place, "version": asdict(version)})

    def append(self, chunk: Buffer) -> None:
        """Write at the end. Raises PlmscaleError when the disk does not take it."""
        left = memoryview(chunk)
        try:
            self.handle.seek(0, os.SEEK_END)
            while left:
                left = left[self.handle.write(left) :]
        except OSError as error:
            raise self._refused(error) from error
        self._digest(chunk)

    def make_room(self, total: int) -> None:
        """Raise PlmscaleError when the disk cannot hold a file of `total` bytes."""
        free = shutil.disk_usage(self.path.parent).free
        if (missing := total - self.size - free) > 0:
            raise PlmscaleError(
                f"no space left on the disk for {self.path}: {missing / 1e6:,.1f} MB more are "
                f"needed; free some and start again{self.kept()}"
            )

    def catch_up(self) -> None:
        """Bring the checksums up to the bytes that an earlier process left."""
        self.handle.seek(self._digested)
        while self.digests and self._digested < self.size:
            self._digest(self.handle.read(CHUNK))

    def mistake(self) -> str:
        """Return which checksum is wrong, expected and found, or nothing if all given are right."""
        for name, digest in self.digests.items():
            if digest.hexdigest() != self.sums[name]:
                title = {"sha256": "SHA-256", "md5": "MD5"}[name]
                return f"{title} is {digest.hexdigest()}, expected {self.sums[name]}"
        return ""

    def become(self, target: Path) -> None:
        """Give the file its final name, by one rename."""
        try:
            os.fsync(self.handle.fileno())
            os.replace(self.path, target)
        except OSError as error:
            raise self._refused(error) from error
        self.note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove every trace."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _digest(self, chunk: Buffer) -> None:
        for digest in self.digests.values():
            digest.update(chunk)
        self._digested += len(chunk)

    def _forget_digests(self) -> None:
        self.digests = {name: hashlib.new(name, usedforsecurity=False) for name in self.sums}
        self._digested = 0

    def _recall(self) -> None:
        """Take up what an earlier process wrote down; without it, its bytes are of no use."""
        with contextlib.suppress(PlmscaleError, KeyError, TypeError):
            note = read_json(self.note)
            self.place, self.version = str(note["place"]), Version(**note["version"])

    def _refused(self, error: OSError) -> PlmscaleError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return PlmscaleError(
                f"no space left on the disk, or in the quota, while writing {self.path}; free some "
                f"and start again{self.kept()}"
            )
        return PlmscaleError(
            f"{self.path}: cannot be written ({error.strerror}); mend that and start again{self.kept()}"
        )


@contextmanager
def locked(path: Path, sums: dict[str, str]) -> Iterator[Partial]:
    """Yield the partial file at `path` (made if need be), held by this process alone.

    Waits while another holds it. Where the file system knows no locks, the file gets a name that
    only this process uses, which a later one does not go on from.
    """
    handle = None
    while handle is None:
        handle = _opened(path)
        try:
            _lock(handle, path)
        except OSError as error:
            unused = os.fstat(handle.fileno()).st_size == 0
            handle.close()
            if error.errno not in _NO_LOCKS:
                raise PlmscaleError(f"{path}: cannot be locked ({error.strerror})") from None
            if unused:
                path.unlink(missing_ok=True)
            path = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
            handle = _opened(path)
            break
        # Whoever held the lock may have renamed or removed the file meanwhile.
        if not _is_still(handle, path):
            handle.close()
            handle = None
    with handle:
        yield Partial(path, handle, sums)


def _opened(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise PlmscaleError(f"{path}: cannot be written ({error.strerror})") from None


def _lock(handle: Any, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"plmscale: another process fetches {path}; waiting for it", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_EX)


def _is_still(handle: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
