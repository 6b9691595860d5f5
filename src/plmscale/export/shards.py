"""Tensors to safetensors files of bounded size, with the index that transformers expects."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from plmscale.errors import PlmscaleError
from plmscale.files import disk_full_is_told, write_json

SHARD_BYTES = 5_000_000_000


def write_shards(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    limit: int = SHARD_BYTES,
) -> list[str]:
    """Write `tensors` as `dtype` into files of at most `limit` bytes of weights; return their names.

    One file is `model.safetensors`; several are numbered and get `model.safetensors.index.json`.
    A tensor larger than `limit` has a file of its own. Memory: the tensors of one file.
    """
    parts: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        _save(pending, folder / f"part-{len(parts)}")
        parts.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        # A copy, because safetensors refuses views of one storage.
        plain = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if pending and size + plain.nbytes > limit:
            flush()
            size = 0
        pending[name] = plain
        size += plain.nbytes
        total += plain.nbytes
    flush()
    if len(parts) == 1:
        os.replace(folder / "part-0", folder / "model.safetensors")
        return ["model.safetensors"]
    files = [f"model-{n:05d}-of-{len(parts):05d}.safetensors" for n in range(1, len(parts) + 1)]
    for number, file in enumerate(files):
        os.replace(folder / f"part-{number}", folder / file)
    where = {name: file for file, names in zip(files, parts) for name in names}
    index = "model.safetensors.index.json"
    write_json(folder / index, {"metadata": {"total_size": total}, "weight_map": where})
    return [*files, index]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        with disk_full_is_told(path):
            save_file(tensors, path, metadata={"format": "pt"})
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
    except SafetensorError as error:
        raise PlmscaleError(
            f"{path.parent}: the weights could not be written ({error}); is the disk full?"
        ) from None
