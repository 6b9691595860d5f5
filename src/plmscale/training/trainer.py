"""One rank's training of one recipe, from start or checkpoint to its results."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint, finite, read_json
from plmscale.laws.advice.hardware import find_gpu
from plmscale.memory.layout import SWITCH
from plmscale.schedule import decay_start, evaluation_steps, learning_rate, trunk_of
from plmscale.training import checkpoint, results
from plmscale.training import engine as engines
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
from plmscale.training.records import (
    Curve,
    DivergenceRule,
    Progress,
    Spikes,
    at_once,
    write_progress,
)

_CLOCKS = ("train_seconds", "valid_seconds", "wall_seconds")
# Slurm sends one of them before a job's time is up, as --signal asks; the other ends it.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# Compiling the blocks costs about a minute: not for runs that train for a few.
_COMPILE_FROM_FLOPS = 1e17
_VOTE_SECONDS = 5.0
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
        self.curve: Curve | None = None
        self.last_validation: Validation | None = None
        self.parent: dict[str, Any] | None = None
        self.trunk: dict[str, Any] | None = None
        self.progress: Progress | None = None
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
        elif (folder := self._trunk_folder()) is not None:
            state = checkpoint.restore(self.engine, folder)
            points = self._take_up(state)
            self.trunk = {"run_id": state["run_id"], "step": self.step}
            self._say(f"goes on from step {self.step:,} of {state['run_id']}")
        if self.rank == 0:
            self.curve = Curve(
                options.run_dir / "tensorboard", self.tokens_per_step, self.arch.n_params, points
            )

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

    def _trunk_folder(self) -> Path | None:
        """Return the latest kept state of the trunk's run that this run would have gone through."""
        there = self.options.trunk_dir
        if there is None or not (there / "recipe.json").exists():
            return None
        other = read_json(there / "recipe.json")
        if fingerprint(trunk_of(other)) != fingerprint(trunk_of(self.recipe)):
            self._say(f"{there} has another beginning; training from the start")
            return None
        step = decay_start(other["steps"], other["schedule"])
        if not 0 < step <= self.decay_start:
            return None
        # Not yet moved where that run kept its last checkpoint, or was killed at its end.
        places = (there / "trunk" / f"step-{step}", there / f"step-{step}")
        found = next((folder for folder in places if checkpoint.is_whole(folder)), None)
        if found and read_json(found / checkpoint.STATE)["precision"] != self.precision:
            self._say(f"{found} was trained in another precision; training from the start")
            return None
        return found

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
        self.progress = Progress(recipe["run_id"], steps, self.tokens_per_step)
        self.startup_seconds = time.time() - self.options.started
        mark = saved = time.monotonic()
        self._logged_at, self._logged_step = mark, self.step
        self._voted_at, self._voted_step, self._vote_every = mark, self.step, 1
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
                self._logged_at, self._logged_step = mark, step
                loss = self.last_validation.first(self.curve_rows).loss
                if self.curve is not None:
                    self.curve.add(step, "valid", loss)
                if not math.isfinite(loss) or not math.isfinite(self.last_validation.loss):
                    return "diverged", f"validation loss is not finite at step {step}"
            due = time.monotonic() - saved >= self._checkpoint_every()
            stop, due = self._agree(self.stopping, due, logged)
            if (stop or due or keep) and step < steps:
                mark = self._tick("train_seconds", mark)
                self._save()
                mark = saved = time.monotonic()
                self._logged_at, self._logged_step = mark, step
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
        if self.curve is not None:
            now = time.monotonic()
            seconds = max(now - self._logged_at, 1e-9)
            speed = (step - self._logged_step) * self.tokens_per_step / seconds
            self._logged_at, self._logged_step = now, step
            self.curve.add(step, "train", loss)
            values = {
                "optimizer/learning_rate": self.rate,
                "optimizer/gradient_norm": float(self.guard.norm),
                "optimizer/steps_refused": counts["nonfinite"] + counts["spikes"],
                "loss/spikes": self.spikes.count,
                "speed/tokens_per_second": speed,
                "memory/peak_gigabytes": results.peak_memory(self.device) / 1e9,
            }
            if peak := self.peak_flops():
                values["speed/mfu"] = 6 * self.arch.n_params * speed / (peak * self.world)
            self.curve.watch(step, values)
            notes = ", loss spike" if spike else ""
            if refused := int(counts["nonfinite"] + counts["spikes"]):
                notes += f", {refused} steps refused"
            if (shown := self.progress.show(step, loss, notes)) is not None:
                self._tell(step, loss, shown)
        return self.rule.judge(step, loss) or ""

    def _tell(self, step: int, loss: float, speed: float) -> None:
        """Leave word of where the run is; docs/status.md has the format."""
        valid = self.last_validation
        values = {
            "schema": 1,
            "run_id": self.recipe["run_id"],
            "step": step,
            "steps": self.recipe["steps"],
            "loss": loss,
            "valid_loss": valid.first(self.curve_rows).loss if valid is not None else None,
            "tokens_per_second": speed,
            "wall_seconds": self.clocks["wall_seconds"] + time.time() - self.options.started,
            "time": time.time(),
            "devices": self.world,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "at_once": at_once(),
        }
        write_progress(self.options.checkpoint_dir / "progress.json", values)

    def peak_flops(self) -> float | None:
        """Return the bf16 peak of one device in FLOP/s where the hardware table knows it."""
        if self.device != "cuda":
            return None
        try:
            return find_gpu(torch.cuda.get_device_name()).peak_flops
        except PlmscaleError:
            return None

    def _tick(self, clock: str, mark: float) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        self.clocks[clock] += now - mark
        return now

    def _agree(self, stop: int, due: bool, logged: bool) -> tuple[int, bool]:
        """Let all ranks stop or save at the same step.

        On GPUs, where it waits for the device, only every few seconds: a job about to be ended gets
        little more than that.
        """
        if self.world == 1:
            return stop, due and not self.saver.busy
        since = self.step - self._voted_step
        if self.device == "cuda" and not logged and since < self._vote_every:
            return 0, False
        pace = round(1000 * (time.monotonic() - self._voted_at) / max(1, since))
        # Not while any rank still writes: it would have to wait, and all the others for it.
        votes = torch.tensor([stop, int(due), int(self.saver.busy), pace], device=self.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        stops, dues, writing, pace = votes.tolist()
        # The slowest rank's pace, so that all of them vote again at the same step.
        self._voted_at, self._voted_step = time.monotonic(), self.step
        self._vote_every = max(1, round(1000 * _VOTE_SECONDS / max(1, pace)))
        return stops, dues > 0 and not writing

    def _checkpoint_every(self) -> float:
        """Seconds between checkpoints: as asked; where each stops training for over a second,
        then so seldom that it stands still for 5 % of the time at most."""
        report = self.saver.report
        stall = report.blocked / max(1, report.count + report.failed)
        return max(self.options.checkpoint_seconds, stall / _STALL_SHARE if stall > 1 else 0.0)

    def _save(self) -> None:
        if self.saved_step == self.step:
            return
        wall = self.clocks["wall_seconds"] + time.time() - self.options.started
        state = {
            "run_id": self.recipe["run_id"],
            "resumed": self.resumed,
            "clocks": {**self.clocks, "wall_seconds": wall},
            "sums": self._summed(),
            "rule": [self.rule.first, self.rule.above],
            "spikes": [self.spikes.recent, self.spikes.count],
            "guard": self.guard.saved(),
            "trunk": self.trunk,
            "precision": self.precision,
            "curve": self.curve.points if self.curve is not None else [],
        }
        self.saver.save(self.engine, self.step, finite(state))
        self.saved_step = self.step

    def _summed(self) -> list[float]:
        """Sums over all ranks: rank 0 takes them up, so that any number of ranks adds up to them."""
        sums = self.sums.clone()
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        return sums.tolist()
