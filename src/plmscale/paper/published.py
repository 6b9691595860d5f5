"""The numbers of Cheng et al. 2024 (NeurIPS, arXiv 2411.02142), each with its digits and place.

They have their one home here: figures, report and the table of verdicts read them from this file.
"""

from __future__ import annotations

from dataclasses import dataclass

# Coefficient and exponent of N_opt = A C^a and D_opt = B C^b (table of the IsoFLOP fits).
POWER_LAWS: dict[str, dict[str, tuple[str, str]]] = {
    "clm": {"N_opt": ("1.26e-3", "0.578"), "D_opt": ("1.23e2", "0.422")},
    "mlm": {"N_opt": ("6.19e-8", "0.776"), "D_opt": ("2.02e6", "0.230")},
}
"""As printed, so that the number of digits is known."""

# L = E + A / N^alpha + B / D^beta (Table A9).
PARAMETRIC: dict[str, dict[str, str]] = {
    "clm": {"E": "2.1226", "A": "143.975", "B": "22036.5", "alpha": "0.3666", "beta": "0.4956"},
    "mlm": {"E": "0", "A": "3.3652", "B": "7.5686", "alpha": "0.04229", "beta": "0.09943"},
}

# L(C) = A C^-a of runs from scratch and after the other objective. Taken from memory of the text,
# so a disagreement here is no finding.
TRANSFER_LAWS: dict[str, dict[str, tuple[str, str]]] = {
    "mlm": {"scratch": ("10.125", "0.034"), "transfer": ("11.133", "0.038")},
    "clm": {"scratch": ("8.251", "0.027"), "transfer": ("7.191", "0.024")},
}

PRETRAINING_SHARE = (0.10, 0.20)
"""Share of the compute for CLM pre-training near which the best MLM loss was reported."""


@dataclass(frozen=True)
class LargeModel:
    """A model whose size the paper chose by its law for a given compute."""

    objective: str
    n_params: float
    tokens: float
    flops: float
    rival: str
    rival_flops: float


LARGE_MODELS = (
    LargeModel("clm", 7.2e9, 265e9, 1.14e22, "ProGen2-xlarge (6.4 B)", 1.34e22),
    LargeModel("mlm", 10.7e9, 260e9, 1.68e22, "ESM-2 (3 B)", 1.68e22),
)

JITTER = {"clm": 0.0069, "mlm": 0.0055}
"""Standard deviation of consecutive validation points late in a run, nats a token."""


def values(printed: tuple[str, str]) -> tuple[float, float]:
    """Return a printed pair as numbers."""
    return float(printed[0]), float(printed[1])


def digits(printed: str) -> int:
    """Return how many significant digits a printed number has: "1.26e-3" has three."""
    mantissa = printed.lower().split("e")[0].lstrip("-+").replace(".", "").lstrip("0")
    return len(mantissa)
