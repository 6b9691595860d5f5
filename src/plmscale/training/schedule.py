"""The learning rate of a step, and the steps at which a run is validated."""

from __future__ import annotations

import math


def learning_rate(
    step: int, steps: int, peak: float, warmup_fraction: float, final_fraction: float
) -> float:
    """Return the learning rate used by optimizer step `step` (1 .. steps).

    Linear from 0 to `peak` over the first `warmup_fraction` of the run (rounded up to whole
    steps), then a cosine that reaches `final_fraction * peak` at the run's own last step
    (Cheng et al. 2024, section 3; Hoffmann et al. 2022, appendix B).
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step <= warmup:
        return peak * step / warmup
    if steps == warmup:
        return peak
    progress = (step - warmup) / (steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return at most `evaluations` evenly spaced steps, the last of them `steps`."""
    count = max(1, min(steps, evaluations))
    return sorted({math.ceil(steps * i / count) for i in range(1, count + 1)})
