"""The GPUs of a cluster while jobs come and go: who sits where, and until when."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Job:
    """What is scheduled: `gpus` whole GPUs (beyond a node: whole nodes), or a `slots`-th of one.

    after: names of jobs that must have ended. flops: breaks ties between equal paths.
    """

    name: str
    hours: float
    gpus: int = 1
    slots: int = 1
    after: tuple[str, ...] = ()
    flops: float = 0.0

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus / self.slots


@dataclass(frozen=True)
class Hold:
    """Nodes kept for a wide job until `time`: nothing may start there that would end later."""

    nodes: frozenset[int]
    time: float

    def allows(self, node: int, end: float) -> bool:
        return node not in self.nodes or end <= self.time


@dataclass
class Pool:
    """GPUs in nodes of `sizes`; numbered from 0 through all nodes, each of `units` parts."""

    sizes: Sequence[int]
    units: int = 1
    free: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        sizes = self.sizes
        self.widest = max(sizes)
        # Whole GPUs that are free in each node.
        self.free = np.array(sizes)
        starts = np.cumsum([0, *sizes[:-1]])
        self._start = [int(n) for n in starts]
        self._node = np.repeat(np.arange(len(sizes)), sizes)
        self._idle = [list(range(a, a + n)) for a, n in zip(self._start, sizes, strict=True)]
        # Parts left of GPUs that are shared, and those GPUs by how many parts are left.
        self._left: dict[int, int] = {}
        self._by_left: list[list[int]] = [[] for _ in range(self.units + 1)]
        # When the last job on each GPU ends; GPUs that a node lacks are never free.
        self._until = np.full((len(sizes), self.widest), np.inf)
        for node, size in enumerate(sizes):
            self._until[node, :size] = 0.0

    def take(self, job: Job, end: float, hold: Hold | None) -> tuple[int, ...] | None:
        """Give `job` GPUs until `end` and return them, or None where there are none for it now.

        The fullest node that can hold it, so that whole nodes stay whole.
        """
        if job.slots > 1:
            return self._take_part(self.units // job.slots, end, hold)
        if job.gpus > self.widest:
            return self._take_nodes(job.gpus // self.widest, end, hold)
        node = self._fullest(job.gpus, end, hold)
        return None if node is None else self._occupy(node, job.gpus, end)

    def give(self, job: Job, gpus: Sequence[int]) -> None:
        """Take the GPUs of a job back."""
        if job.slots > 1:
            gpu = gpus[0]
            left = self._left[gpu] + self.units // job.slots
            if left < self.units:
                self._left[gpu] = left
                heapq.heappush(self._by_left[left], gpu)
                return
            del self._left[gpu]
        for gpu in gpus:
            node = int(self._node[gpu])
            insort(self._idle[node], gpu)
            self.free[node] += 1

    def hold_for(self, job: Job) -> Hold:
        """Return the nodes on which `job`, of several GPUs, can start first, and when."""
        in_node = min(job.gpus, self.widest)
        count = job.gpus // in_node
        ready = np.partition(self._until, in_node - 1, axis=1)[:, in_node - 1]
        nodes = np.argsort(ready, kind="stable")[:count]
        return Hold(frozenset(int(n) for n in nodes), float(ready[nodes].max()))

    def _fullest(self, gpus: int, end: float, hold: Hold | None) -> int | None:
        fits = self.free >= gpus
        if hold is not None and end > hold.time:
            fits[list(hold.nodes)] = False
        free = np.where(fits, self.free, self.widest + 1)
        node = int(free.argmin())
        return node if fits[node] else None

    def _occupy(self, node: int, gpus: int, end: float) -> tuple[int, ...]:
        taken = _together(self._idle[node], gpus)
        self._idle[node] = [gpu for gpu in self._idle[node] if gpu not in taken]
        self.free[node] -= gpus
        for gpu in taken:
            self._until[node, gpu - self._start[node]] = end
        return taken

    def _take_nodes(self, count: int, end: float, hold: Hold | None) -> tuple[int, ...] | None:
        whole = self.free == self.widest
        if hold is not None and end > hold.time:
            whole[list(hold.nodes)] = False
        nodes = np.flatnonzero(whole)[:count]
        if len(nodes) < count:
            return None
        return tuple(g for n in nodes for g in self._occupy(int(n), self.widest, end))

    def _take_part(self, parts: int, end: float, hold: Hold | None) -> tuple[int, ...] | None:
        for left in range(parts, self.units):
            queue, refused = self._by_left[left], []
            found = None
            while queue and found is None:
                gpu = heapq.heappop(queue)
                # Entries of GPUs that have more or fewer parts left by now are dropped here.
                if self._left.get(gpu) != left:
                    continue
                if hold is not None and not hold.allows(int(self._node[gpu]), end):
                    refused.append(gpu)
                else:
                    found = gpu
            for gpu in refused:
                heapq.heappush(queue, gpu)
            if found is not None:
                return self._share(found, left - parts, end)
        node = self._fullest(1, end, hold)
        if node is None:
            return None
        (gpu,) = self._occupy(node, 1, end)
        return self._share(gpu, self.units - parts, end)

    def _share(self, gpu: int, left: int, end: float) -> tuple[int, ...]:
        self._left[gpu] = left
        if left:
            heapq.heappush(self._by_left[left], gpu)
        node = int(self._node[gpu])
        column = gpu - self._start[node]
        self._until[node, column] = max(self._until[node, column], end)
        return (gpu,)


def _together(idle: Sequence[int], count: int) -> tuple[int, ...]:
    """Return `count` of the GPUs: neighbours out of the shortest stretch that has so many, else any."""
    stretches: list[list[int]] = []
    for gpu in idle:
        if stretches and gpu == stretches[-1][-1] + 1:
            stretches[-1].append(gpu)
        else:
            stretches.append([gpu])
    long_enough = [stretch for stretch in stretches if len(stretch) >= count]
    return tuple(min(long_enough, key=len, default=idle)[:count])
