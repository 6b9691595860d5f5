"""`download`: places in order, attempts with back-off, verification, and one rename at the end."""

from __future__ import annotations

import gzip
import hashlib
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from plmscale.download.partial import Partial, locked
from plmscale.download.sources import (
    CHUNK,
    Broken,
    Changed,
    Client,
    Lost,
    Reply,
    Version,
    is_local,
    open_local,
)
from plmscale.errors import PlmscaleError
from plmscale.progress import Progress

ATTEMPTS = 6
# So much more than ever before, and the attempts are counted from the start again: a transfer of
# 100 GB may be cut often.
_PROGRESS = 1 << 20
_LONGEST_BACK_OFF = 60.0
# A server that asks for more patience than this is as good as absent.
_LONGEST_WAIT = 3600.0


def download(
    places: str | Sequence[str],
    target: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    partial: str | Path | None = None,
    connections: int = 4,
    attempts: int = ATTEMPTS,
    timeout: float = 60.0,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Copy a path or download an address to `target`, which appears only when it is whole and right.

    `places` are mirrors, tried in order: http://, https://, file:// or paths. `sha256`, `md5` (hex)
    and `size` (bytes) are what the file must have; without a checksum, the length that the server
    tells and the end of a gzip are all that is looked at. A target that is there with the right
    checksum is left as it is. What came before a failure stays in `partial` (default: a hidden
    file beside the target, `.NAME.part`), and the next call, in whatever process, goes on from it
    if the file has not changed. `wait` sleeps so many seconds between two attempts; `timeout` is
    the longest silence of a server, in seconds.

    Raises PlmscaleError when no place gives the file (each is named with its reason), when a
    checksum or size is wrong (expected and found), and when the disk does not take it.
    """
    target = Path(target)
    path = Path(partial) if partial else target.with_name(f".{target.name}.part")
    sums = {"sha256": sha256, "md5": md5}
    sums = {name: value.lower() for name, value in sums.items() if value}
    mirrors = [places] if isinstance(places, str) else list(places)
    reasons = []
    with locked(path, sums) as part:
        # After the lock, because another process may have brought it in meanwhile.
        if sums and _has(target, sums):
            return part.discard()
        progress, client = Progress(target.name), Client(timeout, connections)
        work = _Work(part, size, client, attempts, wait, progress)
        try:
            for place in mirrors:
                try:
                    work.from_place(place)
                    return part.become(target)
                except Lost as error:
                    reasons.append(_reason(place, error))
                    if place != mirrors[-1]:
                        progress.say(f"{reasons[-1]}; trying the next place")
        finally:
            progress.end()
            client.close()
            if not part.size and path.exists():
                part.discard()
        raise PlmscaleError("; ".join(reasons) + part.kept())


class _Wrong(Lost):
    """What came is not what was expected; the message is whole."""


def _reason(place: str, error: Lost) -> str:
    return (
        f"{place}: {error}" if isinstance(error, _Wrong) else f"{place}: cannot be fetched: {error}"
    )


@dataclass
class _Work:
    """What stays the same over the attempts of one download."""

    part: Partial
    size: int | None
    client: Client
    attempts: int
    wait: Callable[[float], object]
    progress: Progress

    def from_place(self, place: str) -> None:
        """Complete the partial file from one place. Raises Lost when that does not succeed."""
        failures, furthest = 0, self.part.size
        while True:
            try:
                return self._attempt(place, several=failures == 0)
            except Broken as error:
                if self.part.sums and self.part.size and not self.part.mistake():
                    return None  # a server that lies about the length; the checksum does not
                if self.part.size >= furthest + _PROGRESS:
                    failures, furthest = 0, self.part.size
                if isinstance(error, Changed):
                    self.part.restart(place, Version())
                failures += 1
                if failures >= self.attempts:
                    raise Lost(f"{error} (after {failures} attempts)") from None
                pause = max(error.after or 0.0, min(2.0 ** (failures - 1), _LONGEST_BACK_OFF))
                if pause > _LONGEST_WAIT:
                    raise Lost(f"{error}, and asks to wait {pause:,.0f} s") from None
                self.progress.say(
                    f"{place}: {error}; attempt {failures + 1} of {self.attempts} in {pause:.0f} s"
                )
                self.wait(pause)

    def _attempt(self, place: str, several: bool) -> None:
        part = self.part
        part.catch_up()
        offset = part.size if self._may_go_on(place) else 0
        with ExitStack() as stack:
            reply = stack.enter_context(self._opened(place, offset, several))
            self._take_up(place, reply)
            for chunk in reply.chunks:
                part.append(chunk)
                self.progress.add(len(chunk))
        total = part.version.size if self.size is None else self.size
        if total is not None and part.size != total:
            message = f"ended after {part.size:,} of {total:,} bytes"
            if part.size > total:
                part.restart(place, part.version)
            raise Broken(message)
        self._verify(place, offset=reply.start, total=total)

    def _may_go_on(self, place: str) -> bool:
        """Say whether the bytes so far may be continued from `place`.

        From another mirror, or where the server names no state of the file, only a checksum can
        tell afterwards that both halves belong together.
        """
        version = self.part.version
        if not self.part.size:
            return False
        if place == self.part.place and (version.etag or version.modified):
            return True
        return bool(self.part.sums) and version.size is not None

    def _opened(self, place: str, offset: int, several: bool) -> AbstractContextManager[Reply]:
        if is_local(place):
            return open_local(place, offset)
        if not place.startswith(("http://", "https://")):
            raise Lost("plmscale speaks http and https; most FTP servers answer under https:// too")
        known = self.part.version if place == self.part.place else Version()
        return self.client.open(place, offset, known, several)

    def _take_up(self, place: str, reply: Reply) -> None:
        """Make the partial file ready for the reply's chunks."""
        part, version = self.part, reply.version
        if None not in (self.size, version.size) and version.size != self.size:
            raise _Wrong(
                f"has {version.size:,} bytes, expected {self.size:,}; the file is another release"
            )
        if reply.start == 0:
            if part.size:
                self.progress.say(f"{place}: starts anew: it changed, or gives no ranges")
            part.restart(place, version)
        elif not self._continues(place, reply):
            raise Changed("the file changed in between; starts anew")
        else:
            self.progress.say(f"{place}: goes on after {part.size:,} bytes")
        if version.size is not None:
            part.make_room(version.size)
        self.progress.at(part.size, version.size)

    def _continues(self, place: str, reply: Reply) -> bool:
        old, new = self.part.version, reply.version
        if place == self.part.place and (same := old.same(new)) is not None:
            return same
        return bool(self.part.sums) and old.size == new.size

    def _verify(self, place: str, offset: int, total: int | None) -> None:
        """Raise unless the partial file is what was asked for; then it is forgotten."""
        part = self.part
        wrong = part.mistake() if part.sums else _broken_gzip(part.path)
        if not wrong:
            return
        part.restart(place, Version())
        if offset or total is None:
            # Joined from two transfers, or perhaps cut short: one in a single pass may be right.
            raise Broken(f"{wrong}; starts anew")
        if part.sums:
            wrong += (
                "; the file is damaged or another release: fetch it again, or correct its "
                "checksum in the study"
            )
        raise _Wrong(wrong)


def _broken_gzip(path: Path) -> str:
    """Return why a gzip cannot be read to its end; nothing for a whole one or another file."""
    with open(path, "rb") as handle:
        if handle.read(2) != b"\x1f\x8b":
            return ""
    try:
        with gzip.open(path) as handle:
            while handle.read(CHUNK):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"the gzip cannot be read to its end ({error}); the copy there is damaged"
    return ""


def _has(path: Path, sums: dict[str, str]) -> bool:
    """Say whether there is a file of all these checksums at `path`."""
    if not path.is_file():
        return False
    for name, expected in sums.items():
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, name).hexdigest() != expected:
                return False
    return True
