"""Which runs share a GPU, and what a shared GPU computes."""

from __future__ import annotations

import math

from plmscale.memory.layout import USABLE

# Runs of fewer parameters than this leave room for so many on one GPU (powers of two, so that
# packs of different sizes fill a GPU together).
LEVELS = ((10e6, 8), (30e6, 4), (90e6, 2))
# What each doubling of the runs on a GPU adds to its total, and how far that goes: assumptions.
GAIN = 1.4
CEILING = 0.4
# Each process brings a CUDA context and the allocator's reserve, which memory/ does not count.
PROCESS_BYTES = 1.5e9


def slots(n_params: float, run_bytes: float = 0.0, device_bytes: float = math.inf) -> int:
    """Return how many runs of this size share one GPU: 8, 4, 2, or 1 (a GPU, or more, each).

    Below 10 M parameters 8, below 30 M 4, below 90 M 2: their matrix products are too small to
    keep a GPU busy, and what one run leaves idle another one uses. Fewer where so many, at
    `run_bytes` of tensors each, do not fit the memory of the GPU.
    """
    count = next((k for limit, k in LEVELS if n_params < limit), 1)
    while count > 1 and count * (run_bytes + PROCESS_BYTES) > USABLE * device_bytes:
        count //= 2
    return count


def packed_share(alone: float, count: int) -> float:
    """Return the share of its peak that a GPU reaches with `count` runs, one of which gets `alone`.

    Each doubling adds 40 %, up to 0.4 of the peak, and never less than one run alone.
    """
    return max(alone, min(CEILING, alone * GAIN ** math.log2(count)))
