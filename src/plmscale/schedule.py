"""The learning rate of a step, and the steps at which a run is validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# What of a recipe's schedule (and of the recipe) only says how long a run is and how it ends.
ENDING = ("steps", "tokens", "budget", "flops_6nd", "flops", "validation", "fingerprint", "run_id")
_ENDING_OF_SCHEDULE = ("decay_fraction", "decay", "final_fraction")


def learning_rate(step: int, steps: int, peak: float, schedule: Mapping[str, Any]) -> float:
    """Return the learning rate used by optimizer step `step` (1 .. steps).

    `cosine`: linear from 0 to `peak` over the first `warmup_fraction` of the run (rounded up to
    whole steps), then a cosine that reaches `final_fraction * peak` at the run's own last step
    (Cheng et al. 2024, section 3; Hoffmann et al. 2022, appendix B).

    `wsd`: linear over `warmup_steps`, then `peak`, then over the last `decay_fraction` of the run
    down to `final_fraction * peak` at its last step, as 1 - sqrt(progress) or linearly (Hu et al.
    2024, section 4; Haegele et al. 2024, section 3). Up to the decay it does not depend on `steps`.
    """
    if schedule["name"] == "cosine":
        warmup = math.ceil(schedule["warmup_fraction"] * steps)
        if step <= warmup:
            return peak * step / warmup
        if steps == warmup:
            return peak
        left = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    else:
        start = decay_start(steps, schedule)
        rise = min(1.0, step / max(1, schedule["warmup_steps"]))
        if step <= start:
            return peak * rise
        progress = (step - start) / (steps - start)
        left = 1 - (math.sqrt(progress) if schedule["decay"] == "sqrt" else progress)
        # A run shorter than its warm-up decays from where it stands.
        peak *= min(1.0, max(1, start) / max(1, schedule["warmup_steps"]))
    return peak * (schedule["final_fraction"] + (1 - schedule["final_fraction"]) * left)


def decay_start(steps: int, schedule: Mapping[str, Any]) -> int:
    """Return the last step of a `wsd` run at the full rate; 0 for a `cosine` run."""
    if schedule["name"] == "cosine":
        return 0
    return steps - math.ceil(schedule["decay_fraction"] * steps)


def trunk_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a `wsd` run up to its decay: runs with an equal trunk share it."""
    labels = ("study", "experiment", *ENDING)
    trunk = {key: value for key, value in recipe.items() if key not in labels}
    schedule = recipe["schedule"]
    trunk["schedule"] = {k: v for k, v in schedule.items() if k not in _ENDING_OF_SCHEDULE}
    for part in ("architecture", "corpus"):
        trunk[part] = {k: v for k, v in recipe[part].items() if k != "name"}
    return trunk


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return at most `evaluations` evenly spaced steps, the last of them `steps`."""
    count = max(1, min(steps, evaluations))
    return sorted({math.ceil(steps * i / count) for i in range(1, count + 1)})
