"""The batches of a run, made ahead by a thread while the device computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """Gives what `make(step)` returns; with `ahead`, that of the next step is made meanwhile.

    `make` must be a pure function of the step, so the result is the same. Its errors are raised by
    `at` of the step they belong to. Ahead is for devices that compute by themselves: on a
    processor the thread would only take time from the step.
    """

    def __init__(self, make: Callable[[int], T], last: int, ahead: bool) -> None:
        self.make, self.last = make, last
        self._step = -1
        self._next: Future[T] | None = None
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None

    def at(self, step: int) -> T:
        """Return the batch of `step`, from 1; any step may be asked for."""
        if self._thread is None:
            return self.make(step)
        future = self._next if self._step == step else None
        if future is None:
            future = self._thread.submit(self.make, step)
        result = future.result()
        if step < self.last:
            self._step, self._next = step + 1, self._thread.submit(self.make, step + 1)
        return result

    def close(self) -> None:
        """End the thread; what it is at is finished and dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
