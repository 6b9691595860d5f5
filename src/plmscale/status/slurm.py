"""Slurm's own word on jobs, asked so that a controller that hangs costs seconds and no more."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# A healthy squeue answers within a second; a dead controller keeps it for minutes.
TIMEOUT = 6.0
# One unit separator between fields: comments and reasons may hold anything a person types.
_MARK = "\x1f"
_FORMAT = _MARK.join(("%i", "%T", "%M", "%r", "%Z", "%j", "%k"))
_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING"}
# Snakemake's executor puts rule and wildcards of a job into its comment.
_COMMENT = re.compile(r"wildcards_(\S+)$")


@dataclass(frozen=True)
class Job:
    """A job in the queue. `state` is Slurm's, `queued` and `running` what it means for a run."""

    number: str
    state: str
    reason: str = ""
    workdir: str = ""
    name: str = ""
    comment: str = ""
    # It trains several runs, in turn or side by side.
    pack: bool = False

    @property
    def queued(self) -> bool:
        return self.state in _QUEUED

    @property
    def running(self) -> bool:
        return self.state in _RUNNING


@dataclass
class Answer:
    """What Slurm said. `there`: its commands exist here; `problem`: why nothing can be told."""

    there: bool = False
    problem: str = ""
    jobs: list[Job] = field(default_factory=list)

    def job(self, number: str) -> Job | None:
        """Return the job of this number that is in the queue."""
        return next((job for job in self.jobs if number and job.number == number), None)


class Command:
    """One of Slurm's commands, started at once and collected later."""

    def __init__(self, words: list[str]) -> None:
        self.name = words[0]
        self._deadline = time.monotonic() + TIMEOUT
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        # Files, not pipes: a grandchild that holds a pipe open would keep us waiting for its end.
        with suppress(OSError):
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err,
                start_new_session=True,
                env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
            )

    def collect(self) -> tuple[list[str], str]:
        """Return lines of output and, in place of them, what went wrong."""
        if self._process is None:
            return [], f"{self.name} cannot be started"
        try:
            code = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._end()
            return [], f"{self.name} gave no answer within {TIMEOUT:g} s"
        except BaseException:
            self._end()
            raise
        if code:
            said = _text(self._err) or _text(self._out)
            why = said[0] if said else f"exit code {code}"
            return [], f"{self.name}: {why}"
        return _text(self._out), ""

    def _end(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # A process in the kernel's hands (a dead file system) cannot be ended: it is left alone.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)


def _text(handle: Any) -> list[str]:
    handle.seek(0)
    return [line for line in handle.read().decode("utf-8", "replace").splitlines() if line.strip()]


def ask_queue() -> Command | None:
    """Start asking for this user's jobs; None where there is no Slurm."""
    if shutil.which("squeue") is None:
        return None
    return Command(["squeue", "--noheader", "--user", str(os.getuid()), "--format", _FORMAT])


def queue(command: Command | None) -> Answer:
    """Return what `ask_queue` began; a line that is none of ours is passed over."""
    if command is None:
        return Answer()
    lines, problem = command.collect()
    answer = Answer(there=True, problem=problem)
    for line in lines:
        parts = line.split(_MARK)
        if len(parts) == 7 and parts[0].strip():
            number, state, _, reason, workdir, name, comment = (part.strip() for part in parts)
            answer.jobs.append(Job(number, state, reason, workdir, name, comment))
    return answer


def jobs_of(
    answer: Answer, run_ids: Iterable[str], results: str, packs: Mapping[str, Iterable[str]]
) -> dict[str, Job]:
    """Return the job of each run, found by the comment that Snakemake's executor gives its jobs.

    `packs` are the members of the packs that a comment may name in place of a run. `results` is
    the folder of results as the study has it: a job that was submitted from another checkout, whose
    results lie elsewhere, is another run's. Of several jobs of a run, one that runs counts.
    """
    known, found = set(run_ids), {}
    here = os.path.realpath(results)
    for job in answer.jobs:
        match = _COMMENT.search(job.comment)
        if match is None or not (job.queued or job.running):
            continue
        there = Path(job.workdir)
        if job.workdir and there.is_dir() and os.path.realpath(there / results) != here:
            continue
        name = match[1]
        members = [name] if name in known else packs.get(name, ())
        for run_id in known.intersection(members):
            if run_id not in found or job.running:
                found[run_id] = replace(job, pack=name not in known)
    return found


def ask_ends(numbers: Iterable[str]) -> Command | None:
    """Start asking the accounting how jobs ended; None where there is none or no job."""
    wanted = sorted({number for number in numbers if number})
    if not wanted or shutil.which("sacct") is None:
        return None
    return Command(
        ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates",
         "--format", "JobIDRaw,State,ExitCode,End", "--jobs", ",".join(wanted)]
    )  # fmt: skip


def ends(command: Command | None) -> dict[str, tuple[str, str]]:
    """Return state and exit code by job; empty where accounting does not answer: it is an extra."""
    lines, _ = command.collect() if command else ([], "")
    found = {}
    for line in lines:
        parts = line.split("|")
        if len(parts) >= 3:
            # "CANCELLED by 1000" is CANCELLED. Of a requeued job's several ends the last counts.
            found[parts[0]] = (parts[1].split(" ")[0], parts[2])
    return found
