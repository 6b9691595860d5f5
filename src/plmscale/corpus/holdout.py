"""Which sequences are held out: by a hash of their content, or as whole MMseqs2 clusters."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from plmscale.corpus import alphabet, mmseqs
from plmscale.corpus.split_config import SplitConfig
from plmscale.corpus.store import DUPLICATE, SPAN, TEST, TRAIN, VALID, Store, map_array
from plmscale.errors import PlmscaleError

# Bool mask over the sequences [first, last), by their numbers.
Mask = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Chunk:
    """Sequences [first, last) of one store, which begin `start` residues into its tokens."""

    store: Store
    origin: int  # number of the store's first sequence
    first: int
    last: int
    start: int
    residues: int  # of those chosen


class Sequences:
    """All sequences of all stores under one numbering, and the part each of them is in.

    Sequence i of the k-th store has number origins[k] + i. parts is uint8 (n,), at first TRAIN or
    DUPLICATE: one byte a sequence is all that is kept in memory.
    """

    def __init__(self, stores: Mapping[str, Path], keep: Mapping[str, Path]) -> None:
        self.stores = {name: Store.open(folder) for name, folder in stores.items()}
        self.origins = np.cumsum([0, *map(len, self.stores.values())])
        self.parts = np.empty(self.origins[-1], np.uint8)
        for name in self.stores:
            kept = map_array(Path(keep[name]), np.uint8)
            if len(kept) != len(self.stores[name]):
                raise PlmscaleError(
                    f"{keep[name]}: {len(kept):,} entries for {len(self.stores[name]):,} "
                    "sequences; remove the corpus folder and build it again"
                )
            self.parts_of(name)[:] = np.where(kept, TRAIN, DUPLICATE)

    def __len__(self) -> int:
        return len(self.parts)

    def parts_of(self, name: str) -> np.ndarray:
        """Return the parts of one source, a view into `parts`."""
        index = list(self.stores).index(name)
        return self.parts[self.origins[index] : self.origins[index + 1]]

    def spans(self) -> Iterator[tuple[int, int, int, np.ndarray, np.ndarray]]:
        """Yield (source index, first, last, lengths int32, hashes uint64 (m, 2)) in order."""
        for index, (store, origin) in enumerate(zip(self.stores.values(), self.origins)):
            for start in range(0, len(store), SPAN):
                lengths = np.asarray(store.lengths[start : start + SPAN])
                first = int(origin) + start
                hashes = store.hashes[start : start + SPAN]
                yield index, first, first + len(lengths), lengths, hashes
                store.forget()

    def numbers(self, *parts: int) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers (int64) and lengths (int64) of all sequences in these (small) parts."""
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for _, first, last, lengths, _ in self.spans():
            at = np.flatnonzero(np.isin(self.parts[first:last], parts))
            found.append((first + at, lengths[at].astype(np.int64)))
        return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])

    def counts(self, part: int) -> np.ndarray:
        """Return sequences and residues in `part` of each source, int64 (sources, 2)."""
        total = np.zeros((len(self.stores), 2), np.int64)
        for index, first, last, lengths, _ in self.spans():
            inside = lengths[self.parts[first:last] == part]
            total[index] += len(inside), inside.sum(dtype=np.int64)
        return total

    def residues(self, part: int) -> np.ndarray:
        """Return the residues in `part` of each source, int64."""
        return self.counts(part)[:, 1]

    def trained(self, first: int, last: int) -> np.ndarray:
        """Return which of the sequences [first, last) are trained on; a mask."""
        return self.parts[first:last] == TRAIN

    def sampled(self, share: float, seed: int) -> Mask:
        """Return the mask of about `share` of what is trained on, by hash."""
        limit = np.uint64(share * 2**53)

        def wanted(first: int, last: int) -> np.ndarray:
            index = int(np.searchsorted(self.origins, first, side="right")) - 1
            origin = int(self.origins[index])
            hashes = list(self.stores.values())[index].hashes[first - origin : last - origin]
            return self.trained(first, last) & (draw(hashes, seed) >> np.uint64(11) < limit)

        return wanted

    def chunks(self, wanted: Mask, residues: int) -> Iterator[Chunk]:
        """Cut all stores into runs with about `residues` residues of the wanted sequences each."""
        for store, origin in zip(self.stores.values(), self.origins.tolist()):
            begun = start = read = held = done = 0
            for first in range(0, len(store), SPAN):
                lengths = store.lengths[first : first + SPAN].astype(np.int64)
                chosen = wanted(origin + first, origin + first + len(lengths))
                before = held + np.cumsum(np.where(chosen, lengths, 0))
                ends = read + np.cumsum(lengths)
                # A run ends with the sequence that fills it.
                while before[-1] - done >= residues:
                    end = int(np.searchsorted(before, done + residues))
                    full = int(before[end]) - done
                    yield Chunk(store, origin, begun, first + end + 1, start, full)
                    begun, start, done = first + end + 1, int(ends[end]), int(before[end])
                read, held = int(ends[-1]), int(before[-1])
                store.forget()
            if held > done:
                yield Chunk(store, origin, begun, len(store), start, held - done)

    def write_fasta(self, path: Path, chunks: Iterable[Chunk], wanted: Mask) -> int:
        """Write the wanted sequences of `chunks`, named by number; return how many."""
        count = 0
        with path.open("wb", buffering=1 << 20) as out:
            for chunk in chunks:
                start = chunk.start
                for first in range(chunk.first, chunk.last, 1 << 15):
                    last = min(first + (1 << 15), chunk.last)
                    ends = start + np.cumsum(chunk.store.lengths[first:last], dtype=np.int64)
                    text = alphabet.decode(chunk.store.tokens[start : int(ends[-1])]).encode()
                    bounds = [0, *(ends - start).tolist()]
                    number = chunk.origin + first
                    chosen = np.flatnonzero(wanted(number, chunk.origin + last)).tolist()
                    for i in chosen:
                        out.write(b">%d\n%b\n" % (number + i, text[bounds[i] : bounds[i + 1]]))
                    count += len(chosen)
                    start = int(ends[-1])
                    chunk.store.forget()
        return count


def draw(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Return uint64 (n,): where each sequence stands in the lottery of `seed`, by content alone.

    The low word of the 128-bit hash, shifted by the seed and mixed (splitmix64's last steps).
    """
    with np.errstate(over="ignore"):
        x = hashes[:, 1] + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def by_hash(sequences: Sequences, train: Collection[int], rule: SplitConfig) -> None:
    """Hold out VALID (lowest draws) and TEST (highest draws) of the sources `train`, by index.

    Both ends of the lottery, so that neither group depends on the size of the other, and a larger
    share contains every smaller one.
    """
    kept = sequences.residues(TRAIN)
    for part, fraction in ((VALID, rule.valid_fraction), (TEST, rule.test_fraction)):
        drawn: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        for index, first, last, lengths, hashes in sequences.spans():
            if index in train and kept[index]:
                place = draw(hashes, rule.seed)
                if part == TEST:
                    place = ~place
                # Half as much again as the limit is more than chance brings; cut exactly below.
                share = min(fraction, 1.5 * rule.max_valid_residues / kept[index])
                # uint64 has no exact neighbour in float: compare the upper 53 bits.
                lucky = (place >> np.uint64(11)) < np.uint64(share * 2**53)
                at = np.flatnonzero(lucky & (sequences.parts[first:last] == TRAIN))
                drawn.setdefault(index, []).append((place[at], first + at, lengths[at]))
        for groups in drawn.values():
            place, numbers, lengths = map(np.concatenate, zip(*groups, strict=True))
            order = np.argsort(place, kind="stable")
            fits = np.cumsum(lengths[order], dtype=np.int64) <= rule.max_valid_residues
            sequences.parts[numbers[order[fits]]] = part


def by_clusters(
    sequences: Sequences, train: Collection[int], rule: SplitConfig, work: Path, threads: int
) -> int:
    """Hold out whole clusters as VALID until each source of `train` has its share; return clusters.

    `easy-linclust` over all kept sequences of these sources; clusters are drawn in an order that
    follows from the seed and the smallest sequence hash inside.
    """
    # A killed attempt may have left it half done.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    chosen = _members(sequences, train)
    every = list(sequences.chunks(chosen, 1 << 40))
    if not sequences.write_fasta(work / "all.fasta", every, chosen):
        return 0
    mmseqs.run(
        "easy-linclust", work / "all.fasta", work / "c", work / "tmp",
        "--min-seq-id", rule.min_seq_id, "-c", rule.coverage, "--cov-mode", 0,
        "--threads", threads,
    )  # fmt: skip
    table = pd.read_csv(work / "c_cluster.tsv", sep="\t", header=None, dtype=np.int64)
    shutil.rmtree(work)
    representatives, cluster = np.unique(table[0].to_numpy(), return_inverse=True)
    numbers = table[1].to_numpy()
    hashes = np.concatenate([h for *_, h in sequences.spans()])[numbers]
    lengths = np.concatenate([n for *_, n, _ in sequences.spans()])[numbers]
    source = np.searchsorted(sequences.origins, numbers, side="right") - 1
    # Members of a cluster side by side, the one of the smallest hash first.
    order = np.lexsort((hashes[:, 1], hashes[:, 0], cluster))
    first = np.searchsorted(cluster[order], np.arange(len(representatives)))
    shares = np.zeros((len(representatives), len(sequences.stores)))
    np.add.at(shares, (cluster, source), lengths)
    lead = hashes[order[first]]
    line = np.lexsort((lead[:, 0], draw(lead, rule.seed)))
    held = choose(shares, line, rule.valid_fraction)
    sequences.parts[numbers[held[cluster]]] = VALID
    return len(representatives)


def _members(sequences: Sequences, train: Collection[int]) -> Mask:
    """Return the mask of what may be trained on or validated with."""

    def wanted(first: int, last: int) -> np.ndarray:
        index = int(np.searchsorted(sequences.origins, first, side="right")) - 1
        if index not in train:
            return np.zeros(last - first, bool)
        return sequences.parts[first:last] == TRAIN

    return wanted


def choose(shares: np.ndarray, order: np.ndarray, fraction: float) -> np.ndarray:
    """Return which clusters are held out, bool (clusters,), taken in `order`.

    shares (clusters, sources): residues of each source in a cluster. A cluster serves every source
    it touches, so it is taken only if none of them has its `fraction` already.
    """
    wanted = (fraction * shares.sum(axis=0)).tolist()
    have = [0.0] * len(wanted)
    held = np.zeros(len(shares), bool)
    for cluster in order.tolist():
        touched = [(s, residues) for s, residues in enumerate(shares[cluster].tolist()) if residues]
        if all(have[s] < wanted[s] for s, _ in touched):
            held[cluster] = True
            for s, residues in touched:
                have[s] += residues
            if all(have[s] >= wanted[s] for s in range(len(wanted))):
                break
    return held
