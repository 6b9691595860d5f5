"""One machine with several GPUs and no Slurm: runs share them, through the profile as shipped."""

import json
import os
import subprocess

import pytest
import yaml


@pytest.mark.slow
def test_a_grid_on_two_gpus_ends_as_without(prepared, tmp_path):
    checkout = prepared.copy(tmp_path / "p")
    path = checkout.folder / "profiles/server/profile.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["default-resources"] |= {
        "node_gpus": 2,
        "node_gpu": "simulated",
        "node_gpu_gflops": 1,
        "node_cpus": 2,
    }
    # Room for four small runs, an eighth of a GPU each.
    profile["resources"] = ["gpu_parts=4"]
    path.write_text(yaml.safe_dump(profile))
    done = subprocess.run(
        checkout.command("grid", "--profile", "profiles/server"),
        cwd=checkout.folder,
        # GPUs that are not there: runs take their locks and train on the processor.
        env={**checkout.environment, "CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = (checkout.folder / "results/smoke/runs").glob("*/metrics.json")
    losses = {path.parent.name: json.loads(path.read_text())["loss"] for path in found}
    assert losses == prepared.losses("smoke")
    assert not (checkout.folder / "results/smoke/packs").exists()
    (locks,) = tmp_path.glob("plmscale-gpus-*")
    assert len(os.listdir(locks)) == 2 * 8 + 1
