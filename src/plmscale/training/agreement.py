"""All ranks stop or save at the same step."""

from __future__ import annotations

import time

import torch

# A job about to be ended gets little more than that.
_VOTE_SECONDS = 5.0


class Agreement:
    """Votes of the ranks of one run, from step `step` on."""

    def __init__(self, device: str, world: int, step: int) -> None:
        self._device, self._world = device, world
        self._at, self._step, self._every = time.monotonic(), step, 1

    def reach(self, step: int, stop: int, due: bool, busy: bool, logged: bool) -> tuple[int, bool]:
        """Return the signal to stop by (0 for none) and whether to save, alike on all ranks.

        `stop` is the signal this rank was told to stop by, `due` whether it wants a checkpoint, `busy`
        whether it still writes one. On GPUs, where a vote waits for the device, the ranks vote only
        every few seconds, and where they wait anyway (`logged`).
        """
        if self._world == 1:
            return stop, due and not busy
        since = step - self._step
        if self._device == "cuda" and not logged and since < self._every:
            return 0, False
        pace = round(1000 * (time.monotonic() - self._at) / max(1, since))
        # Not while any rank still writes: it would have to wait, and all the others for it.
        votes = torch.tensor([stop, int(due), int(busy), pace], device=self._device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        stops, dues, writing, pace = votes.tolist()
        # The slowest rank's pace, so that all of them vote again at the same step.
        self._at, self._step = time.monotonic(), step
        self._every = max(1, round(1000 * _VOTE_SECONDS / max(1, pace)))
        return stops, dues > 0 and not writing
