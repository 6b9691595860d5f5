"""Members of tar archives (plain or packed), read as a stream: nothing of an archive is a path here.

Large archives are neither unpacked nor listed first. A member that is no plain file, such as a
link, is refused, and what is copied gets a name of ours, so no name in an archive leads anywhere.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from plmscale.corpus.openers import DAMAGED, open_sequences
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, disk_full_is_told

_CHUNK = 1 << 20
_BROKEN = (*DAMAGED, tarfile.TarError)
_SHOWN = 12


def is_tar(path: str | Path) -> bool:
    """Return whether the file at `path`, unpacked, begins like a tar archive."""
    try:
        with open_sequences(path) as handle:
            return handle.read(512)[257:262] == b"ustar"
    except DAMAGED:
        return False


@contextmanager
def open_member(
    path: str | Path, member: str, advance: Callable[[int], object] | None = None
) -> Iterator[IO[bytes]]:
    """Open one member of the archive at `path` as a stream.

    `member` is its name, or the last part of it. Raises PlmscaleError for a member that is not
    there (what is there is listed), that is a link, and for a damaged archive, then or while it is
    read.
    """
    seen = []
    with _damage_is_told(path):
        for name, content in _members(path, advance):
            if member not in (name, name.rsplit("/", 1)[-1]):
                seen.append(name)
                continue
            yield _file(path, name, content)
            return
    raise PlmscaleError(f"{path}: the archive has no {member}{shown(seen)}")


def copy_member(paths: Sequence[Path], member: str, out: Path) -> None:
    """Write `member` of each archive to `out`, one after another, as it is packed in there."""
    with atomic_write(out, "wb") as target:
        for path in paths:
            _must_be_tar(path)
            with open_member(path, member) as handle:
                shutil.copyfileobj(handle, target, _CHUNK)


def unpack(path: Path, wanted: Callable[[str], bool], folder: Path) -> list[str]:
    """Copy the members whose names are `wanted` into `folder`, by the last part of their names.

    Links are left out. Returns the names of all plain files in the archive.
    """
    _must_be_tar(path)
    seen = []
    with _damage_is_told(path), disk_full_is_told(folder):
        for name, content in _members(path):
            if content is None:
                continue
            seen.append(name)
            if not wanted(name):
                continue
            target = folder / name.rsplit("/", 1)[-1]
            if target.exists():
                raise PlmscaleError(
                    f"{path}: holds two files {target.name}; name the database as member: of the "
                    "source, with its folder"
                )
            with target.open("wb") as handle:
                shutil.copyfileobj(content, handle, _CHUNK)
    return seen


def listed(path: str | Path) -> str:
    """Return `; it holds ...` for an archive small enough to be listed at once."""
    if Path(path).stat().st_size > 1 << 30:
        return ""
    with _damage_is_told(path):
        return shown([name for name, _ in _members(path)])


def shown(names: Sequence[str]) -> str:
    """Return `; it holds ...` of the files in an archive."""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; it holds {', '.join(names[:_SHOWN]) or 'no file'}{more}"


def _members(
    path: str | Path, advance: Callable[[int], object] | None = None
) -> Iterator[tuple[str, _Member | None]]:
    """Yield (name, content) of all that is no folder, in order; None for what is no plain file."""
    with (
        open_sequences(path, advance) as stream,
        tarfile.open(fileobj=stream, mode="r:") as archive,
    ):
        while info := archive.next():
            # Nobody goes back to an entry, and the list of them only grows.
            archive.members = []
            plain = info.isreg() and not info.issparse()
            member = _Member(stream, info.size) if plain else None
            if not info.isdir():
                yield info.name.removeprefix("./"), member
            while member and member.read(_CHUNK):
                pass


class _Member(io.RawIOBase):
    """What follows the header of a plain file: read from the stream itself, which costs nothing."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the end of the member only."""
        parts = []
        size = self._left if size < 0 else min(size, self._left)
        while size:
            if not (part := self._stream.read(size)):
                raise tarfile.ReadError("unexpected end of data")
            parts.append(part)
            size -= len(part)
            self._left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _file(path: str | Path, name: str, member: _Member | None) -> _Member:
    if member is None:
        raise PlmscaleError(f"{path}: its member {name} is a link or device, not a file")
    return member


def _must_be_tar(path: str | Path) -> None:
    if not is_tar(path):
        raise PlmscaleError(
            f"{path}: is no tar archive, so it has no member; leave member: of the source out"
        )


@contextmanager
def _damage_is_told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise PlmscaleError(
            f"{path}: the archive is truncated or damaged ({error}); fetch it again"
        ) from None
