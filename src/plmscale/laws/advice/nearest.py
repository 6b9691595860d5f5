"""The architecture nearest to an optimum, and what being beside the optimum costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from plmscale.architecture import PAPER_SIZES

# Further away a size of the paper is no answer to the question.
_NEAR = 2.0


def nearest_architecture(
    entry: Mapping[str, Any], flops: float, n_params: float, tokens: float, loss: float
) -> dict[str, Any]:
    """Return the paper's size nearest to `n_params`, trained on all of `flops` itself.

    `entry` is the law that gave the optimum (`n_params`, `tokens`, `loss` at `flops`). `ratio` is
    the size over the optimum; `near` whether it is within a factor 2. `tokens` are what the same
    FLOPs pay for at that size, `loss_penalty` the nats a token above the optimum (None where the
    method does not tell), `loss` their sum.
    """
    found = min(PAPER_SIZES.values(), key=lambda a: abs(math.log(a.n_params / n_params)))
    penalty = loss_penalty(entry, flops, n_params, tokens, found.n_params)
    return {
        "name": found.name, "n_params": found.n_params, "n_layers": found.n_layers,
        "d_model": found.d_model, "ratio": found.n_params / n_params,
        "near": abs(math.log(found.n_params / n_params)) <= math.log(_NEAR),
        "tokens": tokens * n_params / found.n_params,
        "loss_penalty": penalty, "loss": None if penalty is None else loss + penalty,
    }  # fmt: skip


def loss_penalty(
    entry: Mapping[str, Any], flops: float, n_opt: float, d_opt: float, n_params: float
) -> float | None:
    """Return how much more loss `n_params` has than the optimum at the same compute, in nats.

    A joint fit has the rise of its profile, k (exp(s u) - 1 - s u) / s^2 with u = ln(N / N_opt);
    a parametric fit L(N, D) itself; a parabola half its mean curvature times u^2.
    """
    u = math.log(n_params / n_opt)
    if shape := entry.get("shape"):
        c = math.log(flops / shape["flops"])
        k = shape["k"] * math.exp(-shape["g"] * c)
        s = shape["s"] + shape["s_per_ln_c"] * c
        # The limit of small s keeps its digits where exp(s u) - 1 - s u would lose them.
        rise = u * u / 2 if abs(s * u) < 1e-4 else (math.expm1(s * u) - s * u) / s**2
        return k * rise
    if entry.get("alpha") is not None and entry.get("beta") is not None:
        alpha, beta = entry["alpha"], entry["beta"]
        size = math.exp(math.log(entry["A"]) - alpha * math.log(n_opt))
        data = math.exp(math.log(entry["B"]) - beta * math.log(d_opt))
        return size * math.expm1(-alpha * u) + data * math.expm1(beta * u)
    bends = [p["curvature"] for p in entry.get("points", []) if p.get("used") and p["curvature"]]
    return sum(bends) / len(bends) / 2 * u * u if bends else None
