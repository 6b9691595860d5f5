"""Parametric fit against the usual grid of L-BFGS starts, measured in one run on one core.

    python benchmarks/parametric_speed.py [LOG_DIR] [--every 1] [--boot 1000]

With LOG_DIR (the released logs of Cheng et al. 2024) the points are the 129 of their CLM
envelope, else 129 simulated ones. The grid is the 4,500 starts of Hoffmann et al. 2022, each run
by scipy's L-BFGS-B with the analytic gradient; `--every 10` runs a tenth and scales the time.
The first three rows have one job: the least objective. The last two are what else laws.json needs.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from plmscale.laws.bootstrap import Noise, generator  # noqa: E402
from plmscale.laws.parametric.entry import parametric_entry  # noqa: E402
from plmscale.laws.parametric.fit import best_fit, centred, refit  # noqa: E402
from plmscale.laws.parametric.hoffmann import log_prediction  # noqa: E402
from plmscale.laws.parametric.lbfgs import PAPER_START, hoffmann_grid, lbfgs_stop  # noqa: E402
from plmscale.textable import table  # noqa: E402

NOISE = 0.003


def points_of(logs: Path) -> pd.DataFrame:
    """Return the paper's 129 CLM envelope points (n_params, tokens, flops, loss)."""
    from plmscale.paper.logs import read_logs
    from plmscale.paper.table_a9 import construction_points, labelled_curves

    return construction_points(labelled_curves(read_logs(logs), "clm"), "clm")


def simulated_points() -> pd.DataFrame:
    """Return 129 points near the frontier of a law without a floor, with noise."""
    rng = np.random.default_rng(7)
    flops = np.geomspace(1e18, 1e22, 129)
    n = 3e-4 * flops**0.58 * np.exp(rng.normal(0, 0.4, 129))
    d = flops / 6 / n
    loss = (3.06 / n**0.043 + 4.54 / d**0.06) * np.exp(rng.normal(0, NOISE, 129))
    return pd.DataFrame({"n_params": n, "tokens": d, "flops": flops, "loss": loss})


def clock(job):
    """Run `job` and return its core-seconds (others may use the machine too) and what it gave."""
    start = time.process_time()
    found = job()
    return time.process_time() - start, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, nargs="?", help="folder of the released logs")
    parser.add_argument("--every", type=int, default=1, help="run every n-th start of the grid")
    parser.add_argument("--boot", type=int, default=1000, help="bootstrap refits")
    args = parser.parse_args()
    points = points_of(args.logs) if args.logs else simulated_points()
    log_n, log_d, log_loss = (
        np.log(points[name].to_numpy(dtype=float)) for name in ("n_params", "tokens", "loss")
    )
    data = centred(log_n, log_d, log_loss)
    best_fit(data)  # imports and caches are nobody's time

    # The search is short, so its time is the median of several, around the grid it is beside.
    before = [clock(lambda: best_fit(data)) for _ in range(5)]
    starts = hoffmann_grid()[:: args.every]
    grid_seconds, stops = clock(lambda: [lbfgs_stop(s, log_n, log_d, log_loss) for s in starts])
    grid_seconds *= args.every
    after = [clock(lambda: best_fit(data)) for _ in range(5)]
    seconds = float(np.median([t for t, _ in before + after]))
    theta, value = before[0][1]
    least = min(stop.objective for stop in stops)
    one_seconds, one = clock(lambda: lbfgs_stop(np.array(PAPER_START), log_n, log_d, log_loss))

    rng = generator(0, "speed")
    noisy = log_prediction(theta[None], data.u, data.v)[0] + Noise(
        NOISE, float("inf"), "given"
    ).draw(rng, args.boot, len(points))
    boot_seconds, _ = clock(lambda: refit(theta, noisy, data))
    rows = points.assign(c=points["flops"], loss_sd=np.nan,
                         run_id=[f"point {i}" for i in range(len(points))])  # fmt: skip
    entry_seconds, _ = clock(lambda: parametric_entry("clm", rows, args.boot, rng))

    what = f"{len(points)} points ({'released logs' if args.logs else 'simulated'})"
    within = np.mean([stop.objective < 1.001 * least for stop in stops])
    lines = [
        (f"grid of 4,500 starts, L-BFGS-B{'' if args.every == 1 else ', scaled'}", grid_seconds,
         least, 1.0),
        ("one start of it (that of Cheng et al. 2024)", one_seconds, one.objective, None),
        ("plmscale, no starts needed", seconds, value, grid_seconds / seconds),
        (f"plmscale, {args.boot} bootstrap refits", boot_seconds, None,
         grid_seconds * args.boot / boot_seconds),
        (f"plmscale, whole entry with {args.boot} replicates", entry_seconds, None, None),
    ]  # fmt: skip
    print(what)
    print(table([
        {"fit": name, "core-s": f"{t:.3g}", "objective": "" if f is None else f"{f:.7e}",
         "times faster": "" if ratio is None else f"{ratio:,.0f}"}
        for name, t, f, ratio in lines
    ], ["fit", "core-s", "objective", "times faster"]))  # fmt: skip
    print(f"\nstarts of the grid that end within 0.1 % of its least objective: {within:.0%}")
    print(f"plmscale's objective is {'no higher' if value <= least * (1 + 1e-9) else 'HIGHER'}")


if __name__ == "__main__":
    main()
