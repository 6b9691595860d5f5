"""List scheduling of runs on a cluster, event by event: when each starts, and where."""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from plmscale.errors import PlmscaleError
from plmscale.planning.pool import Hold, Job, Pool

# Jobs of one shape that are tried, most urgent first, for a gap before a wide job's start.
_BACKFILL_DEPTH = 200


@dataclass(frozen=True)
class Placed:
    """A job in the schedule: hours from now, and the GPUs it has."""

    job: Job
    start: float
    end: float
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """All jobs placed, in order of start.

    makespan: hours from now until the last one ends. path: names of the longest chain of jobs that
    wait for each other; path_hours: its length with the time before it. work_hours: a time that no
    schedule can beat: all GPU-hours over all GPUs, after `begin`.
    """

    placed: list[Placed]
    gpus: int
    begin: float
    makespan: float
    gpu_hours: float
    path: list[str]
    path_hours: float

    @property
    def work_hours(self) -> float:
        return self.begin + self.gpu_hours / self.gpus

    @property
    def lower_bound(self) -> float:
        return max(self.work_hours, self.path_hours)

    @property
    def utilisation(self) -> float:
        """Share of the GPU-hours between `begin` and the end that are used."""
        span = self.makespan - self.begin
        return self.gpu_hours / (self.gpus * span) if span > 0 else 0.0


def simulate(jobs: Sequence[Job], nodes: Sequence[int], begin: float = 0.0) -> Schedule:
    """Place `jobs` on nodes of so many GPUs each, the first ones `begin` hours from now.

    List scheduling (Graham 1969): whenever GPUs are free, the most urgent job that is ready and
    fits starts; urgent is what has the longest path of jobs behind it (critical path method), then
    the most FLOPs, then the first name. As Slurm's backfill does, the most urgent job of several
    GPUs that does not fit yet holds the nodes on which it can start first, and others use them
    only if they end before. Equal input gives an equal schedule.

    Raises PlmscaleError for a job that fits no number of nodes, waits for an unknown one, or for
    itself.
    """
    _check(jobs, nodes)
    children, waiting = _edges(jobs)
    order = _topological(jobs, children, dict(waiting))
    behind = _longest_paths(order, children)
    rank = sorted(jobs, key=lambda job: (-behind[job.name], -job.flops, job.name))
    urgency = {job.name: place for place, job in enumerate(rank)}
    by_name = {job.name: job for job in jobs}
    pool = Pool(nodes, math.lcm(*(job.slots for job in jobs)) if jobs else 1)
    # Ready jobs by shape: what one of a shape cannot have, no other of it can either.
    ready: dict[tuple[int, int], list[tuple[int, Job]]] = {}
    events: list[tuple[float, int, str, tuple[int, ...]]] = []
    placed: list[Placed] = []

    def offer(job: Job) -> None:
        insort(ready.setdefault((job.gpus, job.slots), []), (urgency[job.name], job))

    for job in jobs:
        if not waiting[job.name]:
            offer(job)
    now = begin
    while True:
        for job, gpus in _start(ready, pool, now):
            end = now + job.hours
            placed.append(Placed(job, now, end, gpus))
            heapq.heappush(events, (end, urgency[job.name], job.name, gpus))
        if not events:
            break
        now = events[0][0]
        while events and events[0][0] == now:
            _, _, name, gpus = heapq.heappop(events)
            pool.give(by_name[name], gpus)
            for child in children[name]:
                waiting[child] -= 1
                if not waiting[child]:
                    offer(by_name[child])
    path = _path(order, children, behind)
    return Schedule(
        placed,
        sum(nodes),
        begin,
        max((p.end for p in placed), default=begin),
        math.fsum(job.gpu_hours for job in jobs),
        path,
        begin + (behind[path[0]] if path else 0.0),
    )


def _start(
    ready: Mapping[tuple[int, int], list[tuple[int, Job]]], pool: Pool, now: float
) -> Iterable[tuple[Job, tuple[int, ...]]]:
    """Yield the jobs that start now, with their GPUs, taken out of `ready`."""
    open_shapes = {shape for shape, queue in ready.items() if queue}
    hold: Hold | None = None
    while open_shapes:
        shape = min(open_shapes, key=lambda s: ready[s][0][0])
        queue = ready[shape]
        job = queue[0][1]
        at, gpus = 0, pool.take(job, now + job.hours, hold)
        if gpus is None and hold is not None:
            at, gpus = _backfill(queue, pool, now, hold)
        if gpus is None:
            if hold is None and job.gpus > 1:
                hold = pool.hold_for(job)
            open_shapes.remove(shape)
            continue
        _, job = queue.pop(at)
        if not queue:
            open_shapes.remove(shape)
        yield job, gpus


def _backfill(
    queue: Sequence[tuple[int, Job]], pool: Pool, now: float, hold: Hold
) -> tuple[int, tuple[int, ...] | None]:
    """Return the most urgent job that ends before the hold does, and the GPUs it takes."""
    for at, (_, job) in enumerate(queue[:_BACKFILL_DEPTH]):
        if now + job.hours <= hold.time:
            return at, pool.take(job, now + job.hours, hold)
    return 0, None


def _check(jobs: Sequence[Job], nodes: Sequence[int]) -> None:
    names = {job.name for job in jobs}
    if len(names) < len(jobs):
        raise PlmscaleError("schedule: two jobs share a name")
    widest = max(nodes)
    whole = sum(1 for size in nodes if size == widest)
    for job in jobs:
        if job.gpus > widest and (job.gpus % widest or job.gpus // widest > whole):
            raise PlmscaleError(
                f"{job.name}: {job.gpus} GPUs are no number of whole nodes among {whole} of "
                f"{widest} GPUs"
            )
        if missing := [name for name in job.after if name not in names]:
            raise PlmscaleError(f"{job.name}: waits for {missing[0]}, which is not in the plan")


def _edges(jobs: Sequence[Job]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return who waits for each job, and how many jobs each one waits for."""
    children: dict[str, list[str]] = {job.name: [] for job in jobs}
    waiting = {}
    for job in jobs:
        parents = set(job.after)
        waiting[job.name] = len(parents)
        for parent in sorted(parents):
            children[parent].append(job.name)
    return children, waiting


def _topological(
    jobs: Sequence[Job], children: Mapping[str, list[str]], waiting: dict[str, int]
) -> list[Job]:
    by_name = {job.name: job for job in jobs}
    order = [job for job in jobs if not waiting[job.name]]
    for job in order:
        for child in children[job.name]:
            waiting[child] -= 1
            if not waiting[child]:
                order.append(by_name[child])
    if len(order) < len(jobs):
        stuck = next(job.name for job in jobs if waiting[job.name])
        raise PlmscaleError(f"{stuck}: waits, through others, for itself")
    return order


def _longest_paths(order: Sequence[Job], children: Mapping[str, list[str]]) -> dict[str, float]:
    """Return hours from each job's start to the end of the longest chain that begins with it."""
    behind: dict[str, float] = {}
    for job in reversed(order):
        after = max((behind[child] for child in children[job.name]), default=0.0)
        behind[job.name] = job.hours + after
    return behind


def _path(
    order: Sequence[Job], children: Mapping[str, list[str]], behind: Mapping[str, float]
) -> list[str]:
    """Return the names of the longest chain, from its first job on."""
    path = []
    at = max((job.name for job in order), key=lambda name: behind[name], default=None)
    while at is not None:
        path.append(at)
        at = max(children[at], key=lambda name: behind[name], default=None)
    return path
