"""MMseqs2 searches between what is held out and what is trained on, in both directions.

A row (held-out sequence, training sequence, identity) is an alignment over at least the rule's
coverage of the *held-out* sequence, so that a protein contained in a longer one counts. It is
*near* at or above the rule's identity, and a *hit* if it is near or its E-value is at most
MAX_EVALUE. That E-value is of the held-out sequence searched in the whole training corpus,
length * residues / 2^bits, whichever way round MMseqs2 was run and whatever lay in a chunk.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from xxhash import xxh3_128

from plmscale.corpus import mmseqs
from plmscale.corpus.holdout import Mask, Sequences
from plmscale.corpus.split_config import SplitConfig
from plmscale.files import atomic_write, canonical_json
from plmscale.progress import Progress

MAX_EVALUE = 1e-3
# Kept by the prefilter for each query, best first.
MAX_SEQS = 1000
_ROWS = 1 << 20


@dataclass
class Rows:
    """Hits: index into Held.numbers, number of the training sequence, identity; all (m,)."""

    held: np.ndarray
    train: np.ndarray
    identity: np.ndarray

    def where(self, mask: np.ndarray) -> Rows:
        """Return the rows where `mask`, bool (m,), is set."""
        return Rows(self.held[mask], self.train[mask], self.identity[mask])


@dataclass
class Held:
    """What is held out, in ascending order of numbers, and the rule it is compared by.

    numbers, lengths int64 (h,); guarded bool (h,): training gives up what is near it.
    """

    numbers: np.ndarray
    lengths: np.ndarray
    guarded: np.ndarray
    rule: SplitConfig
    train_residues: int

    def rows(self, table: pd.DataFrame) -> Rows:
        """Return the hits of a table with held, train (numbers), identity and bits."""
        held = np.searchsorted(self.numbers, table["held"].to_numpy())
        identity = table["identity"].to_numpy(np.float32)
        floor = np.log2(self.lengths[held]) + math.log2(self.train_residues / MAX_EVALUE)
        hit = self.near(identity) | (table["bits"].to_numpy() >= floor)
        return Rows(held, table["train"].to_numpy(), identity).where(hit)

    def near(self, identity: np.ndarray) -> np.ndarray:
        """Return whether identities (float32, three digits as MMseqs2 writes them) are near."""
        return identity >= np.float32(self.rule.min_seq_id)


class Search:
    """The searches of one split. Whatever is in `work` from an earlier attempt is used again."""

    def __init__(self, sequences: Sequences, held: Held, work: Path, threads: int) -> None:
        self.sequences, self.held, self.threads = sequences, held, threads
        self.work = work
        self.tmp = work / "tmp"
        # What a killed search left half done.
        shutil.rmtree(self.tmp, ignore_errors=True)

    def training_in_held_out(
        self, wanted: Mask, sensitivity: float, chunk_residues: int, name: str
    ) -> tuple[list[Path], int]:
        """Search the wanted training sequences, chunk by chunk, in all that is held out.

        Returns a file of results for each chunk (see `read`), and how many sequences were queries.
        Memory and temporary files are those of a chunk, whatever the size of the corpus.
        """
        chunks = list(self.sequences.chunks(wanted, chunk_residues))
        results = self.work / self._key(sensitivity, chunk_residues, name)
        results.mkdir(parents=True, exist_ok=True)
        progress = Progress(f"split, {name}")
        progress.at(0, sum(chunk.residues for chunk in chunks))
        files = [results / f"{index:06}.npz" for index in range(len(chunks))]
        if not all(file.exists() for file in files):
            self._database("targets", self._is_held)
        queries = 0
        for chunk, file in zip(chunks, files, strict=True):
            if not file.exists():
                count = self._database("queries", wanted, [chunk])
                self._keep(file, self._compare("queries", "targets", 1, sensitivity), count)
            with np.load(file, allow_pickle=False) as found:
                queries += int(found["queries"])
            progress.add(chunk.residues)
        progress.end()
        shutil.rmtree(self.tmp, ignore_errors=True)
        return files, queries

    def held_out_in_training(self, chosen: np.ndarray, sensitivity: float) -> tuple[Rows, int, int]:
        """Search the held-out sequences `chosen`, bool (h,), in all that is trained on.

        Returns hits, number of queries, number of targets.
        """
        numbers = self.held.numbers[chosen]

        def queried(first: int, last: int) -> np.ndarray:
            mask = np.zeros(last - first, bool)
            a, b = np.searchsorted(numbers, (first, last))
            mask[numbers[a:b] - first] = True
            return mask

        queries = self._database("queries", queried)
        targets = self._database("targets", self.sequences.trained)
        found = [self.held.rows(t) for t in self._compare("queries", "targets", 2, sensitivity)]
        shutil.rmtree(self.tmp, ignore_errors=True)
        return _joined(found), queries, targets

    def _is_held(self, first: int, last: int) -> np.ndarray:
        mask = np.zeros(last - first, bool)
        a, b = np.searchsorted(self.held.numbers, (first, last))
        mask[self.held.numbers[a:b] - first] = True
        return mask

    def _database(self, name: str, wanted: Mask, chunks: list | None = None) -> int:
        """Write an MMseqs2 database of sequences named by number; return how many are in it."""
        self.tmp.mkdir(parents=True, exist_ok=True)
        fasta = self.tmp / f"{name}.fasta"
        count = self.sequences.write_fasta(
            fasta, self.sequences.chunks(wanted, 1 << 40) if chunks is None else chunks, wanted
        )
        if count:
            mmseqs.run("createdb", fasta, self.tmp / name, "--shuffle", 0, "--dbtype", 1)
        fasta.unlink()
        (self.tmp / f"{name}.empty").unlink(missing_ok=True)
        if not count:
            (self.tmp / f"{name}.empty").touch()
        return count

    def _compare(
        self, queries: str, targets: str, cov_mode: int, sensitivity: float
    ) -> Iterator[pd.DataFrame]:
        """Yield tables with held, train, identity, bits; cov_mode 1: targets are held out, 2: queries."""
        query, target = self.tmp / queries, self.tmp / targets
        if any((self.tmp / f"{name}.empty").exists() for name in (queries, targets)):
            return
        for old in ("found", "aligned"):
            for path in self.tmp.glob(f"{old}*"):
                path.unlink()
        common = ["-c", self.held.rule.coverage, "--cov-mode", cov_mode, "--threads", self.threads]
        mmseqs.run(
            "prefilter", query, target, self.tmp / "found", "-s", sensitivity,
            "--max-seqs", MAX_SEQS, *common,
        )  # fmt: skip
        # Mode 3: identities from the alignment itself. Short relatives have E-values above
        # MMseqs2's default limit and are relatives all the same.
        mmseqs.run(
            "align", query, target, self.tmp / "found", self.tmp / "aligned",
            "--alignment-mode", 3, "-e", 1000, *common,
        )  # fmt: skip
        table = self.tmp / "aligned.tsv"
        mmseqs.run(
            "convertalis", query, target, self.tmp / "aligned", table, "--threads", self.threads,
            "--format-output", "query,target,fident,bits",
        )  # fmt: skip
        names = ["train", "held"] if cov_mode == 1 else ["held", "train"]
        types = {"train": np.int64, "held": np.int64, "identity": np.float64, "bits": np.float64}
        columns = [*names, "identity", "bits"]
        if table.stat().st_size:
            with pd.read_csv(
                table, sep="\t", names=columns, dtype=types, chunksize=_ROWS
            ) as reader:
                yield from reader

    def _keep(self, file: Path, tables: Iterator[pd.DataFrame], queries: int) -> None:
        """Write the result of a chunk: `near`, training sequences near a guarded one, and hits.

        Hits of the sequences in `near` are left away: they are not trained on.
        """
        rows = _joined([self.held.rows(table) for table in tables])
        near = np.unique(rows.train[self.held.guarded[rows.held] & self.held.near(rows.identity)])
        rows = rows.where(~np.isin(rows.train, near))
        # In one order whatever the threads.
        order = np.lexsort((rows.held, rows.train))
        with atomic_write(file, "wb") as out:
            np.savez(
                out, near=near, queries=queries, held=rows.held[order], train=rows.train[order],
                identity=rows.identity[order],
            )  # fmt: skip

    def _key(self, sensitivity: float, chunk_residues: int, name: str) -> str:
        """Name of the folder of results: all that decides them, contents and parts included."""
        rule = self.held.rule
        about = [name, rule.min_seq_id, rule.coverage, sensitivity, chunk_residues]
        about += [MAX_SEQS, MAX_EVALUE, self.held.train_residues, mmseqs.version()]
        digest = xxh3_128(canonical_json(about).encode())
        digest.update(self.held.guarded.tobytes())
        for _, first, last, _, hashes in self.sequences.spans():
            digest.update(np.ascontiguousarray(hashes))
            digest.update(self.sequences.parts[first:last].tobytes())
        return digest.hexdigest()


def read(file: Path) -> tuple[np.ndarray, Rows]:
    """Return what a chunk found: numbers near a guarded sequence, and hits of the others."""
    with np.load(file, allow_pickle=False) as found:
        return found["near"], Rows(found["held"], found["train"], found["identity"])


def _joined(found: list[Rows]) -> Rows:
    empty = Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    found = [empty, *found]
    return Rows(*(np.concatenate([getattr(r, f) for r in found]) for f in Rows.__annotations__))
