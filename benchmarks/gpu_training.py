"""Contestants of gpu_speed.py that are ours: the trainer, packs of small runs; and what all share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit"), str(ROOT / "benchmarks")]

TINY = {"name": "tiny", "n_layers": 1, "d_model": 32, "n_heads": 2, "d_ff": 42, "vocab_size": 32}


def shape_of(size):
    """The architecture of a size of the paper, or the one that only tries the code."""
    from plmscale.architecture import PAPER_SIZES, Architecture

    if size == "tiny":
        return Architecture.from_dict({**TINY, "preset": "paper"})
    return Architecture.from_dict({**PAPER_SIZES[size].to_dict(), "vocab_size": 32})


def device():
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def peak_flops():
    """The device's bf16 peak in FLOP/s, or None where the hardware table does not know it."""
    import torch

    from plmscale.errors import PlmscaleError
    from plmscale.laws.advice.hardware import find_gpu

    if device() == "cpu":
        return None
    try:
        return find_gpu(torch.cuda.get_device_name()).peak_flops
    except PlmscaleError:
        return None


def speeds(arch, context, tokens_per_second, n_params=None):
    """tokens/s and the shares of the peak: by 6 N D, and by all matrix products."""
    peak = peak_flops()
    six, all_ = 6 * (n_params or arch.n_params), arch.flops_per_token(context)
    all_ += six - 6 * arch.n_params
    share = None if peak is None else 100 * tokens_per_second / peak
    return {
        "tokens/s": round(tokens_per_second),
        "MFU 6ND %": share and six * share,
        "MFU %": share and all_ * share,
    }


def peak_gigabytes():
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if device() == "cuda" else None


def recipe_of(spec, **more):
    from training_fixtures import make_recipe

    return make_recipe(
        objective=spec.get("objective", "mlm"),
        architecture=shape_of(spec["size"]).to_dict(),
        context=spec["context"],
        batch_rows=spec["rows"],
        precision="bf16",
        optimizer={**make_recipe()["optimizer"], "lr": 1e-4},
        **{"steps": 100_000, **more},
    )


def one_rank():
    """Be the only rank of a process group, on whatever device there is."""
    import torch

    from plmscale.training import engine

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29531")
    if not torch.distributed.is_initialized():
        engine.start_distributed(device())


def prepared_run(spec, folder):
    """A run of ours up to its first step."""
    from training_fixtures import write_run

    from plmscale.training.options import Options
    from plmscale.training.trainer import Run

    one_rank()
    recipe = recipe_of(spec)
    run_dir = write_run(folder, recipe)
    options = Options(
        run_dir / "recipe.json",
        Path(spec["corpus"]),
        run_dir,
        folder / "checkpoint",
        zero_stage=1,
        micro_rows=spec.get("micro", 0),
        compile=spec.get("compile", "on"),
    )
    run = Run(options, recipe, 0, 1)
    run.prepare(None)
    return run


def trainer(spec, folder):
    """Real steps of plmscale's trainer: DeepSpeed ZeRO-1, fp32 masters, loader, guard."""
    from gpu_timing import Split, time_steps

    from plmscale import memory

    run = prepared_run(spec, folder)
    split = Split(run)
    seconds, first, count = time_steps(split.step, spec["seconds"])
    plan = run.plan
    predicted = memory.predict(
        run.arch,
        spec["context"],
        plan.micro_rows,
        1,
        plan.zero_stage,
        plan.checkpointing,
        device=run.device,
        precision="bf16",
    )
    peak, foretold = peak_gigabytes(), predicted.total / 1e9
    run.feed.close()
    return [
        {
            "compile": spec.get("compile", "on"),
            "micro": plan.micro_rows,
            **speeds(run.arch, spec["context"], run.tokens_per_step / seconds),
            "step ms": 1000 * seconds,
            **split.milliseconds(count),
            "peak GB": peak,
            "predicted GB": foretold,
            "peak / predicted": peak and peak / foretold,
            "first step s": first,
        }
    ]


def batch_of(spec, folder):
    """Inputs and targets (rows, s) int64 of one batch, on the device."""
    import torch

    from plmscale.training.data import training_samples
    from plmscale.training.objectives import examples

    recipe, numbers = recipe_of(spec), list(range(spec["rows"]))
    rows = training_samples(spec["corpus"], recipe).batch(numbers)
    inputs, targets = examples(recipe, rows, numbers, 0)
    return (
        torch.from_numpy(inputs).long().to(device()),
        torch.from_numpy(targets).to(device()),
    )


def pack(spec, folder):
    """`at_once` runs through plmscale.training.pack: tokens a second of all, in steps and overall."""
    from training_fixtures import environment, write_run

    runs = []
    for number in range(spec["at_once"]):
        validation = {"rows": 8, "evaluations": 1, "curve_rows": 8, "seed": 7}
        recipe = recipe_of(spec, steps=spec["steps"], seed=number, validation=validation)
        here = folder / str(number)
        run_dir = write_run(here, recipe)
        job = {"recipe": run_dir / "recipe.json", "corpus": spec["corpus"], "run_dir": run_dir}
        job |= {"checkpoint_dir": here / "checkpoint", "compile": spec.get("compile", "auto")}
        runs.append({key: str(value) for key, value in job.items()})
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps({"runs": runs}))
    command = [sys.executable, "-m", "plmscale.training.pack", str(jobs)]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, f"--at-once={spec['at_once']}"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - begin
    found = [Path(run["run_dir"]) / "metrics.json" for run in runs]
    finished = [json.loads(path.read_text()) for path in found if path.exists()]
    if len(finished) < len(runs):
        log = (folder / "0/checkpoint/train.log").read_text().strip().splitlines()
        last = (log or done.stderr.strip().splitlines() or ["?"])[-1]
        return [{"note": f"{len(runs) - len(finished)} of {len(runs)} runs failed: {last[:80]}"}]
    arch = shape_of(spec["size"])
    return [
        {
            **speeds(arch, spec["context"], sum(m["tokens_per_second"] for m in finished)),
            "tokens/s with starts": round(sum(m["tokens"] for m in finished) / seconds),
            "seconds": seconds,
            "start s": sum(m["startup_seconds"] for m in finished) / len(finished),
        }
    ]
