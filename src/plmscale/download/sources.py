"""One open place, read from a given byte on: an address over HTTP, or a local file."""

from __future__ import annotations

import collections
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from urllib3.util.retry import Retry

from plmscale import __version__

CHUNK = 1 << 20
Buffer = bytes | bytearray
# What one request brings when several connections share a file. Pieces wait in memory for their
# turn, at most two a connection.
PIECE = 8 << 20
# Answers of the class 4xx that another attempt may change.
_PASSING = (408, 425, 429)


class Lost(Exception):
    """This place does not give the file, and another attempt would not change that."""


class Broken(Exception):
    """This attempt failed; `after` is how long the server asks to wait, in seconds, if it does."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Changed(Broken):
    """The file there is no longer the one whose first bytes we have."""


@dataclass(frozen=True)
class Version:
    """What tells one state of a file from another; empty is unknown. `size` is in bytes.

    Weak entity tags are left out: they allow for other bytes.
    """

    etag: str = ""
    modified: str = ""
    size: int | None = None

    def same(self, other: Version) -> bool | None:
        """Say whether both are one state of one place's file; None where nothing tells."""
        if None not in (self.size, other.size) and self.size != other.size:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        if self.modified and other.modified:
            return self.modified == other.modified
        return None


@dataclass(frozen=True)
class Reply:
    """The bytes from `start` on (0 although another start was asked for: the whole file)."""

    start: int
    version: Version
    chunks: Iterator[Buffer]


def is_local(place: str) -> bool:
    """Say whether `place` is a path or a file:// address."""
    return "://" not in place or place.startswith("file://")


@contextmanager
def open_local(place: str, offset: int) -> Iterator[Reply]:
    """Open a path or file:// address at byte `offset`. Raises Lost if it cannot be read."""
    address = urlsplit(place) if place.startswith("file://") else None
    if address and address.netloc not in ("", "localhost"):
        raise Lost(f"file://{address.netloc}/ is another machine; write file:///path")
    path = Path(unquote(address.path) if address else place)
    if not path.is_file():
        raise Lost("it is no plain file" if path.exists() else "no such file")
    try:
        handle = path.open("rb")
    except OSError as error:
        raise Lost(f"it cannot be read ({error.strerror})") from None
    with handle:
        state = os.fstat(handle.fileno())
        handle.seek(offset)
        version = Version(modified=str(state.st_mtime_ns), size=state.st_size)
        yield Reply(offset, version, _read(handle))


def _read(handle: object) -> Iterator[bytes]:
    try:
        while chunk := handle.read(CHUNK):
            yield chunk
    except OSError as error:
        raise Lost(f"reading it failed: {error.strerror}") from None


class Client:
    """Requests over HTTP; honours the usual variables for proxies and certificates.

    `timeout` (seconds) is the longest silence, not the longest transfer.
    """

    def __init__(self, timeout: float, connections: int) -> None:
        self.connections, self.timeout = connections, timeout
        self.session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections + 1)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)

    @contextmanager
    def open(self, url: str, offset: int, known: Version, several: bool) -> Iterator[Reply]:
        """Ask for the file from byte `offset` on, if it is still the state `known`.

        With `several`, pieces come over several connections if the server gives ranges.
        Raises Lost or Broken; so do the chunks of the reply.
        """
        several = several and self.connections > 1
        last = offset + PIECE - 1 if several else None
        with self._get(url, offset, last, known) as first:
            size = first.version.size
            if last is None or first.status != 206 or last + 1 >= size:
                yield first
                return
            with closing(self._pieces(url, last + 1, first.version)) as rest:
                yield Reply(offset, first.version, _joined(first.chunks, rest))

    def close(self) -> None:
        """End all connections."""
        self.session.close()

    @contextmanager
    def _get(self, url: str, offset: int, last: int | None, known: Version) -> Iterator[_Answer]:
        # Encoded on the way, byte positions and checksums would be those of other bytes.
        headers = {"User-Agent": f"plmscale/{__version__}", "Accept-Encoding": "identity"}
        if offset or last is not None:
            headers["Range"] = f"bytes={offset}-{'' if last is None else last}"
        if offset and (known.etag or known.modified):
            headers["If-Range"] = known.etag or known.modified
        try:
            with self.session.get(
                url, headers=headers, stream=True, timeout=(min(30, self.timeout), self.timeout)
            ) as response:
                yield _understood(response, offset, last)
        except (requests.ConnectionError, requests.Timeout) as error:
            text = _innermost(error)
            if "CERTIFICATE_VERIFY_FAILED" in text:
                raise Lost(text) from None
            raise Broken(text) from None
        except requests.RequestException as error:
            raise Lost(str(error)) from None

    def _pieces(self, url: str, start: int, version: Version) -> Iterator[Buffer]:
        """Yield the bytes from `start` to the end in order, piece by piece, fetched in parallel."""
        stopped = threading.Event()

        def piece(first: int) -> bytearray:
            last = min(first + PIECE, version.size) - 1
            data = bytearray()
            with self._get(url, first, last, version) as answer:
                if answer.status != 206 or version.same(answer.version) is False:
                    raise Changed("the file changed, or the server gives ranges no longer")
                for chunk in answer.chunks:
                    data += chunk
                    if stopped.is_set():
                        break
            if len(data) != last + 1 - first and not stopped.is_set():
                raise Broken(f"a range ended after {len(data):,} of {last + 1 - first:,} bytes")
            return data

        waiting: collections.deque[Future[bytearray]] = collections.deque()
        with ThreadPoolExecutor(self.connections) as pool:
            try:
                for first in range(start, version.size, PIECE):
                    waiting.append(pool.submit(piece, first))
                    # An empty chunk gives the first piece its turn while these are under way.
                    yield b"" if len(waiting) < 2 * self.connections else waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                stopped.set()
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Answer(Reply):
    status: int


def _understood(response: requests.Response, offset: int, last: int | None) -> _Answer:
    """Return what a response gives. Raises Lost for a final refusal, Broken for a passing one."""
    status, headers = response.status_code, response.headers
    etag = headers.get("ETag", "")
    etag = "" if etag.startswith("W/") else etag
    modified = headers.get("Last-Modified", "")
    place = re.fullmatch(
        r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)", headers.get("Content-Range", "").strip()
    )
    size = int(place[3]) if place and place[3].isdigit() else None
    if status == 200:
        length = headers.get("Content-Length", "")
        version = Version(etag, modified, int(length) if length.isdigit() else None)
        return _Answer(0, version, _stream(response), status)
    if status == 206:
        if not place or place[1] is None or int(place[1]) != offset:
            raise Broken(
                f"asked from byte {offset}, got {headers.get('Content-Range', 'no range')}"
            )
        if last is not None and size is None:
            raise Broken(f"asked for bytes {offset}-{last}, got {headers['Content-Range']}")
        return _Answer(offset, Version(etag, modified, size), _stream(response), status)
    if status == 416 and size == offset:
        # Nothing is left to send.
        return _Answer(offset, Version(etag, modified, size), iter(()), status)
    text = f"the server answers {status} {response.reason or ''}".rstrip()
    if status == 416:
        raise Changed(text)
    if status < 500 and status not in _PASSING:
        raise Lost(text)
    raise Broken(text, after=_retry_after(headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else Retry().parse_retry_after(value)
    except urllib3.exceptions.InvalidHeader:
        return None


def _stream(response: requests.Response) -> Iterator[bytes]:
    """Yield bytes as they come, so that what arrived before a cut is kept."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Broken(_innermost(error)) from None


def _joined(first: Iterator[Buffer], rest: Iterator[Buffer]) -> Iterator[Buffer]:
    next(rest)  # the other connections start before the first piece is read
    missing = PIECE  # a shorter piece would leave a gap before the next one
    for chunk in first:
        missing -= len(chunk)
        yield chunk
    if missing:
        raise Broken(f"a range ended {missing:,} bytes early")
    yield from rest


def _innermost(error: BaseException) -> str:
    """Return the reason below the wrappers that libraries put around it."""
    while True:
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else None
        inner = inner or next((a for a in error.args if isinstance(a, BaseException)), None)
        if inner is None:
            return str(error) or type(error).__name__
        error = inner
