"""Training, validation and out-of-distribution test, so that a search between them finds nothing.

1. Candidates are held out: whole clusters or sequences by hash (holdout.py), and all of the
   sources of role held_out.
2. Training sequences are searched, chunk by chunk, in what is held out (nearest.py).
   What is near each other is taken apart:
   - a sequence near a *guarded* one (method search: VALID; a protected held-out source) is UNUSED;
   - a VALID one near training (method clusters, where training keeps everything) becomes TEST.
3. The proof: what remains is searched again, in the other direction (corpora of up to
   `proof_residues`) or a sample of it at the highest sensitivity, in rounds, until nothing is near.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus import holdout, mmseqs, nearest
from plmscale.corpus.holdout import Sequences
from plmscale.corpus.nearest import Held, Rows, Search
from plmscale.corpus.split_config import SplitConfig
from plmscale.corpus.stats import IDENTITY_BINS, identity_bins
from plmscale.corpus.store import PARTS, TEST, TRAIN, UNUSED, VALID
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, write_json

_MAX_ROUNDS = 6
# MMseqs2's highest.
_SAMPLE_SENSITIVITY = 7.5
# The sample of the training sequences is one tenth of what is searched whole.
_SAMPLE_SHARE = 0.1
_SAMPLE_SEED = 0x5A3F


def split(
    stores: Mapping[str, Path],
    keep: Mapping[str, Path],
    out: Path,
    rule: SplitConfig,
    held_out: Collection[str],
    threads: int,
    chunk_residues: int = 200_000_000,
    proof_residues: int = 2_000_000_000,
) -> dict[str, Any]:
    """Decide the part of every sequence of `stores`; return what check.json says.

    `stores` and `keep` map sources to their store and keep.bin; `held_out` names the sources of
    role held_out. Writes <source>.parts.bin, .identity.bin, .valid.ids, .test.ids and check.json
    into `out`. The result does not depend on threads and chunk_residues. Finished chunks are kept
    in `out`/.work, so that a killed split goes on where it was; it is removed at the end.

    Raises PlmscaleError where a source has nothing to train on or to validate with, MMseqs2 fails,
    or the split does not settle.
    """
    out = Path(out)
    work = out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    sequences = Sequences(stores, keep)
    train = [i for i, name in enumerate(sequences.stores) if name not in held_out]
    train_residues = int(sequences.residues(TRAIN)[train].sum())
    for name in set(held_out) & sequences.stores.keys():
        parts = sequences.parts_of(name)
        parts[parts == TRAIN] = TEST
    outside = np.isin(np.arange(len(sequences.stores)), train, invert=True)
    clusters = None
    if rule.method == "clusters":
        clusters = holdout.by_clusters(sequences, train, rule, work / "clusters", threads)
    else:
        holdout.by_hash(sequences, train, rule)
    candidates = int((sequences.parts == VALID).sum())

    numbers, lengths = sequences.numbers(VALID, TEST)
    source = np.searchsorted(sequences.origins, numbers, side="right") - 1
    guarded = outside[source] & rule.protect
    if rule.method == "search":
        guarded |= sequences.parts[numbers] == VALID
    held = Held(numbers, lengths, guarded, rule, max(train_residues, 1))
    job = _Job(sequences, held, Search(sequences, held, work, threads), chunk_residues)

    whole = train_residues <= proof_residues
    if guarded.any() or not whole:
        job.search_chunks(sequences.trained, rule.sensitivity, "training sequences")
    share = 1.0 if whole else _SAMPLE_SHARE * proof_residues / train_residues
    job.prove(share)
    identity = job.identity()
    _refuse_empty(sequences, train, clusters)
    bins = _write(sequences, held, identity, out)
    protected = identity[job.protected() & ~np.isnan(identity)]
    table = {p: _counts(sequences, code) for p, code in [*PARTS.items(), ("unused", UNUSED)]}
    check = {
        "method": rule.method,
        "min_seq_id": rule.min_seq_id,
        "coverage": rule.coverage,
        "coverage_of": "held-out sequence",
        "sensitivity": rule.sensitivity,
        "max_evalue_of_hits": nearest.MAX_EVALUE,
        "clusters": clusters,
        **{f"{part}_sequences": sum(n for n, _ in rows) for part, rows in table.items()},
        "left_out_near_training": job.moved,
        "candidates": candidates,
        "sources": {
            name: {p: dict(zip(("sequences", "residues"), rows[i])) for p, rows in table.items()}
            for i, name in enumerate(sequences.stores)
        },
        "bins": bins,
        "searches": job.searches,
        # Of the last of `searches`, the proof; it ends only at none.
        "violations": job.searches[-1]["near"],
        "rounds": job.rounds,
        "max_identity_found": round(float(protected.max(initial=0.0)), 3),
        "mmseqs": mmseqs.version(),
    }
    write_json(out / "check.json", check)
    shutil.rmtree(work)
    return check


class _Job:
    """The searches of one split and what they led to."""

    def __init__(
        self, sequences: Sequences, held: Held, search: Search, chunk_residues: int
    ) -> None:
        self.sequences, self.held, self.search = sequences, held, search
        self.chunk_residues = chunk_residues
        self.files: list[Path] = []
        self.rows: list[Rows] = []
        self.searches: list[dict[str, Any]] = []
        self.rounds = self.moved = 0

    def protected(self) -> np.ndarray:
        """Return of which held-out sequences nothing near may be trained on, bool (h,)."""
        return self.held.guarded | (self.sequences.parts[self.held.numbers] == VALID)

    def search_chunks(self, wanted: holdout.Mask, sensitivity: float, name: str) -> int:
        """Search training sequences in what is held out, take apart; return how many changed."""
        files, queries = self.search.training_in_held_out(
            wanted, sensitivity, self.chunk_residues, name
        )
        self.files += files
        count = 0
        for file in files:
            near, rows = nearest.read(file)
            self.sequences.parts[near] = UNUSED
            count += len(near) + self._take_apart(rows)
        self._note("training in held-out", sensitivity, queries, len(self.held.numbers), count)
        return count

    def prove(self, share: float) -> None:
        """Search what remains until nothing is near; `share` of the training sequences."""
        asked = np.ones(len(self.held.numbers), bool)
        for self.rounds in range(1, _MAX_ROUNDS + 1):
            if share < 1:
                name = f"proof by sample, round {self.rounds}"
                sample = self.sequences.sampled(share, _SAMPLE_SEED)
                count = self.search_chunks(sample, _SAMPLE_SENSITIVITY, name)
                self.searches[-1]["share_of_training"] = share
            else:
                sensitivity = self.held.rule.sensitivity
                rows, queries, targets = self.search.held_out_in_training(asked, sensitivity)
                # The others are only binned, for which one search is enough.
                asked = self.protected()
                self.rows.append(rows)
                count = self._take_apart(rows)
                asked &= self.protected()
                self._note("held-out in training", sensitivity, queries, targets, count)
            if not count:
                return
        raise PlmscaleError(
            f"the split does not settle: {count:,} sequences still had to be taken apart "
            f"in round {_MAX_ROUNDS}; raise corpus.split.sensitivity or min_seq_id"
        )

    def _take_apart(self, rows: Rows) -> int:
        """Resolve near rows as the method says; return how many sequences changed their part."""
        parts, numbers = self.sequences.parts, self.held.numbers
        near = self.held.near(rows.identity) & (parts[rows.train] == TRAIN)
        near &= self.protected()[rows.held]
        guarded = self.held.guarded[rows.held]
        unused = np.unique(rows.train[near & guarded])
        parts[unused] = UNUSED
        moved = np.unique(rows.held[near & ~guarded])
        parts[numbers[moved]] = TEST
        self.moved += len(moved)
        return len(unused) + len(moved)

    def _note(
        self, direction: str, sensitivity: float, queries: int, targets: int, near: int
    ) -> None:
        self.searches.append(
            {
                "direction": direction,
                "sensitivity": sensitivity,
                "queries": queries,
                "targets": targets,
                "near": near,
            }
        )

    def identity(self) -> np.ndarray:
        """Return the highest identity of each held-out sequence to what is trained on in the end.

        float32 (h,), NaN without a hit in any of the searches.
        """
        best = np.full(len(self.held.numbers), -1, np.float32)
        for rows in (*self.rows, *(nearest.read(file)[1] for file in self.files)):
            rows = rows.where(self.sequences.parts[rows.train] == TRAIN)
            np.maximum.at(best, rows.held, rows.identity)
        return np.where(best < 0, np.float32(np.nan), best)


def _counts(sequences: Sequences, part: int) -> list[tuple[int, int]]:
    """Return (sequences, residues) in a part, for each source."""
    residues = sequences.residues(part).tolist()
    counts = [int((sequences.parts_of(name) == part).sum()) for name in sequences.stores]
    return list(zip(counts, residues, strict=True))


def _refuse_empty(sequences: Sequences, train: list[int], clusters: int | None) -> None:
    """Raise PlmscaleError where a source that is trained on has no training or validation part."""
    many = "" if clusters is None else f" ({clusters:,} clusters in all)"
    for index in train:
        name = list(sequences.stores)[index]
        parts = sequences.parts_of(name)
        for part in ("train", "valid"):
            if not (parts == PARTS[part]).any():
                raise PlmscaleError(
                    f"corpus.sources.{name}: the split leaves no {part} sequence of it{many}; it "
                    "needs more sequences or another corpus.split.valid_fraction or min_seq_id"
                )


def _write(
    sequences: Sequences, held: Held, identity: np.ndarray, out: Path
) -> dict[str, dict[str, dict[str, int]]]:
    """Write the files of every source; return sequences by source, part and identity bin."""
    bins: dict[str, dict[str, dict[str, int]]] = {}
    for index, (name, store) in enumerate(sequences.stores.items()):
        parts = sequences.parts_of(name)
        first, last = np.searchsorted(held.numbers, sequences.origins[index : index + 2])
        mine, which = identity[first:last], sequences.parts[held.numbers[first:last]]
        with atomic_write(out / f"{name}.parts.bin", "wb") as handle:
            handle.write(parts.data)
        with atomic_write(out / f"{name}.identity.bin", "wb") as handle:
            handle.write(mine.astype("<f4").tobytes())
        bins[name] = {}
        for part in ("valid", "test"):
            with atomic_write(out / f"{name}.{part}.ids") as handle:
                handle.writelines(f"{i}\n" for i in store.chosen_names(parts == PARTS[part]))
            found = np.bincount(identity_bins(mine[which == PARTS[part]]), minlength=5)
            bins[name][part] = dict(zip(IDENTITY_BINS, found.tolist(), strict=True))
    return bins
