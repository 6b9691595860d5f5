"""Units of loss and compute: conversions, and signs that a number is not in the unit it should."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError

LossUnit = Literal["nats", "bits", "perplexity"]
LOSS_UNITS = get_args(LossUnit)
# A model that has learned nothing scores ln(vocabulary): 3.0 nats for 20 residues, 3.5 for the
# 32 tokens of a protein vocabulary; in bits that is 5.
_WORST_NATS = 3.5
_WORST_BITS = 5.0
# Attention and output head may add this much to 6 N D at ordinary widths.
_MUCH = 1.5
_LITTLE = 0.95
_SAME = 0.01


def to_nats(table: pd.DataFrame, unit: str, where: str = "runs table") -> pd.DataFrame:
    """Return the table with `loss` and its standard error `loss_sd` in nats a token.

    bits: x ln 2. perplexity: ln, and to first order sd / perplexity for the error.
    """
    if unit not in LOSS_UNITS:
        raise PlmscaleError(f"loss unit {unit!r} is unknown; allowed: {', '.join(LOSS_UNITS)}")
    found = table.copy()
    if unit == "bits":
        for name in {"loss", "loss_sd"} & set(table.columns):
            found[name] = table[name] * math.log(2)
    if unit == "perplexity":
        low = table["loss"] <= 1
        if low.any():
            row = table[low].iloc[0]
            raise PlmscaleError(
                f"{where}, {row.get('run_id', 'a row')}: a perplexity of {row['loss']:g} cannot "
                "be, it is above 1; leave out --loss-unit perplexity if losses are in nats"
            )
        found["loss"] = np.log(table["loss"])
        if "loss_sd" in table:
            found["loss_sd"] = table["loss_sd"] / table["loss"]
    return found


def loss_unit_warning(loss: pd.Series) -> str | None:
    """Return a warning where losses taken as nats a token look like bits or perplexity."""
    top = float(loss.max())
    if not top > _WORST_NATS:
        return None
    unit = "perplexity" if top > _WORST_BITS else "bits or perplexity"
    flag = "perplexity" if top > _WORST_BITS else "bits (or perplexity)"
    return (
        f"losses up to {top:.3g} are more than a protein model that has learned nothing has in "
        f"nats (ln of its vocabulary, about {_WORST_NATS:g}); if they are {unit}, say "
        f"--loss-unit {flag}"
    )


def flops_warnings(runs: pd.DataFrame) -> list[str]:
    """Return warnings where `flops_6nd` is not 6 N D, or `flops` is far from it."""
    product = 6.0 * runs["n_params"] * runs["tokens"]
    found = []
    ratio = (runs["flops_6nd"] / product).dropna()
    off = ratio[(ratio - 1).abs() > _SAME]
    if len(off):
        found.append(
            f"flops_6nd differs from 6 x n_params x tokens in {len(off)} of {len(ratio)} runs "
            f"(ratio {_ratios(off)}, first {runs.loc[off.index[0], 'run_id']}){_hint(off)}"
        )
    ratio = (runs["flops"] / product).dropna()
    high = pd.Series(_MUCH, index=runs.index)
    if {"n_layers", "d_model"} <= set(runs.columns):
        # 12 L d s + 6 V d for attention and head (Kaplan et al. 2020, section 2.1), at a row
        # length of 4096 and 128 tokens; narrow models spend most of their FLOPs there.
        most = 12 * runs["n_layers"] * runs["d_model"] * 4096 + 6 * 128 * runs["d_model"]
        high = np.maximum(high, 1 + most / (6 * runs["n_params"])).fillna(_MUCH)
    off = ratio[(ratio < _LITTLE) | (ratio > high[ratio.index])]
    if len(off):
        found.append(
            f"flops is far from 6 x n_params x tokens in {len(off)} of {len(ratio)} runs "
            f"(ratio {_ratios(off)}, first {runs.loc[off.index[0], 'run_id']}){_hint(off)}"
        )
    return found


def _ratios(ratio: pd.Series) -> str:
    low, high = float(ratio.min()), float(ratio.max())
    return f"{low:.3g}" if high / low < 1.01 else f"{low:.3g} to {high:.3g}"


def _hint(ratio: pd.Series) -> str:
    middle = float(ratio.median())
    known = {
        1e-9: "is it in GFLOPs?", 1e-12: "is it in TFLOPs?", 1e-15: "is it in PFLOPs?",
        1 / 8.64e19: "is it in PFLOP/s-days?", 1 / 3: "does it count the forward pass only?",
        1 / 6: "is it N D without the factor 6?",
    }  # fmt: skip
    for value, text in known.items():
        if abs(math.log(middle / value)) < 0.2:
            return f"; {text}"
    return "; is n_params without embeddings, and tokens what the run saw in all?"
