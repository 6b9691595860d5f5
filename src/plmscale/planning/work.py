"""From the runs of a study to jobs for the simulation: what is left, on how many GPUs, after what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plmscale import grid
from plmscale.grid import Run
from plmscale.planning.pool import Job
from plmscale.planning.sizing import Sized, Sizer
from plmscale.schedule import decay_start
from plmscale.settings import Study


@dataclass(frozen=True)
class Work:
    """A run in the plan. `left` is the share of its steps that it must still make itself.

    whole: on its GPUs if nothing of it were done. sized: what is left, None where it is done.
    """

    run: Run
    left: float
    whole: Sized
    sized: Sized | None

    @property
    def name(self) -> str:
        return self.run.run_id

    @property
    def n_params(self) -> int:
        return self.run.recipe["n_params"]

    @property
    def gpu_hours_left(self) -> float:
        return self.sized.gpu_hours if self.sized else 0.0


def with_ancestors(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return `runs` and the runs that they start from and that are not finished, in grid order.

    Parents of transfer runs and runs whose beginning is shared: the workflow trains them as well.
    """
    needed = {run.run_id for run in runs}
    have = needed.copy()
    queue = [n for run in runs for n in starts_from(run)]
    if not set(queue) - have:
        return list(runs)
    known = {run.run_id: run for run in grid.expand(study)}
    while queue:
        name = queue.pop()
        if name not in have and not is_done(study, known[name]):
            have.add(name)
            queue += starts_from(known[name])
    return [run for name, run in known.items() if name in have]


def starts_from(run: Run) -> list[str]:
    """Return the runs that must have ended before this one starts."""
    return [name for name in (run.parent, run.trunk) if name]


def is_done(study: Study, run: Run) -> bool:
    return (study.folder / "runs" / run.run_id / "metrics.json").exists()


def work(study: Study, runs: Iterable[Run], sizer: Sizer) -> list[Work]:
    """Return every run with its GPUs and hours; PlmscaleError names a run that fits none.

    A run with a checkpoint goes on from it; one with a shared beginning from where the shorter run
    left the constant rate, if that is in the plan or its state is kept.
    """
    runs = list(runs)
    by_name = {run.run_id: run for run in runs}
    found = []
    for run in runs:
        whole = sizer(run.recipe)
        if is_done(study, run):
            found.append(Work(run, 0.0, whole, None))
            continue
        steps = run.recipe["steps"]
        begun = max(_checkpoint_step(study, run), _trunk_step(study, run, by_name))
        left = 1 - min(begun, steps) / steps
        found.append(Work(run, left, whole, sizer(run.recipe, left) if begun else whole))
    return found


def to_jobs(works: Iterable[Work]) -> list[Job]:
    """Return the jobs of what is to be trained."""
    todo = {w.name: w for w in works if w.sized is not None}
    return [
        Job(
            w.name,
            w.sized.hours,
            w.sized.gpus,
            w.sized.slots,
            tuple(name for name in starts_from(w.run) if name in todo),
            w.run.recipe["flops"],
        )
        for w in todo.values()
    ]


def _checkpoint_step(study: Study, run: Run) -> int:
    folder = study.folder / "checkpoints" / run.run_id
    steps = [p.name.removeprefix("step-") for p in folder.glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def _trunk_step(study: Study, run: Run, known: dict[str, Run]) -> int:
    """Return the step at which a run with a shared beginning goes on, 0 where it has none."""
    if run.trunk is None:
        return 0
    shorter = known.get(run.trunk)
    kept = study.folder / "checkpoints" / run.trunk / "trunk"
    if shorter is not None and not is_done(study, shorter):
        recipe = shorter.recipe
        return decay_start(recipe["steps"], recipe["schedule"])
    steps = [p.name.removeprefix("step-") for p in kept.glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)
