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
        if unknown := sorted(set(run) - known):
            raise PlmscaleError(f"{path}: run {number}: unknown key {', '.join(unknown)}")
        if missing := [key for key in _PATHS[:4] if not run.get(key)]:
            raise PlmscaleError(f"{path}: run {number}: {', '.join(missing)} missing")
        values = {k: Path(v) if k in _PATHS and v is not None else v for k, v in run.items()}
        members.append(Member(Options(**values)))
    folders = [member.options.run_dir for member in members]
    if len(set(folders)) < len(folders):
        raise PlmscaleError(f"{path}: two runs share a run_dir")
    return members


class Pack:
    """Runs `members`, at most `at_once` at a time, in their order."""

    def __init__(self, members: list[Member], at_once: int) -> None:
        self.members, self.at_once = members, at_once
        self.stopped = 0
        self._on_gpu = shutil.which("nvidia-smi") is not None

    def run(self) -> int:
        """Train all; return 0, 1 where a run failed, or 128 + signal where it was stopped."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
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
        for member in self.members:
            if running >= self.at_once or self.stopped:
                return
            if member.code is not None or member.pid or self._waits(member):
                continue
            if finished(member.options):
                member.code = 0
                continue
            member.seconds = time.monotonic()
            member.pid = self._spawn(member.options)
            running += 1

    def _waits(self, member: Member) -> bool:
        """Return whether a run this one goes on from is in the pack and has not ended."""
        asked = {member.options.parent_dir}
        trunks = {member.options.trunk_dir}
        return any(
            other.code is None
            and (other.options.run_dir in asked or other.options.checkpoint_dir in trunks)
            for other in self.members
            if other is not member
        )

    def _spawn(self, options: Options) -> int:
        """Start one run; its output is added to `train.log` in its checkpoint folder."""
        options.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        log = os.open(options.checkpoint_dir / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if self._on_gpu:
                # A process that is to use a GPU cannot be a fork of one that has looked for it.
                arguments = [sys.executable, "-m", "plmscale.training.launch", *_words(options)]
                environment = {**os.environ, AT_ONCE: self._sharers()}
                return subprocess.Popen(arguments, stdout=log, stderr=log, env=environment).pid
            pid = os.fork()
            if pid == 0:
                os.environ[AT_ONCE] = self._sharers()
                _become_run(options, log)
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
                member.pid, member.code = 0, code if code >= 0 else 128 - code
                member.seconds = time.monotonic() - member.seconds
                done = sum(1 for other in self.members if other.code is not None)
                said = "done" if member.code == 0 else f"FAILED with exit code {member.code}, see "
                if member.code:
                    said += str(member.options.checkpoint_dir / "train.log")
                print(
                    f"[{done}/{len(self.members)}] {member.name}: {said} ({member.seconds:.1f} s)",
                    flush=True,
                )
        return ended

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


def _become_run(options: Options, log: int) -> None:
    """In the fork: train, end. Never returns."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
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
