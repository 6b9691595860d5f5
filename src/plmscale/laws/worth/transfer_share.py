"""The best share of compute for pre-training, from what pre-training was worth where it was tried.

With p = C_P / C_F the compute before over the compute after, the worth of pre-training is taken as
D_t / D_F = g p^gamma. For a total of C = 6 N T a share s = p / (1 + p) then acts like
C h(s), h(s) = (1 - s) (1 + g (s / (1 - s))^gamma), spent from scratch. The size N drops out, so the
best share is where h is largest, whatever the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plmscale.laws.bootstrap import interval, sample
from plmscale.laws.worth.regression import worth_law
from plmscale.laws.worth.transfer_pairs import Pair

Array = NDArray[np.float64]

_GRID = 201
# An interval of the exponent this wide covers both "the share does not matter" and "in proportion".
_SAYS_NOTHING = 1.0


def best_share(pairs: Sequence[Pair]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the share of compute with the largest worth among those tried, and warnings.

    Keys: `g`, `gamma`; `best` {value, ci95} and `worth` {value, ci95} = h there; `break_even`, the
    largest share with h of at least 1; `tried` [low, high]; `at_edge`; the `curve` of h over the
    tried shares with its interval; `bootstrap` of the worth. None for fewer than three pairs or
    shares that hardly differ.
    """
    used = [pair for pair in pairs if pair.usable]
    log_p = np.log([pair.ratio for pair in used])
    if len(used) < 3 or np.ptp(log_p) < np.log(1.5):
        return None, [
            f"the best share of compute for pre-training cannot be told from {len(used)} "
            f"pair{'' if len(used) == 1 else 's'}: it takes three or more with different shares"
        ]
    log_e = np.column_stack([pair.log_e for pair in used])
    law = worth_law(np.column_stack([np.ones_like(log_p), log_p]), log_e)
    ratio = np.exp(log_p)
    shares = np.linspace(ratio.min() / (1 + ratio.min()), ratio.max() / (1 + ratio.max()), _GRID)
    worth = _worth(law, shares)
    failed = np.isnan(worth).any(axis=1)
    at = np.argmax(np.where(failed[:, None], 0.0, worth), axis=1)
    best = np.where(failed, np.nan, shares[at])
    # Worth of the share that is advised, not of each replicate's own best, which would flatter it.
    height = worth[:, at[0]]
    even = _break_even(law)
    log_n = np.log([pair.child["n_params"] for pair in used])
    mixed = float(np.corrcoef(log_p, log_n)[0, 1])
    edge = bool(best[0] in (shares[0], shares[-1]))
    warnings = []
    if edge:
        side = "smallest" if best[0] == shares[0] else "largest"
        warnings.append(
            f"the best share is the {side} one tried ({best[0]:.2f}); the optimum may lie beyond it"
        )
    ends, power = interval(height[1:]), interval(law[1:, 1])
    if power[0] is None or power[1] is None or power[1] - power[0] >= _SAYS_NOTHING:
        warnings.append(
            "how the worth of pre-training changes with its share is hardly identified "
            f"(gamma {law[0, 1]:.2g}, 95 % interval {_words(power)}); the best share rests on it"
        )
    if ends[1] is not None and ends[1] < 1:
        warnings.append(
            f"at every share tried, pre-training is worth less than it costs: at best "
            f"{height[0]:.2f} times the same compute from scratch"
        )
    if abs(mixed) > 0.8:
        warnings.append(
            f"share and model size go together in these runs (correlation {mixed:.2f}), so what "
            "looks like an effect of the share may be one of size; a second share at one size "
            "would tell"
        )
    every = slice(None, None, 10)
    return {
        "g": float(np.exp(law[0, 0])), "gamma": float(law[0, 1]),
        "ci95": {"g": [None if e is None else float(np.exp(e)) for e in interval(law[1:, 0])],
                 "gamma": power},
        "best": {"value": float(best[0]), "ci95": interval(best[1:])},
        "worth": {"value": float(height[0]), "ci95": ends},
        "break_even": {"value": float(even[0]), "ci95": interval(even[1:])},
        "tried": [float(shares[0]), float(shares[-1])],
        "at_edge": edge,
        "correlation_share_size": mixed,
        "curve": [
            {"share": float(s), "worth": float(h[0]), "ci95": interval(h[1:])}
            for s, h in zip(shares[every], worth.T[every], strict=True)
        ],
        "bootstrap": {**sample({"worth": height[1:]}), "n": len(best) - 1,
                      "failed": int(np.isnan(best[1:]).sum())},
    }, warnings  # fmt: skip


def _worth(law: Array, shares: Array) -> Array:
    """Return h(s) for each replicate of (ln g, gamma): (replicates, shares)."""
    odds = shares / (1 - shares)
    return (1 - shares) * (1 + np.exp(law[:, :1] + law[:, 1:] * np.log(odds)))


def _break_even(law: Array) -> Array:
    """Return the share at which g p^gamma = p: beyond it, pre-training costs more than it gives."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        odds = np.exp(law[:, 0] / (1 - law[:, 1]))
        return np.where(law[:, 1] < 1, odds / (1 + odds), np.nan)


def _words(ends: list[float | None]) -> str:
    return " to ".join("unbounded" if end is None else f"{end:.2g}" for end in ends)
