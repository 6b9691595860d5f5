"""Bytes of weights, gradients and optimizer of DeepSpeed's ZeRO stages, per device.

ZeRO (Rajbhandari et al. 2020, section 3) says which of these `world` devices share; what is really
allocated is read from DeepSpeed 0.19's code under this project's settings (training/engine.py:
fp32 gradient accumulation and communication, PyTorch's fused AdamW, immediate gradient updates), and
tests compare it with a real engine. `P` are all parameters, W is `world`, B the reduce bucket.

bf16, bytes at the peak of a step:

    stage  class                  weights  gradients            optimizer   buckets
    1      BF16_Optimizer         2 P      4 P (fp32, at once)  12 P / W    4 P where P <= 5e8
    2      DeepSpeedZeroOptimizer 2 P      4 P / W              12 P / W    2 B, then 6 min(P, B)
    3      ..._Stage3             2 P / W  4 P / W              12 P / W    4 B, then 4 min(P, B)

fp32 differs in the weights (4 P, or 4 P / W; the optimizer has a copy of its own all the same), in
the gradients (4 P at stage 1; 4 P / W, twice over at a step, above it) and in the bucket (4 B, then
4 min(P, B)). Stage 3 adds gathered parameters: those that are needed again within the next 1e9
parameters stay gathered, in a smaller model all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from plmscale.architecture import Architecture

Precision = Literal["bf16", "fp32"]
Device = Literal["cuda", "cpu"]

# In parameters. Ours (DeepSpeed's default, 5e8, costs up to 4 GB and reduces no faster):
REDUCE_BUCKET = 100_000_000
# DeepSpeed's: engine.py MEMORY_OPT_ALLREDUCE_SIZE, zero/config.py max_live_parameters, sub_group_size.
ALLREDUCE = 500_000_000
MAX_LIVE = 1_000_000_000
SUB_GROUP = 1_000_000_000


@dataclass(frozen=True)
class States:
    """Bytes per device of what does not depend on the batch.

    weights, gradients, optimizer: alive from the first step's end to the run's end (gradients:
        from the first micro batch of a step on).
    backward: more of it while activations are alive (a bucket, gathered parameters).
    flush: more than `backward` while a bucket is reduced, and
    flushed_share: the share of the backward pass that is done when that first happens.
    step: more than weights, gradients and optimizer while the optimizer steps.
    startup: all that is alive while the engine is built.
    """

    weights: int
    gradients: int
    optimizer: int
    backward: int
    flush: int
    flushed_share: float
    step: int
    startup: int

    @property
    def lasting(self) -> int:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer


def parameters(arch: Architecture) -> tuple[int, int, int]:
    """Return how many parameters there are, in the linear matrices alone, and in the largest."""
    d, f, vocab = arch.d_model, arch.d_ff, arch.vocab_size
    head = 0 if arch.tie_embeddings else vocab * d
    matrices = arch.n_layers * (4 * d * d + 3 * d * f) + head
    largest = max(3 * d * d, 2 * d * f, vocab * d)
    return arch.n_params + vocab * d + head, matrices, largest


def states(
    arch: Architecture, world: int, zero_stage: int, precision: Precision, device: Device
) -> States:
    """Return the bytes of each kind; `zero_stage` is 1, 2 or 3."""
    total, matrices, largest = parameters(arch)
    size = 2 if precision == "bf16" else 4
    share = math.ceil(total / world)
    bucket = min(total, REDUCE_BUCKET)
    # A bucket is made whole; on a CPU only the pages that are written count.
    made = REDUCE_BUCKET if device == "cuda" else bucket
    # One weight's gradient on its way to the others; BF16_Optimizer casts it first.
    passing = size * largest
    flushed = bucket / total
    # The model, and the flat copy of its larger parameter group.
    startup = size * (total + matrices)
    if zero_stage == 3:
        kept = (size * share, 4 * share, 12 * share)
        live = 0 if world == 1 else size * min(total, MAX_LIVE)
        # The bucket is fp32, the type of communication, and is never let go.
        step = 4 * made + 4 * min(share, SUB_GROUP)
        startup = size * (total + 2 * share) + 4 * made
        return States(*kept, 4 * made + live + passing, 4 * bucket, flushed, step, startup)
    if precision == "bf16" and zero_stage == 1:
        kept = (2 * total, 4 * total, 12 * share)
        # Both parameter groups are copied into one reduction unless the first fills it alone;
        # by then the activations are gone.
        reduced = 4 * total if 0 < matrices <= ALLREDUCE else 0
        return States(*kept, 6 * largest, 0, 1.0, reduced, startup)
    if precision == "bf16":
        kept = (2 * total, 4 * share, 12 * share)
        # bf16 gradients in the bucket, then flattened, then cast for the sum in fp32.
        return States(*kept, 2 * made + passing, 6 * bucket, flushed, 0, startup)
    if zero_stage == 1:
        kept = (4 * total, 4 * total, 12 * share)
        # Gradients have moved into the bucket, which is flattened, then into the own share.
        return States(
            *kept, 4 * made + passing, 4 * share, 1.0, max(0, 8 * share - kept[1]), startup
        )
    kept = (4 * total, 4 * share, 12 * share)
    # The bucket is flattened; then the newest share stands beside that of earlier micro batches.
    return States(*kept, 4 * made + passing, 4 * max(bucket, share), flushed, 4 * share, startup)
