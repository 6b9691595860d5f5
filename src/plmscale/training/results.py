"""What a finished run leaves: curve, validation rows, weights and, last, metrics.json."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

import torch

from plmscale.files import finite, sha256_file, write_json
from plmscale.model import save_model
from plmscale.provenance import git_state, hardware, versions
from plmscale.training import checkpoint
from plmscale.training.records import Curve, at_once, write_validation
from plmscale.training.shards import read_manifest
from plmscale.training.state import full_weights

if TYPE_CHECKING:
    from plmscale.training.trainer import Run


def finish(run: Run, status: str, detail: str) -> None:
    """Write all outputs, metrics.json last; then let the checkpoint go. All ranks must call it."""
    weights = dict(full_weights(run.engine)) if run.engine is not None else {}
    recipe, run_dir, options = run.recipe, run.options.run_dir, run.options
    if run.rank != 0:
        # The others stay until the weights are written: a rank that leaves may end its peers.
        checkpoint.barrier()
        return
    # A lost run's earlier validation is no result of the recipe.
    validation = run.last_validation if status == "done" else None
    if run.curve is None:
        events = run_dir / "tensorboard"
        run.curve = Curve(events, run.tokens_per_step, run.arch.n_params, [])
    if run.saver.owner is not None:
        run.saver.owner.leave_if_replaced()
    run.curve.write(run_dir / "curve.csv")
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
    if not options.keep_checkpoint:
        run.saver.discard()
    loss = f"loss {validation.loss:.4f}" if validation is not None else "no loss"
    line = f"{recipe['run_id']}: {status} at step {run.step:,}, {loss} {detail}".rstrip()
    if run.progress is not None:
        run.progress.say(line)
    else:
        print(line, flush=True)
    checkpoint.barrier()


def peak_memory(device: str) -> int:
    """Return the most bytes this rank has held: of device memory on a GPU, else of the process."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _metrics(run: Run, status: str, detail: str, weights_sha256: str) -> dict[str, Any]:
    recipe, options, seconds = run.recipe, run.options, run.clocks["train_seconds"]
    validation = run.last_validation if status == "done" else None
    known = validation is not None
    tokens = run.step * run.tokens_per_step
    # What this run computed itself: a trunk's steps were computed, and counted, by another run.
    own = tokens - (run.trunk["step"] * run.tokens_per_step if run.trunk else 0)
    flops_6nd = 6 * run.arch.n_params * tokens
    speed = own / seconds if seconds else None
    peak = run.peak_flops()
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
        "wall_seconds": run.clocks["wall_seconds"] + time.time() - run.options.started,
        "tokens_per_second": speed,
        "gflops_per_second": 6 * run.arch.n_params * speed / 1e9 if speed else None,
        "mfu": 6 * run.arch.n_params * speed / (peak * run.world) if speed and peak else None,
        "peak_memory_bytes": peak_memory(run.device),
        "threads": run.options.threads,
        "devices": run.world,
        # Runs of a pack share their device: hours of devices count each a part.
        "at_once": at_once(),
        "device": torch.cuda.get_device_name() if run.device == "cuda" else "cpu",
        "resumed": run.resumed,
        "versions": versions(),
        "git": git_state(),
        "corpus_sha256": manifest["content_sha256"],
        "recipe_sha256": sha256_file(run.options.recipe),
        "weights_sha256": weights_sha256,
        "hardware": hardware(),
    }
