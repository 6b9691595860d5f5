"""From GPUs and hours to FLOPs: peak rates and the share of them that training reaches."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from plmscale.errors import PlmscaleError

TABLE = Path(__file__).parents[3] / "resources" / "hardware.tsv"
# What well-tuned training of transformers of these sizes reaches; the answer prints it.
DEFAULT_MFU = 0.4


@dataclass(frozen=True)
class Gpu:
    """A GPU with its dense peak in FLOPs a second in 16-bit floats."""

    name: str
    peak_flops: float
    format: str

    def flops(self, count: float, hours: float, mfu: float) -> float:
        """Return what `count` of them compute in `hours` at a share `mfu` of their peak."""
        return self.peak_flops * mfu * count * hours * 3600


def gpus() -> dict[str, Gpu]:
    """Return the GPUs of resources/hardware.tsv by name."""
    try:
        text = TABLE.read_text(encoding="utf-8")
    except OSError:
        raise PlmscaleError(f"{TABLE}: cannot be read; give --flops instead of --gpu") from None
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {r["name"]: Gpu(r["name"], float(r["peak_flops"]), r["format"]) for r in rows}


def find_gpu(name: str) -> Gpu:
    """Return a GPU by name; case, blanks, dashes and a form factor do not matter."""

    def key(text: str) -> str:
        return re.sub(r"nvidia|sxm\d?|pcie|[^a-z0-9]", "", text.lower())

    known = gpus()
    for gpu in known.values():
        if key(gpu.name) == key(name):
            return gpu
    raise PlmscaleError(f"GPU {name!r} is unknown; known: {', '.join(known)}")
