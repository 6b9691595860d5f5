"""Finished models on disk: `model.safetensors` with fp32 weights, `config.json` with the shape."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.files import (
    DiskFull,
    follow_umask,
    read_json,
    says_full,
    sha256_file,
    write_json,
)
from plmscale.model.transformer import Transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(run_dir: str | Path, weights: dict[str, Tensor], config: dict[str, Any]) -> str:
    """Write weights (made fp32) and `config` atomically; return the SHA-256 of the weights file.

    `config` must hold `architecture`; what else it holds is for the reader's information.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    plain = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in weights.items()}
    part = run_dir / f".{WEIGHTS}.{os.getpid()}.tmp"
    try:
        # Straight from the tensors: the bytes of a large model need not be in memory twice.
        save_file(plain, part, metadata={"format": "pt"})
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        follow_umask(part)
        os.replace(part, run_dir / WEIGHTS)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        kind = DiskFull if says_full(error) else PlmscaleError
        raise kind(
            f"{run_dir / WEIGHTS}: cannot be written ({error}); free some space and start again"
        ) from error
    write_json(run_dir / CONFIG, config)
    return sha256_file(run_dir / WEIGHTS)


def load_weights(run_dir: str | Path) -> dict[str, Tensor]:
    """Return the fp32 weights of a finished run by parameter name; nothing is unpickled."""
    path = Path(run_dir) / WEIGHTS
    if not path.exists():
        raise PlmscaleError(f"{path}: no such file; has the run finished?")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PlmscaleError(f"{path}: not a readable safetensors file ({error})") from None


def load(run_dir: str | Path, device: str = "cpu") -> Transformer:
    """Return the trained model of a run folder in fp32 and eval mode on `device`."""
    config = read_json(Path(run_dir) / CONFIG)
    arch = Architecture.from_dict(config["architecture"])
    model = Transformer(arch)
    fill(model, load_weights(run_dir), str(run_dir))
    return model.to(device).eval()


def fill(model: Transformer, weights: dict[str, Tensor], source: str) -> None:
    """Copy `weights` into `model`; other names or shapes are an error that names `source`."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise PlmscaleError(f"{source}: weights do not fit the architecture ({reason})") from None
