"""Steps that must not be taken: gradients that are not finite, or far above their usual norm.

The decision is made on the device, from the norm that all ranks share, and handed to torch's fused
AdamW as `found_inf`: a step that is refused leaves weights, moments and step count as they are, and no
host waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The usual norm is a running mean over about 100 steps, trusted after so many.
_DECAY = 0.99
_TRUSTED_AFTER = 100


class Guard:
    """Watches an engine's gradient norms; `spike_factor` 0 refuses only what is not finite."""

    def __init__(self, engine: Any, spike_factor: float, device: str) -> None:
        self._engine, self._factor = engine, spike_factor
        zero = torch.zeros((), dtype=torch.float32, device=device)
        # Refused because not finite, refused as spikes, refused in a row, steps taken, mean norm.
        self._state = torch.stack([zero] * 5)
        self._bad: tuple[Tensor, Tensor, Tensor] | None = None
        _without_host_syncs()
        adam = engine.optimizer.optimizer
        adam.register_step_pre_hook(self._before_step)

    def _judge(self) -> tuple[Tensor, Tensor, Tensor]:
        norm = self._engine.optimizer._global_grad_norm
        norm = torch.as_tensor(norm, dtype=torch.float32, device=self._state.device)
        lost = ~torch.isfinite(norm) | (norm < 0)
        spike = torch.zeros_like(lost)
        if self._factor:
            trusted = self._state[3] >= _TRUSTED_AFTER
            spike = ~lost & trusted & (norm > self._factor * self._state[4])
        return norm, lost, spike

    def _before_step(self, adam: Any, *_: Any) -> None:
        # DeepSpeed may step its groups one after the other: one judgement serves them all.
        if self._bad is None:
            self._bad = self._judge()
        _, lost, spike = self._bad
        adam.found_inf = (lost | spike).float()

    def after_step(self) -> None:
        """Count the step that the engine has just taken, or not."""
        norm, lost, spike = self._bad if self._bad is not None else self._judge()
        self._bad = None
        state, taken = self._state, ~(lost | spike)
        kept = torch.where(taken, norm, state[4])
        # The plain mean of the first steps, then a running one.
        weight = torch.clamp(1 / (state[3] + 1), min=1 - _DECAY)
        mean = torch.where(taken, state[4] + weight * (kept - state[4]), state[4])
        row = torch.where(taken, 0.0, state[2] + 1)
        self._state = torch.stack([state[0] + lost, state[1] + spike, row, state[3] + taken, mean])
        self.norm = norm

    def counts(self) -> dict[str, float]:
        """Return `nonfinite`, `spikes` (both refused steps), `in_a_row`, `taken` and `mean_norm`."""
        names = ("nonfinite", "spikes", "in_a_row", "taken", "mean_norm")
        return dict(zip(names, self._state.tolist(), strict=True))

    def saved(self) -> list[float]:
        """Return the state for a checkpoint; float32 values, so JSON keeps them exactly."""
        return self._state.tolist()

    def restore(self, state: list[float]) -> None:
        """Take up what `saved` gave."""
        self._state = torch.tensor(state, dtype=torch.float32, device=self._state.device)


def _without_host_syncs() -> None:
    """Replace three helpers of DeepSpeed that fetch a number from the device at each step.

    One asks whether the norm is finite, which the guard does on the device; one whether to clip; one
    writes -1 for a norm that is not finite, from a number that it first sends to the device.
    """
    from deepspeed.runtime import bf16_optimizer, utils
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    def never(_norm: Any) -> bool:
        return False

    for module in (bf16_optimizer, stage_1_and_2, stage3):
        module.is_invalid_grad_norm = never
    for module in (utils, stage_1_and_2):
        module.mask_nan_or_inf_with_val_inplace = _mark
    bf16_optimizer.clip_tensors_by_global_norm = _clip


def _mark(input: Tensor, device: Any = None, val: float = -1.0) -> None:
    """Write `val` where a norm is not finite."""
    input.masked_fill_(~torch.isfinite(input), val)


def _clip(
    input_tensors: list[Tensor], max_norm: float = 1.0, global_norm: Any = None, **_: Any
) -> None:
    """Scale gradients to a global norm of at most `max_norm`; by exactly 1 where it is below."""
    factor = torch.clamp(max_norm / (torch.as_tensor(global_norm) + 1e-6), max=1.0)
    torch._foreach_mul_(input_tensors, factor.float())
