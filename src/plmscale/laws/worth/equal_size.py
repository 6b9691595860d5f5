"""One size for both objectives: how to split compute so that it is the optimum of each.

The paper's equal-size allocation: N = A_clm C_clm^a_clm = A_mlm C_mlm^a_mlm, so that
C_mlm = kappa C_clm^q with q = a_clm / a_mlm and kappa = (A_clm / A_mlm)^(1 / a_mlm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.errors import PlmscaleError
from plmscale.files import finite
from plmscale.laws.bootstrap import interval
from plmscale.laws.worth.lawrows import law_rows, resized

Array = NDArray[np.float64]

# Search for ln N between a thousandth of a parameter and far beyond any machine.
_LOG_N = (math.log(1e-3), math.log(1e30))


def equal_size(
    clm: Mapping[str, Any],
    mlm: Mapping[str, Any],
    *,
    n_params: float | None = None,
    flops: float | None = None,
) -> dict[str, Any]:
    """Split compute between CLM and MLM so that one size N is the optimum of both.

    `clm` and `mlm` are entries of laws.json (one method each). Give either N, or the FLOPs of
    both together. Returns `n_params`; per objective `flops`, `tokens`, `loss` (nats a token);
    `flops_ratio` and `token_ratio` (MLM over CLM); `relation` {kappa, q}; each {value, ci95}, the
    intervals from the entries' replicates; and `warnings`.

    Raises PlmscaleError unless exactly one positive number is given, or for an entry without law.
    """
    given = [value for value in (n_params, flops) if value is not None]
    if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
        raise PlmscaleError("equal size: give either n_params or flops, as one positive number")
    laws = {"clm": law_rows(clm, "clm"), "mlm": law_rows(mlm, "mlm")}
    count = max(len(law["a"]) for law in laws.values()) - 1
    laws = {
        name: {key: resized(values, count) for key, values in law.items()}
        for name, law in laws.items()
    }
    if n_params is not None:
        log_n = np.full(count + 1, math.log(n_params))
    else:
        log_n = _common_size(laws, math.log(float(flops)))  # type: ignore[arg-type]
    out: dict[str, Any] = {"n_params": _both(np.exp(log_n))}
    log_c = {name: (log_n - law["log_A"]) / law["a"] for name, law in laws.items()}
    log_d = {name: law["log_B"] + law["b"] * log_c[name] for name, law in laws.items()}
    for name, law in laws.items():
        with np.errstate(over="ignore"):
            loss = law["E"] + np.exp(law["log_K"] - law["c"] * log_c[name])
            out[name] = {"flops": _both(np.exp(log_c[name])), "tokens": _both(np.exp(log_d[name])),
                         "loss": _both(loss)}  # fmt: skip
    with np.errstate(over="ignore"):
        out["flops_ratio"] = _both(np.exp(log_c["mlm"] - log_c["clm"]))
        out["token_ratio"] = _both(np.exp(log_d["mlm"] - log_d["clm"]))
        step = (laws["clm"]["log_A"] - laws["mlm"]["log_A"]) / laws["mlm"]["a"]
        out["relation"] = {
            "kappa": _both(np.exp(step)), "q": _both(laws["clm"]["a"] / laws["mlm"]["a"])
        }  # fmt: skip
    warnings = []
    for name, entry in (("clm", clm), ("mlm", mlm)):
        low, high = entry["fitted_range"]["flops"]
        at = float(np.exp(log_c[name][0]))
        if not low / 1.05 <= at <= high * 1.05:
            warnings.append(
                f"{name}: {at:.3g} FLOPs lie outside the fitted {low:.3g} to {high:.3g}; the law "
                "is assumed to hold there"
            )
    return finite({**out, "warnings": warnings})


def _common_size(laws: Mapping[str, Mapping[str, Array]], log_total: float) -> Array:
    """Return ln N at which both optima together cost the total, (1 + replicates,), by bisection."""
    rising = np.all([law["a"] > 0 for law in laws.values()], axis=0)
    low, high = (np.full(len(rising), end) for end in _LOG_N)
    for _ in range(100):
        middle = (low + high) / 2
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            cost = np.logaddexp(*[(middle - law["log_A"]) / law["a"] for law in laws.values()])
        over = cost > log_total
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    # Where N_opt falls with C there is no one size; such a replicate counts as failed.
    return np.where(rising, (low + high) / 2, np.nan)


def _both(values: Array) -> dict[str, Any]:
    return {"value": float(values[0]),
            "ci95": interval(values[1:]) if len(values) > 1 else [None, None]}  # fmt: skip
