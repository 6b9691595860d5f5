"""Speed and memory of the training loader, beside the one it replaced and a torch DataLoader.

    python benchmarks/loader_speed.py [--proteins 3] [--seconds 4] [--json FILE]

Synthetic corpora (letters drawn evenly, lengths log-normal: median 170, mean 204) are made in a
temporary folder, all in the file cache when they are read. Contestants give batches of packed
uint8 rows, except torch's, whose default is int64:

ours             Samples.batch of the trainer, C kernels, next window prepared by a thread
ours, no C       the same with PLMSCALE_NATIVE=0
former           our loader until now: one permutation of a whole source, a Python loop per row
torch            DataLoader over a map-style Dataset of the rows of one packed file, shuffled,
                 default collation, no workers; it never orders proteins, that was done before

`demo` is 8 rows of 256 from two sources of 20,000 proteins; `cluster` 512 rows of 1,024 from four
sources of --proteins million in the shares of Cheng et al. `mean` is of batches back to back, where
nothing hides the windows; for `paced`, matrix products on one core stand in for a step of the
smallest model of the grid between batches: the thread can work, and the caches are the model's.

`full size` is a source of 575 million proteins: the manifest of 1,150 shards, each of 100 million
residues and all of them one file, so that all but the disk is as with 117 billion residues.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

# One core is for the model's step, one for the loader's thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from plmscale.corpus.alphabet import BOS, EOS  # noqa: E402
from plmscale.files import sha256_file  # noqa: E402
from plmscale.training import shards  # noqa: E402
from plmscale.training.data import Samples  # noqa: E402
from plmscale.training.mixture import Mixture  # noqa: E402
from plmscale.training.packed import PackedRows  # noqa: E402
from plmscale.training.ranks import keep_freed_memory  # noqa: E402
from plmscale.training.shards import Proteins  # noqa: E402

SHARES = {"uniref50": 0.085, "uniref90": 0.195, "members": 0.195, "representatives": 0.525}
# Rows, context, seconds of a step: 530 parameters on two cores of a CPU, 3.56 M on an H100.
SETTINGS = {"demo": (8, 256, 0.017), "cluster": (512, 1024, 0.028)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proteins", type=float, default=3, help="millions, for `cluster`")
    parser.add_argument("--seconds", type=float, default=4, help="for each contestant and pace")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    return parser.parse_args()


def write_source(folder, name, proteins, rng):
    """Write one shard of `proteins` random proteins; return its entry of a manifest."""
    lengths = np.clip(rng.lognormal(np.log(170), 0.6, proteins), 30, 2046).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    with open(folder / f"{name}.bin", "wb") as handle:
        for first in range(0, int(offsets[-1]), 1 << 26):
            size = min(1 << 26, int(offsets[-1]) - first)
            rng.integers(4, 24, size, dtype=np.uint8).tofile(handle)
    np.save(folder / f"{name}.idx.npy", offsets)
    files = {"file": f"{name}.bin", "index": f"{name}.idx.npy", "sha256": "", "index_sha256": ""}
    counts = {"sequences": proteins, "residues": int(offsets[-1])}
    return {**counts, "shards": [{**files, **counts}]}


class Former:
    """The loader until now, for training: `rows` of one source."""

    def __init__(self, proteins, context, seed):
        self.proteins, self.context, self.seed = proteins, context, seed
        lengths = [np.diff(offsets) for offsets in proteins._offsets]
        self.lengths = np.concatenate(lengths).astype(np.int32)
        tokens = int(self.lengths.sum(dtype=np.int64)) + 2 * len(self.lengths)
        self.rows_per_epoch = tokens // context
        self.epoch = -1

    def row(self, number):
        epoch, local = divmod(number, self.rows_per_epoch)
        if epoch != self.epoch:
            key, counter = (
                np.array([self.seed, 1], np.uint64),
                np.array([0, 0, epoch, 0], np.uint64),
            )
            words = np.random.Philox(key=key, counter=counter).random_raw(len(self.lengths))
            self.order = np.argsort(words, kind="stable")
            self.ends = np.cumsum(self.lengths[self.order] + 2, dtype=np.int64)
            self.epoch = epoch
        out = np.empty(self.context, np.uint8)
        position = local * self.context
        place = int(np.searchsorted(self.ends, position, side="right"))
        filled = 0
        while filled < self.context:
            residues = self.proteins.residues(int(self.order[place]))
            length = len(residues) + 2
            skip = position + filled - (int(self.ends[place]) - length)
            piece = np.empty(length, np.uint8)
            piece[0], piece[1:-1], piece[-1] = BOS, residues, EOS
            taken = min(length - skip, self.context - filled)
            out[filled : filled + taken] = piece[skip : skip + taken]
            filled += taken
            place += 1
        return out


def former_batches(folder, manifest, mix, rows, context):
    mixture = Mixture(mix)
    sources = {n: Former(Proteins(folder, n, "train", manifest), context, 1) for n in mix}

    def batch(step):
        where = [mixture.locate(sample) for sample in range(step * rows, step * rows + rows)]
        return np.stack([sources[source].row(index) for source, index in where])

    return batch


def our_batches(folder, manifest, mix, rows, context):
    samples = Samples(folder, manifest, mix, context, 1)
    return lambda step: samples.batch(list(range(step * rows, step * rows + rows)))


def torch_batches(folder, manifest, mix, rows, context):
    class Rows(torch.utils.data.Dataset):
        def __init__(self):
            # The residues as they lie stand in for a file of packed tokens.
            name = max(mix, key=mix.get)
            self.tokens = np.memmap(folder / f"{name}.bin", np.uint8, "r")

        def __len__(self):
            return len(self.tokens) // context

        def __getitem__(self, i):
            return torch.from_numpy(self.tokens[i * context : (i + 1) * context].astype(np.int64))

    data = Rows()
    loader = torch.utils.data.DataLoader(data, rows, shuffle=True, drop_last=True)
    batches = iter(loader)

    def batch(_):
        nonlocal batches
        for found in batches:
            return found
        batches = iter(loader)
        return next(batches)

    return batch


def work(seconds):
    """Keep this thread's core and its caches busy, without Python's lock."""
    matrix = np.ones((512, 512), np.float32)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix @ matrix


def measure(make, given, pace, seconds):
    """Seconds of each batch, the first one apart."""
    start = time.perf_counter()
    batch = make(*given)
    batch(0)
    first, times, step = time.perf_counter() - start, [], 1
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        work(pace)
        start = time.perf_counter()
        batch(step)
        times.append(time.perf_counter() - start)
        step += 1
    return first, np.array(times)


def contest(kind, manifest, mix, folder, seconds):
    rows, context, step = SETTINGS[kind]
    given = (folder, manifest, mix, rows, context)
    contestants = {
        "ours": our_batches,
        "ours, no C": our_batches,
        "former": former_batches,
        "torch": torch_batches,
    }
    print(f"\n{kind}: {rows} rows of {context}, a step of {step * 1e3:g} ms; microseconds a batch")
    print(f"{'':12}{'first, ms':>12}{'mean':>10}{'paced: median':>15}{'mean':>10}{'% of step':>11}")
    result = {}
    for name, make in contestants.items():
        os.environ["PLMSCALE_NATIVE"] = "0" if name == "ours, no C" else "1"
        first, fast = measure(make, given, 0, seconds)
        _, paced = measure(make, given, step, seconds)
        result[name] = {
            "first_seconds": first,
            "mean": float(fast.mean()),
            "paced_median": float(np.median(paced)),
            "paced_mean": float(paced.mean()),
        }
        print(
            f"{name:12}{first * 1e3:12.1f}{fast.mean() * 1e6:10.0f}{np.median(paced) * 1e6:15.0f}"
            f"{paced.mean() * 1e6:10.0f}{100 * paced.mean() / step:11.2f}"
        )
    os.environ["PLMSCALE_NATIVE"] = "1"
    return result


def windows(folder, manifest, name):
    """What it costs to enter a window, spread over the rows in it."""
    result = {}
    for native in "10":
        os.environ["PLMSCALE_NATIVE"] = native
        rows = PackedRows(Proteins(folder, name, "train", manifest), 1024, 1)
        times = []
        for window in range(min(8, rows.windows)):
            start = time.perf_counter()
            tokens = len(rows.load(0, window))
            times.append(time.perf_counter() - start)
        middle = float(np.median(times))
        result["C" if native == "1" else "no C"] = middle
        print(
            f"a window of {tokens / 1e6:.1f} M tokens, {'C' if native == '1' else 'no C'}: "
            f"{middle * 1e3:.1f} ms, {middle / (tokens / 1024) * 1e6:.2f} us a row of 1,024"
        )
    os.environ["PLMSCALE_NATIVE"] = "1"
    return result


def full_part(folder, entry):
    """The manifest entry of 575 million proteins, and the seconds it takes to make its chunks."""
    shard = entry["shards"][0]
    many = 575_000_000 // shard["sequences"]
    counts = {key: many * shard[key] for key in ("sequences", "residues")}
    part = {**counts, "shards": [shard] * many}
    start = time.perf_counter()
    proteins = Proteins(folder, "full", "train", {"sources": {"full": {"train": part}}})
    seconds = time.perf_counter() - start
    np.save(folder / "full.chunks.npy", proteins._before)
    digest = sha256_file(folder / "full.chunks.npy")
    return {**part, "chunks": {"file": "full.chunks.npy", "sha256": digest}}, seconds


def full_size(folder, part, sender):
    """Open, enter and read a source of 575 million proteins, in a process of its own."""
    Path("/proc/self/clear_refs").write_text("5")
    memory, times = {"before": peak_kib()}, {}

    def lap(what, function, *args):
        start = time.perf_counter()
        found = function(*args)
        times[what] = time.perf_counter() - start
        memory[what] = peak_kib()
        return found

    manifest = {"sources": {"full": {"train": part}}}
    proteins = lap("open", Proteins, folder, "full", "train", manifest)
    rows = PackedRows(proteins, 1024, 1, ahead=True)
    lap("order of an epoch", rows._epoch, 0)
    lap("a window", rows.load, 0, 0)
    step = rows.rows_per_epoch // rows.windows
    lap(
        "20 windows, their rows",
        lambda: [rows.rows(np.arange(i, i + step)) for i in range(0, 20 * step, step)],
    )
    sender.send((rows.windows, times, memory))


def peak_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def main():
    options = arguments()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    result = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = {name: write_source(folder, name, 20_000, rng) for name in ("curated", "diverse")}
        large = {
            name: write_source(folder, name, int(options.proteins * 1e6 * share), rng)
            for name, share in SHARES.items()
        }
        full = write_source(folder, "full", 500_000, rng)
        # Not the checksums: all contestants would pay for them, once.
        shards._HASH_BELOW_BYTES = 0
        demo, cluster = (
            {"sources": {name: {"train": entry} for name, entry in part.items()}}
            for part in (small, large)
        )
        mix = {"curated": 0.3, "diverse": 0.7}
        result["demo"] = contest("demo", demo, mix, folder, options.seconds)
        result["cluster"] = contest("cluster", cluster, SHARES, folder, options.seconds)
        print()
        result["window"] = windows(folder, cluster, "representatives")
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        part, reading = full_part(folder, full)
        child = context.Process(target=full_size, args=(folder, part, sender))
        child.start()
        count, times, memory = receiver.recv()
        child.join()
    print(
        f"\nfull size: {part['sequences']:,} proteins, {part['residues']:,} residues, {count:,} windows"
    )
    print(f"  chunks read off 1,150 index files, where a manifest has none: {reading:.2f} s")
    print(f"  peak memory before: {memory['before'] / 1024:,.0f} MiB")
    for what, seconds in times.items():
        print(f"  {what}: {seconds:.3f} s, peak memory {memory[what] / 1024:,.0f} MiB")
    result["full"] = {"seconds": times, "chunks_seconds": reading, "peak_kib": memory}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
