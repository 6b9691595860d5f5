"""Memory a device needs for a run: states and one micro batch at their worst moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.memory.activations import micro_batch
from plmscale.memory.states import Device, Precision, states


@dataclass(frozen=True)
class Memory:
    """Bytes per device at a run's peak.

    weights, gradients, optimizer: what ZeRO leaves on a device (memory/states.py).
    activations, logits: what a micro batch keeps for its backward pass (memory/activations.py).
    workspace: what else is alive at the worst moment: buckets, gathered parameters, temporaries.
    total: their sum. On a GPU it leaves out what is no tensor: the CUDA context and NCCL's
        buffers, about 1 GB together, and fragmentation; on a CPU the process itself.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def predict(
    arch: Architecture,
    context: int,
    micro_rows: int,
    world: int,
    zero_stage: int,
    checkpointing: bool,
    *,
    device: Device,
    precision: Precision,
) -> Memory:
    """Return the memory of one of `world` devices that trains `micro_rows` rows at a time.

    The peak is the largest of: a micro batch's worst moment with all gradients of earlier ones
    beside it; a bucket's reduction, when the blocks whose gradients fill it have let their
    activations go; the optimizer's step; the engine's start. GPU figures are of uncompiled
    blocks; compiled ones keep about a tenth less (memory/activations.py).

    Raises PlmscaleError for a stage, device or precision that there is not.
    """
    if zero_stage not in (1, 2, 3):
        raise PlmscaleError(f"zero_stage: {zero_stage!r}; allowed: 1, 2, 3")
    if device not in ("cuda", "cpu") or precision not in ("bf16", "fp32"):
        raise PlmscaleError(f"no memory model for {precision!r} on {device!r}")
    if min(context, micro_rows, world) < 1:
        raise PlmscaleError(
            f"context {context}, micro_rows {micro_rows} and world {world} must be at least 1"
        )
    state = states(arch, world, zero_stage, precision, device)
    batch = micro_batch(arch, context, micro_rows, checkpointing, precision, device)
    left = round(batch.activations * (1 - state.flushed_share))
    most = max(
        state.lasting + state.backward + batch.peak,
        state.lasting + state.backward + state.flush + left,
        state.lasting + state.step,
        state.startup,
    )
    named = state.lasting + batch.activations + batch.logits
    return Memory(
        state.weights,
        state.gradients,
        state.optimizer,
        batch.activations,
        batch.logits,
        max(0, most - named),
    )
