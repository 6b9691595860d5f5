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
# No two clocks differ by more.
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
    directory.mkdir(parents=True, exist_ok=True)
    with _acquire(directory / LOCK, patience, beat) as handle:
        takeover = _foreign(_read(directory / LOCK))
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


def _acquire(path: Path, patience: float, beat: float) -> Any:
    """Return the open, locked file once no live owner is left."""
    handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    start = changed = time.monotonic()
    first = seen = _read(path)
    while True:
        locked = _lock(handle)
        owner, now = _read(path), time.monotonic()
        if owner != seen:
            seen, changed = owner, now
        # Clocks of two machines may differ, so silence is measured here, by watching.
        silent = now - changed >= _MISSED * beat or time.time() - owner.get("time", 0) > _LONG_AGO
        if locked and (silent or not _foreign(owner)):
            return handle
        if locked:
            fcntl.flock(handle, fcntl.LOCK_UN)
        # An owner elsewhere that has not been heard yet may be dead: it gets its missed beats.
        if now - start > patience and (not locked or owner != first):
            handle.close()
            raise PlmscaleError(
                f"{path.parent}: another process trains this run ({describe(owner)}); "
                "stop it or wait for it to end"
            )
        time.sleep(min(0.2, beat / 5))


def _lock(handle: Any) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # This file system knows no locks: the heartbeat alone must do.
        return True
    return True


def _foreign(owner: dict[str, Any]) -> bool:
    """Return whether a process of another machine, whose end the kernel cannot tell, has the run."""
    return bool(owner.get("mark")) and owner.get("host") != socket.gethostname()


def describe(owner: dict[str, Any]) -> str:
    """Return `pid 1 on host, job 2` of what `owner.lock` holds."""
    if not owner.get("pid"):
        return "unknown"
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"pid {owner['pid']} on {owner.get('host')}{job}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8") or "{}")
    except (OSError, ValueError):
        # Read in the middle of a write: as good as not changed.
        return {}
    return found if isinstance(found, dict) else {}
