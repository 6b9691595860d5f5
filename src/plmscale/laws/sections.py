"""What laws.json holds beside the laws: both ways to count compute, transfer, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from plmscale.files import finite
from plmscale.laws.estimators import METHODS, Curves
from plmscale.laws.fit import CONVENTIONS, fit_laws, plain
from plmscale.laws.single import SINGLE_LAWS
from plmscale.laws.table.select import complete
from plmscale.laws.worth.repetition import fit_repetition
from plmscale.laws.worth.transfer import fit_transfer

# The second way to count is there for comparison; its intervals need fewer replicates.
REPLICATES = 200
# Below this difference the two ways count the same.
_SAME = 1e-3


def add_sections(
    laws: Mapping[str, Any],
    runs: pd.DataFrame,
    *,
    curves: Curves | None = None,
    methods: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return `laws` (from fit_laws on `runs`) with the sections that the table can give.

    `flops_conventions`: exponents with compute counted as 6 N D and as the column `flops`, where
    the table has both. `transfer` and `repetition`: from runs that start from other weights, and
    from runs on other corpora, where there are any.
    """
    about = laws["provenance"]
    n_boot, seed = about["n_boot"], about["seed"]
    found = dict(laws)
    table = complete(runs)
    if both := _conventions(laws, runs, curves, methods or METHODS):
        found["flops_conventions"] = both
    if transfer := fit_transfer(table, curves or {}, n_boot, seed):
        found["transfer"] = transfer
    if repetition := fit_repetition(table, curves or {}, n_boot, seed):
        found["repetition"] = repetition
    return finite(plain(found))


def _conventions(
    laws: Mapping[str, Any], runs: pd.DataFrame, curves: Curves | None, methods: Sequence[str]
) -> dict[str, Any] | None:
    table = complete(runs)
    product = table["flops_6nd"].fillna(6.0 * table["n_params"] * table["tokens"])
    ratio = (table["flops"] / product)[table["status"].isin(["", "done"])]
    compared = [name for name in methods if name not in SINGLE_LAWS]
    if not compared or ratio.isna().any() or (ratio - 1).abs().max() < _SAME:
        return None
    about = laws["provenance"]
    chosen = about["flops_column"]
    other = next(name for name in CONVENTIONS if name != chosen)
    again = fit_laws(
        runs, curves=curves, methods=compared, flops_column=other, seed=about["seed"],
        n_boot=min(about["n_boot"], REPLICATES), noise_sd=about["noise_sd"],
    )  # fmt: skip
    return {
        name: {
            "convention": CONVENTIONS[name],
            "n_boot": found["provenance"]["n_boot"],
            "laws": {
                objective: {
                    method: _exponents(entries[method]) for method in compared if method in entries
                }
                for objective, entries in found["laws"].items()
            },
        }
        for name, found in sorted({chosen: laws, other: again}.items(), reverse=True)
    }


def _exponents(entry: Mapping[str, Any]) -> dict[str, Any]:
    ends = entry.get("ci95") or {}
    return {
        **entry["N_opt"], **entry["D_opt"], "a_ci95": ends.get("a"), "b_ci95": ends.get("b"),
        "c": entry["L_opt"].get("c"), "c_ci95": ends.get("c"),
    }  # fmt: skip
