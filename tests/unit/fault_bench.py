"""A process that trains with faults in it, and the faults that several tests use.

It has imported everything and forks for each run, so that a case costs a second. `patch` is Python that
the fork executes before it trains; ranks are forks of it and inherit what it changes.
"""

import csv
import json
import subprocess
import sys

from training_fixtures import command, environment, make_recipe

from plmscale.files import write_json

WSD = {
    "name": "wsd",
    "warmup_steps": 5,
    "decay_fraction": 0.25,
    "decay": "sqrt",
    "final_fraction": 0.1,
}

# Reads jobs, one JSON a line; answers each with its exit code.
_SERVER = """
import json, os, sys
from plmscale.training import launch, pack
from plmscale.training.ranks import preload
preload()
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            exec(job["patch"], {})
            code = {"launch": launch, "pack": pack}[job["program"]].main(job["arguments"])
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Bench:
    """Starts runs and packs, one after the other."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)

    def start(self, program, arguments, log, patch=""):
        """Start a program; return its process id."""
        job = {"program": program, "arguments": arguments, "patch": patch, "log": str(log)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self):
        """Return the exit code of what was started last."""
        return int(self.process.stdout.readline())

    def run(self, run_dir, corpus, *options, patch=""):
        """Train; return the exit code and what was said."""
        log = run_dir.parent / "said"
        arguments = [*command(run_dir, corpus)[3:], "--warm=never", *options]
        self.start("launch", arguments, log, patch)
        return self.wait(), log.read_text()

    def pack(self, folder, runs, *options, patch=""):
        """Train a pack; return the exit code and what was said."""
        write_json(folder / "jobs.json", {"runs": runs})
        self.start("pack", [str(folder / "jobs.json"), *options], folder / "said", patch)
        return self.wait(), (folder / "said").read_text()


def curve(run_dir, split):
    with open(run_dir / "curve.csv", newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["split"] == split]
    return {int(r["step"]): float(r["loss"] or "nan") for r in rows}


# Puts SIGTERM to itself right after a step.
STOP = """
import os, signal
from plmscale.training import trainer
_step = trainer.Run.train_step
def train_step(run, step):
    _step(run, step)
    if step in {steps}:
        os.kill(os.getpid(), signal.SIGTERM)
trainer.Run.train_step = train_step
"""


def stop_at(*steps):
    return STOP.replace("{steps}", repr(set(steps)))


def recipe_of(**changes):
    validation = {"rows": 16, "evaluations": 4, "curve_rows": 16, "seed": 7}
    return make_recipe(**{"objective": "mlm", "validation": validation, **changes})


def child_of(recipe, **changes):
    parent = {"run_id": recipe["run_id"], "fingerprint": recipe["fingerprint"]}
    return make_recipe(objective="mlm", steps=5, parent=parent, **changes)
