"""Speed and memory on one GPU: our trainer, Hugging Face's ESM, packs of small runs, kernels.

    python benchmarks/gpu_speed.py [--quick] [--only trainer,esm] [--minutes 8.5] [--json FILE]

Every contestant runs in a process of its own, so that memory and compiled code are its own. Rows
hold 1024 tokens of packed proteins (synthetic), bf16 throughout.

trainer   plmscale's own steps: DeepSpeed ZeRO-1 with fp32 masters, blocks compiled, flex attention
          inside each protein, loader, guard. `fwd+bwd` and `optim` on the device's clock, `data`
          is how long the host waits for a batch. Predicted memory: plmscale.memory
esm       Hugging Face's EsmForMaskedLM of equal size and tokens; `ours / this` in tokens/s
pack      1 to 8 small runs at once through plmscale.training.pack
kernels   attention alone, the model by kernel and rows, compiled or not; odd widths

MFU: 6 N tokens/s over the GPU's dense bf16 peak; the other column counts attention and head too.
What does not fit is told as a row. Contestants are taken in order of importance until the time is
used up. --dry-run-cpu goes through all of it with tiny sizes on a CPU; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partialmethod
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit"), str(ROOT / "benchmarks")]

from gpu_contestants import contestants  # noqa: E402

SECTIONS = {
    "trainer": (
        "size", "compile", "micro", "tokens/s", "MFU 6ND %", "MFU %", "step ms", "data ms",
        "fwd+bwd ms", "optim ms", "peak GB", "predicted GB", "peak / predicted", "first step s",
        "note",
    ),
    "esm": (
        "size", "attention", "compile", "micro", "parameters", "tokens/s", "ours / this",
        "MFU 6ND %", "MFU %", "step ms", "peak GB", "first step s", "note",
    ),
    "pack": (
        "size", "at once", "tokens/s", "over one", "MFU 6ND %", "tokens/s with starts", "seconds",
        "start s", "note",
    ),
    "kernels": (
        "what", "size", "kernel", "mask", "compile", "rows", "ms", "tokens/s", "MFU 6ND %", "MFU %",
        "peak GB", "first step s", "note",
    ),
}  # fmt: skip
# Longest a contestant may take, compiling included; and how long the last one may go on when the
# time is used up. Seconds.
PATIENCE, GRACE = 240, 60


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"of {', '.join(SECTIONS)}, with commas")
    parser.add_argument("--quick", action="store_true", help="fewer contestants, three minutes")
    parser.add_argument(
        "--minutes", type=float, help="begin nothing after so long (8.5; quick 2.5)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--dry-run-cpu", action="store_true", help="try every path on a CPU")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.only = [name for name in options.only.split(",") if name] or list(SECTIONS)
    if unknown := sorted(set(options.only) - set(SECTIONS)):
        parser.error(f"--only: {', '.join(unknown)}; known: {', '.join(SECTIONS)}")
    if options.minutes is None:
        options.minutes = 2.5 if options.quick else 8.5
    return options


def compete(spec):
    """Run one contestant in this process; return its rows."""
    import gpu_esm
    import gpu_kernels
    import gpu_training
    import torch

    kinds = {
        name: getattr(module, name)
        for module, names in (
            (gpu_training, ("trainer", "pack")),
            (gpu_esm, ("esm",)),
            (gpu_kernels, ("attention", "model", "widths")),
        )
        for name in names
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            return kinds[spec["kind"]](spec, Path(folder))
        except torch.OutOfMemoryError:
            return [{"note": "out of memory"}]


def in_a_process(spec, patience):
    """Run one contestant in a process of its own; a failure is a row with a note."""
    command = [sys.executable, __file__, "--contestant", json.dumps(spec)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        out, error = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        # What it has started, a pack's runs, would keep the GPU.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return [{"note": f"given up after {patience:.0f} s"}]
    if process.returncode == 0:
        return json.loads(out.strip().splitlines()[-1])
    if "out of memory" in error:
        return [{"note": "out of memory"}]
    last = (error.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    print(error[-2000:], file=sys.stderr)
    return [{"note": f"failed: {last[:100]}"}]


def labelled(spec, row):
    """A contestant's row with what it was asked for."""
    named = {key: spec[key] for key in ("section", "size", "kernel", "attention", "compile")
             if key in spec}  # fmt: skip
    if "at_once" in spec:
        named["at once"] = spec["at_once"]
    return {**named, **row}


def compared(rows):
    """Add tokens/s of ours over Hugging Face's, and of a pack over a single run."""
    ours, alone = {}, {}
    for row in rows:
        if row["section"] == "trainer" and row["compile"] == "on":
            ours[row["size"]] = row.get("tokens/s")
        if row.get("at once") == 1:
            alone[row["size"]] = row.get("tokens/s")
    for row in rows:
        mine, speed = ours.get(row["size"]), row.get("tokens/s")
        if row["section"] == "esm" and mine and speed:
            row["ours / this"] = mine / speed
        if row["section"] == "pack" and alone.get(row["size"]) and speed:
            row["over one"] = speed / alone[row["size"]]
    return rows


def prepare_dry_run():
    """Let a CPU take the paths of a GPU: flex attention with gradients, a compiler that is quick."""
    import torch
    from torch.nn.attention import flex_attention

    from plmscale.model import Transformer
    from plmscale.training.ranks import preload

    torch.set_num_threads(1)
    preload()
    # PyTorch's flex attention refuses gradients on a CPU, but can compute them uncompiled.
    flex_attention._validate_device = lambda *_: None
    Transformer.compile_blocks = partialmethod(Transformer.compile_blocks, backend="aot_eager")


def main(argv=None):
    options = arguments(argv)
    if options.contestant:
        print(json.dumps(compete(json.loads(options.contestant))))
        sys.stdout.flush()
        # DeepSpeed's and NCCL's threads need not be waited for.
        os._exit(0)
    if options.dry_run_cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        prepare_dry_run()
    import torch
    from training_fixtures import make_corpus

    from plmscale.files import write_json
    from plmscale.provenance import hardware, versions
    from plmscale.textable import table

    if not (options.dry_run_cpu or torch.cuda.is_available()):
        sys.exit("gpu_speed.py: torch sees no GPU here; --dry-run-cpu tries the code without one")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, a dry run"
    print(f"{name}; {hardware()}; torch {torch.__version__}", flush=True)
    begin, rows = time.monotonic(), []
    end = begin + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        scale = 0.1 if options.dry_run_cpu else 1
        corpus = make_corpus(Path(folder), proteins=round(1500 * scale), mean_length=350)
        for spec in contestants(options.quick, options.dry_run_cpu):
            if spec["section"] not in options.only:
                continue
            spec = {**spec, "corpus": str(corpus)}
            left = end + GRACE - time.monotonic()
            if options.dry_run_cpu:
                found = compete(spec)
            elif left < GRACE:
                found = [{"note": "not run: no time left"}]
            else:
                found = in_a_process(spec, min(PATIENCE, left))
            rows += [labelled(spec, row) for row in found]
            for row in rows[-len(found) :]:
                said = row.get("note") or f"{row.get('tokens/s') or row.get('ms', 0):,.6g}"
                print(f"  {time.monotonic() - begin:5.0f} s  {spec['section']}, {spec['kind']} "
                      f"{spec['size']}: {said}", flush=True)  # fmt: skip
    for section, columns in SECTIONS.items():
        if section in options.only:
            mine = [row for row in compared(rows) if row["section"] == section]
            used = [c for c in columns if any(row.get(c) is not None for row in mine)]
            print(f"\n{section}\n{table(mine, used)}")
    if options.json:
        write_json(options.json, {"gpu": name, "hardware": hardware(), "versions": versions(),
                                  "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
