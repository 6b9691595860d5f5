"""A fork server: many tiny runs without paying for the imports of each.

The first launch of a study starts it. It imports everything once, then forks a child for each
run that is handed to it, with the client's files, environment, directory and cores. It ends by
itself when it has had nothing to do for a while. The client stays in the foreground and ends
with the child's exit code; whichever of them dies, the child is stopped.

Wire format, over a Unix socket in a folder only its user can enter: the client sends the length of
a JSON request with its stdin, stdout and stderr attached, then the request; the server answers with
the child's process id, later with its exit code, one line each.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import plmscale
from plmscale.training.options import Options

IDLE_SECONDS = 20.0
# A stopped child may still have to write a checkpoint.
_GRACE_SECONDS = 120.0
_START_SECONDS = 60.0
_MAX_SOCKET_PATH = 100
_PR_SET_PDEATHSIG = 1


def submit(options: Options) -> int | None:
    """Run `options` in a child of the server; return its exit code.

    None means that no server could be had and nothing was started: train in this process.
    """
    for _ in range(2):
        try:
            connection = _connect()
        except OSError:
            return None
        with connection:
            try:
                child = _hand_over(connection, options)
            except OSError:
                child = None
            # The server may have been about to end; a second one will not be.
            if child is not None:
                return _follow(connection, child)
    return None


def _hand_over(connection: socket.socket, options: Options) -> int | None:
    values = asdict(options)
    request = json.dumps(
        {
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
            "environment": dict(os.environ),
            "directory": os.getcwd(),
            "umask": _umask(),
            "cores": sorted(os.sched_getaffinity(0)),
        }
    ).encode()
    socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(request)
    answer = _line(connection)
    return int(answer) if answer else None


def _follow(connection: socket.socket, child: int) -> int:
    """Wait for the child, passing on the signals that ask this process to end."""

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        signal.signal(number, signal.SIG_IGN if number == signal.SIGUSR1 else signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, forward)
    answer = _line(connection)
    if not answer:
        print("plmscale: error: the fork server died; start the run again", file=sys.stderr)
        return 1
    return int(answer)


def _line(connection: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\n"):
        try:
            part = connection.recv(64)
        except ConnectionResetError:
            return ""
        if not part:
            return ""
        received += part
    return received.decode().strip()


def _connect() -> socket.socket:
    """Connect to the server for this code and Python, started if need be; OSError if impossible."""
    folder = _folder()
    path = folder / "socket"
    with open(folder / "starting", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):
            return _dial(path)
        path.unlink(missing_ok=True)
        with open(folder / "log", "w", encoding="utf-8") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "plmscale.training.forkserver", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            with suppress(OSError):
                return _dial(path)
            time.sleep(0.02)
    raise OSError("the fork server did not start")


def _dial(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _folder() -> Path:
    """Return the server's folder, private to the user; other code or Python means another one."""
    digest = hashlib.sha256(f"{sys.executable}\n{sys.path}\n".encode())
    root = Path(plmscale.__file__).parent
    for source in sorted([*root.rglob("*.py"), *root.rglob("*.so")]):
        digest.update(str(source.relative_to(root)).encode() + source.read_bytes())
    name = f"plmscale-{os.getuid()}-{digest.hexdigest()[:12]}"
    base = Path(tempfile.gettempdir())
    if len(str(base / name / "socket")) > _MAX_SOCKET_PATH:
        base = Path("/tmp")
    folder = base / name
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o77 or folder.is_symlink():
        raise PermissionError(f"{folder} is not private to this user")
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Server:
    """One process, one thread: a fork from it is safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        # Runs by their pidfd and by their client's socket: the same dict for both.
        self.runs: dict[int, dict[str, Any]] = {}

    def serve(self) -> None:
        """Import everything, then fork for whoever asks, until idle for `IDLE_SECONDS`."""
        from plmscale.training.ranks import preload

        preload()
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        quiet_since = time.monotonic()
        while True:
            for key, _ in self.selector.select(timeout=1.0):
                key.data(key.fileobj)
            now = time.monotonic()
            for run in self.runs.values():
                if run["doomed"] and now > run["doomed"]:
                    with suppress(ProcessLookupError):
                        os.killpg(run["child"], signal.SIGKILL)
            if self.runs:
                quiet_since = now
            elif not self.path.exists() or (now - quiet_since > IDLE_SECONDS and self._leave()):
                return

    def _leave(self) -> bool:
        """Remove the folder, unless a client is at the door (they hold the lock to connect)."""
        folder = self.path.parent
        with open(folder / "starting", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self.selector.select(timeout=0):
                return False
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def _accept(self, _: object) -> None:
        connection, _address = self.listener.accept()
        connection.settimeout(10)
        files: list[int] = []
        try:
            header, files, _flags, _from = socket.recv_fds(connection, 8, 3)
            length, request = int.from_bytes(header, "big"), b""
            while len(request) < length:
                part = connection.recv(length - len(request))
                if not part:
                    raise ConnectionError("the client left")
                request += part
            child = os.fork()
            if child == 0:
                self._become_run(json.loads(request), files)
            connection.sendall(f"{child}\n".encode())
        except (OSError, ValueError):
            connection.close()
            return
        finally:
            for file in files:
                os.close(file)
        watch = os.pidfd_open(child)
        self.runs[watch] = {"child": child, "connection": connection, "doomed": None}
        self.selector.register(watch, selectors.EVENT_READ, self._ended)
        self.selector.register(connection, selectors.EVENT_READ, self._client_left)

    def _ended(self, watch: int) -> None:
        run = self.runs.pop(watch)
        _, status = os.waitpid(run["child"], 0)
        code = os.waitstatus_to_exitcode(status)
        self.selector.unregister(watch)
        os.close(watch)
        if run["connection"].fileno() >= 0:
            self.selector.unregister(run["connection"])
            with suppress(OSError):
                run["connection"].sendall(f"{code if code >= 0 else 128 - code}\n".encode())
            run["connection"].close()

    def _client_left(self, connection: socket.socket) -> None:
        """A client says nothing after its request, so news from it is its end."""
        self.selector.unregister(connection)
        connection.close()
        for run in self.runs.values():
            if run["connection"] is connection:
                run["doomed"] = time.monotonic() + _GRACE_SECONDS
                with suppress(ProcessLookupError):
                    os.kill(run["child"], signal.SIGTERM)

    def _become_run(self, request: dict[str, Any], files: list[int]) -> None:
        """In the fork: take on the client's place, train, end. Never returns."""
        code = 1
        try:
            os.setpgid(0, 0)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            self.listener.close()
            for watch, run in self.runs.items():
                os.close(watch)
                run["connection"].close()
            self.selector.close()
            for target, file in enumerate(files):
                os.dup2(file, target)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request["directory"])
            os.umask(request["umask"])
            os.sched_setaffinity(0, request["cores"])
            from plmscale.training.ranks import launch

            code = launch(_options(request["options"]))
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)


def _options(values: dict[str, Any]) -> Options:
    paths = ("recipe", "corpus", "run_dir", "checkpoint_dir", "parent_dir", "trunk_dir")
    found = {k: Path(values[k]) if values[k] is not None else None for k in paths}
    return replace(Options(**values), **found)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(Path(sys.argv[1])).serve()
