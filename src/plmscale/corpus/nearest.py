"""MMseqs2 searches between what is held out and what is trained on, in either direction.

A row (held-out sequence, training sequence, identity) is an alignment over at least the rule's
coverage of the *held-out* sequence, so that a protein contained in a longer one counts. It is
*near* at or above the rule's identity, and a *hit* if it is near or its E-value is at most
MAX_EVALUE. That E-value is of the held-out sequence searched in the whole training corpus,
length * residues / 2^bits, whichever way round MMseqs2 was run and whatever lay in a chunk.

Identity is the same in both directions, because alignments are scored by the matrix alone:
MMseqs2's correction for composition looks at the query only, and moved one near pair in a hundred
across the limit. Low complexity is not masked: a copy is a copy.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from xxhash import xxh3_128

from plmscale.corpus import mmseqs
from plmscale.corpus.holdout import Chunk, Mask, Sequences
from plmscale.corpus.split_config import SplitConfig
from plmscale.files import atomic_write, canonical_json
from plmscale.progress import Progress

MAX_EVALUE = 1e-3
# Kept by the prefilter for each query, best first.
MAX_SEQS = 1000
_ROWS = 1 << 20
# Which side is the query, MMseqs2's --cov-mode that asks for the coverage of the held-out side, and
# by how much the chunks are smaller: an index of targets takes about eight bytes a residue.
TRAINING_IN_HELD_OUT, HELD_OUT_IN_TRAINING = "training in held-out", "held-out in training"
_COVERAGE_OF = {TRAINING_IN_HELD_OUT: 1, HELD_OUT_IN_TRAINING: 2}
_SMALLER = {TRAINING_IN_HELD_OUT: 1, HELD_OUT_IN_TRAINING: 4}


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

    def __init__(
        self, sequences: Sequences, held: Held, work: Path, threads: int, chunk_residues: int
    ) -> None:
        self.sequences, self.held, self.threads = sequences, held, threads
        self.work, self.chunk_residues = work, chunk_residues
        self.tmp = work / "tmp"
        # What a killed search left half done.
        shutil.rmtree(self.tmp, ignore_errors=True)

    def run(
        self, direction: str, wanted: Mask, asked: np.ndarray, sensitivity: float, name: str
    ) -> tuple[list[Path], int]:
        """Compare the `wanted` training sequences, chunk by chunk, with the held-out ones `asked`.

        `asked` is bool (h,). Returns a file of results for each chunk (see `read`), and how many
        training sequences were compared. Memory and temporary files are those of a chunk and of
        what is held out, whatever the size of the corpus.
        """
        size = max(1, self.chunk_residues // _SMALLER[direction])
        batches = _batches(self.sequences.chunks(wanted, size), size)
        results = self.work / self._key(direction, size, asked, sensitivity, name)
        results.mkdir(parents=True, exist_ok=True)
        progress = Progress(f"split, {name}")
        progress.at(0, sum(chunk.residues for batch in batches for chunk in batch))
        files = [results / f"{index:06}.npz" for index in range(len(batches))]
        held_out = self._mask(asked)
        if asked.any() and not all(file.exists() for file in files):
            self._database("held", self.sequences.chunks(held_out, 1 << 40), held_out)
        compared = 0
        for batch, file in zip(batches, files, strict=True):
            if not file.exists():
                count = self._database("train", batch, wanted)
                self._keep(
                    file, self._compare(direction, sensitivity) if asked.any() else (), count
                )
            with np.load(file, allow_pickle=False) as found:
                compared += int(found["compared"])
            progress.add(sum(chunk.residues for chunk in batch))
        progress.end()
        shutil.rmtree(self.tmp, ignore_errors=True)
        return files, compared

    def _mask(self, asked: np.ndarray) -> Mask:
        """Return the mask of the held-out sequences `asked` over all sequences."""
        numbers = self.held.numbers[asked]

        def wanted(first: int, last: int) -> np.ndarray:
            mask = np.zeros(last - first, bool)
            a, b = np.searchsorted(numbers, (first, last))
            mask[numbers[a:b] - first] = True
            return mask

        return wanted

    def _database(self, name: str, chunks: Iterable[Chunk], wanted: Mask) -> int:
        """Write an MMseqs2 database of sequences named by number; return how many are in it."""
        self.tmp.mkdir(parents=True, exist_ok=True)
        fasta = self.tmp / f"{name}.fasta"
        count = self.sequences.write_fasta(fasta, chunks, wanted)
        mmseqs.run("createdb", fasta, self.tmp / name, "--shuffle", 0, "--dbtype", 1)
        fasta.unlink()
        return count

    def _compare(self, direction: str, sensitivity: float) -> Iterator[pd.DataFrame]:
        """Yield tables with held, train, identity and bits of the databases `held` and `train`."""
        names = ["train", "held"] if direction == TRAINING_IN_HELD_OUT else ["held", "train"]
        query, target = (self.tmp / name for name in names)
        for old in ("found", "aligned"):
            for path in self.tmp.glob(f"{old}*"):
                path.unlink()
        common = ["-c", self.held.rule.coverage, "--cov-mode", _COVERAGE_OF[direction]]
        common += ["--threads", self.threads]
        # One piece: else how the targets are cut follows from the memory of the machine.
        mmseqs.run(
            "prefilter", query, target, self.tmp / "found", "-s", sensitivity,
            "--max-seqs", MAX_SEQS, "--mask", 0, "--split", 1, *common,
        )  # fmt: skip
        # Mode 3: identities from the alignment itself. No limit on E-values here: short relatives
        # have high ones and are relatives all the same, and MMseqs2's depend on the direction.
        mmseqs.run(
            "align", query, target, self.tmp / "found", self.tmp / "aligned",
            "--alignment-mode", 3, "-e", 1e9, "--comp-bias-corr", 0, *common,
        )  # fmt: skip
        table = self.tmp / "aligned.tsv"
        mmseqs.run(
            "convertalis", query, target, self.tmp / "aligned", table, "--threads", self.threads,
            "--format-output", "query,target,fident,bits",
        )  # fmt: skip
        types = {"train": np.int64, "held": np.int64, "identity": np.float64, "bits": np.float64}
        columns = [*names, "identity", "bits"]
        if table.stat().st_size:
            with pd.read_csv(
                table, sep="\t", names=columns, dtype=types, chunksize=_ROWS
            ) as reader:
                yield from reader

    def _keep(self, file: Path, tables: Iterable[pd.DataFrame], compared: int) -> None:
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
                out, near=near, compared=compared, held=rows.held[order],
                train=rows.train[order], identity=rows.identity[order],
            )  # fmt: skip

    def _key(
        self, direction: str, size: int, asked: np.ndarray, sensitivity: float, name: str
    ) -> str:
        """Name of the folder of results: all that decides them, contents and parts included."""
        rule = self.held.rule
        about = [name, direction, rule.min_seq_id, rule.coverage, sensitivity, size]
        about += [MAX_SEQS, MAX_EVALUE, self.held.train_residues, mmseqs.version()]
        digest = xxh3_128(canonical_json(about).encode())
        digest.update(self.held.guarded.tobytes())
        digest.update(asked.tobytes())
        for _, first, last, _, hashes in self.sequences.spans():
            digest.update(np.ascontiguousarray(hashes))
            digest.update(self.sequences.parts[first:last].tobytes())
        return digest.hexdigest()


def read(file: Path) -> tuple[np.ndarray, Rows]:
    """Return what a chunk found: numbers near a guarded sequence, and hits of the others."""
    with np.load(file, allow_pickle=False) as found:
        return found["near"], Rows(found["held"], found["train"], found["identity"])


def _batches(chunks: Iterable[Chunk], residues: int) -> list[list[Chunk]]:
    """Put chunks together that have about `residues` residues: small stores share a search."""
    batches: list[list[Chunk]] = []
    room = 0
    for chunk in chunks:
        if chunk.residues > room:
            batches.append([])
            room = residues
        batches[-1].append(chunk)
        room -= chunk.residues
    return batches


def _joined(found: list[Rows]) -> Rows:
    empty = Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    found = [empty, *found]
    return Rows(*(np.concatenate([getattr(r, f) for r in found]) for f in Rows.__annotations__))
