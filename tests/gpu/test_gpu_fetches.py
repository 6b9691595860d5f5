"""What would make the host wait for a GPU within a step, listed on a CPU: no GPU is needed."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit"), str(ROOT / "benchmarks")]
# Each fetches a number on a GPU: .item() and float(), masks as indices, and the last two the value
# that is to be filled in (github.com/pytorch/pytorch/pull/190512).
FETCHING = ("_local_scalar_dense", "nonzero", "masked_fill_.Tensor", "fill_.Tensor")


def fetches(stage):
    """Operations of a step that fetch, and what waits for the whole device."""
    from deepspeed.accelerator import get_accelerator
    from gpu_training import one_rank, recipe_of
    from torch.utils._python_dispatch import TorchDispatchMode
    from training_fixtures import make_corpus, write_run

    from plmscale.training.options import Options
    from plmscale.training.trainer import Run

    found = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if any(name in str(func) for name in FETCHING):
                found.append(str(func))
            return func(*args, **(kwargs or {}))

    one_rank()
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "corpus")
        spec = {"size": "tiny", "context": 64, "rows": 4, "objective": "mixed"}
        recipe = recipe_of(spec, clm_share=0.5, mask_ratio=0.15)
        run_dir = write_run(Path(folder), recipe)
        options = Options(run_dir / "recipe.json", corpus, run_dir, Path(folder) / "c")
        options = Options(**{**vars(options), "zero_stage": stage, "micro_rows": 2})
        run = Run(options, recipe, 0, 1)
        run.prepare(None)
        for step in (1, 2, 3):
            run.train_step(step)
        get_accelerator().synchronize = lambda *_: found.append("synchronize")
        with Watch():
            run.train_step(4)
    return found


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_fetches_nothing(stage):
    pytest.importorskip("deepspeed")
    done = subprocess.run(
        [sys.executable, __file__, str(stage)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


if __name__ == "__main__":
    print(json.dumps(fetches(int(sys.argv[1]))), flush=True)
    os._exit(0)
