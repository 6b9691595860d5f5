"""The weights a transfer run starts from: another recipe's finished model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file
from plmscale.model.loading import CONFIG, WEIGHTS
from plmscale.training.state import Reader


class ParentFailed(Exception):
    """The parent was trained and lost, so there is nothing to start from."""


@dataclass(frozen=True)
class Parent:
    """What a run starts from, and what that cost: goes into its metrics."""

    weights: Reader
    record: dict[str, Any]


def parent_of(recipe: dict[str, Any], parent_dir: Path | None) -> Parent | None:
    """Return the parent's fp32 weights and record, or None for a run from scratch.

    Raises PlmscaleError when the folder is not the parent's or its weights are damaged,
    ParentFailed when the parent diverged or failed itself.
    """
    parent = recipe["parent"]
    if parent is None:
        return None
    if parent_dir is None:
        raise PlmscaleError(f"--parent-dir: the recipe starts from run {parent['run_id']}")
    metrics = read_json(parent_dir / "metrics.json")
    if metrics["fingerprint"] != parent["fingerprint"]:
        raise PlmscaleError(
            f"{parent_dir}: holds run {metrics['run_id']} (fingerprint "
            f"{metrics['fingerprint'][:12]}), the recipe starts from {parent['run_id']} "
            f"({parent['fingerprint'][:12]})"
        )
    if metrics["status"] != "done":
        raise ParentFailed(f"parent {parent['run_id']}: {metrics['status']}")
    weights = parent_dir / WEIGHTS
    if weights.exists() and sha256_file(weights) != metrics["weights_sha256"]:
        raise PlmscaleError(f"{weights}: is not the file the parent wrote (SHA-256 differs)")
    shape, theirs = recipe["architecture"], read_json(parent_dir / CONFIG)["architecture"]
    changed = [k for k in shape if k != "name" and shape[k] != theirs.get(k)]
    if changed:
        raise PlmscaleError(
            f"{parent_dir}: the parent's architecture differs in {', '.join(changed)}"
        )
    keys = ("run_id", "fingerprint", "weights_sha256", "tokens", "flops_6nd", "flops", "loss")
    record = {key: metrics[key] for key in keys}
    record["objective"] = read_json(parent_dir / CONFIG)["objective"]
    return Parent(_reader(weights), record)


def _reader(path: Path) -> Reader:
    """Return a reader of the weights file that holds one parameter at a time."""
    try:
        stored = safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise PlmscaleError(f"{path}: cannot be read ({error})") from None

    def read(kind: str, name: str, start: int, numel: int) -> Tensor:
        try:
            return stored.get_tensor(name).reshape(-1)[start : start + numel]
        except SafetensorError as error:
            raise PlmscaleError(f"{path}: {name}: {error}") from None

    return read
