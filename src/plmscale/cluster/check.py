"""Does the profile fit the cluster? Asked before the first job, because sbatch's own errors name no key."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plmscale.cluster.site import Site
from plmscale.cluster.slurm import ask
from plmscale.errors import PlmscaleError, suggest


@dataclass(frozen=True)
class Nodes:
    """What the largest nodes of a partition have; `minutes` None: jobs have no limit."""

    gpus: int
    cpus: int
    mem_mb: int
    minutes: int | None


def check(site: Site, partition: str) -> None:
    """Raise PlmscaleError, with key and line to change, where jobs could never start.

    Says nothing where Slurm does not answer: the jobs will tell.
    """
    found = partitions(ask(["sinfo", "--noheader", "--format=%R|%G|%c|%m|%l"]) or "")
    if not found:
        return
    gpu_partition = site.node_gpu_partition or partition
    for key, name in (("slurm_partition", partition), ("node_gpu_partition", gpu_partition)):
        if name not in found:
            raise PlmscaleError(
                f"profile: default-resources: {key}: the cluster has no partition "
                f"{name!r}{suggest(name, found)}"
            )
    nodes = found[gpu_partition]
    limits = [
        ("node_gpus", site.node_gpus, nodes.gpus, "GPUs a node"),
        ("node_cpus", site.node_cpus, nodes.cpus, "cores a node"),
        ("node_mem_mb", site.node_mem_mb, nodes.mem_mb, "MB a node"),
        ("node_walltime", site.node_walltime, nodes.minutes, "minutes a job"),
    ]
    for key, asked, there, what in limits:
        if there is not None and asked > there:
            raise PlmscaleError(
                f"profile: default-resources: {key}: {asked}, but partition {gpu_partition!r} has at "
                f"most {there} {what}"
            )


def partitions(text: str) -> dict[str, Nodes]:
    """Read lines `name|gres|cores|MB|time limit` of sinfo; the largest value of each counts."""
    found: dict[str, Nodes] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 5:
            continue
        name, gres, cpus, mem, limit = fields
        new = Nodes(gpus_of(gres), _number(cpus), _number(mem), minutes_of(limit))
        old = found.get(name, new)
        minutes = None if None in (old.minutes, new.minutes) else max(old.minutes, new.minutes)
        found[name] = Nodes(
            max(old.gpus, new.gpus),
            max(old.cpus, new.cpus),
            max(old.mem_mb, new.mem_mb),
            minutes,
        )
    return found


def gpus_of(gres: str) -> int:
    """Return the GPUs in a node's generic resources: `gpu:h100:8(S:0-1),shard:16` has 8."""
    return sum(int(n) for n in re.findall(r"\bgpu(?::[A-Za-z][^:,()]*)?:(\d+)", gres))


def minutes_of(limit: str) -> int | None:
    """Return minutes of Slurm's `days-hours:minutes:seconds`; None for one without end."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit.strip())
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return 1440 * days + 60 * hours + minutes


def _number(text: str) -> int:
    # sinfo writes 96+ where nodes differ.
    return int(re.sub(r"\D", "", text) or 0)
