"""Slurm's client commands, asked with a time limit: a controller that is away costs seconds."""

from __future__ import annotations

import getpass
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from plmscale.training.places import first_node

_SECONDS = 20.0
# Jobs are looked up for each job to be submitted, a list serves all of a few seconds.
_FRESH = 10.0


@dataclass(frozen=True)
class Job:
    """A job of this user that waits or runs; `comment` ends with the wildcards of its rule."""

    number: str
    state: str
    workdir: str
    comment: str


def ask(words: Sequence[str], seconds: float = _SECONDS) -> str | None:
    """Return a command's standard output; None where it fails, is missing or takes too long."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def my_jobs() -> list[Job]:
    """Return this user's jobs that wait or run; none where Slurm does not answer."""
    words = ["squeue", "--noheader", "--user", getpass.getuser(), "--format=%i|%T|%Z|%k"]
    jobs = []
    for line in (ask(words) or "").splitlines():
        fields = line.split("|", 3)
        if len(fields) == 4:
            jobs.append(Job(*fields))
    return jobs


class Queue:
    """This user's jobs, asked for again when what is known has become old."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._asked = -_FRESH

    def jobs(self) -> list[Job]:
        if time.monotonic() - self._asked >= _FRESH:
            self._jobs, self._asked = my_jobs(), time.monotonic()
        return self._jobs

    def of(self, name: str, workdir: str) -> list[str]:
        """Return the numbers of jobs that this folder's workflow started for run or pack `name`."""
        real, end = os.path.realpath(workdir), f"_wildcards_{name}"
        return [
            job.number
            for job in self.jobs()
            if job.comment.endswith(end) and os.path.realpath(job.workdir) == real
        ]

    def alive(self, number: str) -> bool:
        """Return whether a job of this number waits or runs."""
        return any(job.number == number for job in self.jobs())


def state_of(job: str) -> str:
    """Return a job's state in Slurm's words, empty where it cannot be told."""
    text = ask(["squeue", "--noheader", "--jobs", job, "--format=%T", "--states=all"])
    return (text or "").strip().split("\n")[0]


def address_of_first_node(job: str) -> str | None:
    """Return where the first node of a job is reached, None where it cannot be told.

    On most clusters this is its name; names need not resolve where addresses are given.
    """
    nodes = (ask(["squeue", "--noheader", "--jobs", job, "--format=%N"]) or "").strip()
    if not nodes:
        return None
    name = first_node(nodes)
    shown = ask(["scontrol", "--oneliner", "show", "node", name]) or ""
    found = [w.partition("=")[2] for w in shown.split() if w.startswith("NodeAddr=")]
    return found[0] if found else name
