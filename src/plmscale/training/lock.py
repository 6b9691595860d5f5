"""One process trains a run: a lock that the kernel frees, and a heartbeat where it cannot.

The kernel's lock holds on one machine and on file systems that carry it over a network. Not all do, so
the owner also writes a mark of its own and the time into `owner.lock` every few seconds. Whoever wants
the run waits until that is old; an owner that finds another's mark leaves at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError

LOCK = "owner.lock"
BEAT_SECONDS = 10.0
# So many missed beats mean that the owner is gone, or so cut off that it will find itself replaced.
_MISSED = 6
# Nobody need watch a mark as old as this to know that it is not renewed.
_LONG_AGO = 3600.0


class Owner:
    """This process's hold on a run."""

    def __init__(self, directory: Path, handle: Any) -> None:
        self.directory, self.mark = directory, uuid.uuid4().hex
        self._handle = handle
        self.beat()

    def beat(self, mark: str | None = None) -> None:
        """Write mark, process and time; a full disk does not end the run that it stops elsewhere."""
        owner = {
            "mark": self.mark if mark is None else mark,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "time": time.time(),
        }
        with suppress(OSError):
            # Padded and written in one call, so that a reader never sees a part.
            os.pwrite(self._handle.fileno(), json.dumps(owner).ljust(400).encode(), 0)
            os.fsync(self._handle.fileno())

    def replaced_by(self) -> dict[str, Any] | None:
        """Return who has taken the run over, or None."""
        owner = _read(self.directory / LOCK)
        return owner if owner.get("mark") not in (self.mark, None) else None

    def leave_if_replaced(self) -> None:
        """End this process at once when another one trains the run: nothing more may be written."""
        if (other := self.replaced_by()) is not None:
            print(
                f"plmscale: error: {self.directory}: this run was taken over by "
                f"{describe(other)}; leaving it",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)


@contextmanager
def owned(directory: Path, patience: float = 60.0, beat: float = BEAT_SECONDS) -> Iterator[Owner]:
    """Hold the run's lock; wait `patience` seconds for a dying owner, then name the live one.

    Raises PlmscaleError when another process keeps the run. A process that finds itself replaced
    ends with exit code 1 and writes nothing more.
    """
    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise PlmscaleError(f"{path}: {error.strerror}; training must write there") from None
    with handle:
        told = _acquire(handle, path, patience, beat)
        takeover = not told or not _gone(_read(path), told)
        owner = Owner(directory, handle)
        if takeover:
            # Where locks do not hold, two may have waited for the same silence: the last to write
            # its mark stays.
            time.sleep(beat / 2)
            owner.leave_if_replaced()
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(beat):
                owner.leave_if_replaced()
                owner.beat()

        keeper = threading.Thread(target=keep, name="owner", daemon=True)
        keeper.start()
        try:
            yield owner
        finally:
            stop.set()
            keeper.join()
            if owner.replaced_by() is None:
                # A free run says so, whatever the file system thinks of locks.
                owner.beat(mark="")


def _acquire(handle: Any, path: Path, patience: float, beat: float) -> bool:
    """Wait until no live owner is left; return whether the kernel's lock is held, too."""
    start = changed = time.monotonic()
    first = seen = _read(path)
    old = _age(path) > _LONG_AGO
    while True:
        locked = _lock(handle)
        # What cannot be read is as good as not changed.
        owner, now = _read(path) or seen, time.monotonic()
        if owner != seen:
            seen, changed = owner, now
        # Clocks of two machines may differ, so silence is measured here, by watching.
        silent = now - changed >= _MISSED * beat or old
        if locked is not False and (silent or _gone(owner, told=bool(locked))):
            return bool(locked)
        if locked:
            fcntl.flock(handle, fcntl.LOCK_UN)
        # An owner elsewhere that has not been heard yet may be dead: it gets its missed beats.
        if now - start > patience and (locked is False or owner != first):
            raise PlmscaleError(
                f"{path.parent}: another process trains this run ({describe(owner)}); "
                "stop it or wait for it to end"
            )
        time.sleep(min(0.2, beat / 5))


def _age(path: Path) -> float:
    """Return seconds since the last write, both ends by the clock of the file system itself."""
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        ) as new:
            new.write(b"now")
            new.flush()
            os.fsync(new.fileno())
            return os.stat(new.name).st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0


def _lock(handle: Any) -> bool | None:
    """Try to lock; None where this file system knows no locks, and the heartbeat alone must do."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _gone(owner: dict[str, Any], told: bool) -> bool:
    """Return whether `owner` has certainly ended: on this machine the kernel tells.

    By its lock (`told`) or, without locks, by the process: one of another machine may live on.
    """
    if not owner.get("mark"):
        return True
    if owner.get("host") != socket.gethostname():
        return False
    return told or not _alive(owner.get("pid"))


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def describe(owner: dict[str, Any]) -> str:
    """Return `pid 1 on host, job 2` of what `owner.lock` holds."""
    if not owner.get("pid"):
        return "unknown"
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"pid {owner['pid']} on {owner.get('host')}{job}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8") or "{}")
        found["time"] = float(found.get("time", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        # Read in the middle of a write, or not ours.
        return {}
    return found
