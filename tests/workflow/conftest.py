"""A copy of the project to run for real, and the finished smoke study in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PARTS = [
    "Snakefile",
    "config.yaml",
    "rules",
    "scripts",
    "src",
    "studies",
    "profiles",
    "resources",
    "environment.yml",
]


class Checkout:
    """A folder with the project in it, as a clone has it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            if (PROJECT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(PROJECT / part, self.folder / part, ignore=ignored)
            else:
                shutil.copyfile(PROJECT / part, self.folder / part)

    @property
    def environment(self):
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "src"),
        }

    def command(self, *arguments, study="smoke", cores=2):
        """Return a snakemake command line for a study file under studies/."""
        # Last, because --configfile takes every word that follows it.
        files = ["--configfile", f"studies/{study}.yaml"] if study else []
        words = ["--cores", str(cores), *map(str, arguments), *files]
        return [sys.executable, "-m", "snakemake", *words]

    def snakemake(self, *arguments, study="smoke", check=True, timeout=600):
        done = subprocess.run(
            self.command(*arguments, study=study),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        done.text = done.stdout + done.stderr
        if check:
            assert done.returncode == 0, done.text[-4000:]
        return done

    def jobs(self, *arguments, study="smoke"):
        """Return {rule: number of jobs} of a dry run."""
        text = self.snakemake("-n", *arguments, study=study).text
        if "Nothing to be done" in text:
            return {}
        rows = text.split("Job stats:")[-1].split("\n\n")[0].splitlines()[3:]
        counts = {row.split()[0]: int(row.split()[1]) for row in rows if len(row.split()) == 2}
        counts.pop("total", None)
        return counts

    def trained(self, *arguments, study="smoke"):
        """Return the run ids a dry run would train."""
        text = self.snakemake("-n", *arguments, study=study).text
        return set(re.findall(r"rule train:\n(?:.*\n)*?\s+output: \S*/runs/([^/]+)/", text))

    def write_study(self, name, text):
        (self.folder / f"studies/{name}.yaml").write_text(text)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The smoke study, run to its report. Not to be changed: see `copy`."""
    checkout = Checkout(tmp_path_factory.mktemp("project") / "plmscale")
    checkout.log = checkout.snakemake().text
    return checkout


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished checkout, dates and Snakemake's records included."""
    shutil.copytree(
        finished.folder, tmp_path / "plmscale", symlinks=True, copy_function=shutil.copy2
    )
    checkout = Checkout.__new__(Checkout)
    checkout.folder = tmp_path / "plmscale"
    return checkout
