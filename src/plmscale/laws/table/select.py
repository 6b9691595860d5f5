"""Which rows of a runs table may enter a law, and why the others may not."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from plmscale.errors import PlmscaleError
from plmscale.tables import RUNS_COLUMNS

OBJECTIVES = ("clm", "mlm")
# Trained on both at once: in the table, but of no law.
MIXED = "mixed"
FLOPS_COLUMNS = ("flops_6nd", "flops")
NUMBERS = (
    "n_layers", "d_model", "n_params", "tokens", "flops", "flops_6nd", "loss", "loss_sd", "budget",
    "epochs", "mask_ratio", "seed",
)  # fmt: skip
_UNKNOWN = ("", "nan", "na", "n/a", "none", "null", "<na>", "-")
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


def select(
    runs: pd.DataFrame, flops_column: str = "flops_6nd", where: str = "runs table"
) -> Selection:
    """Check a runs table and keep the rows that sample one law per objective.

    Left out and listed: a status other than `done` (empty counts as done), rows with a parent,
    and rows whose corpus or mask ratio is not the one most rows of their objective have.
    `flops_6nd` is 6 N D where the table does not give it. `where` names the table in errors.

    Raises PlmscaleError for a missing column, an unknown objective or FLOPs column, and a size,
    token or FLOP count or loss of a finished run that is missing, no number or not positive.
    """
    if flops_column not in FLOPS_COLUMNS:
        raise PlmscaleError(
            f"flops column {flops_column!r} is unknown; allowed: {', '.join(FLOPS_COLUMNS)}"
        )
    needed = [*_REQUIRED, *(["flops"] if flops_column == "flops" else [])]
    if missing := [name for name in needed if name not in runs.columns]:
        raise PlmscaleError(
            f"{where}: missing column {', '.join(missing)}; a law needs "
            "objective, n_params, tokens, loss (and flops with --flops-column flops)"
        )
    if runs.empty:
        raise PlmscaleError(f"{where}: no rows")
    table = _normalised(runs, where)
    excluded: list[dict[str, str]] = []
    mixed = table["objective"] == MIXED
    excluded += [
        {"run_id": row.run_id, "objective": MIXED, "status": row.status,
         "why": "trained on both objectives at once"}
        for row in table[mixed].itertuples()
    ]  # fmt: skip
    table = table[~mixed]
    if table.empty:
        return Selection(table.assign(c=np.array([], float)), excluded, {})
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
    for name in ("n_params", "tokens", "loss", flops_column):
        _check_positive(table, name, where)
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


def to_numbers(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table with its number columns as floats, NaN where a cell is empty.

    Raises PlmscaleError for the first cell that is text, naming run, column and text.
    """
    table = runs.copy()
    for name in NUMBERS:
        if name in table and not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = [
                _number(value, f"{where}, {run}: {name}")
                for run, value in zip(row_names(table), table[name], strict=True)
            ]
        if name in table:
            table[name] = table[name].astype(float)
    return table


def complete(runs: pd.DataFrame, where: str = "runs table") -> pd.DataFrame:
    """Return a table with all RUNS_COLUMNS: text "" and numbers NaN where they are unknown."""
    table = to_numbers(runs.reset_index(drop=True), where)
    table["run_id"] = row_names(table)
    for name in RUNS_COLUMNS:
        if name in NUMBERS:
            table[name] = table.get(name, np.nan)
        else:
            values = table[name] if name in table else pd.Series("", index=table.index)
            table[name] = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    table["objective"] = table["objective"].str.lower()
    return table[RUNS_COLUMNS]


def row_names(table: pd.DataFrame) -> list[str]:
    """Return each row's run_id, "row 3" (counted from 1) where there is none."""
    ids = table["run_id"] if "run_id" in table else [""] * len(table)
    return [
        f"row {i}" if pd.isna(name) or not str(name).strip() else str(name)
        for i, name in enumerate(ids, start=1)
    ]


def _number(value: object, where: str) -> float:
    text = "" if value is None or pd.isna(value) else str(value).strip()
    if text.lower() in _UNKNOWN:
        return float("nan")
    try:
        # Python reads 1_000 as a thousand, tables do not.
        return float(text.replace("_", "?"))
    except ValueError:
        raise PlmscaleError(f"{where} {text!r} is not a number{_remedy(text)}") from None


def _remedy(text: str) -> str:
    plain = re.sub(r"[,'_ \u00a0\u202f](?=\d{3}(\D|$))", "", text)
    if plain != text and re.fullmatch(r"[-+]?\d+(\.\d*)?", plain):
        return f"; write it without separators, {plain}"
    if found := re.fullmatch(r"([\d.]+)\s*([kKmMbBgGtT])", text):
        power = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12}[found[2].lower()]
        return f"; write {found[1]}e{power}"
    if re.fullmatch(r"[-+]?\d+,\d+", text):
        return "; write decimals with a point"
    return "; correct it or leave the cell empty"


def _normalised(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    table = complete(runs, where)
    unknown = ~table["objective"].isin([*OBJECTIVES, MIXED])
    if unknown.any():
        first = table[unknown].iloc[0]
        said = f"{first['objective']!r} is unknown" if first["objective"] else "is missing"
        raise PlmscaleError(
            f"{where}, {first['run_id']}: objective {said}; allowed: {', '.join(OBJECTIVES)} "
            "(causal and masked language model)"
        )
    product = 6.0 * table["n_params"] * table["tokens"]
    table["flops_6nd"] = table["flops_6nd"].fillna(product)
    ratio = table["mask_ratio"]
    table["mask_ratio"] = ratio.map(lambda value: "" if np.isnan(value) else f"{value:g}")
    return table


def _check_positive(table: pd.DataFrame, name: str, where: str) -> None:
    bad = ~(np.isfinite(table[name]) & (table[name] > 0))
    if bad.any():
        first = table[bad].iloc[0]
        value = first[name]
        what = (
            f"{value:g} is not positive" if np.isfinite(value)
            else "is missing" if np.isnan(value) else f"{value:g} is not a finite number"
        )  # fmt: skip
        others = f" (so in {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise PlmscaleError(
            f"{where}, {first['run_id']}: {name} {what}{others}; correct it, remove the row, or "
            "give it a status other than done"
        )


def _most_frequent(values: pd.Series) -> str:
    counts = values.value_counts()
    # Ties go to the first in alphabetical order, so the choice never depends on row order.
    return sorted(counts.index[counts == counts.max()])[0]
