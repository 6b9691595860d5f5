"""The workflow and the code are clean by their own tools."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "rules"],
        ["snakemake", "--lint"],
        ["snakemake", "--lint", "--configfile", "studies/cheng2024-logs.yaml"],
    ],
    ids=lambda c: " ".join([*c[:2], *c[3:]]),
)
def test_clean(command):
    program = BIN / command[0]
    program = program if program.exists() else shutil.which(command[0])
    done = subprocess.run([program, *command[1:]], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
