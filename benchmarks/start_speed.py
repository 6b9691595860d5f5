"""What a run costs beside its steps: start, end, many tiny runs, checkpoints; on this machine's CPU.

    python benchmarks/start_speed.py [--runs 16] [--json FILE]

cold      a launcher process of its own, imports included, for a run of one step
warm      the same through the fork server
pack      `--runs` of them through plmscale.training.pack, two at a time, seconds a run
hf        the peer: a process that makes a tiny EsmForMaskedLM of Hugging Face's, takes one step with
          AdamW and saves it; neither data, validation, checkpoint nor log
save      checkpoints of 25 M and 85 M parameters (the paper's sizes): bytes, seconds in which training
          stands still, seconds until it is on disk and verified

Contestants take turns. Seconds of the wall clock; the best of three rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit")]

PEER = """
import sys, torch
from transformers import EsmConfig, EsmForMaskedLM
model = EsmForMaskedLM(EsmConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1,
    num_attention_heads=1, intermediate_size=64, max_position_embeddings=66, pad_token_id=0,
    mask_token_id=3, position_embedding_type="rotary"))
tokens = torch.randint(4, 24, (4, 64))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
model(tokens, labels=tokens).loss.backward()
optimizer.step()
model.save_pretrained(sys.argv[1])
"""


def timed(arguments, environment):
    start = time.perf_counter()
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def starts(folder, count):
    """Return seconds a run of each contestant, best of three."""
    from training_fixtures import command, environment, make_corpus, make_recipe, write_run

    corpus = make_corpus(folder / "corpus")
    env = environment(OMP_NUM_THREADS="1")
    found = {name: [] for name in ("cold", "warm", "pack", "hf")}
    for turn in range(3):
        for warm, name in (("never", "cold"), ("auto", "warm")):
            run_dir = write_run(folder / f"{name}{turn}", make_recipe(steps=1, seed=turn))
            if name == "warm":
                # The server is up when a study's second run starts.
                first = write_run(folder / f"first{turn}", make_recipe(steps=1, seed=50 + turn))
                subprocess.run(command(first, corpus), env=env, check=True, capture_output=True)
            found[name].append(timed(command(run_dir, corpus, f"--warm={warm}"), env))
        runs = []
        for number in range(count):
            place = folder / f"pack{turn}" / str(number)
            run_dir = write_run(place, make_recipe(steps=1, seed=100 + number))
            runs.append(
                {
                    "recipe": str(run_dir / "recipe.json"),
                    "corpus": str(corpus),
                    "run_dir": str(run_dir),
                    "checkpoint_dir": str(place / "checkpoint"),
                }
            )
        jobs = folder / f"jobs{turn}.json"
        jobs.write_text(json.dumps({"runs": runs}))
        words = [sys.executable, "-m", "plmscale.training.pack", str(jobs), "--at-once=2"]
        found["pack"].append(timed(words, env) / count)
        peer = [sys.executable, "-c", PEER, str(folder / f"hf{turn}")]
        found["hf"].append(timed(peer, env))
    return {name: min(values) for name, values in found.items()}


def saves(folder):
    """Return what one checkpoint costs, by size."""
    import torch
    from training_fixtures import make_recipe

    from plmscale.architecture import PAPER_SIZES
    from plmscale.training import engine
    from plmscale.training.checkpoint import Saver
    from plmscale.training.layout import Plan

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29519")
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(2)
    engine.start_distributed("cpu")
    found = []
    for size in ("25M", "85M"):
        recipe = make_recipe(architecture={**PAPER_SIZES[size].to_dict(), "vocab_size": 32})
        made = engine.build(recipe, Plan(0, 1, 1, 4), "bf16", "cpu")
        place = folder / f"save-{size}"
        place.mkdir()
        best = None
        for step in (1, 2, 3):
            saver = Saver(place, 0, 1, None, set())
            saver.save(made, step, {})
            saver.wait()
            report = saver.report
            assert report.failed == 0, report.errors
            row = {
                "size": size,
                "bytes": report.last_bytes,
                "blocked_seconds": report.blocked,
                "written_seconds": report.writing,
            }
            if best is None or row["written_seconds"] < best["written_seconds"]:
                best = row
        found.append(best)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=16, help="runs in a pack")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
    from plmscale.provenance import hardware, versions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = starts(folder, options.runs)
        stored = saves(folder)
    result = {
        "hardware": hardware(),
        "versions": versions(),
        "seconds_a_run": seconds,
        "hf_over_cold": seconds["hf"] / seconds["cold"],
        "hf_over_warm": seconds["hf"] / seconds["warm"],
        "hf_over_pack": seconds["hf"] / seconds["pack"],
        "checkpoints": stored,
    }
    print(result["hardware"])
    print(f"{'':8}{'s a run':>10}{'hf / this':>12}")
    for contestant, value in seconds.items():
        print(f"{contestant:8}{value:>10.2f}{seconds['hf'] / value:>12.1f}")
    print(f"\n{'':8}{'MB':>10}{'blocked s':>12}{'written s':>12}{'MB/s':>10}")
    for row in stored:
        megabytes = row["bytes"] / 1e6
        print(
            f"{row['size']:8}{megabytes:>10,.0f}{row['blocked_seconds']:>12.2f}"
            f"{row['written_seconds']:>12.2f}{megabytes / row['written_seconds']:>10,.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
