"""A finished run as an export reads it, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file
from plmscale.model import Transformer, folded, load_weights
from plmscale.model.loading import CONFIG, WEIGHTS

_METRICS, _RECIPE = "metrics.json", "recipe.json"


@dataclass(frozen=True)
class Source:
    """What a run's folder says about its model.

    objective: clm, mlm or mixed, as it was trained.
    context: row length in training, in tokens.
    weights_sha256: of `model.safetensors`, as it lies there now.
    """

    folder: Path
    arch: Architecture
    objective: str
    context: int
    run_id: str
    fingerprint: str
    metrics: dict[str, Any]
    recipe: dict[str, Any]
    weights_sha256: str

    @property
    def diverged(self) -> bool:
        return self.metrics["status"] == "diverged"


def read_source(run_dir: str | Path) -> Source:
    """Read and check a run's folder.

    Raises PlmscaleError that names the folder or file where it holds no finished run, or weights
    that are not those which the run wrote.
    """
    folder = Path(run_dir)
    for name in (CONFIG, _METRICS, WEIGHTS):
        if not (folder / name).is_file():
            raise PlmscaleError(f"{folder}: no finished run, {name} is missing; has it finished?")
    config, metrics = read_json(folder / CONFIG), read_json(folder / _METRICS)
    recipe = read_json(folder / _RECIPE) if (folder / _RECIPE).is_file() else {}
    status = metrics.get("status") if isinstance(metrics, dict) else None
    if status not in ("done", "diverged"):
        raise PlmscaleError(
            f"{folder / _METRICS}: the run's status is {status!r}; only runs that are done (or "
            "diverged, for a look) can be exported"
        )
    try:
        arch = Architecture.from_dict(config["architecture"])
        objective, context = config["objective"], int(config["context"])
    except (KeyError, TypeError, ValueError) as error:
        raise PlmscaleError(
            f"{folder / CONFIG}: not the config of a run of plmscale ({error!r})"
        ) from None
    if objective not in ("clm", "mlm", "mixed"):
        raise PlmscaleError(
            f"{folder / CONFIG}: objective {objective!r} is unknown; expected clm, mlm or mixed"
        )
    digest = sha256_file(folder / WEIGHTS)
    if digest != metrics.get("weights_sha256", digest):
        raise PlmscaleError(
            f"{folder / WEIGHTS}: damaged, its SHA-256 is not the one in {_METRICS}; restore the "
            "file or train the run again"
        )
    return Source(
        folder=folder,
        arch=arch,
        objective=objective,
        context=context,
        run_id=str(config.get("run_id", "")),
        fingerprint=str(config.get("fingerprint", "")),
        metrics=metrics,
        recipe=recipe,
        weights_sha256=digest,
    )


def read_weights(source: Source) -> dict[str, Tensor]:
    """Return the weights by our names, fp32, for a head without any scale of the logits.

    `head.weight` is among them only where the output head is not the embedding. Raises
    PlmscaleError for a file that is unreadable or that does not fit the architecture.
    """
    weights = load_weights(source.folder)
    with torch.device("meta"):
        expected = {name: t.shape for name, t in Transformer(source.arch).state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        wanted = tuple(expected[name]) if name in expected else None
        if found != wanted:
            raise PlmscaleError(
                f"{source.folder / WEIGHTS}: {name} has shape {found}, the architecture in "
                f"{CONFIG} needs {wanted}; do the two files belong to one run?"
            )
    return folded(weights, source.arch)[0]
