"""One rank's training of one recipe, from start or checkpoint to metrics.json."""

from __future__ import annotations

import math
import resource
import signal
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.files import finite, read_json, sha256_file, write_json
from plmscale.model import save_model
from plmscale.provenance import git_state, hardware, versions
from plmscale.training import checkpoint
from plmscale.training import engine as engines
from plmscale.training.data import training_samples, validation_samples
from plmscale.training.evaluate import Validation, Validator, row_losses
from plmscale.training.feed import Feed
from plmscale.training.objectives import IGNORED, examples
from plmscale.training.options import Options
from plmscale.training.parent import ParentFailed, parent_weights
from plmscale.training.recipe import check
from plmscale.training.records import Curve, DivergenceRule, Progress, write_validation
from plmscale.training.schedule import evaluation_steps, learning_rate
from plmscale.training.shards import read_manifest

_CLOCKS = ("train_seconds", "valid_seconds", "wall_seconds")


def train(options: Options, rank: int, world: int) -> None:
    """Train the recipe of `options` as rank `rank` of `world`; process group set up by the caller.

    Ends with all output files, metrics.json last. A lost run ends well too, with status
    `diverged` or `parent_failed`. Raises PlmscaleError for bad input; SystemExit(143) after a
    checkpoint when told to stop by SIGTERM.
    """
    recipe = check(read_json(options.recipe))
    run = Run(options, recipe, rank, world)
    try:
        weights = parent_weights(recipe, options.parent_dir)
    except ParentFailed as error:
        run.finish("parent_failed", str(error), None)
        return
    run.prepare(weights)
    try:
        status, detail = run.loop()
    finally:
        run.feed.close()
    # A lost run's earlier validation is no result of the recipe.
    run.finish(status, detail, run.last_validation if status == "done" else None)


class Run:
    """A run in one process: its data, engine, clocks and curve."""

    def __init__(self, options: Options, recipe: dict[str, Any], rank: int, world: int) -> None:
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
        self.curve_rows = min(recipe["validation"]["rows"], recipe["validation"]["curve_rows"])
        self.stopping = False
        # Sums since the last logged point: nats, predicted tokens. float64, so that a resumed
        # run adds up to the same number.
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def prepare(self, weights: dict[str, Tensor] | None) -> None:
        """Open the data, build the engine, take up a checkpoint if there is one."""
        recipe, options = self.recipe, self.options
        # From here on SIGTERM leads to a checkpoint; before, there is nothing to save.
        signal.signal(signal.SIGTERM, self._stop)
        self.samples = training_samples(options.corpus, recipe)
        self.plan = engines.plan_batch(
            self.batch_rows, recipe["context"], self.rank, self.world, self.device
        )
        self.feed = Feed(self._examples, recipe["steps"], ahead=self.device == "cuda")
        self.validator = Validator(
            recipe, validation_samples(options.corpus, recipe), self.device, self.plan.micro_rows
        )
        self.engine = engines.build(recipe, self.plan, self.precision, self.device, weights)
        state = checkpoint.restore(self.engine, options.checkpoint_dir) or {}
        self.step = self.saved_step = state.get("step", 0)
        self.resumed = state.get("resumed", -1) + 1
        self.clocks.update(state.get("clocks", {}))
        earlier = torch.tensor(state.get("sums", [0.0, 0.0]), dtype=torch.float64)
        self.sums += earlier.to(self.device)
        self.rule = DivergenceRule()
        self.rule.first, self.rule.above = state.get("rule", [None, 0])
        if self.rank == 0:
            self.curve = Curve(
                options.run_dir / "tensorboard",
                self.tokens_per_step,
                self.arch.n_params,
                state.get("curve", []),
            )
            if state:
                print(f"{recipe['run_id']}: resumed at step {self.step:,}", flush=True)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def loop(self) -> tuple[str, str]:
        """Train to the last step; return status and its detail."""
        recipe, steps = self.recipe, self.recipe["steps"]
        evaluations = set(evaluation_steps(steps, recipe["validation"]["evaluations"]))
        # About a hundred logged points, and at least every 50 steps: each costs a host sync.
        every = max(1, min(50, steps // 100))
        progress = Progress(recipe["run_id"], steps, self.tokens_per_step)
        self.startup_seconds = time.time() - self.options.started
        mark = saved = time.monotonic()
        while self.step < steps:
            self.step += 1
            step = self.step
            self.train_step(step)
            logged = step == 1 or step % every == 0 or step == steps
            if logged:
                loss = self.log(step, mark)
                if self.rank == 0:
                    progress.show(step, loss)
                if lost := self.rule.judge(step, loss):
                    return "diverged", lost
            if step in evaluations:
                mark = self._tick("train_seconds", mark)
                # All rows only at the end: a curve is cheap, and its points are of the same rows.
                rows = None if step == steps else self.curve_rows
                self.last_validation = self.validator.run(
                    self.engine.module, self.rank, self.world, rows
                )
                mark = self._tick("valid_seconds", mark)
                loss = self.last_validation.first(self.curve_rows).loss
                if self.curve is not None:
                    self.curve.add(step, "valid", loss)
                if not math.isfinite(loss):
                    return "diverged", f"validation loss is not finite at step {step}"
            due = time.monotonic() - saved >= self.options.checkpoint_seconds
            stop, due = self._agree(self.stopping, due, logged)
            if (stop or due) and step < steps:
                mark = self._tick("train_seconds", mark)
                self._save()
                mark = saved = time.monotonic()
            if stop and step < steps:
                if self.rank == 0:
                    print(f"{recipe['run_id']}: stopped at step {step:,}, saved", flush=True)
                sys.exit(128 + signal.SIGTERM)
        self._tick("train_seconds", mark)
        return "done", ""

    def _examples(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of this rank's rows of `step`."""
        numbers = self.plan.samples(step, self.batch_rows)
        rows = self.samples.batch(numbers)
        return examples(self.recipe, rows, numbers, self.recipe["data_seed"])

    def train_step(self, step: int) -> None:
        """One optimizer step: the mean over the whole batch's predicted tokens, then AdamW."""
        recipe, plan, engine = self.recipe, self.plan, self.engine
        inputs, targets = self.feed.at(step)
        predicted = torch.tensor(
            float((targets != IGNORED).sum()), dtype=torch.float64, device=self.device
        )
        if self.world > 1:
            torch.distributed.all_reduce(predicted)
        # DeepSpeed divides by the micro batches and averages over the ranks.
        scale = (plan.accumulation * self.world / predicted.clamp(min=1)).float()
        tokens = torch.from_numpy(inputs).to(self.device, torch.int64, non_blocking=True)
        goals = torch.from_numpy(targets).to(self.device, non_blocking=True)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        settings, schedule = recipe["optimizer"], recipe["schedule"]
        rate = learning_rate(
            step,
            recipe["steps"],
            settings["lr"],
            schedule["warmup_fraction"],
            schedule["final_fraction"],
        )
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        for micro in range(plan.accumulation):
            part = slice(micro * plan.micro_rows, (micro + 1) * plan.micro_rows)
            total = row_losses(engine, recipe, tokens[part], goals[part]).sum()
            engine.backward(total * scale)
            engine.step()
            nats += total.detach().double()
        self.sums += torch.stack((nats, predicted / self.world))
        self.rate = rate

    def log(self, step: int, mark: float) -> float:
        """Return the mean training loss since the last point, and record it."""
        sums = self.sums.clone()
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        nats, predicted = sums.tolist()
        self.sums.zero_()
        loss = nats / max(1.0, predicted)
        if self.curve is not None:
            self.curve.add(step, "train", loss)
            seconds = self.clocks["train_seconds"] + time.monotonic() - mark
            norm = self.engine.get_global_grad_norm()
            self.curve.watch(
                step,
                {
                    "optimizer/learning_rate": self.rate,
                    "optimizer/gradient_norm": float(norm if norm is not None else math.nan),
                    "speed/tokens_per_second": step * self.tokens_per_step / max(seconds, 1e-9),
                },
            )
        return loss

    def _tick(self, clock: str, mark: float) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        self.clocks[clock] += now - mark
        return now

    def _agree(self, stop: bool, due: bool, logged: bool) -> tuple[bool, bool]:
        """Let all ranks stop or save at the same step; on GPUs only where a sync is due anyway."""
        if self.world == 1:
            return stop, due
        if self.device == "cuda" and not logged:
            return False, False
        votes = torch.tensor([int(stop), int(due)], device=self.device)
        torch.distributed.all_reduce(votes)
        stops, dues = votes.tolist()
        return stops > 0, dues > 0

    def _save(self) -> None:
        if self.saved_step == self.step:
            return
        wall = self.clocks["wall_seconds"] + time.time() - self.options.started
        state = {
            "step": self.step,
            "resumed": self.resumed,
            "clocks": {**self.clocks, "wall_seconds": wall},
            "sums": self._summed(),
            "rule": [self.rule.first, self.rule.above],
            "curve": self.curve.points if self.curve is not None else [],
        }
        checkpoint.save(
            self.engine, self.options.checkpoint_dir, self.step, finite(state), self.rank
        )
        self.saved_step = self.step

    def _summed(self) -> list[float]:
        """Sums over all ranks, shared out again so that any number of ranks adds up to them."""
        sums = self.sums.clone()
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        return (sums / self.world).tolist()

    def finish(self, status: str, detail: str, validation: Validation | None) -> None:
        """Write all outputs, metrics.json last; then let the checkpoint go."""
        weights = engines.full_weights(self.engine) if self.engine is not None else {}
        if self.rank != 0:
            return
        recipe, run_dir = self.recipe, self.options.run_dir
        if self.curve is None:
            events = run_dir / "tensorboard"
            self.curve = Curve(events, self.tokens_per_step, self.arch.n_params, [])
        self.curve.write(run_dir / "curve.csv")
        write_validation(run_dir / "validation.csv", validation)
        config = {
            "architecture": recipe["architecture"],
            "objective": recipe["objective"],
            "packing": recipe["packing"],
            "context": recipe["context"],
            "run_id": recipe["run_id"],
            "fingerprint": recipe["fingerprint"],
            "format": "plmscale",
        }
        digest = save_model(run_dir, weights, config)
        values = self._metrics(status, detail, validation, digest)
        write_json(run_dir / "metrics.json", finite(values))
        if not self.options.keep_checkpoint:
            checkpoint.discard(self.options.checkpoint_dir)
        loss = f"loss {validation.loss:.4f}" if validation is not None else "no loss"
        line = f"{recipe['run_id']}: {status} at step {self.step:,}, {loss} {detail}"
        print(line.rstrip(), flush=True)

    def _metrics(
        self, status: str, detail: str, validation: Validation | None, weights_sha256: str
    ) -> dict[str, Any]:
        recipe, seconds = self.recipe, self.clocks["train_seconds"]
        tokens = self.step * self.tokens_per_step
        flops_6nd = 6 * self.arch.n_params * tokens
        known = validation is not None
        if self.device == "cuda":
            memory = torch.cuda.max_memory_allocated()
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        manifest = read_manifest(self.options.corpus)
        return {
            "schema": 1,
            "run_id": recipe["run_id"],
            "fingerprint": recipe["fingerprint"],
            "status": status,
            "status_detail": detail,
            "loss": validation.loss if known else None,
            "loss_se": validation.standard_error if known else None,
            "loss_by_source": validation.by_source() if known else {},
            "n_valid_tokens": int(validation.tokens.sum()) if known else 0,
            "steps": self.step,
            "tokens": tokens,
            "flops_6nd": flops_6nd,
            "flops": self.arch.flops_per_token(recipe["context"]) * tokens,
            "epochs": self.samples.epochs(self.step * self.batch_rows) if self.samples else {},
            "n_params": self.arch.n_params,
            "precision": self.precision,
            "train_seconds": seconds,
            "valid_seconds": self.clocks["valid_seconds"],
            "startup_seconds": self.startup_seconds,
            "wall_seconds": self.clocks["wall_seconds"] + time.time() - self.options.started,
            "tokens_per_second": tokens / seconds if seconds else None,
            "gflops_per_second": flops_6nd / seconds / 1e9 if seconds else None,
            "peak_memory_bytes": memory,
            "threads": self.options.threads,
            "devices": self.world,
            "resumed": self.resumed,
            "versions": versions(),
            "git": git_state(),
            "corpus_sha256": manifest["content_sha256"],
            "recipe_sha256": sha256_file(self.options.recipe),
            "weights_sha256": weights_sha256,
            "hardware": hardware(),
        }
