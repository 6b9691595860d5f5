"""The share of a GPU's peak that training reaches, by size: measured, given or assumed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.grid import si
from plmscale.laws.advice.hardware import find_gpu
from plmscale.planning.packing import slots
from plmscale.settings import Study

# One run on a GPU of its own, FLOPs with attention and head over the peak in 16-bit floats.
# Careful assumptions until this study's own runs show better: small models do not fill a GPU.
ASSUMED = {3e6: 0.05, 25e6: 0.20, 85e6: 0.35, 470e6: 0.45, 1.2e9: 0.48}


@dataclass(frozen=True)
class Rates:
    """Share of the peak by N: straight lines in log N between the points, constant beyond.

    origin: where the points come from, for people. measured: those that finished runs showed.
    """

    points: Mapping[float, float]
    origin: str
    measured: Mapping[float, float]

    def share(self, n_params: float) -> float:
        """Return the share of the peak of one run that has its GPUs for itself."""
        sizes = sorted(self.points)
        at = bisect_right(sizes, n_params)
        if at == 0 or at == len(sizes):
            return self.points[sizes[min(at, len(sizes) - 1)]]
        low, high = sizes[at - 1], sizes[at]
        t = math.log(n_params / low) / math.log(high / low)
        return self.points[low] * (1 - t) + self.points[high] * t


def rates(
    study: Study,
    gpu: str,
    mfu: float | None = None,
    table: Path | None = None,
    packing: bool = True,
) -> Rates:
    """Return the rates to plan with: `mfu` for all sizes, or `table`, or measured and assumed ones.

    Finished runs of this study on this GPU go before the assumptions between the smallest and the
    largest of them; outside, the assumptions stay. Runs small enough to share a GPU are not taken
    as measurements where `packing`: their metrics do not tell how many shared it.

    Raises PlmscaleError for a share that is none and a table that cannot be read.
    """
    if mfu is not None and table is not None:
        raise PlmscaleError("plan: give --mfu or --mfu-table, not both")
    if mfu is not None:
        if not 0 < mfu <= 1:
            raise PlmscaleError(f"--mfu {mfu:g} is not a share between 0 and 1")
        return Rates({1.0: mfu}, "as given, at every size", {})
    if table is not None:
        return Rates(read_table(table), f"from {table}", {})
    measured = measured_shares(study, gpu, packing)
    if not measured:
        return Rates(ASSUMED, "assumed, not measured", {})
    low, high = min(measured), max(measured)
    kept = {n: share for n, share in ASSUMED.items() if not low <= n <= high}
    span = si(low) if low == high else f"{si(low)} to {si(high)}"
    origin = f"measured on this study's finished runs at {span}, elsewhere assumed"
    return Rates({**kept, **measured}, origin, measured)


def measured_shares(study: Study, gpu: str, packing: bool) -> dict[float, float]:
    """Return the median share by N of finished runs of `study` on GPUs of this name.

    metrics.json counts 6 N D; the share returned counts attention and head as well, and the
    repeated forward pass of checkpointing as work, so that both mean the same as ASSUMED.
    """
    found: dict[float, list[float]] = {}
    for path in sorted((study.folder / "runs").glob("*/metrics.json")):
        metrics = read_json(path)
        n, share = metrics.get("n_params"), metrics.get("mfu")
        if not (n and share and metrics.get("flops_6nd")) or metrics.get("precision") != "bf16":
            continue
        if (packing and slots(n) > 1) or not _same_gpu(metrics.get("device"), gpu):
            continue
        again = 4 / 3 if metrics.get("activation_checkpointing") else 1.0
        exact = share * again * metrics["flops"] / metrics["flops_6nd"]
        found.setdefault(float(n), []).append(exact)
    return {n: median(values) for n, values in found.items()}


def _same_gpu(device: str | None, gpu: str) -> bool:
    if not device or device == "cpu":
        return False
    try:
        return find_gpu(device).name == gpu
    except PlmscaleError:
        return False


def read_table(path: Path) -> dict[float, float]:
    """Read a table of two columns, N and share, with or without a header; `#` starts a comment.

    Raises PlmscaleError that names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PlmscaleError(f"{path}: cannot be read ({error})") from None
    points: dict[float, float] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            n, share = map(float, words)
        except ValueError:
            if number == 1:
                continue
            raise PlmscaleError(
                f"{path}: line {number}: expected N and its share of the peak, such as 85e6 0.35"
            ) from None
        if not (n > 0 and math.isfinite(n) and 0 < share <= 1):
            raise PlmscaleError(f"{path}: line {number}: N above 0 and a share in (0, 1] expected")
        points[n] = share
    if not points:
        raise PlmscaleError(f"{path}: holds no line with N and its share of the peak")
    return points
