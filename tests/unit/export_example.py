"""Small finished runs to export: random weights in which no norm or bias is neutral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from plmscale.architecture import Architecture
from plmscale.files import write_json
from plmscale.model import Transformer, save_model

CONTEXT = 96
SHAPE = {"n_layers": 3, "d_model": 48, "n_heads": 3, "d_ff": 100}
# Not the defaults of any class, so that one that is not carried over shows.
SHAPE |= {"rope_theta": 5000.0, "norm_eps": 1e-3}


def random_model(arch: Architecture, seed: int = 0) -> Transformer:
    """A model whose attention, norms and biases all matter, with logits of a few nats."""
    model = Transformer(arch)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * drawn + float(name.endswith("norm.weight")))
            else:
                parameter.copy_(drawn / parameter.shape[1] ** 0.5)
    return model.eval()


def make_run(
    folder: Path, preset: str, objective: str, status: str = "done", seed: int = 0, **shape: Any
) -> Path:
    """Write a finished run's folder and return it."""
    arch = Architecture("3x48", preset=preset, **{**SHAPE, **shape})
    config = {
        "architecture": arch.to_dict(),
        "objective": objective,
        "packing": "within",
        "context": CONTEXT,
        "run_id": f"{objective}-3x48-1e11-mix-3f2a9c",
        "fingerprint": "3f2a9c" + "0" * 58,
        "format": "plmscale",
    }
    weights = dict(random_model(arch, seed).state_dict())
    if status == "diverged":
        weights["final_norm.weight"] = weights["final_norm.weight"] * torch.nan
    digest = save_model(folder, weights, config)
    corpus = {"key": "abc", "name": "mix", "mix": {"curated": 0.3, "diverse": 0.7}}
    write_json(folder / "recipe.json", {"objective": objective, "corpus": corpus})
    metrics = {
        "status": status,
        "loss": 2.5 if status == "done" else None,
        "loss_se": 0.01,
        "tokens": 1_228_800,
        "flops_6nd": 1e11,
        "flops": 1.2e11,
        "weights_sha256": digest,
        "versions": {"plmscale": "0.1.0"},
    }
    write_json(folder / "metrics.json", metrics)
    return folder
