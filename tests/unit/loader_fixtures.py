"""A source of given proteins as the loader finds it on disk, for tests of the loader."""

import itertools

import numpy as np

from plmscale.corpus.alphabet import BOS
from plmscale.files import sha256_file
from plmscale.training.packed import PackedRows
from plmscale.training.shards import Proteins


def write_part(folder, chains, cuts=(), chunks=True):
    """Write `chains` as the train part of source `s`, in shards cut at `cuts`; its manifest."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    edges, listed = [0, *cuts, len(chains)], []
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        stem = f"shards/s.train.{number:05d}"
        members = chains[first:last]
        offsets = np.cumsum([0, *map(len, members)]).astype(np.int64)
        np.concatenate([np.zeros(0, np.uint8), *members]).astype(np.uint8).tofile(
            folder / f"{stem}.bin"
        )
        np.save(folder / f"{stem}.idx.npy", offsets)
        listed.append(
            {
                "file": f"{stem}.bin",
                "index": f"{stem}.idx.npy",
                "sequences": len(members),
                "residues": int(offsets[-1]),
                "sha256": sha256_file(folder / f"{stem}.bin"),
                "index_sha256": sha256_file(folder / f"{stem}.idx.npy"),
            }
        )
    total = sum(map(len, chains))
    entry = {"sequences": len(chains), "residues": total, "shards": listed}
    if chunks:
        ends = np.cumsum([0, *map(len, chains)])
        entry["chunks"] = write_chunks(folder, np.append(ends[:-1:64], total))
    return {"schema": 2, "key": "k", "sources": {"s": {"train": entry}}}


def write_chunks(folder, before):
    np.save(folder / "shards/s.train.chunks.npy", np.asarray(before, np.int64))
    digest = sha256_file(folder / "shards/s.train.chunks.npy")
    return {"file": "shards/s.train.chunks.npy", "sha256": digest}


def numbered(count):
    """Proteins that spell their own number in six letters, 4 to 13 for the digits 0 to 9."""
    return [np.array([4 + int(d) for d in f"{n:06d}"], np.uint8) for n in range(count)]


def numbers_in(rows):
    """The numbers of the proteins that lie whole in the stream of `rows`."""
    stream = rows.ravel()
    starts = np.flatnonzero(stream == BOS)
    starts = starts[starts + 8 <= len(stream)]
    digits = stream[starts[:, None] + np.arange(1, 7)].astype(np.int64) - 4
    return digits @ 10 ** np.arange(5, -1, -1)


def random_chains(rng, count, longest=200):
    return [rng.integers(4, 24, rng.integers(1, longest), np.uint8) for _ in range(count)]


def opened(folder, manifest, **settings):
    given = {"context": 32, "seed": 5, **settings}
    return PackedRows(Proteins(folder, "s", "train", manifest), **given)
