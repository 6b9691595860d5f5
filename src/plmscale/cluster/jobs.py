"""What rules ask of the cluster: values of Snakemake's resources, worked out when a job is submitted."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plmscale.cluster import kept
from plmscale.cluster.devices import PARTS
from plmscale.cluster.packs import Packs
from plmscale.cluster.site import Allocator, Need
from plmscale.cluster.slurm import Queue
from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.grid import Run
from plmscale.training.lock import LOCK

# What a job asks for that only puts results of another job in their place.
_QUICK = Need(1, 1, 1, 0, 1000, 15, 1, 0.0)
# A job's resources are asked for one by one within milliseconds; they stem from one look at its files.
# Between two attempts lies at least the start of a process.
_FRESH = 0.5


class Jobs:
    """Resources of training jobs. Each method that returns a mapping is for one rule.

    `partition` is that of jobs that need no GPU, empty without Slurm. `inside`: a job reads the rules
    again on its node; there, nothing is to be submitted.
    """

    def __init__(
        self,
        allocator: Allocator,
        runs: Mapping[str, Run],
        packs: Packs,
        out: Path,
        partition: str,
        inside: bool,
    ) -> None:
        self.allocator, self.runs, self.packs = allocator, runs, packs
        self.out, self.partition, self._inside = out, partition, inside
        self._queue = Queue()
        self._latest: tuple[str, float, Need] | None = None

    @property
    def fetch_here(self) -> bool:
        """Whether downloads run where snakemake runs."""
        return bool(self.allocator.site.node_fetch_here)

    def train(self) -> dict[str, Callable[[Any], Any]]:
        """Return resources of rule train by name, each a function of the wildcards."""
        return self._resources(lambda w: self._need(w.run_id), self._start_run, self._run_waits_for)

    def pack(self) -> dict[str, Callable[[Any], Any]]:
        """Return resources of rule pack."""
        values = self._resources(
            lambda w: self._pack_need(w.pack), self._start_pack, self._pack_waits_for
        )
        return {**values, "at_once": lambda w: self._pack_need(w.pack).slots}

    def _resources(
        self,
        need: Callable[[Any], Need],
        start: Callable[[Any, Need], str],
        waits_for: Callable[[Any], list[str]],
    ) -> dict[str, Callable[[Any], Any]]:
        site = self.allocator.site

        def gres(w: Any) -> str:
            return f"{site.node_gres}:{need(w).gpus}" if need(w).gpus else ""

        def partition(w: Any) -> str:
            return (need(w).gpus and site.node_gpu_partition) or self.partition

        def extra(w: Any) -> str:
            words = f"--signal=USR1@{site.node_signal_seconds}"
            others = waits_for(w) if self.partition and not self._inside else []
            return f"{words} --dependency=afterany:{':'.join(others)}" if others else words

        def of_node(w: Any) -> int:
            return need(w).cpus * (need(w).tasks // need(w).nodes)

        return {
            "start": lambda w: start(w, need(w)),
            "devices": lambda w: need(w).tasks,
            "nodes": lambda w: need(w).nodes,
            "gres": gres,
            # Slurm gives a node one task with all these cores; srun then starts a rank a GPU.
            "cpus_per_task": of_node,
            # There, and empty: the executor leaves starting the ranks to the rule.
            "mpi": lambda w: "",
            "mem_mb": lambda w: need(w).mem_mb,
            "runtime": lambda w: need(w).runtime,
            "slurm_partition": partition,
            "slurm_extra": extra,
            "gpu_parts": lambda w: need(w).gpus * need(w).nodes * PARTS // need(w).slots,
        }

    def checkpoints(self, run_id: str) -> Path:
        return self.out / "checkpoints" / run_id

    def threads(self, run_id: str) -> int:
        """Return cores of each rank of a run."""
        return self._need(run_id).cpus

    def _need(self, run_id: str) -> Need:
        return self._looked_up(f"run {run_id}", lambda: self._run_need(run_id))

    def _pack_need(self, pack: str) -> Need:
        return self._looked_up(f"pack {pack}", lambda: self._members_need(pack))

    def _looked_up(self, name: str, look: Callable[[], Need]) -> Need:
        """Return what `look` gives, or gave when the same was asked for a moment ago."""
        now, latest = time.monotonic(), self._latest
        if latest is None or latest[0] != name or now - latest[1] > _FRESH:
            self._latest = latest = (name, now, look())
        return latest[2]

    def _run_need(self, run_id: str) -> Need:
        recipe = self.runs[run_id].recipe
        if kept.is_kept(recipe, self.checkpoints(run_id)):
            return _QUICK
        try:
            return self.allocator.need(recipe, self.checkpoints(run_id))
        except PlmscaleError as error:
            raise SystemExit(f"plmscale: error: {error}") from None

    def _members_need(self, pack: str) -> Need:
        members = [
            run.recipe
            for run in self.packs.members(pack)
            if not kept.is_kept(run.recipe, self.checkpoints(run.run_id))
        ]
        return self.allocator.pack(members, self._pack_notes(pack)) if members else _QUICK

    def _pack_notes(self, pack: str) -> Path:
        return self.out / "checkpoints" / f"pack-{pack}"

    def _start_run(self, w: Any, need: Need) -> str:
        folder = self.checkpoints(w.run_id)
        words = ["--run-dir", str(self.out / "runs" / w.run_id), "--checkpoint-dir", str(folder)]
        return self._start(need, words)

    def _start_pack(self, w: Any, need: Need) -> str:
        words = ["--checkpoint-dir", str(self._pack_notes(w.pack))]
        for run in self.packs.members(w.pack):
            words += ["--member", str(self.checkpoints(run.run_id))]
        return self._start(need, words)

    def _start(self, need: Need, words: list[str]) -> str:
        place = ["--nodes", need.nodes, "--tasks", need.tasks, "--cpus", need.cpus]
        place += ["--gpus", need.gpus * need.nodes, "--slots", need.slots]
        place = ["--srun", *place] if self.partition else place
        start = ["python", "-m", "plmscale.cluster.step", *map(str, place), *words, "--"]
        return shlex.join(start)

    def _run_waits_for(self, w: Any) -> list[str]:
        """Return jobs that live and train this run: of a workflow that was killed, most often."""
        jobs = self._queue.of(w.run_id, os.getcwd())
        owner = self._owner(w.run_id)
        return sorted({*jobs, *([owner] if owner else [])})

    def _pack_waits_for(self, w: Any) -> list[str]:
        owners = (self._owner(run.run_id) for run in self.packs.members(w.pack))
        return sorted({*self._queue.of(w.pack, os.getcwd()), *filter(None, owners)})

    def _owner(self, run_id: str) -> str:
        """Return the job that holds a run's lock, empty where none does that lives."""
        path = self.checkpoints(run_id) / LOCK
        if not path.exists():
            return ""
        try:
            job = str(read_json(path).get("job") or "")
        except (PlmscaleError, AttributeError):
            return ""
        return job if job and self._queue.alive(job) else ""
