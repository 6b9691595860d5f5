"""What a finished run leaves: curve, validation rows, weights and, last, metrics.json."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from plmscale.files import DiskFull, finite, sha256_file, write_json
from plmscale.model import save_model
from plmscale.provenance import git_state, hardware, versions
from plmscale.training import checkpoint
from plmscale.training.records import at_once, write_validation
from plmscale.training.shards import read_manifest
from plmscale.training.state import full_weights
from plmscale.training.watch import Watch, device_name, peak_flops, peak_memory

if TYPE_CHECKING:
    from plmscale.training.trainer import Run

RETRY_SECONDS = 10.0
# Less than the 30 minutes after which the other ranks, which wait, take this one for lost.
PATIENCE = 1200.0


def finish(run: Run, status: str, detail: str) -> None:
    """Write all outputs, metrics.json last; then let the checkpoint go. All ranks must call it."""
    weights = dict(full_weights(run.engine)) if run.engine is not None else {}
    recipe, options = run.recipe, run.options
    if run.rank != 0:
        # The others stay until the weights are written: a rank that leaves may end its peers.
        checkpoint.barrier()
        return
    watch = run.watch or Watch(run, [])
    with_room(lambda: _write(run, watch, weights, status, detail), watch.progress.say, run)
    if not options.keep_checkpoint:
        run.saver.discard()
    known = run.last_validation is not None and status == "done"
    loss = f"loss {run.last_validation.loss:.4f}" if known else "no loss"
    line = f"{recipe['run_id']}: {status} at step {run.step:,}, {loss} {detail}".rstrip()
    watch.progress.say(line)
    checkpoint.barrier()


def with_room(write: Callable[[], None], say: Callable[[str], None], run: Run) -> None:
    """Call `write`; where the disk is full, again every `RETRY_SECONDS` for up to `PATIENCE` seconds.

    What was trained for weeks is not lost for want of a few megabytes that somebody can free.
    Raises DiskFull when the time is up or the run is told to stop.
    """
    start, told = time.monotonic(), False
    while True:
        try:
            return write()
        except DiskFull as error:
            left = start + PATIENCE - time.monotonic()
            if left <= 0 or run.stopping:
                raise
            if not told:
                told = True
                say(
                    f"plmscale: warning: {run.recipe['run_id']}: trained, but {error}; trying "
                    f"again every {RETRY_SECONDS:g} s for {left / 60:.0f} minutes"
                )
        _sleep(RETRY_SECONDS, run)


def _sleep(seconds: float, run: Run) -> None:
    """Sleep in short pieces: Python goes on sleeping after a signal that only sets a mark."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not run.stopping:
        time.sleep(min(0.5, left))


def _write(run: Run, watch: Watch, weights: dict[str, Tensor], status: str, detail: str) -> None:
    """Write all files, metrics.json last."""
    recipe, run_dir = run.recipe, run.options.run_dir
    # A lost run's earlier validation is no result of the recipe.
    validation = run.last_validation if status == "done" else None
    if run.saver.owner is not None:
        run.saver.owner.leave_if_replaced()
    watch.curve.write(run_dir / "curve.csv")
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
    if run.saver.owner is not None:
        # Writing large weights takes minutes.
        run.saver.owner.leave_if_replaced()
    write_json(run_dir / "metrics.json", finite(_metrics(run, status, detail, digest)))


def _metrics(run: Run, status: str, detail: str, weights_sha256: str) -> dict[str, Any]:
    recipe, options, seconds = run.recipe, run.options, run.clocks["train_seconds"]
    validation = run.last_validation if status == "done" else None
    known = validation is not None
    tokens = run.step * run.tokens_per_step
    # What this run computed itself: a trunk's steps were computed, and counted, by another run.
    own = tokens - (run.trunk["step"] * run.tokens_per_step if run.trunk else 0)
    flops_6nd = 6 * run.arch.n_params * tokens
    speed = own / seconds if seconds else None
    peak = peak_flops(run.device)
    manifest = read_manifest(run.options.corpus)
    counts = run.guard.counts() if run.engine is not None else {}
    saves = run.saver.report
    return {
        "schema": 1,
        "run_id": recipe["run_id"],
        "fingerprint": recipe["fingerprint"],
        "status": status,
        "status_detail": detail,
        "loss": validation.loss if known else None,
        "loss_se": validation.standard_error if known else None,
        "loss_by_source": validation.by_source() if known else {},
        "loss_by_objective": validation.by_objective() if known else {},
        "n_valid_tokens": int(validation.tokens.sum()) if known else 0,
        "steps": run.step,
        "tokens": tokens,
        "flops_6nd": flops_6nd,
        "flops": run.arch.flops_per_token(recipe["context"]) * tokens,
        "flops_6nd_spent": 6 * run.arch.n_params * own,
        "epochs": run.samples.epochs(run.step * run.batch_rows) if run.samples else {},
        "n_params": run.arch.n_params,
        "parent": run.parent,
        "trunk": run.trunk,
        # Also where it held nothing of use: the workflow must find its input again.
        "trunk_asked": options.trunk_dir.name if options.trunk_dir else None,
        "precision": run.precision,
        "zero_stage": run.plan.zero_stage if run.engine is not None else None,
        "micro_rows": run.plan.micro_rows if run.engine is not None else None,
        "activation_checkpointing": run.plan.checkpointing if run.engine is not None else None,
        "steps_refused": {k: int(counts[k]) for k in ("nonfinite", "spikes") if counts},
        "loss_spikes": run.spikes.count,
        "checkpoints": {
            "written": saves.count,
            "failed": saves.failed,
            "bytes": saves.last_bytes,
            "blocked_seconds": saves.blocked,
            "writing_seconds": saves.writing,
            "errors": saves.errors[-3:],
        },
        "train_seconds": seconds,
        "valid_seconds": run.clocks["valid_seconds"],
        "startup_seconds": run.startup_seconds,
        "wall_seconds": run.wall_seconds(),
        "tokens_per_second": speed,
        "gflops_per_second": 6 * run.arch.n_params * speed / 1e9 if speed else None,
        "mfu": 6 * run.arch.n_params * speed / (peak * run.world) if speed and peak else None,
        "peak_memory_bytes": peak_memory(run.device),
        "threads": run.options.threads,
        "devices": run.world,
        # Runs of a pack share their device: hours of devices count each a part.
        "at_once": at_once(),
        "device": device_name(run.device),
        "resumed": run.resumed,
        "versions": versions(),
        "git": git_state(),
        "corpus_sha256": manifest["content_sha256"],
        "recipe_sha256": sha256_file(run.options.recipe),
        "weights_sha256": weights_sha256,
        "hardware": hardware(),
    }
