"""The contestant of gpu_speed.py that is not ours: Hugging Face's ESM."""

from __future__ import annotations

import gc
import importlib.util

from gpu_training import batch_of, device, peak_gigabytes, shape_of, speeds
from training_speed import esm_config


def esm(spec, folder):
    """Hugging Face's EsmForMaskedLM: bf16 weights, fused AdamW on them, full rows unmasked.

    Width and depth are ours, the feed-forward layer widened to an equal number of parameters. Rows
    hold the same tokens as ours, several proteins each and no padding; attention crosses proteins,
    because its fast kernels know no such mask: the easier task of the two.
    """
    import torch
    from gpu_timing import time_steps

    for package in ("transformers", *(["flash_attn"] if "flash" in spec["attention"] else [])):
        if importlib.util.find_spec(package) is None:
            return [{"note": f"{package} is not installed"}]
    arch, micro = shape_of(spec["size"]), spec["micro"]
    inputs, targets = batch_of(spec, folder)
    while True:
        try:
            step, layers = esm_step(arch, spec, inputs, targets, micro)
            seconds, first, _ = time_steps(step, spec["seconds"])
            break
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
        # Out here nothing holds on to the model any more.
        step, micro = None, micro // 2
        gc.collect()
        if device() == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return [
        {
            "micro": micro,
            "parameters": layers,
            **speeds(arch, spec["context"], inputs.numel() / seconds, layers),
            "step ms": 1000 * seconds,
            "peak GB": peak_gigabytes(),
            "first step s": first,
        }
    ]


def esm_step(arch, spec, inputs, targets, micro):
    """A function that takes a step, and the parameters of the layers."""
    import torch
    from torch.nn import functional
    from transformers import EsmForMaskedLM

    config = esm_config(arch, spec["context"], attn_implementation=spec["attention"])
    model = EsmForMaskedLM(config).to(device(), torch.bfloat16).train()
    layers = sum(p.numel() for p in model.esm.encoder.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    backend = "aot_eager" if spec["size"] == "tiny" else "inductor"
    called = torch.compile(model, backend=backend) if spec.get("compile") == "on" else model
    parts = range(0, len(inputs), micro)

    def step():
        for begin in parts:
            logits = called(inputs[begin : begin + micro]).logits
            wanted = targets[begin : begin + micro].flatten()
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), wanted)
            (loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, layers
