"""What a run shows and writes down about itself while it trains; the work of rank 0."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

import torch

from plmscale.errors import PlmscaleError
from plmscale.laws.advice.hardware import find_gpu
from plmscale.training.records import Curve, Progress, at_once, write_progress

if TYPE_CHECKING:
    from plmscale.training.trainer import Run


class Watch:
    """Curve, progress line and progress file of one run, from `points` of an earlier start on."""

    def __init__(self, run: Run, points: list[Any]) -> None:
        recipe = run.recipe
        self._run = run
        self.curve = Curve(
            run.options.run_dir / "tensorboard", run.tokens_per_step, run.arch.n_params, points
        )
        self.progress = Progress(recipe["run_id"], recipe["steps"], run.tokens_per_step)
        self.rest(run.step)

    def rest(self, step: int) -> None:
        """Begin to measure speed anew after something else than training, at the end of `step`."""
        self._at, self._step = time.monotonic(), step

    def trained(self, step: int, loss: float, counts: dict[str, float], spike: bool) -> None:
        """Record the mean training loss (nats a token) since the last call, and the speed."""
        run, now = self._run, time.monotonic()
        speed = (step - self._step) * run.tokens_per_step / max(now - self._at, 1e-9)
        self._at, self._step = now, step
        self.curve.add(step, "train", loss)
        refused = int(counts["nonfinite"] + counts["spikes"])
        values = {
            "optimizer/learning_rate": run.rate,
            "optimizer/gradient_norm": float(run.guard.norm),
            "optimizer/steps_refused": refused,
            "loss/spikes": run.spikes.count,
            "speed/tokens_per_second": speed,
            "memory/peak_gigabytes": peak_memory(run.device) / 1e9,
        }
        if peak := peak_flops(run.device):
            values["speed/mfu"] = 6 * run.arch.n_params * speed / (peak * run.world)
        self.curve.watch(step, values)
        notes = ", loss spike" if spike else ""
        notes += f", {refused} steps refused" if refused else ""
        if (shown := self.progress.show(step, loss, notes)) is not None:
            self._tell(step, loss, shown)

    def _tell(self, step: int, loss: float, speed: float) -> None:
        """Leave word of where the run is; docs/status.md has the format."""
        run = self._run
        valid = run.last_validation
        values = {
            "schema": 1,
            "run_id": run.recipe["run_id"],
            "step": step,
            "steps": run.recipe["steps"],
            "loss": loss,
            "valid_loss": valid.first(run.curve_rows).loss if valid is not None else None,
            "tokens_per_second": speed,
            "wall_seconds": run.wall_seconds(),
            "time": time.time(),
            "devices": run.world,
            "device": device_name(run.device),
            "at_once": at_once(),
        }
        write_progress(run.options.checkpoint_dir / "progress.json", values)


def device_name(device: str) -> str:
    """Return what results and progress call the device: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def peak_flops(device: str) -> float | None:
    """Return the bf16 peak of one device in FLOP/s where the hardware table knows it."""
    if device != "cuda":
        return None
    try:
        return find_gpu(torch.cuda.get_device_name()).peak_flops
    except PlmscaleError:
        return None


def peak_memory(device: str) -> int:
    """Return the most bytes this rank has held: of device memory on a GPU, else of the process."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
