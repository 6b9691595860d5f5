"""Which rank of how many this process is, and where the first one listens."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from plmscale.errors import PlmscaleError

# What torch's process group reads.
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def resolve(launcher: str, environment: Mapping[str, str] | None = None) -> str:
    """Turn `auto` into what the environment shows: `env` (torchrun), `slurm` (srun) or `local`.

    A Slurm step of one task starts its ranks itself: that is `local`.
    """
    if launcher != "auto":
        return launcher
    here = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in here and "RANK" in here:
        return "env"
    if "SLURM_STEP_ID" in here and int(here.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "slurm"
    return "local"


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Return torch's variables for a task of srun: the first node of the step listens.

    The port follows from the step's number, so that all tasks agree on it without talking. It lies
    below those that Linux lends to outgoing connections (32768 and above).
    """
    try:
        rank, world = environment["SLURM_PROCID"], environment["SLURM_STEP_NUM_TASKS"]
        local = environment["SLURM_LOCALID"]
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        job, step = int(environment["SLURM_JOB_ID"]), environment.get("SLURM_STEP_ID", "0")
    except KeyError as error:
        raise PlmscaleError(
            f"--launcher slurm: {error.args[0]} not set; start the ranks with srun, a task a rank"
        ) from None
    number = 7 * job + (int(step) if step.isdigit() else 0)
    return {
        "RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_RANK": local,
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_node(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(12000 + number % 20000),
    }


def first_node(nodes: str) -> str:
    """Return the first host of a Slurm node list: `gpu[03-05,9],x` -> `gpu03`."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    if not found:
        raise PlmscaleError(f"--launcher slurm: no host in the node list {nodes!r}")
    # A list may have several brackets: rack[1-2]node[3-4].
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", found.group())
