"""What the numbers of a curve say by themselves: its grid, model, batch, and twins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plmscale.architecture import PAPER_SIZES, Architecture

CONTEXT = 1024
STEPS_PER_VALIDATION = 300
BATCH_ROWS = (256, 512, 1024)
# FLOPs axes are whole GFLOPs, so a mean increment gives N to about 1e-8, 5e-8 for the smallest.
EXACT = 2e-7
CLOSE = 1e-3
# Exports keep seven digits, so two values this near are one measurement.
SAME_LOSS = 3e-6
# A token from 33 letters costs at most ln 33 = 3.5 nats; a trained model stays below that.
LARGEST_LOSS = 3.5
_ON_GRID = 2e-3


@dataclass(frozen=True)
class Grid:
    """Evaluations come at a fixed interval: point i lies at a whole multiple of `unit`.

    `skipped` counts multiples without a point; `foreign_first` says that the first point is off
    the grid which the others keep; `regular` is False where points lie at arbitrary places, as
    a sample of training steps does. The last point may be off: the run's own last step.
    """

    unit: float
    skipped: int
    foreign_first: bool
    regular: bool


def grid(x: np.ndarray) -> Grid:
    """Find the grid of an increasing axis of at least 3 points.

    The unit is the most frequent increment, refined over the longest span that keeps it. First
    and last increment may differ: a row of another run, and the run's own last step.
    """
    steps = np.diff(x)
    values, counts = np.unique(np.round(np.log(steps) / 1e-5), return_counts=True)
    first_guess = np.exp(values[counts.argmax()] * 1e-5)
    unit = float(np.median(steps[np.abs(steps / first_guess - 1) < 1e-4]))
    on = _whole(x / unit)
    foreign = not on[0] and len(x) > 3 and bool(on[1:-1].mean() > 0.9)
    if on[1:].any():
        far = int(np.flatnonzero(on)[-1])
        unit = float(x[far] / np.round(x[far] / unit))
    inner = steps[1:-1] if len(steps) > 2 else steps[:1]
    kept = x[1:] if foreign else x
    skipped = max(0, int(np.ceil(kept[-1] / unit - _ON_GRID)) - len(kept))
    # A logger thins to 1,000 points; four evaluations in five gone is no evaluation log.
    regular = bool(_whole(inner / unit).mean() > 0.9 and skipped < 4 * len(kept))
    return Grid(unit, skipped if regular else 0, foreign and regular, regular)


def _whole(ratio: np.ndarray) -> np.ndarray:
    return np.abs(ratio - np.round(ratio)) < _ON_GRID


def step_unit(x: np.ndarray) -> float | None:
    """Return the increment of one optimizer step in a sample of training steps.

    The smallest increment is taken for one step when all others are whole multiples of it.
    """
    steps = np.diff(x)
    unit = float(steps.min())
    unit = float(x[-1] / np.round(x[-1] / unit))
    whole = np.abs(steps / unit - np.round(steps / unit)) < 1e-2
    return unit if whole.all() else None


def real_axis(claimed: str, evaluations: Grid) -> str:
    """Return what a tokens axis counts: tokens, rows (samples) or steps, by its interval.

    300 steps are 300 x rows x 1024 tokens with rows a power of two; other axes stay as claimed.
    """
    if claimed != "tokens":
        return claimed
    for axis, size in (("tokens", CONTEXT), ("samples", 1), ("steps", 0)):
        batch = evaluations.unit / STEPS_PER_VALIDATION / (size or 1)
        rows = 1 if axis == "steps" else np.exp2(np.round(np.log2(max(batch, 1.0))))
        if abs(batch / rows - 1) < CLOSE and (axis == "steps" or 16 <= rows <= 16384):
            return axis
    return claimed


def looks_like_perplexity(value: np.ndarray) -> bool:
    """Say whether a curve ends above any loss in nats that a trained model can have."""
    return bool(np.median(value[-max(1, len(value) // 10) :]) > LARGEST_LOSS)


@dataclass(frozen=True)
class Size:
    """A model and batch that explain an increment of FLOPs; `off` is found N / N - 1."""

    architecture: Architecture
    rows: int
    off: float


def sizes_of_slope(gflops: float) -> list[Size]:
    """Return the table's (model, rows) within 0.1 % of a validation interval's FLOPs, best first.

    The interval is 6 N x 300 steps x rows x 1024 tokens / 1e9 GFLOPs.
    """
    found = [
        Size(a, rows, n_of_slope(gflops, rows) / a.n_params - 1)
        for rows in BATCH_ROWS
        for a in PAPER_SIZES.values()
    ]
    return sorted((s for s in found if abs(s.off) < CLOSE), key=lambda s: abs(s.off))


def n_of_slope(gflops: float, rows: int) -> float:
    """Return the N with which a validation interval of `rows` a batch costs `gflops`."""
    return gflops * 1e9 / (6 * STEPS_PER_VALIDATION * rows * CONTEXT)


def shape_of_size(n_params: float, near: Architecture) -> Architecture | None:
    """Solve N for a shape with the layers and width of `near` and another feed-forward width f.

    N = L (4 d^2 + 3 d f + 9 d + 2 f) + 2 d; None unless a whole f gives N to `EXACT`.
    """
    layers, d = near.n_layers, near.d_model
    f = round(((n_params - 2 * d) / layers - 4 * d * d - 9 * d) / (3 * d + 2))
    if f < 1:
        return None
    shape = Architecture(
        f"{layers}x{d}x{f}", layers, d, near.n_heads, f, vocab_size=near.vocab_size
    )
    return shape if abs(n_params / shape.n_params - 1) < EXACT else None


def same_curve(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of the shorter curve's values that the other has too, in order (0 to 1).

    Above 0.9 both are exports of one run: whole, a part, or thinned.
    """
    short, long = (a, b) if len(a) <= len(b) else (b, a)
    if len(short) == len(long):
        return float(np.mean(np.abs(short - long) < SAME_LOSS))
    order = np.argsort(long, kind="stable")
    high = np.clip(np.searchsorted(long[order], short), 1, len(long) - 1)
    low_nearer = np.abs(long[order][high - 1] - short) < np.abs(long[order][high] - short)
    near = order[np.where(low_nearer, high - 1, high)]
    where = near[np.abs(long[near] - short) < SAME_LOSS]
    if len(where) < 3 or np.mean(np.diff(where) > 0) < 0.95:
        return 0.0
    return len(where) / len(short)


def jitter(loss: np.ndarray, tokens: np.ndarray) -> float | None:
    """Return the sd of a curve's points around a line in ln D over its last part.

    Takes the last 15 % of the points, at least 12; None for a curve of fewer than 12.
    """
    if len(loss) < 12:
        return None
    last = max(12, int(0.15 * len(loss)))
    y, x = loss[-last:], np.log(tokens[-last:])
    line = np.polyval(np.polyfit(x - x.mean(), y, 1), x - x.mean())
    return float(np.sqrt(np.sum((y - line) ** 2) / (last - 2)))


def never_learned(loss: np.ndarray) -> bool:
    """Say whether a validation curve is flat: no point lies below its first by more than noise.

    The noise is that of successive points; a run that learns falls by dozens of it, one that
    overfits fell before it rose.
    """
    noise = float(np.std(np.diff(loss))) / np.sqrt(2)
    return len(loss) > 5 and float(loss[0] - loss.min()) < 5 * noise
