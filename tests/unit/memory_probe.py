"""Live bytes of tensors, counted while a model or a DeepSpeed engine really runs on the CPU."""

from __future__ import annotations

import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path[:0] = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parent)]

from plmscale.memory.states import REDUCE_BUCKET  # noqa: E402


class LiveBytes(TorchDispatchMode):
    """Bytes of distinct storages made while it is active: alive `now`, and the most so far."""

    def __init__(self, written: int | None = None) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._written = written
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if _is_real(t)}
        for tensor in tree_leaves(out):
            if _is_real(tensor) and _storage(tensor) not in given:
                self._add(tensor)
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._alive:
            return
        size = storage.nbytes()
        if self._written is not None and tensor.numel() == REDUCE_BUCKET:
            # DeepSpeed makes its buckets whole and fills as much of them as there are gradients.
            size = self._written * tensor.element_size()
        self._alive[storage._cdata] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type != "meta"


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def loss_of(model: Any, tokens: torch.Tensor, causal: bool = True) -> torch.Tensor:
    """The trainer's loss of packed `tokens` (rows, s): cross entropy in fp32, summed by row."""
    from plmscale.model import segments_of

    logits = model(tokens, causal=causal, segments=segments_of(tokens))
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), tokens.roll(-1, 1).flatten(), reduction="none"
    )
    return losses.view(tokens.shape).sum(1).sum()


def engine_bytes(
    shape: dict[str, Any], rank: int, world: int, stage: int, precision: str
) -> dict[str, int]:
    """Build an engine and take two steps of two micro batches of 2 x 32 tokens.

    Returns bytes alive between the second step's micro batches, and the most since the first step.
    """
    from training_fixtures import make_recipe

    from plmscale.training import engine as engines
    from plmscale.training.layout import Plan

    recipe = make_recipe(architecture=shape, batch_rows=4 * world, context=32)
    plan = Plan(rank, world, 2, 2, stage)
    size = sum(_numels(recipe))
    with LiveBytes(written=size) as live:
        engine = engines.build(recipe, plan, precision, "cpu")
        between = 0
        for step in range(2):
            for micro in range(2):
                tokens = torch.randint(4, 24, (2, 32))
                tokens[:, ::16] = 1
                engine.backward(loss_of(engine, tokens))
                if step == 1 and micro == 0:
                    between = live.now
                engine.step()
            if step == 0:
                live.peak = live.now
    return {"parameters": size, "between": between, "peak": live.peak}


def _numels(recipe: dict[str, Any]) -> list[int]:
    from plmscale.architecture import Architecture
    from plmscale.model import Transformer

    with torch.device("meta"):
        model = Transformer(Architecture.from_dict(recipe["architecture"]))
    return [p.numel() for p in model.parameters()]


def main() -> None:
    """Rank `argv[1]` of `argv[2]`: print, on the last rank, a JSON line for each stage and type.

    `argv[5]`, if not 0, are the parameters of a reduce bucket.
    """
    import logging
    import warnings

    rank, world, port = map(int, sys.argv[1:4])
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    from plmscale.training import engine as engines

    engines.start_distributed("cpu")
    shape, bucket = json.loads(sys.argv[4]), int(sys.argv[5])
    if bucket:
        configured = engines.deepspeed_config

        def with_bucket(*args: Any) -> dict[str, Any]:
            settings = configured(*args)
            settings["zero_optimization"]["reduce_bucket_size"] = bucket
            return settings

        engines.deepspeed_config = with_bucket
    for stage in (1, 2, 3):
        for precision in ("bf16", "fp32"):
            found = engine_bytes(shape, rank, world, stage, precision)
            if rank == world - 1:
                print(json.dumps({"stage": stage, "precision": precision, **found}), flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
