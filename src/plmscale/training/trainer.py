"""One rank's training of one recipe, from start or checkpoint to its results."""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.files import finite, read_json
from plmscale.memory.layout import SWITCH
from plmscale.schedule import decay_start, evaluation_steps, learning_rate
from plmscale.training import checkpoint, results
from plmscale.training import engine as engines
from plmscale.training.agreement import Agreement
from plmscale.training.data import training_samples, validation_samples
from plmscale.training.evaluate import Validation, Validator, row_losses
from plmscale.training.feed import Feed
from plmscale.training.guard import Guard
from plmscale.training.layout import plan_batch
from plmscale.training.lock import Owner
from plmscale.training.objectives import IGNORED, causal_rows, examples
from plmscale.training.options import Options
from plmscale.training.parent import Parent, ParentFailed, parent_of
from plmscale.training.recipe import check
from plmscale.training.records import DivergenceRule, Spikes
from plmscale.training.trunks import kept_state
from plmscale.training.watch import Watch

_CLOCKS = ("train_seconds", "valid_seconds", "wall_seconds")
# Slurm sends one of them before a job's time is up, as --signal asks; the other ends it.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# Compiling the blocks costs about a minute: not for runs that train for a few.
_COMPILE_FROM_FLOPS = 1e17
# Share of the time that saving may keep training waiting.
_STALL_SHARE = 0.05


def train(options: Options, rank: int, world: int, owner: Owner | None = None) -> None:
    """Train the recipe of `options` as rank `rank` of `world`; process group set up by the caller.

    Ends with all output files, metrics.json last. A lost run ends well too, with status
    `diverged` or `parent_failed`. Raises PlmscaleError for bad input; SystemExit(128 + signal)
    after a checkpoint when told to stop by SIGTERM or SIGUSR1.
    """
    recipe = check(read_json(options.recipe))
    run = Run(options, recipe, rank, world, owner)
    try:
        parent = parent_of(recipe, options.parent_dir)
    except ParentFailed as error:
        results.finish(run, "parent_failed", str(error))
        return
    run.prepare(parent)
    try:
        status, detail = run.loop()
    finally:
        run.feed.close()
        run.saver.wait()
    results.finish(run, status, detail)


class Run:
    """A run in one process: its data, engine, clocks and curve."""

    def __init__(
        self,
        options: Options,
        recipe: dict[str, Any],
        rank: int,
        world: int,
        owner: Owner | None = None,
    ) -> None:
        self.options, self.recipe, self.rank, self.world = options, recipe, rank, world
        self.arch = Architecture.from_dict(recipe["architecture"])
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = engines.resolve_precision(recipe["precision"], self.device)
        self.batch_rows = recipe["batch_rows"]
        self.tokens_per_step = self.batch_rows * recipe["context"]
        self.step = self.saved_step = self.resumed = 0
        self.clocks = dict.fromkeys(_CLOCKS, 0.0)
        self.startup_seconds = 0.0
        self.samples: Any = None
        self.engine: Any = None
        # Rank 0's alone.
        self.watch: Watch | None = None
        self.last_validation: Validation | None = None
        self.parent: dict[str, Any] | None = None
        self.trunk: dict[str, Any] | None = None
        self.curve_rows = min(recipe["validation"]["rows"], recipe["validation"]["curve_rows"])
        self.stopping = 0
        # Sums since the last logged point: nats, predicted tokens. float64, so that a resumed
        # run adds up to the same number.
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        # The state at the end of the full rate is kept: longer runs of equal beginning use it.
        self.decay_start = decay_start(recipe["steps"], recipe["schedule"])
        self.saver = checkpoint.Saver(
            options.checkpoint_dir, rank, world, owner, {self.decay_start} - {0}
        )
        self.rule, self.spikes = DivergenceRule(), Spikes()

    def prepare(self, parent: Parent | None) -> None:
        """Open the data, build the engine, take up a checkpoint or trunk if there is one."""
        self.parent = parent.record if parent else None
        weights = parent.weights if parent else None
        recipe, options = self.recipe, self.options
        latest = checkpoint.latest(options.checkpoint_dir)
        if latest is not None:
            # `auto` stays what it was at the start, whatever this machine would choose.
            self.precision = read_json(latest / checkpoint.STATE)["precision"]
        # From here on a signal leads to a checkpoint; before, there is nothing to save.
        for number in _STOP_SIGNALS:
            signal.signal(number, self._stop)
        self.samples = training_samples(options.corpus, recipe)
        self.plan = plan_batch(
            self.arch,
            self.batch_rows,
            recipe["context"],
            self.rank,
            self.world,
            device=self.device,
            precision=self.precision,
            zero_stage=options.zero_stage,
            micro_rows=options.micro_rows,
            checkpointing=SWITCH[options.activation_checkpointing],
        )
        self.feed = Feed(self._examples, recipe["steps"], ahead=self.device == "cuda")
        self.validator = Validator(
            recipe, validation_samples(options.corpus, recipe), self.device, self.plan.micro_rows
        )
        # Stage 3 gathers weights in hooks of each layer, at which the compiler leaves its graph:
        # nothing would be fused. Attention is compiled all the same.
        long = recipe["flops_6nd"] >= _COMPILE_FROM_FLOPS and self.plan.zero_stage < 3
        long = long and self.device == "cuda"
        asked = SWITCH[options.compile]
        self.compiled = long if asked is None else asked
        self.engine = engines.build(
            recipe, self.plan, self.precision, self.device, weights, self.compiled
        )
        self.guard = Guard(self.engine, recipe["optimizer"].get("spike_factor", 0.0), self.device)
        points: list[Any] = []
        if latest is not None:
            state = checkpoint.restore(self.engine, latest)
            self.saved_step, self.resumed = state["step"], state["resumed"] + 1
            self.clocks.update(state["clocks"])
            self.trunk = state["trunk"]
            points = self._take_up(state)
            self._say(f"resumed at step {self.step:,}")
        else:
            folder, why = kept_state(options.trunk_dir, recipe, self.precision)
            if why:
                self._say(f"{why}; training from the start")
            if folder is not None:
                state = checkpoint.restore(self.engine, folder)
                points = self._take_up(state)
                self.trunk = {"run_id": state["run_id"], "step": self.step}
                self._say(f"goes on from step {self.step:,} of {state['run_id']}")
        if self.rank == 0:
            self.watch = Watch(self, points)

    def _take_up(self, state: dict[str, Any]) -> list[Any]:
        """Go on from a checkpoint's state; return its curve."""
        self.step = state["step"]
        if self.rank == 0:
            # JSON has no NaN; a lost loss must stay one, so that the next logged point ends the run.
            sums = [math.nan if value is None else value for value in state["sums"]]
            self.sums += torch.tensor(sums, dtype=torch.float64).to(self.device)
        self.rule.first, self.rule.above = state["rule"]
        self.spikes.recent, self.spikes.count = state["spikes"]
        self.guard.restore(state["guard"])
        return state["curve"]

    def _say(self, line: str) -> None:
        if self.rank == 0:
            print(f"{self.recipe['run_id']}: {line}", flush=True)

    def _stop(self, number: int, _frame: object) -> None:
        self.stopping = number

    def loop(self) -> tuple[str, str]:
        """Train to the last step; return status and its detail."""
        recipe, steps = self.recipe, self.recipe["steps"]
        evaluations = set(evaluation_steps(steps, recipe["validation"]["evaluations"]))
        # About a hundred logged points, and at least every 50 steps: each costs a host sync.
        every = max(1, min(50, steps // 100))
        self.startup_seconds = time.time() - self.options.started
        mark = saved = time.monotonic()
        self._rest(self.step)
        agreement = Agreement(self.device, self.world, self.step)
        while self.step < steps:
            self.step += 1
            step = self.step
            self.train_step(step)
            keep = step == self.decay_start
            logged = step == 1 or step % every == 0 or step == steps or keep
            if logged and (lost := self.log(step)):
                self._tick("train_seconds", mark)
                return "diverged", lost
            if step in evaluations:
                mark = self._tick("train_seconds", mark)
                # All rows only at the end: a curve is cheap, and its points are of the same rows.
                rows = None if step == steps else self.curve_rows
                self.last_validation = self.validator.run(
                    self.engine.module, self.rank, self.world, rows
                )
                mark = self._tick("valid_seconds", mark)
                self._rest(step)
                loss = self.last_validation.first(self.curve_rows).loss
                if self.watch is not None:
                    self.watch.curve.add(step, "valid", loss)
                if not math.isfinite(loss) or not math.isfinite(self.last_validation.loss):
                    return "diverged", f"validation loss is not finite at step {step}"
            due = time.monotonic() - saved >= self._checkpoint_every()
            stop, due = agreement.reach(step, self.stopping, due, self.saver.busy, logged)
            if (stop or due or keep) and step < steps:
                mark = self._tick("train_seconds", mark)
                self._save()
                mark = saved = time.monotonic()
                self._rest(step)
            if stop and step < steps:
                failed = self.saver.report.failed
                self.saver.wait()
                # Who started the ranks kills the others soon after the first has left.
                checkpoint.barrier()
                written = self.saver.report.failed == failed
                kept = "saved" if written else "with an earlier checkpoint"
                self._say(f"stopped at step {step:,} by {signal.Signals(stop).name}, {kept}")
                raise SystemExit(128 + stop)
        self._tick("train_seconds", mark)
        return "done", ""

    def _examples(self, step: int) -> tuple[Tensor, Tensor, Tensor | bool]:
        """Return inputs, targets and causal rows of this rank's part of `step`."""
        numbers = self.plan.samples(step, self.batch_rows)
        rows = self.samples.batch(numbers)
        # Rows of padding predict nothing, whatever their number.
        numbers = [max(0, number) for number in numbers]
        inputs, targets = examples(self.recipe, rows, numbers, self.recipe["data_seed"])
        causal = causal_rows(self.recipe, numbers)
        made = (torch.from_numpy(inputs), torch.from_numpy(targets))
        if isinstance(causal, np.ndarray):
            causal = torch.from_numpy(causal)
        if self.device == "cuda":
            # Only from pinned memory does a copy run beside the computation.
            made = tuple(part.pin_memory() for part in made)
            causal = causal.pin_memory() if isinstance(causal, Tensor) else causal
        return *made, causal

    def train_step(self, step: int) -> None:
        """One optimizer step: the mean over the whole batch's predicted tokens, then AdamW."""
        recipe, plan, engine = self.recipe, self.plan, self.engine
        inputs, targets, causal = self.feed.at(step)
        tokens = inputs.to(self.device, non_blocking=True).long()
        goals = targets.to(self.device, non_blocking=True)
        predicted = (goals != IGNORED).sum().double()
        if self.world > 1:
            torch.distributed.all_reduce(predicted)
        # DeepSpeed divides by the micro batches and averages over the ranks.
        scale = (plan.accumulation * self.world / predicted.clamp(min=1)).float()
        if isinstance(causal, Tensor):
            causal = causal.to(self.device, non_blocking=True)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self.rate = learning_rate(
            step, recipe["steps"], recipe["optimizer"]["lr"], recipe["schedule"]
        )
        engines.set_rate(engine, self.rate)
        for micro in range(plan.accumulation):
            part = slice(micro * plan.micro_rows, (micro + 1) * plan.micro_rows)
            rows = causal[part] if isinstance(causal, Tensor) else causal
            total = row_losses(engine, recipe["packing"], rows, tokens[part], goals[part]).sum()
            engine.backward(total * scale)
            engine.step()
            nats += total.detach().double()
        self.guard.after_step()
        self.sums += torch.stack((nats, predicted / self.world))

    def log(self, step: int) -> str:
        """Record the mean training loss since the last point; return why the run is lost, or ""."""
        sums = self.sums.clone()
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        nats, predicted = sums.tolist()
        self.sums.zero_()
        loss = nats / max(1.0, predicted)
        counts = self.guard.counts()
        limit = self.recipe["optimizer"].get("nonfinite_limit", 10)
        if counts["in_a_row"] >= limit:
            return f"{limit} steps in a row were refused by step {step} (gradients not finite, or spikes)"
        spike = self.spikes.see(loss)
        if self.watch is not None:
            self.watch.trained(step, loss, counts, spike)
        return self.rule.judge(step, loss) or ""

    def _rest(self, step: int) -> None:
        if self.watch is not None:
            self.watch.rest(step)

    def wall_seconds(self) -> float:
        """Return the time since the start, with that of earlier starts, in seconds."""
        return self.clocks["wall_seconds"] + time.time() - self.options.started

    def _tick(self, clock: str, mark: float) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        self.clocks[clock] += now - mark
        return now

    def _checkpoint_every(self) -> float:
        """Seconds between checkpoints: as asked; where each stops training for over a second,
        then so seldom that it stands still for 5 % of the time at most."""
        report = self.saver.report
        stall = report.blocked / max(1, report.count + report.failed)
        return max(self.options.checkpoint_seconds, stall / _STALL_SHARE if stall > 1 else 0.0)

    def _save(self) -> None:
        if self.saved_step == self.step:
            return
        state = {
            "run_id": self.recipe["run_id"],
            "resumed": self.resumed,
            "clocks": {**self.clocks, "wall_seconds": self.wall_seconds()},
            "sums": self._summed(),
            "rule": [self.rule.first, self.rule.above],
            "spikes": [self.spikes.recent, self.spikes.count],
            "guard": self.guard.saved(),
            "trunk": self.trunk,
            "precision": self.precision,
            "curve": self.watch.curve.points if self.watch is not None else [],
        }
        self.saver.save(self.engine, self.step, finite(state))
        self.saved_step = self.step

    def _summed(self) -> list[float]:
        """Sums over all ranks: rank 0 takes them up, so that any number of ranks adds up to them."""
        sums = self.sums.clone()
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        return sums.tolist()
