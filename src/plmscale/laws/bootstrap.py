"""How noisy a loss is, and intervals that stay honest when replicates fail."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
# Half the width of a normal's 95 % interval, in standard deviations.
Z95 = 1.959964


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run's loss (nats a token), its degrees of freedom, its origin.

    `sd` is NaN where nothing in the table tells it; `dof` is inf where it is taken as known.
    """

    sd: float
    dof: float
    source: str

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.sd) and self.sd > 0)

    def draw(self, rng: np.random.Generator, replicates: int, points: int) -> Array:
        """Draw (replicates, points) losses' errors.

        The spread itself is drawn from its own uncertainty (a scaled inverse chi), which gives
        intervals the width of Student's t where only a few residuals tell the noise.
        """
        scale = np.full(replicates, self.sd)
        if np.isfinite(self.dof):
            scale = scale * np.sqrt(self.dof / rng.chisquare(self.dof, replicates))
        return scale[:, None] * rng.standard_normal((replicates, points))


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on `seed` and names only, not on what was fitted before."""
    return np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])


def seed_noise(runs: pd.DataFrame) -> Noise | None:
    """Pool the spread of runs that differ in their seed alone; None if there are none."""
    if "seed" not in runs or runs["seed"].isna().all():
        return None
    squares, dof = 0.0, 0
    keys = ["objective", "architecture", "n_params", "tokens", "corpus", "mask_ratio", "parent"]
    for _, group in runs.groupby([k for k in keys if k in runs], dropna=False):
        if group["seed"].nunique() > 1:
            squares += float(((group["loss"] - group["loss"].mean()) ** 2).sum())
            dof += len(group) - 1
    if dof == 0:
        return None
    return Noise(float(np.sqrt(squares / dof)), float(dof), "replicate seeds")


def choose_noise(
    seeds: Noise | None, squares: float, dof: float, loss_sd: Array, given: float | None = None
) -> Noise:
    """Pick the noise of a fit from replicate seeds, the fit's residuals, or `loss_sd`.

    `squares` is the residual sum of squares with `dof` degrees of freedom; `given` a noise that
    the user knows. The largest of seeds, residuals and `given` counts: residuals also hold what
    the curve cannot follow, which seeds do not see, and with few points may be small by chance.
    `loss_sd` is the last resort and no floor: it leaves out training, and where all runs are
    evaluated on the same sequences most of it is common to them and moves no minimum.
    """
    parts = noise_parts(seeds, squares, dof, loss_sd, given)
    usual = [part for name, part in parts.items() if name != "jitter"]
    if usual:
        return max(usual, key=lambda part: part.sd)
    return parts.get("jitter", Noise(float("nan"), float("nan"), "unknown"))


def noise_parts(
    seeds: Noise | None, squares: float, dof: float, loss_sd: Array, given: float | None = None
) -> dict[str, Noise]:
    """Return what the table tells of the noise by origin: seed, residual, jitter, given.

    Arguments as in `choose_noise`. Residuals and seeds both contain the evaluation jitter.
    """
    parts: dict[str, Noise] = {}
    if seeds is not None:
        parts["seed"] = seeds
    if dof > 0:
        parts["residual"] = Noise(float(np.sqrt(squares / dof)), float(dof), "residuals")
    if given is not None:
        parts["given"] = Noise(float(given), float("inf"), "given by the user")
    known = loss_sd[np.isfinite(loss_sd) & (loss_sd > 0)]
    if len(known):
        sd = float(np.sqrt(np.mean(known**2)))
        parts["jitter"] = Noise(sd, float("inf"), "loss_sd")
    return parts


def noise_entry(
    noise: Noise, parts: Mapping[str, Noise], minimum: str, **extra: Any
) -> dict[str, Any]:
    """Describe for laws.json the noise that counts, its parts, and how the minimum enters."""
    known = {
        name: {"sd": part.sd, "dof": part.dof if np.isfinite(part.dof) else None,
               "source": part.source}
        for name, part in parts.items()
    }  # fmt: skip
    known["minimum"] = {"source": minimum}
    return {"sd": noise.sd, "source": noise.source, "unit": "nats a token", "components": known,
            **extra}  # fmt: skip


def interval(values: Array, level: float = LEVEL) -> list[float | None]:
    """Percentile interval of replicates (replicates,); NaN marks a replicate that failed.

    A failed fit could have come out anywhere, so failures count half as below and half as above
    all others; an end that falls among them is None, which reads as unbounded.
    """
    finite = np.sort(values[~np.isnan(values)])
    total, failed = len(values), len(values) - len(finite)
    if len(finite) < 2:
        return [None, None]
    ends: list[float | None] = []
    for q in ((1 - level) / 2, (1 + level) / 2):
        inner = (q * total - failed / 2) / len(finite)
        if not 0 <= inner <= 1:
            ends.append(None)
            continue
        end = float(np.quantile(finite, inner))
        ends.append(end if np.isfinite(end) else None)
    return ends


def sample(columns: dict[str, Array], rows: int = 200) -> dict[str, list]:
    """Keep the first `rows` complete replicates, six digits each: a law's uncertainty in small.

    Replicates are exchangeable, so the first ones are a fair sample.
    """
    stacked = np.column_stack(list(columns.values()))
    stacked = stacked[np.isfinite(stacked).all(axis=1)][:rows]
    return {
        "columns": list(columns),
        "rows": [[float(f"{value:.8g}") for value in row] for row in stacked],
    }


def law_intervals(columns: Mapping[str, Array]) -> dict[str, Any]:
    """Return ci95 of the three power laws from replicates of log A, a, log B, b, log K, c."""

    def exponential(name: str) -> list[float | None]:
        ends = interval(columns[name])
        # Beyond exp(700) a float overflows: such an end is as good as unbounded.
        return [None if e is None or abs(e) > 700 else float(np.exp(e)) for e in ends]

    a, b, c = (interval(columns[name]) for name in "abc")
    return {
        "a": a, "b": b, "c": c,
        "N_opt": {"A": exponential("log_A"), "a": a},
        "D_opt": {"B": exponential("log_B"), "b": b},
        "L_opt": {"K": exponential("log_K"), "c": c},
    }  # fmt: skip
