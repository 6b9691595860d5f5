"""Which rows of a runs table may enter a law, and why the others may not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError

OBJECTIVES = ("clm", "mlm")
FLOPS_COLUMNS = ("flops_6nd", "flops")
_NUMBERS = (
    "n_params",
    "tokens",
    "flops",
    "flops_6nd",
    "loss",
    "loss_sd",
    "budget",
    "epochs",
    "seed",
)
_REQUIRED = ("objective", "n_params", "tokens", "loss")
# Beyond about four passes a repeated token teaches visibly less than a fresh one
# (Muennighoff et al. 2023, section 6), so such a run no longer samples L(N, D).
MANY_EPOCHS = 4.0


@dataclass(frozen=True)
class Selection:
    """Rows that may enter a law (`runs`, with the chosen FLOP count as column `c`), and the rest.

    `excluded` lists dicts with run_id, objective, status and why; `warnings` are per objective.
    """

    runs: pd.DataFrame
    excluded: list[dict[str, str]]
    warnings: dict[str, list[str]]


def select(runs: pd.DataFrame, flops_column: str = "flops_6nd") -> Selection:
    """Check a runs table and keep the rows that sample one law per objective.

    Left out and listed: a status other than `done` (empty counts as done), a loss that is not
    finite, rows with a parent, and rows whose corpus or mask ratio is not the one most rows of
    their objective have. `flops_6nd` is 6 N D where the table does not give it.

    Raises PlmscaleError for a missing column, an unknown objective or FLOPs column, and a size,
    token or FLOP count or loss that is missing, not a number or not positive.
    """
    if flops_column not in FLOPS_COLUMNS:
        raise PlmscaleError(
            f"flops column {flops_column!r} is unknown; allowed: {', '.join(FLOPS_COLUMNS)}"
        )
    needed = [*_REQUIRED, *(["flops"] if flops_column == "flops" else [])]
    if missing := [name for name in needed if name not in runs.columns]:
        raise PlmscaleError(
            f"runs table: missing column {', '.join(missing)}; a law needs "
            "objective, n_params, tokens, flops, loss (flops only with --flops-column flops)"
        )
    if runs.empty:
        raise PlmscaleError("runs table: no rows")
    table = _normalised(runs)
    excluded: list[dict[str, str]] = []
    warnings: dict[str, list[str]] = {name: [] for name in table["objective"].unique()}

    def leave_out(rows: pd.Series, why: pd.Series | str) -> None:
        nonlocal table
        reasons = why if isinstance(why, pd.Series) else pd.Series(why, index=table.index)
        for index in table.index[rows]:
            row = table.loc[index]
            excluded.append(
                {"run_id": row["run_id"], "objective": row["objective"], "status": row["status"],
                 "why": str(reasons[index])}
            )  # fmt: skip
        table = table[~rows]

    done = table["status"].isin(["", "done"])
    leave_out(~done, "status is " + table["status"])
    leave_out(~np.isfinite(table["loss"]), "loss is not a finite number")
    _check_positive(table, "loss")
    for name in ("n_params", "tokens", flops_column):
        _check_positive(table, name)
    leave_out(table["parent"] != "", "starts from the weights of " + table["parent"])
    for column in ("corpus", "mask_ratio"):
        usual = table.groupby("objective")[column].agg(_most_frequent)
        expected = table["objective"].map(usual)
        other = table[column] != expected
        label = column.replace("_", " ")
        leave_out(
            other,
            f"{label} " + table[column] + f" where the law's runs have {label} " + expected,
        )
    for objective, rows in table.groupby("objective"):
        many = rows["epochs"] > MANY_EPOCHS
        if many.any():
            warnings[str(objective)].append(
                f"{objective}: {int(many.sum())} of {len(rows)} runs saw a source more than "
                f"{MANY_EPOCHS:g} times; the laws assume fresh tokens"
            )
    table = table.assign(c=table[flops_column].astype(float))
    return Selection(table.reset_index(drop=True), excluded, warnings)


def _normalised(runs: pd.DataFrame) -> pd.DataFrame:
    table = runs.reset_index(drop=True).copy()
    count = len(table)
    for name in ("status", "parent", "corpus", "architecture", "run_id"):
        values = table[name] if name in table else pd.Series("", index=table.index)
        table[name] = values.astype(object).where(values.notna(), "").astype(str)
    row_names = pd.Series([f"row {i + 1}" for i in range(count)])
    table["run_id"] = table["run_id"].where(table["run_id"] != "", row_names)
    table["objective"] = table["objective"].astype(str).str.strip().str.lower()
    unknown = ~table["objective"].isin(OBJECTIVES)
    if unknown.any():
        first = table[unknown].iloc[0]
        raise PlmscaleError(
            f"runs table, {first['run_id']}: objective {first['objective']!r} is unknown; "
            f"allowed: {', '.join(OBJECTIVES)}"
        )
    for name in _NUMBERS:
        if name not in table:
            table[name] = np.nan
        parsed = pd.to_numeric(table[name], errors="coerce")
        broken = parsed.isna() & table[name].notna() & (table[name].astype(str).str.strip() != "")
        broken &= ~table[name].astype(str).str.strip().str.lower().isin(["nan", "none", "<na>"])
        if broken.any():
            at = broken.idxmax()
            raise PlmscaleError(
                f"runs table, {table.loc[at, 'run_id']}: {name} {table.loc[at, name]!r} "
                "is not a number"
            )
        table[name] = parsed.astype(float)
    product = 6.0 * table["n_params"] * table["tokens"]
    table["flops_6nd"] = table["flops_6nd"].fillna(product)
    ratio = table["mask_ratio"] if "mask_ratio" in table else pd.Series(np.nan, index=table.index)
    ratio = pd.to_numeric(ratio, errors="coerce").astype(float)
    table["mask_ratio"] = ratio.map(lambda value: "" if np.isnan(value) else f"{value:g}")
    return table


def _check_positive(table: pd.DataFrame, name: str) -> None:
    bad = ~(np.isfinite(table[name]) & (table[name] > 0))
    if bad.any():
        first = table[bad].iloc[0]
        value = first[name]
        what = "is missing or not a finite number" if not np.isfinite(value) else "is not positive"
        raise PlmscaleError(
            f"runs table, {first['run_id']}: {name} {value:g} {what} "
            f"({int(bad.sum())} such row{'s' if bad.sum() > 1 else ''})"
        )


def _most_frequent(values: pd.Series) -> str:
    counts = values.value_counts()
    # Ties go to the first in alphabetical order, so the choice never depends on row order.
    return sorted(counts.index[counts == counts.max()])[0]
