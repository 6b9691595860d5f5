"""Training speed at 6 M parameters, bf16, rows of 512: our trainer, a bare loop, Hugging Face.

    python benchmarks/training_speed.py [--threads 2] [--rounds 5] [--steps 3] [--json FILE]

Three contestants in one process take turns, so that a machine's moods hit all of them alike:

trainer   plmscale's own run: DeepSpeed ZeRO-1 with fp32 master weights, loader, logging
bare      our model, one batch in memory, PyTorch's AdamW on the bf16 weights; nothing else
esm       Hugging Face's EsmForMaskedLM, its width and depth ours, its feed-forward layer widened
          to an equal number of parameters; the loop of `bare`

The rows are packed proteins with attention kept inside each (the trainer and `bare` pay for that
mask), masked at 15 %. A contestant's figure is its best round, and the median stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit")]

CONTEXT, ROWS = 512, 8


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    return parser.parse_args()


def build_trainer(folder, threads):
    """A prepared run of ours and a function that makes it take its next step."""
    from training_fixtures import make_corpus, make_recipe, write_run

    from plmscale.architecture import PAPER_SIZES
    from plmscale.training import engine
    from plmscale.training.options import Options
    from plmscale.training.trainer import Run

    corpus = make_corpus(folder / "corpus", proteins=1500, mean_length=350)
    shape = {**PAPER_SIZES["6M"].to_dict(), "vocab_size": 32}
    recipe = make_recipe(
        objective="mlm",
        architecture=shape,
        context=CONTEXT,
        batch_rows=ROWS,
        steps=10_000,
        precision="bf16",
        optimizer={**make_recipe()["optimizer"], "lr": 1e-3},
    )
    run_dir = write_run(folder, recipe)
    engine.start_distributed("cpu")
    options = Options(
        run_dir / "recipe.json", corpus, run_dir, folder / "checkpoint", threads=threads
    )
    run = Run(options, recipe, 0, 1)
    run.prepare(None)

    def step():
        run.step += 1
        run.train_step(run.step)
        if run.step % 50 == 0:
            run.log(run.step)

    return run, step


def batch_of(run):
    """One training batch of `run` as (inputs, targets), int64 tensors."""
    import torch

    from plmscale.training.objectives import examples

    numbers = list(range(ROWS))
    inputs, targets = examples(run.recipe, run.samples.batch(numbers), numbers, 0)
    return torch.from_numpy(inputs).long(), torch.from_numpy(targets)


def bare_step(model, logits_of, inputs, targets):
    """A plain training loop around `model`, and its next step as a function."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step():
        logits = logits_of(model, inputs)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def build_bare(run):
    import torch

    from plmscale.model import Transformer, segments_of

    model = Transformer(run.arch)
    model.initialize(1)
    model.to(torch.bfloat16)
    return bare_step(
        model, lambda m, x: m(x, causal=False, segments=segments_of(x)), *batch_of(run)
    )


def esm_config(arch, context, **more):
    """Hugging Face's ESM of our width and depth, as many parameters, no dropout."""
    from transformers import EsmConfig

    return EsmConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.d_model,
        num_hidden_layers=arch.n_layers,
        num_attention_heads=arch.n_heads,
        intermediate_size=arch.d_ff * 3 // 2,
        max_position_embeddings=context + 2,
        position_embedding_type="rotary",
        pad_token_id=0,
        mask_token_id=3,
        token_dropout=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )


def build_esm(run):
    import torch
    from transformers import EsmForMaskedLM

    arch = run.arch
    config = esm_config(arch, CONTEXT)
    model = EsmForMaskedLM(config).to(torch.bfloat16).train()
    layers = sum(p.numel() for p in model.esm.encoder.parameters())
    return bare_step(model, lambda m, x: m(x).logits, *batch_of(run)), layers


def main():
    options = arguments()
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    from plmscale.provenance import hardware, versions
    from plmscale.training.ranks import keep_freed_memory, preload

    preload()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run, trainer = build_trainer(Path(folder), options.threads)
        esm, esm_params = build_esm(run)
        contestants = {"trainer": trainer, "bare": build_bare(run), "esm": esm}
        speeds = {name: [] for name in contestants}
        for turn in range(options.rounds + 1):
            for name, step in contestants.items():
                start = time.perf_counter()
                for _ in range(options.steps):
                    step()
                tokens = options.steps * ROWS * CONTEXT
                if turn:  # the first round warms up
                    speeds[name].append(tokens / (time.perf_counter() - start))
    best = {name: max(values) for name, values in speeds.items()}
    n_params = {"trainer": run.arch.n_params, "bare": run.arch.n_params, "esm": esm_params}
    result = {
        "hardware": hardware(),
        "threads": options.threads,
        "rows": ROWS,
        "context": CONTEXT,
        "precision": "bf16",
        "versions": versions(),
        "tokens_per_second": best,
        "median": {name: statistics.median(values) for name, values in speeds.items()},
        "n_params": n_params,
        "trainer_over_esm": best["trainer"] / best["esm"],
        "trainer_over_bare": best["trainer"] / best["bare"],
    }
    print(f"{result['hardware']}, {options.threads} threads, {ROWS} rows of {CONTEXT}, bf16")
    print(f"{'':10}{'parameters':>12}{'tokens/s':>10}{'median':>10}{'GFLOP/s':>10}")
    for name, speed in best.items():
        gflops = 6 * n_params[name] * speed / 1e9
        middle = result["median"][name]
        print(f"{name:10}{n_params[name]:>12,}{speed:>10,.0f}{middle:>10,.0f}{gflops:>10,.0f}")
    print(f"trainer / esm {result['trainer_over_esm']:.2f}", end=", ")
    print(f"trainer / bare {result['trainer_over_bare']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
