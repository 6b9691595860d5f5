"""A finished run as a model that is ready to be used."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.model import Transformer, load
from plmscale.model.loading import CONFIG, WEIGHTS

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OBJECTIVES = ("clm", "mlm")


@dataclass(frozen=True)
class Loaded:
    """A trained model and what its config.json says; `use` is what it is used as, clm or mlm."""

    model: Transformer
    run_id: str
    use: str
    context: int
    device: torch.device
    dtype: str

    @property
    def causal(self) -> bool:
        return self.use == "clm"


def open_model(
    run_dir: str | Path, device: str = "auto", dtype: str = "auto", use: str | None = None
) -> Loaded:
    """Load a finished run for inference.

    device: cpu, cuda or auto (a GPU where there is one). dtype: fp32, bf16 or auto (bf16 on a
    GPU). use: clm or mlm; a run of one objective can be used as that alone, a `mixed` one as
    either (mlm by default). Raises PlmscaleError for a run that is missing, unfinished, without
    weights, or trained for something else, and for a GPU that is not there.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise PlmscaleError(f"{run_dir}: no such run folder; it is results/<study>/runs/<run_id>")
    missing = [name for name in (CONFIG, WEIGHTS) if not (run_dir / name).exists()]
    if missing:
        raise PlmscaleError(
            f"{run_dir}: {' and '.join(missing)} missing; has the run finished? (plmscale status)"
        )
    config = read_json(run_dir / CONFIG)
    for key in ("architecture", "objective", "context"):
        if not isinstance(config, dict) or key not in config:
            raise PlmscaleError(f"{run_dir / CONFIG}: no {key!r}; is this a folder of plmscale?")
    _check_status(run_dir)
    place = torch.device(_device(device))
    if dtype == "auto":
        dtype = "bf16" if place.type == "cuda" else "fp32"
    model = load(run_dir, device=str(place)).to(_DTYPES[dtype])
    # Training's kernels are chosen for forward and backward; a GPU's is compiled for each shape of a
    # batch, and here every batch has another.
    model.kernel = "sdpa"
    use = _use(run_dir, config["objective"], use)
    run_id = str(config.get("run_id", run_dir.name))
    return Loaded(model, run_id, use, int(config["context"]), place, dtype)


def _check_status(run_dir: Path) -> None:
    """Refuse a run whose metrics say that it has no weights; warn of one that diverged."""
    if not (run_dir / "metrics.json").exists():
        return
    status = read_json(run_dir / "metrics.json").get("status")
    if status == "parent_failed":
        raise PlmscaleError(f"{run_dir}: the run was never trained, its parent run was lost")
    if status == "diverged":
        print(
            f"plmscale: {run_dir}: this run diverged; its weights are those of that moment",
            file=sys.stderr,
        )


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise PlmscaleError("--device cuda: torch sees no GPU here; use --device cpu")
    return device


def _use(run_dir: Path, objective: str, use: str | None) -> str:
    if objective == "mixed":
        return use or "mlm"
    if objective not in OBJECTIVES:
        raise PlmscaleError(f"{run_dir / CONFIG}: objective {objective!r}; known: clm, mlm, mixed")
    if use not in (None, objective):
        raise PlmscaleError(
            f"{run_dir}: was trained as {objective}, it cannot be used as {use}; mixed runs can"
        )
    return objective
