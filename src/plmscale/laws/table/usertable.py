"""Anyone's table of runs, brought to plmscale's columns and units, or refused in one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from plmscale.errors import PlmscaleError, suggest
from plmscale.laws.table.select import OBJECTIVES, to_numbers
from plmscale.laws.table.tablefile import read_table
from plmscale.laws.table.units import to_nats
from plmscale.tables import RUNS_COLUMNS

REQUIRED = ("objective", "n_params", "tokens", "loss")
# What others call these columns; used to suggest a --rename, never to guess silently.
_SYNONYMS = {
    "objective": ("task", "type", "model_type", "training_objective"),
    "n_params": ("n", "params", "parameters", "n_parameters", "num_params", "non_embedding_params",
                 "model_size", "size"),
    "tokens": ("d", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "tokens_seen"),
    "loss": ("val_loss", "valid_loss", "validation_loss", "eval_loss", "final_loss", "test_loss",
             "final_validation_loss", "perplexity", "ppl"),
}  # fmt: skip
_COMPUTE = ("c", "flop", "flops", "flops_6nd", "compute", "budget", "budget_flops", "total_flops")


@dataclass
class UserTable:
    """A runs table as plmscale reads it (loss in nats a token) and remarks on how it was read."""

    runs: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


def read_user_table(
    path: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    objective: str | None = None,
    loss_unit: str = "nats",
) -> UserTable:
    """Read a table of runs: comma, semicolon or tab separated, with or without a BOM; or Parquet.

    `rename` maps plmscale's column names to the table's own. `objective` is that of rows which
    name none. `loss_unit` (nats, bits, perplexity) is that of `loss` and `loss_sd`. Column names
    are compared without case and surrounding blanks; lines without an entry are skipped; exact
    copies of a row are dropped with a warning. A row without a run_id is called by its line.

    Raises PlmscaleError, which names file, row and column, for what cannot be read.
    """
    path = Path(path)
    notes: list[str] = []
    table = read_table(path, notes)
    table = _renamed(table, rename or {}, path, notes)
    if objective is not None:
        table = _labelled(table, objective, path)
    _require(table, path)
    table = _without_copies(table, path, notes)
    table = _named(table, path).reset_index(drop=True)
    table = to_numbers(table, str(path))
    table = to_nats(table, loss_unit, str(path))
    return UserTable(table, notes)


def _renamed(
    table: pd.DataFrame, rename: Mapping[str, str], path: Path, notes: list[str]
) -> pd.DataFrame:
    mapping = {}
    for new, old in rename.items():
        if new not in RUNS_COLUMNS:
            turned = f"; turn it round: --rename {old}={new}" if old in RUNS_COLUMNS else ""
            raise PlmscaleError(
                f"--rename {new}={old}: {new!r} is no column of a runs table"
                + (turned or suggest(new, RUNS_COLUMNS))
            )
        if old not in table:
            raise PlmscaleError(
                f"{path}: --rename {new}={old}: no column {old!r}{suggest(old, table.columns)}"
            )
        mapping[old] = new
    for name in table:
        plain = str(name).strip().lower()
        if name not in mapping and plain in RUNS_COLUMNS and plain not in rename:
            mapping[name] = plain
    hidden = [name for name in table if name in rename and name not in mapping]
    if hidden:
        notes.append(f"{path}: column {', '.join(hidden)} not read, --rename puts another there")
    found = table.drop(columns=hidden).rename(columns=mapping)
    if found.columns.has_duplicates:
        name = found.columns[found.columns.duplicated()][0]
        raise PlmscaleError(f"{path}: two columns mean {name}; say which with --rename {name}=...")
    return found


def _labelled(table: pd.DataFrame, objective: str, path: Path) -> pd.DataFrame:
    named = table["objective"] if "objective" in table else pd.Series("", index=table.index)
    named = named.fillna("").astype(str).str.strip()
    others = sorted({name for name in named if name and name.lower() != objective})
    if others:
        raise PlmscaleError(
            f"{path}: --objective {objective} is for rows that name none, but the table has rows "
            f"of {', '.join(others)}; leave the option out (every objective gets laws of its own)"
        )
    return table.assign(objective=objective)


def _require(table: pd.DataFrame, path: Path) -> None:
    missing = [name for name in REQUIRED if name not in table]
    if not missing:
        return
    lower = {str(name).lower().replace(" ", "_").replace("-", "_"): name for name in table}
    free = {key: name for key, name in lower.items() if name not in RUNS_COLUMNS}
    found = {name: _nearest(name, free) for name in missing}
    advice = []
    pairs = [f"{new}={_quoted(old)}" for new, old in found.items() if old]
    if pairs:
        advice.append(f"add --rename {' '.join(pairs)}")
    unknown = [name for name, old in found.items() if not old]
    if "objective" in unknown:
        unknown.remove("objective")
        advice.append(f"say --objective {' or '.join(OBJECTIVES)} if all rows are of one")
    if "tokens" in unknown and set(lower) & set(_COMPUTE):
        unknown.remove("tokens")
        advice.append("add tokens: compute / (6 n_params) where compute is 6 N D")
    if unknown:
        names = " ".join(f"{name}=YOURS" for name in unknown)
        advice.append(f"add it, or map a column of yours with --rename {names}")
    raise PlmscaleError(
        f"{path}: missing column {', '.join(missing)} (it has {_listed(table)}); "
        + "; ".join(advice)
    )


def _nearest(name: str, free: Mapping[str, str]) -> str | None:
    for synonym in _SYNONYMS[name]:
        if synonym in free:
            return free[synonym]
    close = difflib.get_close_matches(name, free, n=1, cutoff=0.6)
    return free[close[0]] if close else None


def _listed(names: Iterable[object]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name


def _without_copies(table: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """Drop rows equal in every cell; the same run twice would count double."""
    copies = table.duplicated()
    if copies.any():
        places = list(table.index[copies])
        shown = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
        what = "row is a copy" if len(places) == 1 else "rows are copies"
        notes.append(f"{path}: {len(places)} {what} of an earlier row; dropped ({shown})")
    return table[~copies]


def _named(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Call rows without a run_id by their place; a name for two runs is an error."""
    ids = table["run_id"] if "run_id" in table else pd.Series("", index=table.index)
    ids = ids.fillna("").astype(str).str.strip()
    twice = ids[(ids != "") & ids.duplicated(keep=False)]
    if len(twice):
        name = twice.iloc[0]
        raise PlmscaleError(
            f"{path}: run_id {name!r} names different runs ({', '.join(twice.index[twice == name])})"
            "; give each run a name of its own, or leave run_id empty"
        )
    return table.assign(run_id=ids.where(ids != "", table.index))
