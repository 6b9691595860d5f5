"""Time of steps on a GPU (or, to try the code, on a CPU): whole steps and their parts."""

from __future__ import annotations

import time

import torch


def synchronize():
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Mark:
    """A moment on the device's own clock; on a CPU, where nothing is queued, on the host's."""

    def __init__(self):
        self._event = None
        if torch.cuda.is_available():
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        self._time = time.perf_counter()

    def seconds_until(self, other):
        """Seconds from this mark to a later one; the device must have reached both."""
        if self._event is None:
            return other._time - self._time
        return self._event.elapsed_time(other._event) / 1000


def time_steps(step, seconds, warm=3, least=3, most=1000):
    """Call `step` over and over for about `seconds`; the first `warm` calls do not count.

    Returns seconds of a step, of the first one (which compiles), and the number of steps counted.
    The host does not wait for the device between the counted ones.
    """
    begin = time.perf_counter()
    step()
    synchronize()
    first = time.perf_counter() - begin
    for _ in range(warm - 1):
        step()
    synchronize()
    begin = time.perf_counter()
    step()
    synchronize()
    count = round(seconds / max(1e-6, time.perf_counter() - begin))
    count = max(least, min(most, count))
    begin = time.perf_counter()
    for _ in range(count):
        step()
    synchronize()
    return (time.perf_counter() - begin) / count, first, count


class Split:
    """Where a trainer's step goes: waiting for the batch, forward and backward, optimizer.

    `data` is the host's wait; the others are on the device's clock and include its idle time.
    """

    def __init__(self, run):
        self._data, self._marks, self._run = [], [], run
        self._at, self._update = run.feed.at, run.engine._take_model_step
        run.feed.at, run.engine._take_model_step = self._wait, self._optimize
        self._open = []

    def _wait(self, step):
        begin = time.perf_counter()
        batch = self._at(step)
        self._data.append(time.perf_counter() - begin)
        return batch

    def _optimize(self, *args):
        self._open.append(Mark())
        self._update(*args)
        self._open.append(Mark())

    def step(self):
        """The run's next step, its parts marked."""
        self._open = [Mark()]
        self._run.step += 1
        self._run.train_step(self._run.step)
        self._marks.append(tuple(self._open))

    def milliseconds(self, last):
        """Means over the `last` steps: data, forward and backward, optimizer."""
        begin, update, end = zip(*self._marks[-last:], strict=True)
        computing = sum(map(Mark.seconds_until, begin, update))
        updating = sum(map(Mark.seconds_until, update, end))
        return {
            "data ms": 1000 * sum(self._data[-last:]) / last,
            "fwd+bwd ms": 1000 * computing / last,
            "optim ms": 1000 * updating / last,
        }
