"""A cluster on this machine, and checkouts that use it through profiles/slurm."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from minicluster import Cluster, missing, wait_for

# What a person changes in the profile, here for nodes of this machine; all else is as shipped.
SITE = {
    "jobs": 8,
    "cores": 4,
    "latency-wait": 5,
    "slurm-status-command": "squeue",
    "slurm-no-account": True,
    "slurm-init-seconds-before-status-checks": 3,
}
NODES = {
    "slurm_partition": "main",
    "mem_mb": 500,
    "runtime": 10,
    "node_gpus": 2,
    "node_gpu": "simulated",
    "node_gpu_gflops": 1,
    "node_gpu_partition": "main",
    # A core a rank, as on one machine: with more, sums come in another order.
    "node_cpus": 2,
    "node_mem_mb": 6000,
    "node_most": 2,
    "node_walltime": 10,
    "node_task_mem_mb": 700,
    "node_signal_seconds": 20,
}


@pytest.fixture(scope="session")
def cluster():
    if reason := missing():
        pytest.skip(reason)
    pytest.importorskip("snakemake_executor_plugin_slurm")
    # Not pytest's folder: names of sockets may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        left = cluster.left()
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, f"processes left: {left}"


class Project:
    """A checkout with the profile for `cluster`, and workflows started in it."""

    def __init__(self, checkout, cluster):
        self.checkout, self.cluster = checkout, cluster
        self.folder = checkout.folder
        self.started = []
        self.write_profile()

    def write_profile(self, site=None, **nodes):
        text = (self.folder / "profiles/slurm/profile.yaml").read_text()
        profile = yaml.safe_load(text)
        profile |= {**SITE, **(site or {})}
        profile["default-resources"] |= {**NODES, **nodes}
        there = self.folder / "profiles/here"
        there.mkdir(exist_ok=True)
        (there / "profile.yaml").write_text(yaml.safe_dump(profile))

    @property
    def environment(self):
        return {
            **self.cluster.environment,
            "PYTHONPATH": str(self.folder / "src"),
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *arguments, study="smoke"):
        words = [sys.executable, "-m", "snakemake", "--profile", "profiles/here"]
        return [*words, *map(str, arguments), "--configfile", f"studies/{study}.yaml"]

    def start(self, *arguments, study="smoke"):
        """Start a workflow; its output goes to a file, see `text`."""
        self.log = self.folder / f"snakemake-{len(self.started)}.log"
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command(*arguments, study=study),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, *arguments, study="smoke", check=True, timeout=300):
        process = self.start(*arguments, study=study)
        self.finish(process, timeout, check)
        return self.text

    def finish(self, process, timeout=300, check=True):
        """Wait for a workflow; a test that waits too long says what it saw."""
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end(process)
            queue = self.cluster.run("squeue", check=False)
            raise AssertionError(f"not done in {timeout} s\n{queue}\n{self.text[-3000:]}") from None
        assert not check or code == 0, self.text[-5000:]
        return code

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def end(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def close(self):
        for process in self.started:
            self.end(process)
        self.cluster.cancel_all()

    # What runs have left.

    def results(self, study="smoke"):
        return self.folder / f"results/{study}"

    def metrics(self, run_id, study="smoke"):
        return json.loads((self.results(study) / f"runs/{run_id}/metrics.json").read_text())

    def losses(self, study="smoke"):
        found = (self.results(study) / "runs").glob("*/metrics.json")
        return {path.parent.name: json.loads(path.read_text())["loss"] for path in found}

    def train_log(self, run_id, study="smoke"):
        path = self.results(study) / f"checkpoints/{run_id}/train.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def saved_step(self, run_id, study="smoke"):
        """Return the step of the newest checkpoint, 0 before the first."""
        path = self.results(study) / f"checkpoints/{run_id}/latest.json"
        try:
            return json.loads(path.read_text())["step"]
        except (OSError, ValueError):
            return 0

    def wait_for_checkpoint(self, run_id, study="smoke", after=0, seconds=120):
        what = f"a checkpoint of {run_id} after step {after}"
        return wait_for(lambda: self.saved_step(run_id, study) > after, seconds, what)


def checkout(folder):
    """Return a copy of the project, as the tests of the workflow make it."""
    path = Path(__file__).parents[1] / "workflow/conftest.py"
    spec = importlib.util.spec_from_file_location("workflow_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Checkout(folder)


LONG = """
overlays: smoke.yaml
study: {name}
grid:
  isoflop: {{kind: isoflop, objectives: [clm], budgets: [{budget}], sizes: [{sizes}]}}
execution: {{checkpoint_seconds: 2, devices: {devices}}}
subsets: {{}}
"""


class Prepared:
    """A checkout with the corpus, and what runs become where nothing disturbs them."""

    def __init__(self, folder):
        self.checkout = checkout(folder)
        self.checkout.snakemake("corpus")
        self.known = {}

    def copy(self, folder):
        shutil.copytree(self.checkout.folder, folder, symlinks=True, copy_function=shutil.copy2)
        copied = object.__new__(type(self.checkout))
        copied.folder = Path(folder)
        return copied

    def write(self, name, budget, devices=1, sizes="7k"):
        text = LONG.format(name=name, budget=budget, devices=devices, sizes=sizes)
        self.checkout.write_study(name, text)

    def losses(self, study):
        """Return the losses of a study's runs, trained here without Slurm."""
        if study not in self.known:
            self.checkout.snakemake("grid", study=study)
            found = (self.checkout.folder / f"results/{study}/runs").glob("*/metrics.json")
            texts = {path.parent.name: json.loads(path.read_text()) for path in found}
            self.known[study] = {name: metrics["loss"] for name, metrics in texts.items()}
            shutil.rmtree(self.checkout.folder / f"results/{study}")
        return self.known[study]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    made = Prepared(tmp_path_factory.mktemp("prepared") / "p")
    # Seconds of training on this machine: about 20 and 60.
    made.write("long", "1.0e+11")
    made.write("longer", "3.0e+11")
    made.write("two", "1.0e+10", devices=2)
    made.write("packed", "4.0e+10", sizes="3k, 7k")
    return made


@pytest.fixture
def fresh(cluster, tmp_path):
    """A checkout in which nothing was made."""
    made = Project(checkout(tmp_path / "p"), cluster)
    yield made
    made.close()


@pytest.fixture
def project(cluster, prepared, tmp_path):
    """A checkout with the corpus."""
    made = Project(prepared.copy(tmp_path / "p"), cluster)
    yield made
    made.close()
