"""From GPUs and hours to FLOPs: peak rates and the share of them that training reaches."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError

# What well-tuned training of transformers of these sizes reaches; the answer prints it.
DEFAULT_MFU = 0.4
_NAME = "hardware.tsv"


@dataclass(frozen=True)
class Gpu:
    """A GPU: dense peak in FLOPs a second in 16-bit floats, and memory in bytes.

    fp32_flops: peak without tensor cores: what training in fp32 uses, as torch computes fp32
        products in fp32 unless told otherwise.

    Memory is what the maker's datasheet states, GB as 1e9 bytes. The driver often shows more (an
    80 GB H100 about 85e9), which a plan leaves as reserve; a run asks the driver.
    """

    name: str
    peak_flops: float
    fp32_flops: float
    memory_bytes: float
    format: str
    source: str

    def flops(self, count: float, hours: float, mfu: float) -> float:
        """Return what `count` of them compute in `hours` at a share `mfu` of their peak."""
        return self.peak_flops * mfu * count * hours * 3600


def table_path() -> Path:
    """Return resources/hardware.tsv of the checkout, or its copy in the installed package."""
    checkout = Path(__file__).parents[4] / "resources" / _NAME
    # hardware.tsv beside this file links to it, which a wheel turns into a copy.
    return checkout if checkout.is_file() else Path(__file__).with_name(_NAME)


def gpus() -> dict[str, Gpu]:
    """Return the GPUs of resources/hardware.tsv by name."""
    path = table_path()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise PlmscaleError(f"{path}: cannot be read; give --flops instead of --gpu") from None
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {r["name"]: _gpu(r) for r in rows}


def _gpu(row: dict[str, str]) -> Gpu:
    peak, fp32, memory = (float(row[k]) for k in ("peak_flops", "fp32_flops", "memory_bytes"))
    return Gpu(row["name"], peak, fp32, memory, row["format"], row["source"])


def find_gpu(name: str) -> Gpu:
    """Return a GPU by a name people or drivers use ("NVIDIA A100-SXM4-80GB", "h100").

    Case, maker, memory and signs do not matter; a name without a form factor means the first of
    its kind in the table, and a form factor the table does not tell apart is left out.
    """
    known = gpus()
    keys = {_key(known_name): gpu for known_name, gpu in known.items()}
    wanted = _key(name)
    if wanted in keys:
        return keys[wanted]
    for key, gpu in keys.items():
        if wanted and re.sub(r"(sxm|pcie|nvl)$", "", key) == wanted:
            return gpu
    if (plain := re.sub(r"(sxm|pcie)$", "", wanted)) in keys:
        return keys[plain]
    raise PlmscaleError(
        f"GPU {name!r} is unknown; known: {', '.join(known)}; for another one give --flops: its "
        "peak in FLOP/s x the share that training reaches x seconds"
    )


def _key(name: str) -> str:
    text = re.sub(r"nvidia|amd|instinct|geforce|tesla|rtx|hbm\d?e?|\d+ ?gb", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", re.sub(r"sxm\d", "sxm", text))


def machine_and_flops(
    flops: float | None, gpu: str | None, count: int, hours: float | None, mfu: float | None
) -> tuple[float, dict[str, Any] | None]:
    """Return training FLOPs and, where a GPU is named, the machine with its hours.

    Either `flops` is given, or `gpu` and `hours`; with `flops` and `gpu` the hours follow.
    `mfu` is DEFAULT_MFU where None (`assumed` then).

    Raises PlmscaleError for a combination that does not say how much compute there is.
    """
    if gpu is None:
        if flops is None:
            raise PlmscaleError("advise needs --flops, or --gpu and --hours")
        if hours is not None or mfu is not None:
            raise PlmscaleError(f"{'--hours' if hours is not None else '--mfu'} needs --gpu")
        return flops, None
    share = DEFAULT_MFU if mfu is None else mfu
    if not 0 < share <= 1:
        raise PlmscaleError(f"--mfu {share:g} is not a share between 0 and 1")
    if count < 1:
        raise PlmscaleError(f"--gpus {count} is not a positive number")
    found = find_gpu(gpu)
    machine = {"gpu": found.name, "gpus": count, "mfu": share, "assumed": mfu is None,
               "peak_flops": found.peak_flops, "format": found.format}  # fmt: skip
    if flops is not None:
        if hours is not None:
            raise PlmscaleError("give --flops or --hours, not both")
        return flops, {**machine, "hours": flops / found.flops(count, 1.0, share)}
    if hours is None or not (hours > 0 and math.isfinite(hours)):
        raise PlmscaleError("--gpu without --flops needs --hours, a positive number")
    return found.flops(count, hours, share), {**machine, "hours": hours}
