"""Several runs at once on one device: `python -m plmscale.training.pack JOBS.json --at-once 8`.

A model of a few million parameters keeps a GPU busy for a fraction of its time, and a start costs more
than its training. A pack imports everything once and forks a process for each run, so many of them
share the device and each trains exactly what it would train alone. A run that fails leaves the others
alone; a pack that is stopped hands the signal on and waits until all have saved; started again, it goes
on with what is not finished.

JOBS.json: {"runs": [{"recipe": PATH, "corpus": PATH, "run_dir": PATH, "checkpoint_dir": PATH, ...}]},
the launcher's options with underscores. A run whose parent or trunk is in the pack waits for it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.training.launch import finished
from plmscale.training.options import AT_ONCE, Options

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1
_PATHS = ("recipe", "corpus", "run_dir", "checkpoint_dir", "parent_dir", "trunk_dir")


@dataclass
class Member:
    """One run of a pack. `code` is its exit code once it has ended."""

    options: Options
    pid: int = 0
    code: int | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.options.run_dir.name


def read_jobs(path: Path) -> list[Member]:
    """Return the runs of a jobs file; PlmscaleError names the run and key at fault."""
    data = read_json(path)
    runs = data.get("runs") if isinstance(data, dict) else None
    if not isinstance(runs, list) or not runs:
        raise PlmscaleError(f'{path}: expected {{"runs": [...]}} with at least one run')
    known = {f.name for f in fields(Options)} - {"started"}
    members = []
    for number, run in enumerate(runs, start=1):
        if not isinstance(run, dict):
            raise PlmscaleError(f"{path}: run {number}: {run!r}; expected options and their values")
        if unknown := sorted(set(run) - known):
            raise PlmscaleError(f"{path}: run {number}: unknown key {', '.join(unknown)}")
        if missing := [key for key in _PATHS[:4] if not run.get(key)]:
            raise PlmscaleError(f"{path}: run {number}: {', '.join(missing)} missing")
        for key, value in run.items():
            if not _fits(key, value):
                raise PlmscaleError(f"{path}: run {number}: {key}: {value!r} is of the wrong type")
        values = {k: Path(v) if k in _PATHS and v is not None else v for k, v in run.items()}
        members.append(Member(Options(**values)))
    for key in ("run_dir", "checkpoint_dir"):
        folders = {getattr(member.options, key).resolve() for member in members}
        if len(folders) < len(members):
            raise PlmscaleError(f"{path}: two runs share a {key}")
    return members


def _fits(key: str, value: Any) -> bool:
    if key in _PATHS:
        return isinstance(value, str) or (value is None and key not in _PATHS[:4])
    kind = type(getattr(Options(*map(Path, _PATHS[:4])), key))
    return type(value) in ((int, float) if kind is float else (kind,))


def _waits_for(members: list[Member]) -> dict[str, dict[int, Member]]:
    """Return, by kind, what each member (by its number) goes on from: members alone, by any path.

    Raises PlmscaleError where members wait for each other.
    """
    runs = {member.options.run_dir.resolve(): member for member in members}
    checkpoints = {member.options.checkpoint_dir.resolve(): member for member in members}
    found: dict[str, dict[int, Member]] = {"parent": {}, "trunk": {}}
    for number, member in enumerate(members):
        for kind, folder, known in (
            ("parent", member.options.parent_dir, runs),
            ("trunk", member.options.trunk_dir, checkpoints),
        ):
            if folder is not None and (other := known.get(folder.resolve())) is not None:
                found[kind][number] = other
    numbers = {id(member): number for number, member in enumerate(members)}
    free: set[int] = set()
    left = set(range(len(members)))
    while ready := {
        n for n in left if all(numbers[id(k[n])] in free for k in found.values() if n in k)
    }:
        free |= ready
        left -= ready
    if left:
        names = ", ".join(str(members[n].options.run_dir) for n in sorted(left))
        raise PlmscaleError(
            f"these runs wait for each other: {names}; see parent_dir and trunk_dir"
        )
    return found


class Pack:
    """Runs `members`, at most `at_once` at a time, in their order."""

    def __init__(self, members: list[Member], at_once: int) -> None:
        if at_once < 1:
            raise PlmscaleError(f"--at-once: {at_once}; at least 1, or 0 for one a core")
        self.members, self.at_once = members, at_once
        self.stopped = 0
        self._needs = _waits_for(members)
        self._on_gpu = shutil.which("nvidia-smi") is not None

    def run(self) -> int:
        """Train all; return 0, 1 where a run failed, or 128 + signal where it was stopped."""
        for number in _STOPS:
            signal.signal(number, self._stop)
        if not self._on_gpu:
            from plmscale.training.ranks import preload

            preload()
        while any(member.code is None for member in self.members):
            self._start()
            if not self._collect():
                time.sleep(0.02)
            if self.stopped and not any(m.pid for m in self.members):
                break
        if self.stopped:
            return 128 + self.stopped
        return int(any(member.code for member in self.members))

    def _stop(self, number: int, _frame: object) -> None:
        self.stopped = number
        for member in self.members:
            if member.pid:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGTERM)

    def _start(self) -> None:
        running = sum(1 for member in self.members if member.pid)
        for number, member in enumerate(self.members):
            if running >= self.at_once or self.stopped:
                return
            if member.code is not None or member.pid or self._waits(number):
                continue
            parent = self._needs["parent"].get(number)
            member.seconds = time.monotonic()
            try:
                if finished(member.options):
                    member.code = 0
                    continue
                if parent is not None and parent.code:
                    raise PlmscaleError(f"its parent {parent.options.run_dir} failed")
                # A signal between the fork and here would not reach the new process.
                signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
                try:
                    member.pid = self._spawn(member.options)
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            except (OSError, PlmscaleError) as error:
                self._end(member, 2, str(error))
                continue
            running += 1

    def _waits(self, number: int) -> bool:
        """Return whether a run this one goes on from is in the pack and has not ended."""
        return any(k[number].code is None for k in self._needs.values() if number in k)

    def _spawn(self, options: Options) -> int:
        """Start one run; its output is added to `train.log` in its checkpoint folder."""
        pack = os.getpid()
        options.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        log = os.open(options.checkpoint_dir / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if self._on_gpu:
                # A process that is to use a GPU cannot be a fork of one that has looked for it.
                arguments = [sys.executable, "-m", "plmscale.training.launch", *_words(options)]
                return subprocess.Popen(
                    arguments,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, AT_ONCE: self._sharers()},
                    preexec_fn=lambda: _belong_to(pack),
                ).pid
            pid = os.fork()
            if pid == 0:
                os.environ[AT_ONCE] = self._sharers()
                _become_run(options, log, pack)
            return pid
        finally:
            os.close(log)

    def _sharers(self) -> str:
        """Return how many runs share the device, which each says in its metrics."""
        return str(max(1, min(self.at_once, len(self.members))))

    def _collect(self) -> bool:
        """Take note of runs that have ended; return whether there were any."""
        ended = False
        for member in self.members:
            if not member.pid:
                continue
            pid, status = os.waitpid(member.pid, os.WNOHANG)
            if pid:
                ended = True
                code = os.waitstatus_to_exitcode(status)
                see = f"see {member.options.checkpoint_dir / 'train.log'}"
                self._end(member, code if code >= 0 else 128 - code, see)
        return ended

    def _end(self, member: Member, code: int, why: str) -> None:
        member.pid, member.code = 0, code
        member.seconds = time.monotonic() - member.seconds
        done = sum(1 for other in self.members if other.code is not None)
        said = f"FAILED with exit code {code}, {why}" if code else "done"
        # Whoever reads may have left, or the disk be full: the runs go on.
        with suppress(OSError):
            print(
                f"[{done}/{len(self.members)}] {member.name}: {said} ({member.seconds:.1f} s)",
                flush=True,
            )

    def summary(self) -> list[dict[str, Any]]:
        """Return name, exit code (None: not ended) and seconds of each run."""
        return [
            {
                "run": m.name,
                "exit_code": m.code,
                "seconds": m.seconds if m.code is not None else None,
            }
            for m in self.members
        ]


def _words(options: Options) -> list[str]:
    """Return the launcher's command line for `options`."""
    words = []
    for item in fields(Options):
        value = getattr(options, item.name)
        if item.name == "started" or value is None or value is False:
            continue
        word = f"--{item.name.replace('_', '-')}"
        words.append(word if value is True else f"{word}={value}")
    return words


def _belong_to(pack: int) -> None:
    """In a new process: take signals as they come, and end (saving) when the pack is killed."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != pack:
        os._exit(128 + signal.SIGTERM)


def _become_run(options: Options, log: int, pack: int) -> None:
    """In the fork: train, end. Never returns."""
    code = 1
    try:
        _belong_to(pack)
        os.setpgid(0, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from dataclasses import replace

        from plmscale.training.ranks import launch

        code = launch(replace(options, started=time.time()))
        sys.stdout.flush()
        sys.stderr.flush()
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr, flush=True)
        code = 2
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code (2 for a mistake told in one line)."""
    parser = argparse.ArgumentParser(
        prog="python -m plmscale.training.pack",
        description="Train several small runs at once on one device, each as if it were alone.",
    )
    parser.add_argument("jobs", type=Path, metavar="JOBS.json")
    parser.add_argument("--at-once", type=int, default=0, help="runs at a time; 0: one a core")
    parser.add_argument("--json", type=Path, help="write what became of each run here")
    args = parser.parse_args(argv)
    try:
        members = read_jobs(args.jobs)
        at_once = args.at_once or len(os.sched_getaffinity(0))
        pack = Pack(members, at_once)
        code = pack.run()
        if args.json:
            write_json(args.json, {"runs": pack.summary()})
        return code
    except PlmscaleError as error:
        print(f"plmscale: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
