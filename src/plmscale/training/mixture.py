"""Which source a training sample comes from: an exact, stateless interleaving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from plmscale.native import rows as native

_SCALE = 1 << 32


class Mixture:
    """Give each global sample number a source and a number within that source.

    Sample j of two sources with integer weights w and W - w belongs to the first exactly when
    floor((j + 1) w / W) > floor(j w / W) (a Beatty sequence), and floor(j w / W) of the first j
    samples did. More than two sources: the first against the rest, then on within the rest. So
    any run of n samples holds n w / W of a source within one (k - 1 for the k-th of many), and
    nothing need be stored to find sample j.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights` need not add up to 1; names are taken in sorted order."""
        self.sources = sorted(name for name, weight in weights.items() if weight > 0)
        if not self.sources:
            raise ValueError("a mixture needs at least one source with a positive weight")
        total = sum(weights[name] for name in self.sources)
        self.weights = [max(1, round(weights[name] / total * _SCALE)) for name in self.sources]
        self._rest = [sum(self.weights[i:]) for i in range(len(self.weights))]

    def locate(self, sample: int) -> tuple[str, int]:
        """Return (source, index within it) of global sample `sample` >= 0."""
        for name, weight, rest in zip(self.sources, self.weights, self._rest, strict=True):
            before = sample * weight // rest
            if (sample + 1) * weight // rest > before:
                return name, before
            sample -= before
        raise AssertionError("the last source takes every sample that is left")

    def locate_all(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `locate` gives for each of `samples`, int64 (k,), 0 <= sample < 2^62.

        The first array has numbers of `sources`, the second indices within them, both int64.
        """
        return native.locate(samples, self.weights, self._rest)

    def count(self, samples: int) -> dict[str, int]:
        """Return how many of the first `samples` samples each source provides."""
        counts = {}
        for name, weight, rest in zip(self.sources, self.weights, self._rest, strict=True):
            counts[name] = samples * weight // rest
            samples -= counts[name]
        return counts
