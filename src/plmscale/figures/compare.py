"""Which runs belong together in the two side studies: repetition and transfer."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from plmscale.figures.data import main_corpus


@dataclass(frozen=True)
class Repetition:
    """Runs of one objective and size that differ in their corpus only."""

    objective: str
    n_params: float
    mixed: str
    """run_id of the run on the main corpus."""
    repeated: tuple[str, ...]
    """run_ids of the runs on another corpus."""


@dataclass(frozen=True)
class Transfer:
    """A run that began from another run's weights, beside runs from scratch."""

    child: str
    parent: str
    scratch: str | None


def repetitions(runs: pd.DataFrame) -> list[Repetition]:
    """Return the groups in which a run on another corpus meets its partner on the main corpus.

    The partner has the same objective, size and mask ratio, and the nearest number of tokens.
    """
    if runs.empty:
        return []
    main = main_corpus(runs)
    fresh = runs[runs["parent"].fillna("") == ""]
    others = fresh[(fresh["corpus"] != main) & (fresh["corpus"].fillna("") != "")]
    found = []
    for (objective, n_params), group in others.groupby(["objective", "n_params"]):
        partners = fresh[
            (fresh["corpus"] == main)
            & (fresh["objective"] == objective)
            & (fresh["n_params"] == n_params)
            & fresh["mask_ratio"].fillna(-1).isin(group["mask_ratio"].fillna(-1))
        ]
        if len(partners):
            wanted = group["tokens"].max()
            mixed = partners.loc[(partners["tokens"] - wanted).abs().idxmin(), "run_id"]
            ids = tuple(group.sort_values("tokens")["run_id"])
            found.append(Repetition(objective, float(n_params), mixed, ids))
    return found


def transfers(runs: pd.DataFrame, own: bool = False) -> list[Transfer]:
    """Return each run that has a parent, with the run from scratch nearest in total compute.

    The total of a transferred run is its own compute and its parent's: both were paid. With `own`
    only its own compute counts.
    """
    if runs.empty:
        return []
    by_id = runs.set_index("run_id")
    found = []
    for row in runs[runs["parent"].fillna("") != ""].itertuples():
        paid = row.flops_6nd
        if not own and row.parent in by_id.index:
            paid += by_id.at[row.parent, "flops_6nd"]
        rivals = runs[
            (runs["parent"].fillna("") == "")
            & (runs["objective"] == row.objective)
            & (runs["corpus"] == row.corpus)
            & (runs["n_params"] == row.n_params)
            & runs["mask_ratio"].fillna(-1).eq(-1 if pd.isna(row.mask_ratio) else row.mask_ratio)
            & runs["loss"].notna()
        ]
        scratch = None
        if len(rivals):
            scratch = str(rivals.loc[(rivals["flops_6nd"] - paid).abs().idxmin(), "run_id"])
        found.append(Transfer(str(row.run_id), str(row.parent), scratch))
    return found
