"""What is found out of generated proteins and controls by searching: a row a protein.

masked, counted     residues in repeats, of residues (plmscale.corpus.complexity)
copied              the whole protein occurs within a training protein (substrings)
train_status, train_identity, train_coverage
                    nearest training protein (plmscale.downstream.identity)
held_out_identity   nearest other protein of the corpus' held-out parts, NaN without a hit
cluster             number of its cluster among the proteins of its set, -1 for one too short
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plmscale.corpus import alphabet, complexity, mmseqs
from plmscale.downstream import identity, sides
from plmscale.downstream.generation import proteins, substrings
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint

NAME = "searches"
# A protein of fewer residues is not clustered: too short to be aligned, each would be a cluster.
USABLE = 30
MIN_SEQ_ID, COVERAGE = 0.5, 0.8
# Of the held-out proteins of a corpus at most so many are searched.
HELD_OUT = 100_000
_EVALUE = 1e-3
_VERSION = 1
_OF_CORPUS = ("copied", "train", "held_out")


def update(
    path: Path,
    rows: pd.DataFrame,
    corpus: Path | None,
    trained_on: Sequence[str],
    cache: Path | None,
    threads: int,
) -> None:
    """Make the searches of the predictions in `path` unless they are there.

    rows: id, set, sequence. What cannot be done is told in `not_run` of the file, the rest is there.
    """
    what = identity.trained(corpus, trained_on) if corpus is not None else None
    program = ""
    with suppress(PlmscaleError):
        program = mmseqs.version()
    texts = rows["id"].tolist(), rows["sequence"].tolist()
    of = fingerprint([_VERSION, what and [what.content, what.sources], *texts])
    key, before = fingerprint([of, program]), sides.about(path, NAME)
    if before.get("key") == key:
        return
    not_run: dict[str, str] = {}
    found = pd.DataFrame({"id": rows["id"].to_numpy()})
    some = rows[rows["sequence"] != ""]
    sequences = dict(zip(some["id"], some["sequence"], strict=True))

    def attempt(name: str, make: Callable[[], pd.DataFrame]) -> None:
        nonlocal found
        try:
            found = found.merge(make(), on="id", how="left", validate="1:1")
        except PlmscaleError as error:
            not_run[name] = str(error)

    attempt("low_complexity", lambda: _masked(sequences))
    attempt("clusters", lambda: _clusters(rows, threads))
    if what is None:
        for name in _OF_CORPUS:
            not_run[name] = "no corpus was given"
    else:
        attempt("copied", lambda: _copied(sequences, what))
        attempt(
            "train",
            lambda: (
                identity.nearest(sequences, what.folder, what.sources, cache, threads)
                .drop(columns=["evalue", "target"])
                .rename(columns={n: f"train_{n}" for n in ("status", "identity", "coverage")})
            ),
        )
        attempt("held_out", lambda: _held_out(sequences, what.folder, threads))
    if sides.settled(before, of, not_run):
        return
    failed = {} if not program else {n: not_run[n] for n in not_run if what or n not in _OF_CORPUS}
    about: dict[str, Any] = {
        "of": of,
        "key": sides.key_of(key, failed),
        "not_run": not_run,
        "sources": list(what.sources) if what else [],
        "versions": {"mmseqs2": program},
    }
    sides.write(path, NAME, found, about)


def _masked(sequences: dict[str, str]) -> pd.DataFrame:
    if not sequences:
        return pd.DataFrame({"id": [], "masked": [], "counted": []}).astype({"id": str})
    found = complexity.masked_residues([alphabet.encode(text) for text in sequences.values()])
    return pd.DataFrame({"id": list(sequences), "masked": found[:, 0], "counted": found[:, 1]})


def _copied(sequences: dict[str, str], what: identity.Trained) -> pd.DataFrame:
    found = substrings.copied(list(sequences.values()), what.folder, what.sources)
    return pd.DataFrame({"id": list(sequences), "copied": found})


def _held_out(sequences: dict[str, str], corpus: Path, threads: int) -> pd.DataFrame:
    """Return id, held_out_identity: over `COVERAGE` of the protein, E-value at most 1e-3."""
    others = proteins.of_corpus(corpus, HELD_OUT, 0)
    if not others:
        raise PlmscaleError("nothing is held out of the corpus")
    ids = list(sequences)
    found = _aligned(
        list(sequences.values()), [other.sequence for other in others], 2, 0.0, threads
    )
    # A natural protein is itself among them.
    own = {other.id: number for number, other in enumerate(others)}
    found = found[found["target"] != found["query"].map(lambda at: own.get(ids[at], -1))]
    best = found.groupby("query")["identity"].max()
    values = best.reindex(range(len(ids))).to_numpy(np.float32)
    return pd.DataFrame({"id": ids, "held_out_identity": values})


def _clusters(rows: pd.DataFrame, threads: int) -> pd.DataFrame:
    """Return id, cluster: among the proteins of each set."""
    numbers = rows.groupby("set", sort=False).ngroup().to_numpy()
    found = clusters(rows["sequence"].tolist(), numbers, threads)
    return pd.DataFrame({"id": rows["id"].to_numpy(), "cluster": found})


def clusters(sequences: Sequence[str], of: np.ndarray, threads: int = 2) -> np.ndarray:
    """Return the cluster of each sequence within its set, named by a member: int64 (n,).

    of: the set of each, (n,). Greedy, as MMseqs2's mode 2 and CD-HIT: the longest protein that is in
    no cluster makes one with all of its set that are not in one yet and align to it with identity
    0.5 over 0.8 of both. -1 for a sequence of fewer than USABLE residues.
    """
    lengths = np.array([len(text) for text in sequences])
    usable = np.flatnonzero(lengths >= USABLE)
    texts = [sequences[i] for i in usable]
    pairs = _aligned(texts, texts, 0, MIN_SEQ_ID, threads)
    query, target = usable[pairs["query"]], usable[pairs["target"]]
    near: dict[int, list[int]] = {}
    for one, other in zip(query.tolist(), target.tolist(), strict=True):
        if of[one] == of[other]:
            # An alignment that was found from one side counts for both.
            near.setdefault(one, []).append(other)
            near.setdefault(other, []).append(one)
    found = np.full(len(sequences), -1, np.int64)
    for head in usable[np.argsort(-lengths[usable], kind="stable")].tolist():
        if found[head] < 0:
            for member in (head, *near.get(head, ())):
                if found[member] < 0:
                    found[member] = head
    return found


def _aligned(
    queries: Sequence[str], targets: Sequence[str], cov_mode: int, min_seq_id: float, threads: int
) -> pd.DataFrame:
    """Return query, target (numbers), identity of all alignments over COVERAGE; E-value <= 1e-3.

    cov_mode: 2 for coverage of the query, 0 of both.
    """
    types = {"query": np.int64, "target": np.int64, "identity": np.float32}
    with tempfile.TemporaryDirectory(prefix="plmscale.") as name:
        work = Path(name)
        table = work / "tsv"
        if queries and targets:
            _database(queries, work / "queries")
            _database(targets, work / "targets")
            both = work / "queries", work / "targets"
            common = ["-c", COVERAGE, "--cov-mode", cov_mode, "--threads", threads]
            # Words of 5: the table of words of 6 takes seconds to fill, whatever the sets' sizes.
            mmseqs.run(
                "prefilter", *both, work / "found", "-s", 5.7, "-k", 5, "--max-seqs", 1000,
                "--mask", 0, *common,
            )  # fmt: skip
            mmseqs.run(
                "align", *both, work / "found", work / "aligned", "--alignment-mode", 3,
                "-e", _EVALUE, "--min-seq-id", min_seq_id, *common,
            )  # fmt: skip
            mmseqs.run(
                "convertalis", *both, work / "aligned", table, "--threads", 1,
                "--format-output", "query,target,fident",
            )  # fmt: skip
        if not table.exists() or not table.stat().st_size:
            return pd.DataFrame({n: pd.Series(dtype=kind) for n, kind in types.items()})
        return pd.read_csv(table, sep="\t", names=list(types), dtype=types)


def _database(sequences: Sequence[str], path: Path) -> None:
    fasta = path.with_name(path.name + ".fasta")
    fasta.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(sequences)))
    mmseqs.run("createdb", fasta, path, "--shuffle", 0, "--dbtype", 1)
