"""Read the CSV files of a log folder; a file that is no curve says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.files import sha256_file
from plmscale.paper.evidence import Grid, grid, looks_like_perplexity, real_axis
from plmscale.paper.names import Claim, read_claim

COLUMNS = ("Wall time", "Step", "Value")


@dataclass
class Log:
    """One file: its place, its claims, its points, or `problem` where it is no usable curve.

    `axis`, `split` and `unit` start as claimed and are what the numbers say. `x` is in GFLOPs,
    tokens, samples or steps, `loss` in nats a token (of a perplexity, its logarithm), `wall` in
    seconds; arrays have shape (n,). `grid` is the evaluation grid of `x`.
    """

    path: str
    claim: Claim | None
    sha256: str = ""
    problem: str = ""
    axis: str = ""
    split: str = ""
    unit: str = ""
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    loss: np.ndarray = field(default_factory=lambda: np.empty(0))
    wall: np.ndarray = field(default_factory=lambda: np.empty(0))
    grid: Grid | None = None

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent)


def read_logs(folder: str | Path) -> list[Log]:
    """Return every CSV file below `folder`, sorted by path.

    Raises PlmscaleError when the folder is missing, has no CSV file, or none that is a curve of
    a known kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PlmscaleError(f"{folder}: no such folder of training logs")
    paths = sorted(p for p in folder.rglob("*.csv") if p.is_file())
    if not paths:
        raise PlmscaleError(f"{folder}: no CSV file in it; give the folder that holds gpt_valid/")
    logs = [read_log(path, PurePosixPath(path.relative_to(folder).as_posix())) for path in paths]
    if all(log.problem for log in logs):
        raise PlmscaleError(
            f"{folder}: none of {len(logs)} CSV files is a known curve; {logs[0].path}: "
            f"{logs[0].problem}"
        )
    return logs


def read_log(path: Path, relative: PurePosixPath) -> Log:
    """Read one file; what is wrong with it is told in `problem`, never raised."""
    log = Log(str(relative), read_claim(relative))
    if log.claim is None:
        log.problem = "not recognised: folder and name are none of the known kinds"
        return log
    try:
        log.sha256 = sha256_file(path)
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        log.problem = f"cannot be read as a table ({str(error).splitlines()[0]})"
        return log
    if missing := [name for name in COLUMNS if name not in table.columns]:
        log.problem = f"no column {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        return log
    log.problem = _fill(log, table)
    return log


def _fill(log: Log, table: pd.DataFrame) -> str:
    """Take the points over; return what makes them no curve, or ""."""
    numbers = table[list(COLUMNS)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    bad = np.argwhere(~np.isfinite(numbers))
    if bad.size:
        row, column = bad[0]
        return f"line {row + 2}: {COLUMNS[column]} is no finite number"
    if len(numbers) < 3:
        return f"{len(numbers)} points; a curve needs at least 3"
    log.wall, log.x, value = numbers.T
    if (still := np.flatnonzero(np.diff(log.x) <= 0)).size:
        return f"line {still[0] + 3}: Step does not increase"
    if log.x[0] <= 0 or (value <= 0).any():
        return "Step and Value must be positive"
    log.unit = "perplexity" if looks_like_perplexity(value) else "loss"
    if log.unit == "perplexity" and (value <= 1).any():
        return "ends as a perplexity does, but has values of 1 or less"
    log.loss = np.log(value) if log.unit == "perplexity" else value
    log.grid = grid(log.x)
    log.split = log.claim.split if log.grid.regular else "train"
    log.axis = real_axis(log.claim.axis, log.grid) if log.split == "valid" else log.claim.axis
    return ""
