"""Size and tokens of both stages when pre-training with the other objective comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.errors import PlmscaleError
from plmscale.files import finite
from plmscale.laws.advice.advise import advise
from plmscale.laws.bootstrap import interval
from plmscale.laws.worth.lawrows import law_rows, resized

Array = NDArray[np.float64]


def advise_transfer(
    laws: Mapping[str, Any], flops: float, direction: str = "clm-then-mlm"
) -> dict[str, Any]:
    """Answer for one total budget from the content of laws.json with its section `transfer`.

    A share s of C FLOPs for pre-training acts like C h(s) FLOPs from scratch (see
    `transfer_share`), so the size is N_opt(C h), and D_opt(C h) / h tokens are shared out by s.
    Returns `n_params`, `tokens` (of the last stage), `loss` (nats a token), each {value, ci95};
    `pretrain` {objective, tokens, flops, share}; `worth` = h; `scratch_loss` for the same total
    from scratch; `method` of the laws used; `warnings`.

    Raises PlmscaleError where the laws hold no such transfer runs, and what `advise` raises.
    """
    section = (laws.get("transfer") or {}).get("directions") or {}
    if not section.get(direction, {}).get("n_pairs"):
        known = ", ".join(name for name, found in sorted(section.items()) if found["n_pairs"])
        raise PlmscaleError(
            f"no transfer runs for {direction!r} in these laws"
            + (f"; there are: {known}" if known else "; fit a runs table that has runs with a "
               "parent and partners from scratch")
        )  # fmt: skip
    found = section[direction]
    plain = advise(laws, found["objective"], flops)
    law = law_rows(laws["laws"][found["objective"]][plain["method"]], found["objective"])
    share, worth, warnings = _share(found)
    count = max(len(law["a"]), len(worth)) - 1
    law = {name: resized(values, count) for name, values in law.items()}
    worth = resized(worth, count)
    # C of pre-training and the last stage together buys what C h buys from scratch.
    log_c = np.log(flops) + np.log(worth)
    with np.errstate(over="ignore"):
        size = np.exp(law["log_A"] + law["a"] * log_c)
        tokens = np.exp(law["log_B"] + law["b"] * log_c) / worth
        loss = law["E"] + np.exp(law["log_K"] - law["c"] * log_c)
    low, high = found["fitted_range"]["flops"]
    if not low / 1.05 <= flops <= high * 1.05:
        warnings.insert(
            0,
            f"transfer was fitted on {low:.3g} to {high:.3g} FLOPs in total; at {flops:.3g} the "
            "worth of pre-training is assumed, not measured",
        )
    pays = _both(worth)
    if pays["ci95"][0] is None or pays["ci95"][0] <= 1:
        ends = ", ".join("unbounded" if e is None else f"{e:.2f}" for e in pays["ci95"])
        warnings.append(
            "the runs do not show that pre-training pays: compute shared so is worth "
            f"{worth[0]:.2f} times compute from scratch (95 % interval {ends})"
        )
    return finite(
        {
            "objective": direction,
            "flops": flops,
            "method": plain["method"],
            "n_params": _both(size),
            "tokens": _both(tokens * (1 - share["value"])),
            "loss": _both(loss),
            "pretrain": {
                "objective": found["pretraining"],
                "tokens": _both(tokens * share["value"]),
                "flops": {
                    "value": flops * share["value"],
                    "ci95": [None if e is None else flops * e for e in share["ci95"]],
                },
                "share": share,
            },
            "worth": pays,
            "scratch_loss": plain["loss"],
            "extrapolation": plain["extrapolation"],
            "warnings": [*warnings, *plain["warnings"]],
        }
    )


def _share(found: Mapping[str, Any]) -> tuple[dict[str, Any], Array, list[str]]:
    """Return the share {value, ci95}, its worth (estimate first, then replicates), warnings."""
    law = found["share"]
    if law is not None:
        rows = np.array(law["bootstrap"]["rows"], dtype=float).reshape(-1)
        warnings = [text.split(": ", 1)[1] for text in found["warnings"] if " share " in text]
        return law["best"], np.r_[law["worth"]["value"], rows], warnings
    pair = max(found["pairs"], key=lambda row: row["total_worth"]["value"])
    plural = "" if found["n_pairs"] == 1 else "s"
    return (
        {"value": pair["share"], "ci95": [None, None]},
        np.array([pair["total_worth"]["value"]]),
        [f"no law of the share: the {pair['share']:.0%} that worked best in "
         f"{found['n_pairs']} pair{plural} is taken over, and how sure its worth of "
         f"{pair['total_worth']['value']:.2f} is does not enter the intervals"],
    )  # fmt: skip


def _both(values: Array) -> dict[str, Any]:
    return {"value": float(values[0]),
            "ci95": interval(values[1:]) if len(values) > 1 else [None, None]}  # fmt: skip
