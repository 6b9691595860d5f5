"""Threads, memory and order of a run, from its recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from plmscale import memory
from plmscale.architecture import Architecture

# Below this size one core works as fast as two: the matrices are too small to share.
ONE_THREAD_BELOW = 3e6
# FLOP/s of a core in training, careful: what walltimes on nodes without GPUs are counted with.
CORE_FLOPS = 2e9
# A process that has imported PyTorch and DeepSpeed, and its launcher.
_RANK_MB = 340
_LAUNCHER_MB = 360
# Freed memory stays with the process, and gaps in it are not filled: peaks of real runs are
# 1.07 to 1.29 times their tensors' (sizes 6M and 25M, one and two processes).
_ALLOCATOR = 1.2


def threads(recipe: Mapping[str, Any], asked: int) -> int:
    """Return CPU threads for a run; `asked` > 0 wins.

    Snakemake caps the number at the cores it was given, so runs side by side never ask for
    more threads than there are cores.
    """
    if asked:
        return asked
    n = recipe["n_params"]
    return 1 if n < ONE_THREAD_BELOW else 2 if n < 10e6 else 4


def rank_mb(needed: memory.Memory) -> float:
    """Return the peak memory in MB of a CPU process whose tensors need this much."""
    return _RANK_MB + _ALLOCATOR * needed.total / 1e6


def memory_mb(recipe: Mapping[str, Any]) -> int:
    """Return memory in MB of a CPU run in one process: its launcher, the process, its tensors.

    `auto` is whichever precision takes more: which one the machine will choose is not known here.
    A run on GPUs needs less of the host than this.
    """
    arch = Architecture.from_dict(recipe["architecture"])
    asked = recipe["precision"]
    rows, context = recipe["batch_rows"], recipe["context"]
    layouts = (
        # Without a limit: on a CPU the layout goes by the cache alone.
        memory.choose(arch, context, rows, 1, math.inf, device="cpu", precision=precision)
        for precision in (("bf16", "fp32") if asked == "auto" else (asked,))
    )
    return _LAUNCHER_MB + math.ceil(max(rank_mb(layout.memory) for layout in layouts))


def priority(recipe: Mapping[str, Any]) -> int:
    """Return Snakemake's priority: long runs first, so that no core waits for a late long one."""
    return int(recipe["flops"] ** 0.5 / 1e3)
