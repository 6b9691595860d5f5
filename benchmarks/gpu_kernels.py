"""Contestants of gpu_speed.py without a trainer: attention alone, the model alone, odd matrices."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from gpu_timing import time_steps  # noqa: E402
from gpu_training import batch_of, device, peak_flops, peak_gigabytes, shape_of, speeds  # noqa: E402


def share(flops, seconds):
    """Per cent of the device's peak, or None."""
    peak = peak_flops()
    return peak and 100 * flops / seconds / peak


def attention(spec, folder):
    """Attention with its rotation, forward and backward, by kernel: within proteins and across.

    `MFU %` counts the full s x s products, so a kernel that skips what is masked can pass 100.
    """
    import torch

    from plmscale.model import segments_of
    from plmscale.model.attention import attend, plan_attention, rotary_tables

    arch, rows = shape_of(spec["size"]), spec["rows"]
    size, length = arch.d_model // arch.n_heads, spec["context"]
    tokens, _ = batch_of(spec, folder)
    cos, sin = rotary_tables(length, size, 1e4, tokens.device, torch.bfloat16)
    shape = (rows, length, 3, arch.n_heads, size)
    qkv = torch.randn(shape, device=device(), dtype=torch.bfloat16).requires_grad_()
    within = segments_of(tokens)
    found = []
    for kernel, segments in (
        ("eager", within), ("sdpa", within), ("flex", within), ("sdpa", None)
    ):  # fmt: skip
        plan = plan_attention(segments, False, cos, sin, rows, kernel=kernel)
        mask = "within proteins" if segments is not None else "none"

        def step(plan=plan):
            qkv.grad = None
            attend(qkv, plan).sum().backward()

        row = {"what": "attention", "kernel": kernel, "mask": mask}
        try:
            seconds, first, _ = time_steps(step, spec["seconds"])
        except torch.OutOfMemoryError:
            found.append({**row, "note": "out of memory"})
            continue
        flops = 12 * rows * length * length * arch.d_model
        row |= {"ms": 1000 * seconds, "MFU %": share(flops, seconds), "first step s": first}
        found.append(row)
    masking = lambda: plan_attention(within, False, cos, sin, rows, kernel="flex")  # noqa: E731
    seconds, first, _ = time_steps(masking, spec["seconds"] / 4)
    return [*found, {"what": "flex block mask", "ms": 1000 * seconds, "first step s": first}]


def model(spec, folder):
    """The model alone, forward and backward in bf16, without optimizer."""
    import torch

    from plmscale.model import Transformer
    from plmscale.training.evaluate import row_losses

    arch = shape_of(spec["size"])
    inputs, targets = batch_of(spec, folder)
    net = Transformer(arch).to(device(), torch.bfloat16)
    net.initialize(1)
    net.kernel, net.checkpointing = spec["kernel"], spec.get("checkpointing", False)
    if spec["compile"] == "on":
        net.compile_blocks()

    def step():
        row_losses(net, "within", False, inputs, targets).mean().backward()
        net.zero_grad()

    seconds, first, _ = time_steps(step, spec["seconds"])
    return [
        {
            "what": "model" + (", checkpointing" if net.checkpointing else ""),
            "kernel": spec["kernel"],
            "mask": "within proteins",
            "compile": spec["compile"],
            "rows": spec["rows"],
            "ms": 1000 * seconds,
            **speeds(arch, spec["context"], inputs.numel() / seconds),
            "peak GB": peak_gigabytes(),
            "first step s": first,
        }
    ]


def widths(spec, folder):
    """The MLP's matrices, forward and backward, where d_ff is odd as in many of the paper's sizes.

    Tensor cores read rows of 16 bytes: 5461 values of bf16 do not fill them, 5464 do.
    """
    import torch

    from plmscale.model.gated import gated

    arch = shape_of(spec["size"])
    tokens, d = spec["rows"] * spec["context"], arch.d_model
    found = []
    for d_ff in (arch.d_ff, -(-arch.d_ff // 8) * 8, -(-arch.d_ff // 64) * 64):
        x, up, out = (
            torch.randn(*shape, device=device(), dtype=torch.bfloat16).requires_grad_()
            for shape in ((tokens, d), (2 * d_ff, d), (d, d_ff))
        )

        def mlp(x, up, out):
            return gated(x @ up.T, True) @ out.T

        backend = "aot_eager" if spec["size"] == "tiny" else "inductor"
        for compiled in (False, True):
            call = torch.compile(mlp, backend=backend, dynamic=False) if compiled else mlp

            def step(call=call, x=x, up=up, out=out):
                call(x, up, out).sum().backward()

            seconds, first, _ = time_steps(step, spec["seconds"])
            row = {"what": f"MLP, d_ff {d_ff}", "compile": "on" if compiled else "off"}
            row |= {"ms": 1000 * seconds, "first step s": first}
            found.append({**row, "MFU %": share(18 * tokens * d * d_ff, seconds)})
    return found
