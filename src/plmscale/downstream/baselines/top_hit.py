"""The class of the most similar training sequence, by MMseqs2."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plmscale.corpus import mmseqs


def top_hits(
    queries: Sequence[str], targets: Sequence[str], sensitivity: float = 7.5, evalue: float = 10.0
) -> NDArray[np.int64]:
    """Return the number of the target with the highest bit score for each query, -1 for no hit.

    sensitivity, evalue: as of `mmseqs search` (-s, -e). Among equal scores the first target counts.
    Raises PlmscaleError where MMseqs2 is missing or fails.
    """
    best = np.full(len(queries), -1)
    with tempfile.TemporaryDirectory(prefix="plmscale-hits-") as folder:
        work = Path(folder)
        for name, sequences in (("queries", queries), ("targets", targets)):
            fasta = work / f"{name}.fasta"
            fasta.write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(sequences)))
            mmseqs.run("createdb", fasta, work / name, "--shuffle", 0, "--dbtype", 1)
        mmseqs.run(
            "search", work / "queries", work / "targets", work / "hits", work / "tmp",
            "-s", sensitivity, "-e", evalue, "--threads", _cores(),
        )  # fmt: skip
        mmseqs.run(
            "convertalis", work / "queries", work / "targets", work / "hits", work / "hits.tsv",
            "--format-output", "query,target,bits",
        )  # fmt: skip
        score = np.full(len(queries), -np.inf)
        for line in (work / "hits.tsv").read_text().splitlines():
            query, target, bits = line.split("\t")
            q, t, b = int(query), int(target), float(bits)
            if b > score[q] or (b == score[q] and t < best[q]):
                score[q], best[q] = b, t
    return best


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
