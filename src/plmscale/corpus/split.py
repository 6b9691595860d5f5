"""Training, validation and out-of-distribution test, so that a search between them finds nothing.

1. Candidates are held out: whole clusters or sequences by hash (holdout.py), and all of the
   sources of role held_out.
2. What is held out and what is trained on are compared, chunk by chunk (nearest.py). What is near
   each other is taken apart:
   - a sequence near a *guarded* one (method search: VALID; a protected held-out source) is UNUSED;
   - a VALID one near training (method clusters, where training keeps everything) becomes TEST.
3. The proof: what remains is compared again at a higher sensitivity, and what that finds is taken
   apart, too; in rounds while training sequences leave, because each query lists only so many. Of
   a corpus above `proof_residues` a sample is compared; check.json says what it lets expect.
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
# How much more sensitive than the rule the proof is; MMseqs2 goes up to 7.5.
_PROOF_MORE, _HIGHEST = 1.0, 7.5
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
    if not set(stores) - set(held_out):
        raise PlmscaleError(
            "corpus.sources: all are of role held_out; give one to train on, too (role: train)"
        )
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
    candidates = int(sequences.counts(VALID)[:, 0].sum())

    numbers, lengths = sequences.numbers(VALID, TEST)
    source = np.searchsorted(sequences.origins, numbers, side="right") - 1
    guarded = outside[source] & rule.protect
    if rule.method == "search":
        guarded |= sequences.parts[numbers] == VALID
    held = Held(numbers, lengths, guarded, rule, max(train_residues, 1))
    job = _Job(sequences, held, Search(sequences, held, work, threads, chunk_residues))

    # Queries cost by the residue. Few sequences that are held out are the cheaper ones in a small
    # corpus; of a large one each chunk would ask them again.
    whole = train_residues <= proof_residues
    direction = nearest.HELD_OUT_IN_TRAINING if whole else nearest.TRAINING_IN_HELD_OUT
    everything = np.ones(len(numbers), bool)
    job.search(direction, sequences.trained, everything, rule.sensitivity, "search")
    share = 1.0 if whole else _SAMPLE_SHARE * proof_residues / train_residues
    job.prove(share)
    identity = job.identity()
    _refuse_empty(sequences, train, clusters)
    bins = _write(sequences, held, identity, out)
    protected = identity[job.protected() & ~np.isnan(identity)]
    named = [*PARTS.items(), ("unused", UNUSED)]
    table = {part: sequences.counts(code).tolist() for part, code in named}
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
        # Pairs in the last of `searches`, the proof, that are near and both still in their parts.
        "violations": job.violations(),
        "rounds": job.rounds,
        "proof_share_of_training": share,
        # What the first search overlooked in a sample, and so in the rest that no other looked at.
        "near_left_estimated": round(job.overlooked() * (1 / share - 1)),
        "max_identity_found": round(float(protected.max(initial=0.0)), 3),
        "mmseqs": mmseqs.version(),
    }
    write_json(out / "check.json", check)
    shutil.rmtree(work)
    return check


class _Job:
    """The searches of one split and what they led to."""

    def __init__(self, sequences: Sequences, held: Held, compare: Search) -> None:
        self.sequences, self.held, self.compare = sequences, held, compare
        self.files: list[Path] = []
        self.last: list[Path] = []
        self.searches: list[dict[str, Any]] = []
        self.rounds = self.moved = 0

    def protected(self) -> np.ndarray:
        """Return of which held-out sequences nothing near may be trained on, bool (h,)."""
        return self.held.guarded | (self.sequences.parts[self.held.numbers] == VALID)

    def search(
        self,
        direction: str,
        wanted: holdout.Mask,
        asked: np.ndarray,
        sensitivity: float,
        name: str,
    ) -> int:
        """Compare, take apart what is near; return how many training sequences that cost."""
        self.last, compared = self.compare.run(direction, wanted, asked, sensitivity, name)
        self.files += self.last
        left = moved = 0
        for file in self.last:
            near, rows = nearest.read(file)
            self.sequences.parts[near] = UNUSED
            left += len(near)
            moved += self._take_out(rows)
        self.searches.append(
            {
                "direction": direction,
                "sensitivity": sensitivity,
                "training_sequences": compared,
                "held_out_sequences": int(asked.sum()),
                "training_sequences_left_out": left,
                "held_out_sequences_moved_to_test": moved,
            }
        )
        return left

    def prove(self, share: float) -> None:
        """Compare what remains, `share` of the training sequences, until none of them leaves."""
        if share < 1:
            wanted, sensitivity = self.sequences.sampled(share, _SAMPLE_SEED), _HIGHEST
        else:
            more = self.held.rule.sensitivity + _PROOF_MORE
            wanted, sensitivity = self.sequences.trained, min(more, _HIGHEST)
        for self.rounds in range(1, _MAX_ROUNDS + 1):
            name = f"proof, round {self.rounds}"
            asked = self.protected()
            count = self.search(nearest.HELD_OUT_IN_TRAINING, wanted, asked, sensitivity, name)
            if not count:
                return
        raise PlmscaleError(
            f"the split does not settle: {count:,} training sequences still were near held-out "
            f"ones in round {_MAX_ROUNDS}; raise corpus.split.sensitivity or min_seq_id"
        )

    def _take_out(self, rows: Rows) -> int:
        """Make VALID sequences near training TEST where training keeps all; return how many."""
        # Guarded ones have no near rows: those were left away with their training sequences.
        parts, numbers = self.sequences.parts, self.held.numbers
        moved = np.unique(numbers[rows.held[self.held.near(rows.identity)]])
        moved = moved[parts[moved] == VALID]
        parts[moved] = TEST
        self.moved += len(moved)
        return len(moved)

    def overlooked(self) -> int:
        """Return how many sequences the proof still had to take apart."""
        return sum(
            s["training_sequences_left_out"] + s["held_out_sequences_moved_to_test"]
            for s in self.searches[1:]
        )

    def violations(self) -> int:
        """Return how many pairs of the last search are near, of what is kept apart in the end."""
        count = 0
        for file in self.last:
            _, rows = nearest.read(file)
            near = self.held.near(rows.identity) & self.protected()[rows.held]
            count += int((near & (self.sequences.parts[rows.train] == TRAIN)).sum())
        return count

    def identity(self) -> np.ndarray:
        """Return the highest identity of each held-out sequence to what is trained on in the end.

        float32 (h,), NaN without a hit in any of the searches.
        """
        best = np.full(len(self.held.numbers), -1, np.float32)
        for file in self.files:
            rows = nearest.read(file)[1]
            rows = rows.where(self.sequences.parts[rows.train] == TRAIN)
            np.maximum.at(best, rows.held, rows.identity)
        return np.where(best < 0, np.float32(np.nan), best)


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
