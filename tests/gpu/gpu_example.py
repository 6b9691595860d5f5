"""What the tests on a GPU share. Without one they are skipped.

PLMSCALE_GPU_TESTS=cpu lets a processor take their part, to try the tests themselves: what only a GPU
can show is left out, and compiled code takes minutes.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit"), str(ROOT / "benchmarks")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_gpu = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("PLMSCALE_GPU_TESTS") != "cpu", reason="torch sees no GPU"
)
only_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="only a GPU can show it")


def relative(found, expected):
    """Norm of the difference over the norm of what is expected, in float64."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())
