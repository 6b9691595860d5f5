"""A tiny synthetic corpus and recipes for tests of model and training."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.architecture import Architecture
from plmscale.files import fingerprint, sha256_file, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ("curve.csv", "validation.csv", "model.safetensors")


def make_corpus(
    folder: Path, proteins: int = 300, seed: int = 0, shards: int = 2, mean_length: int = 60
) -> Path:
    """Write a corpus of two sources; proteins are noisy repeats, so there is something to learn."""
    rng = np.random.default_rng(seed)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    sources: dict[str, Any] = {}
    for weight, source in ((0.3, "curated"), (0.7, "diverse")):
        entry: dict[str, Any] = {"weight": weight, "source_sha256": "0" * 64, "provenance": {}}
        for split, count in (("train", proteins), ("valid", proteins // 3)):
            listed, total = [], 0
            for number, members in enumerate(np.array_split(np.arange(count), shards)):
                chains = [_protein(rng, mean_length) for _ in members]
                offsets = np.concatenate([[0], np.cumsum([len(c) for c in chains])])
                name = f"shards/{source}.{split}.{number:05d}"
                np.concatenate(chains).tofile(folder / f"{name}.bin")
                np.save(folder / f"{name}.idx.npy", offsets.astype(np.int64))
                listed.append(
                    {
                        "file": f"{name}.bin",
                        "index": f"{name}.idx.npy",
                        "sequences": len(chains),
                        "residues": int(offsets[-1]),
                        "sha256": sha256_file(folder / f"{name}.bin"),
                        "index_sha256": sha256_file(folder / f"{name}.idx.npy"),
                    }
                )
                total += int(offsets[-1])
            entry[split] = {"sequences": count, "residues": total, "shards": listed}
        sources[source] = entry
    manifest = {"schema": 1, "key": "test", "sources": sources, "content_sha256": "1" * 64}
    write_json(folder / "manifest.json", manifest)
    return folder


def _protein(rng: np.random.Generator, mean_length: int) -> np.ndarray:
    length = int(rng.integers(mean_length // 2, mean_length * 3 // 2))
    motif = rng.integers(4, 24, size=5)
    chain = np.resize(motif, length)
    noise = rng.random(length) < 0.1
    return np.where(noise, rng.integers(4, 24, size=length), chain).astype(np.uint8)


def make_recipe(**changes: Any) -> dict[str, Any]:
    """Return a small CLM recipe; `architecture` changes are merged into the shape."""
    shape = {"name": "1x16", "n_layers": 1, "d_model": 16, "n_heads": 1, "d_ff": 42}
    arch = Architecture(**{**shape, **changes.pop("architecture", {})})
    recipe: dict[str, Any] = {
        "schema": 2,
        "study": "test",
        "experiment": "isoflop",
        "objective": "clm",
        "architecture": arch.to_dict(),
        "n_params": arch.n_params,
        "corpus": {
            "key": "test",
            "name": "mix",
            "mix": {"curated": 0.3, "diverse": 0.7},
            "valid_mix": {"curated": 0.3, "diverse": 0.7},
        },
        "context": 64,
        "packing": "within",
        "mask_ratio": None,
        "batch_rows": 4,
        "steps": 40,
        "optimizer": {
            "name": "adamw",
            "lr": 1e-2,
            "betas": [0.9, 0.95],
            "eps": 1e-8,
            "weight_decay": 0.1,
            "grad_clip": 1.0,
        },
        "schedule": {"name": "cosine", "warmup_fraction": 0.025, "final_fraction": 0.1},
        "precision": "auto",
        "seed": 1,
        "data_seed": 2024,
        "validation": {"rows": 16, "evaluations": 2, "curve_rows": 16, "seed": 7},
        "parent": None,
    }
    if changes.get("objective") == "mlm":
        recipe["mask_ratio"] = 0.15
    recipe.update(changes)
    recipe["tokens"] = recipe["steps"] * recipe["batch_rows"] * recipe["context"]
    recipe["budget"] = recipe["flops_6nd"] = float(6 * arch.n_params * recipe["tokens"])
    recipe["flops"] = arch.flops_per_token(recipe["context"]) * recipe["tokens"]
    digest = fingerprint(recipe)
    recipe["fingerprint"], recipe["run_id"] = digest, f"test-{digest[:6]}"
    return recipe


def laid_out(batch_rows: int, context: int, rank: int, world: int) -> Any:
    """Return how rank `rank` of `world` on a CPU shares a batch of a tiny model."""
    from plmscale.training.layout import plan_batch

    arch = Architecture("1x16", 1, 16, 1, 42)
    return plan_batch(arch, batch_rows, context, rank, world, device="cpu", precision="fp32")


def write_run(folder: Path, recipe: dict[str, Any]) -> Path:
    """Write recipe.json of a run into `folder`/run and return that folder."""
    run_dir = folder / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "recipe.json", recipe)
    return run_dir


def command(run_dir: Path, corpus: Path, *more: str) -> list[str]:
    """Return the launcher's command line for a run folder made by `write_run`."""
    return [
        sys.executable,
        "-m",
        "plmscale.training.launch",
        f"--recipe={run_dir / 'recipe.json'}",
        f"--corpus={corpus}",
        f"--run-dir={run_dir}",
        f"--checkpoint-dir={run_dir.parent / 'checkpoint'}",
        *more,
    ]


def environment(**more: str) -> dict[str, str]:
    """Return the environment in which a launcher finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more}


def launch(run_dir: Path, corpus: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Train a run to its end in a new process."""
    return subprocess.run(
        command(run_dir, corpus, *more),
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=300,
    )


def finish(folder: Path, corpus: Path, recipe: dict[str, Any], *more: str, **env: str) -> Path:
    """Train `recipe` in `folder` to its end; return the run folder."""
    run_dir = write_run(folder, recipe)
    done = launch(run_dir, corpus, *more, **env)
    assert done.returncode == 0, done.stderr
    return run_dir


def curve(run_dir: Path, split: str) -> list[float]:
    """Return the losses of a finished run's curve of split `train` or `valid`."""
    with open(run_dir / "curve.csv", newline="") as handle:
        return [float(r["loss"]) for r in csv.DictReader(handle) if r["split"] == split]


def digests(run_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of what two equal runs must have byte for byte."""
    return {name: sha256_file(run_dir / name) for name in RESULTS}


def job(folder: Path, corpus: Path, recipe: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a run of a pack's jobs file, with its recipe written into `folder`."""
    run_dir = write_run(folder, recipe)
    return {
        "recipe": str(run_dir / "recipe.json"),
        "corpus": str(corpus),
        "run_dir": str(run_dir),
        "checkpoint_dir": str(folder / "checkpoint"),
        **more,
    }


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def metrics(run_dir: Path) -> dict[str, Any]:
    """Return a finished run's metrics."""
    return json.loads((run_dir / "metrics.json").read_text())
