"""The numbers a run goes on from, as DeepSpeed holds them: fp32 weights and AdamW's two moments.

Each rank owns some stretches of some parameters; which, depends on the ZeRO stage and the number of
ranks. Here they are told apart by (parameter name, start, length) alone, so that what was saved under
one layout can be read under any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KINDS = ("weight", "exp_avg", "exp_avg_sq")
# (kind, parameter name, start, length) -> fp32 values of that stretch of the flattened parameter.
Reader = Callable[[str, str, int, int], Tensor]


@dataclass(frozen=True)
class Fragment:
    """A stretch of a flattened parameter that this rank owns: fp32 views into the optimizer."""

    name: str
    start: int
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    @property
    def numel(self) -> int:
        return self.weight.numel()


def fragments(engine: Any) -> list[Fragment]:
    """Return what this rank owns, in the model's order; empty stretches are left out.

    AdamW's moments are made (as zeros) where the optimizer has not taken a step yet.
    """
    masters = _masters(engine.optimizer)
    _make_moments(engine.optimizer.optimizer, masters)
    found = []
    for name, parameter in engine.module.named_parameters():
        if hasattr(parameter, "ds_id"):
            piece = _of_stage_3(engine.optimizer, name, parameter)
        else:
            piece = _of_flat_groups(engine.optimizer, name, parameter)
        if piece is not None:
            found.append(piece)
    return found


def _masters(wrapper: Any) -> list[Tensor]:
    """Return the flat fp32 tensors that torch's optimizer steps, whatever DeepSpeed calls them."""
    for attribute in (
        "fp32_groups_flat_partition",  # stage 1 in bf16
        "single_partition_of_fp32_groups",  # stages 1 and 2
        "fp32_partitioned_groups_flat",  # stage 3
    ):
        if hasattr(wrapper, attribute):
            return getattr(wrapper, attribute)
    raise TypeError(f"{type(wrapper).__name__}: unknown optimizer of DeepSpeed")


def _make_moments(adam: torch.optim.Optimizer, masters: list[Tensor]) -> None:
    for master in masters:
        if not adam.state[master]:
            adam.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }


def _of_stage_3(wrapper: Any, name: str, parameter: Any) -> Fragment | None:
    rank = torch.distributed.get_rank()
    views = {
        # The same memory as the optimizer's: written to by `fill`.
        kind: wrapper.get_local_fp32_param(parameter, None if kind == "weight" else kind).detach()
        for kind in KINDS
    }
    share = views["weight"].numel()
    start = rank * share
    numel = max(0, min(share, parameter.ds_numel - start))
    if numel == 0:
        return None
    return Fragment(name, start, **{kind: view[:numel] for kind, view in views.items()})


def _of_flat_groups(wrapper: Any, name: str, parameter: Any) -> Fragment | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    if mapping.optim_fragment is None:
        wrapper._lazy_init_hp_params_optimizer_state()
        mapping = parameter._hp_mapping
    views = {
        kind: mapping.get_hp_fragment(None if kind == "weight" else kind).detach() for kind in KINDS
    }
    return Fragment(name, mapping.lp_fragment_address.start, **views)


def fill(engine: Any, read: Reader, adam_step: float) -> None:
    """Set this rank's fragments from `read`, AdamW's step count, and the model's weights from both.

    With `adam_step` 0 the moments stay zero and `read` is asked for weights alone. All ranks must
    call it: those that share a parameter exchange its new values.
    """
    kinds = KINDS if adam_step else KINDS[:1]
    with torch.no_grad():
        for piece in fragments(engine):
            for kind in kinds:
                view = getattr(piece, kind)
                view.copy_(read(kind, piece.name, piece.start, piece.numel).reshape(view.shape))
        for state in engine.optimizer.optimizer.state.values():
            state["step"].fill_(adam_step)
        _refresh(engine.optimizer)


def _refresh(wrapper: Any) -> None:
    """Bring the model's (bf16) weights up to the fp32 ones, on all ranks."""
    if hasattr(wrapper, "update_lp_params"):
        wrapper.update_lp_params()
        return
    wrapper._partition_all_parameters()
    for group in range(len(wrapper.fp16_groups)):
        wrapper._reassign_or_swap_out_partitioned_parameters(group)
    wrapper._post_step([])


def adam_step(engine: Any) -> float:
    """Return how many steps AdamW has taken (skipped ones do not count)."""
    states = engine.optimizer.optimizer.state.values()
    return max((float(state["step"]) for state in states), default=0.0)


def full_weights(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the fp32 parameters by name, on the CPU of rank 0 (elsewhere empty); a collective.

    One parameter at a time, so that a model larger than a device's memory can be written out.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    first = torch.distributed.get_rank() == 0
    for name, parameter in engine.module.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        yield name, full.detach().float().cpu().clone() if first else torch.empty(0)
