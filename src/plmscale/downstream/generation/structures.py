"""Structures of generated proteins and controls: pLDDT by ESMFold, TM-score to known structures.

Two steps, each made where its tool is: a machine with a GPU folds, another with Foldseek compares.
Structures are kept by sequence in the cache, so controls are folded once for all models.

    plddt       mean pLDDT of C-alpha, 0 to 100; NaN for a protein that was not folded
    tm          highest TM-score, NaN where nothing similar was found or not searched
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from plmscale.downstream import sides
from plmscale.errors import PlmscaleError
from plmscale.fields import Strict
from plmscale.files import fingerprint

if TYPE_CHECKING:
    from plmscale.downstream.generation.folding import Folder
    from plmscale.downstream.generation.known import Known

NAME = "structures"
_SIZED = {"small": 4, "full": 50}
_VERSION = 1


class Options(Strict):
    """What is folded, and how.

    esmfold: folder or hf:ID of the model, null for none; it is never downloaded here. on_cpu: fold
    without a GPU, too. per_set: proteins of each set; null takes a default by the source. length_cap:
    longer proteins are not folded. chunk_size: rows that ESMFold's attention computes at a time.
    targets: known structures, a database of Foldseek or a folder of PDB files.
    """

    esmfold: str | None = "hf:facebook/esmfold_v1"
    on_cpu: bool = False
    per_set: int | None = Field(None, ge=1)
    length_cap: int = Field(400, ge=1)
    chunk_size: int = Field(64, ge=1)
    targets: Path | None = None

    def sized(self, source: str) -> Options:
        """Return the options with `per_set` replaced that depends on the source."""
        if self.per_set is not None:
            return self
        return self.model_copy(update={"per_set": _SIZED["small" if source == "small" else "full"]})


def update(path: Path, rows: pd.DataFrame, how: Options, cache: Path | None, threads: int) -> None:
    """Make the structures of the predictions in `path`, and compare them, as far as it can be done.

    rows: id, set, sequence. The side result is made again where tools or options are others. One
    that has more than can be made now stays.
    """
    not_run: dict[str, str] = {}
    folder = known = None
    try:
        folder = _folder(how)
    except (PlmscaleError, ImportError) as error:
        not_run["plddt"] = str(error)
    try:
        known = _known(how)
    except PlmscaleError as error:
        not_run["tm"] = str(error)
    chosen = _chosen(rows, how)
    before = sides.about(path, NAME)
    of = fingerprint([_VERSION, chosen["id"].tolist(), chosen["sequence"].tolist()])
    # Reasons too: a side result says what is lacking now.
    tools = [folder and folder.key, known and known.key, how.length_cap, not_run]
    key = fingerprint([of, *tools])
    if before.get("key") == key or sides.settled(before, of, not_run):
        return
    lacking = set(not_run)
    if folder is None:
        not_run.setdefault("tm", "no structures: " + not_run["plddt"])
        found = chosen[["id"]].assign(plddt=np.nan, tm=np.nan).iloc[:0]
    else:
        found = _found(chosen, folder, known, cache, threads, not_run)
    told = f"{folder.place.label}, chunk size {how.chunk_size}" if folder else ""
    failed = {name: why for name, why in not_run.items() if name not in lacking and folder}
    about = {
        "of": of,
        "key": sides.key_of(key, failed),
        "not_run": not_run,
        "how": f"first {how.per_set} proteins of at most {how.length_cap} residues; {told}"
        + (f"; {known.how}" if known else ""),
    }
    sides.write(path, NAME, found, about)


def _folder(how: Options) -> Folder:
    from plmscale.downstream.generation.folding import Folder

    if how.esmfold is None:
        raise PlmscaleError("ESMFold is switched off (structures.esmfold)")
    return Folder(how.esmfold, how.chunk_size, how.on_cpu)


def _known(how: Options) -> Known:
    from plmscale.downstream.generation.known import Known

    return Known(how.targets)


def _chosen(rows: pd.DataFrame, how: Options) -> pd.DataFrame:
    """Return the first proteins of each set that are neither empty nor too long."""
    fit = rows[rows["sequence"].str.len().between(1, how.length_cap)]
    return fit.groupby("set", sort=False).head(how.per_set or 1)


def _found(
    chosen: pd.DataFrame,
    folder: Folder,
    known: Known | None,
    cache: Path | None,
    threads: int,
    not_run: dict[str, str],
) -> pd.DataFrame:
    from plmscale.downstream.generation.folding import folded, read

    with tempfile.TemporaryDirectory(prefix="plmscale.") as name:
        home = cache / NAME if cache else Path(name)
        made = list(folded(folder, chosen["sequence"].tolist(), home))
        there = [path for path in made if isinstance(path, Path)]
        means = {path: float(read(path)[2].mean()) for path in there}
        scores: dict[Path, float] = {}
        if known is not None and there:
            unique = list(means)
            try:
                scores = dict(zip(unique, known.best(unique, threads), strict=True))
            except PlmscaleError as error:
                not_run["tm"] = str(error)
    wrong = [path for path in made if isinstance(path, str)]
    if wrong and not there:
        not_run["plddt"] = wrong[0]
    return pd.DataFrame(
        {
            "id": chosen["id"].to_numpy(),
            "plddt": [means.get(path, np.nan) if isinstance(path, Path) else np.nan
                      for path in made],
            "tm": [scores.get(path, np.nan) if isinstance(path, Path) else np.nan
                   for path in made],
            "not_folded": ["" if isinstance(path, Path) else path for path in made],
        }
    )  # fmt: skip
