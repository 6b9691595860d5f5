"""Runs of the smoke study in every state, and commands of Slurm that answer as they are told."""

from __future__ import annotations

import json
import os
import time

from plmscale import grid, study
from plmscale.files import write_json

SMOKE = study.PROJECT / "studies/smoke.yaml"


def load(folder):
    """Return the smoke study with results in `folder`, and its runs."""
    loaded = study.load(SMOKE, {"results": str(folder)})
    return loaded, grid.expand(loaded)


def finish(loaded, run, **changes):
    """Write what a finished run leaves."""
    recipe = run.recipe
    metrics = {
        "run_id": run.run_id, "fingerprint": recipe["fingerprint"], "status": "done",
        "status_detail": "", "loss": 2.9, "steps": recipe["steps"], "tokens": recipe["tokens"],
        "flops": recipe["flops"], "flops_6nd": recipe["flops_6nd"],
        "flops_6nd_spent": recipe["flops_6nd"], "n_params": recipe["n_params"],
        "tokens_per_second": 2000.0, "wall_seconds": recipe["tokens"] / 1000.0, "devices": 1,
        "device": "cpu",
    }  # fmt: skip
    folder = loaded.folder / "runs" / run.run_id
    write_json(folder / "metrics.json", {**metrics, **changes})
    return folder


def checkpoint(loaded, run, step, wall=50.0, ranks=1, train_loss=2.8, valid_loss=2.85):
    """Write a checkpoint as the trainer does, without its weights."""
    folder = loaded.folder / "checkpoints" / run.run_id
    state = {
        "run_id": run.run_id, "step": step, "ranks": ranks, "trunk": None,
        "clocks": {"train_seconds": wall / 2, "valid_seconds": 1.0, "wall_seconds": wall},
        "curve": [[1, "train", 3.1], [step, "train", train_loss], [step, "valid", valid_loss]],
    }  # fmt: skip
    write_json(folder / f"step-{step}" / "state.json", state)
    write_json(folder / "latest.json", {"tag": f"step-{step}", "step": step})
    return folder


def own(loaded, run, *, mark="a" * 32, age=1.0, host="node7", pid=4, job=""):
    """Write a run's lock as its owner does; an empty mark is a run that was let go."""
    folder = loaded.folder / "checkpoints" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    said = {"mark": mark, "pid": pid, "host": host, "job": job, "time": time.time() - age}
    path = folder / "owner.lock"
    path.write_text(json.dumps(said).ljust(400))
    os.utime(path, (time.time() - age,) * 2)
    return path


def log(loaded, run, *lines):
    """Write a run's log."""
    folder = loaded.folder / "checkpoints" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.log").write_text("".join(f"{line}\n" for line in lines))


def progress(run, step, loss=2.8, speed=1234):
    """Return a progress line as a run prints it."""
    return (
        f"{run.run_id}: step {step:,}/{run.recipe['steps']:,}, loss {loss:.4f}, "
        f"{speed:,.0f} tokens/s, 5 s left"
    )


class Commands:
    """squeue and sacct that print, fail or hang, first on PATH."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(self, name, script):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def queue(self, *jobs):
        """Let squeue answer with jobs of (number, state, reason, workdir, comment)."""
        lines = [
            "\x1f".join((number, state, "1:00", reason, str(workdir), "uuid", comment))
            for number, state, reason, workdir, comment in jobs
        ]
        (self.folder / "jobs").write_text("".join(f"{line}\n" for line in lines))
        self.put("squeue", f'printf "%s\\n" "$@" > {self.folder}/asked; cat {self.folder}/jobs')

    def accounts(self, *lines):
        """Let sacct answer with these lines."""
        (self.folder / "ends").write_text("".join(f"{line}\n" for line in lines))
        self.put("sacct", f'printf "%s\\n" "$@" > {self.folder}/asked-ends; cat {self.folder}/ends')
