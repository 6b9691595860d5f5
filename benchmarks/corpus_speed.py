"""Speed of FASTA to tokens: our cleaning, decompression alone, seqkit, loops over records.

    python benchmarks/corpus_speed.py [--megabytes 400] [--rounds 3] [--threads 2] [--folder DIR]

The input is made here: sequences with the letters of the embedded corpus in their frequencies,
lengths log-normal (median 260, sigma 0.7), headers like UniRef's, lines of 60, every tenth
sequence an exact copy of an earlier one; once plain, once as gzip -6. Each contestant is a process
of its own, and they take turns, so that a machine's moods hit all alike; the first turn, which
brings the files into memory, does not count.

read            the bytes of the file, nothing else; on .gz this is decompression alone (ISA-L)
zlib            decompression alone with Python's own gzip module
ours            FASTA to shards, as in the workflow but without a split: cleaning (read, letter
                rule, length limits, hash of 128 bits, tokens, written to a store), duplicates,
                shards with index and SHA-256; every file fsynced
ours, threads   the same: one thread reads and unpacks, the others clean and write
numpy           ours without the compiled kernel (PLMSCALE_NATIVE=0);  numpy, threads
record by record  read_fasta, BLAKE2b, encode: a Python loop over records, tokens written
letter by letter  a loop over records that looks up each letter in a dict, as tokenisers do;
                until a tenth of the file's size is read
seqkit stats    reads, counts, writes nothing;  seqkit rmdup -s   removes duplicates, writes FASTA

MB/s are residues over the wall time of the best round, `core` divides by CPU time instead; memory
is the peak of the whole process, never told as less than the 75 MiB of this script itself.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit")]

from record_by_record import read_fasta  # noqa: E402

from plmscale.corpus import alphabet  # noqa: E402
from plmscale.corpus.clean import clean_source  # noqa: E402
from plmscale.corpus.config import CleanConfig  # noqa: E402
from plmscale.corpus.duplicates import remove_duplicates  # noqa: E402
from plmscale.corpus.openers import open_sequences  # noqa: E402
from plmscale.corpus.sharding import write_source  # noqa: E402
from plmscale.corpus.store import DUPLICATE, TRAIN, Store  # noqa: E402

EMBEDDED = ("uniprot_reviewed", "uniprot_unreviewed")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=400, help="of residues")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="for the input (1.8 times its size) and outputs"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants, and `read`")
    parser.add_argument("--no-gz", action="store_true", help="plain FASTA alone")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--contestant", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def embedded_composition():
    """65,536 letters in the frequencies of the embedded corpus, to draw from by 16-bit numbers."""
    counts = np.zeros(256)
    for name in EMBEDDED:
        for _, sequence in read_fasta(ROOT / f"resources/demo/{name}.fasta.gz"):
            counts += np.bincount(np.frombuffer(sequence, np.uint8), minlength=256)
    share = np.cumsum(counts) / counts.sum()
    return np.searchsorted(share, (np.arange(65536) + 0.5) / 65536).astype(np.uint8)


def make_input(path, residues, gz=True):
    """Write the synthetic FASTA and, with `gz`, its .gz; return (residues, sequences, bytes)."""
    rng = np.random.default_rng(2024)
    letters = embedded_composition()
    total = number = 0
    earlier = []
    with open(path, "wb") as out:
        while total < residues:
            lengths = np.clip(rng.lognormal(np.log(260), 0.7, 10_000), 20, 40_000).astype(int)
            pool = letters[rng.integers(0, 65536, lengths.sum(), dtype=np.uint16)].tobytes()
            ends = np.cumsum(lengths).tolist()
            for start, end in zip([0, *ends], ends):
                number += 1
                sequence = pool[start:end]
                if number % 10 == 0:
                    sequence = earlier[(number * 7919) % len(earlier)]
                elif len(earlier) < 20_000:
                    earlier.append(sequence)
                lines = b"\n".join(sequence[k : k + 60] for k in range(0, len(sequence), 60))
                out.write(
                    b">UniRef50_A0A%08d Uncharacterized protein n=1 Tax=Metagenome TaxID=256318"
                    b" RepID=A0A%08d_9BACT\n%b\n" % (number, number, lines)
                )
                total += len(sequence)
                if total >= residues:
                    break
    if gz:
        with open(path, "rb") as plain, gzip.open(f"{path}.gz", "wb", compresslevel=6) as packed:
            shutil.copyfileobj(plain, packed, 1 << 22)
    return total, number, path.stat().st_size


def read(path, out, threads, opener=open_sequences):
    buffer = bytearray(1 << 20)
    with opener(path) as handle:
        while handle.readinto(buffer):
            pass
    return {}


def zlib(path, out, threads):
    return read(path, out, threads, opener=gzip.open)


def ours(path, out, threads):
    start = time.perf_counter()
    store = out / "store"
    counts = clean_source([Path(path)], CleanConfig(), store, threads, progress=False)
    cleaned = time.perf_counter() - start
    removed = remove_duplicates({"store": store}, out, threads)["store"]
    (out / "split").mkdir()
    keep = np.fromfile(out / "store.keep.bin", np.uint8)
    np.where(keep, TRAIN, DUPLICATE).astype(np.uint8).tofile(out / "split/store.parts.bin")
    (out / "split/store.identity.bin").touch()
    write_source("store", Store.open(store), out / "split", out, 100_000_000, threads)
    duplicates = removed["duplicates_within_source"]
    return {"written": counts["residues"], "duplicates": duplicates, "cleaned": cleaned}


def without_kernel(path, out, threads):
    os.environ["PLMSCALE_NATIVE"] = "0"
    return ours(path, out, threads)


def record_by_record(path, out, threads):
    residues, seen = 0, set()
    with open(out / "tokens", "wb") as tokens:
        for _, sequence in read_fasta(path):
            seen.add(hashlib.blake2b(sequence, digest_size=16).digest())
            tokens.write(alphabet.encode(sequence))
            residues += len(sequence)
    return {"residues": residues}


def letter_by_letter(path, out, threads):
    token = {letter: i for i, letter in enumerate(alphabet.LETTERS, alphabet.FIRST_RESIDUE)}
    limit = Path(path).stat().st_size // 10
    residues = size = 0
    with open(out / "tokens", "wb") as tokens:
        for header, sequence in read_fasta(path):
            tokens.write(bytes([token[letter] for letter in sequence.decode()]))
            residues += len(sequence)
            size += len(header) + len(sequence)
            if size > limit:
                break
    return {"residues": residues}


CONTESTANTS = {
    "read": read,
    "zlib": zlib,
    "ours": ours,
    "ours, threads": ours,
    "numpy": without_kernel,
    "numpy, threads": without_kernel,
    "record by record": record_by_record,
    "letter by letter": letter_by_letter,
}
SEQKIT = {"seqkit stats": ["stats"], "seqkit rmdup -s": ["rmdup", "-s"]}


def contestant(name, path, threads):
    """Run one contestant in this process; print its times (without imports) as JSON."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as out:
        wall, cpu = time.perf_counter(), time.process_time()
        result = CONTESTANTS[name](path, Path(out), threads if "threads" in name else 1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({**result, "wall": wall, "cpu": cpu}))


def turn(name, path, threads):
    """Run one contestant as a process; return seconds, peak bytes and what it says."""
    if name in SEQKIT:
        out = [] if name == "seqkit stats" else ["-o", str(path.parent / "rmdup.fasta")]
        command = ["seqkit", *SEQKIT[name], "-j", str(threads), "-t", "protein", *out, str(path)]
    else:
        command = [sys.executable, __file__, "--threads", str(threads)]
        command += ["--contestant", name, str(path)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = process.stdout.read()
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed: {complaint.decode()}")
    result = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}
    if name not in SEQKIT:
        result = json.loads(said)
    return {**result, "memory": usage.ru_maxrss * 1024}


def main():
    options = arguments()
    if options.contestant:
        contestant(*options.contestant, options.threads)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "input.fasta"
        # In a process of its own: a child's peak memory counts from its parent's.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as maker:
            wanted = path, int(options.megabytes * 1e6), not options.no_gz
            made = maker.submit(make_input, *wanted).result()
        residues, sequences, size = made
        packed = Path(f"{path}.gz")
        names = [*CONTESTANTS, *(SEQKIT if shutil.which("seqkit") else {})]
        files = (path,) if options.no_gz else (path, packed)
        runs = [(name, file) for file in files for name in names]
        runs.remove(("zlib", path))
        if options.only:
            runs = [run for run in runs if run[0] in ("read", *options.only)]
        results = {run: [] for run in runs}
        for number in range(options.rounds + 1):
            for run in runs:
                result = turn(*run, options.threads)
                if number:
                    results[run].append(result)
    print(f"{residues / 1e6:.0f} MB of residues in {sequences:,} sequences, {size / 1e6:.0f} MB;")
    print(f"best of {options.rounds} rounds (median), {options.threads} threads\n")
    print(f"{'':18}{'input':6}{'seconds':>9}{'MB/s':>7}{'(med)':>8}{'MB/s core':>11}{'MiB':>7}")
    rows = []
    for (name, file), turns in results.items():
        done = turns[0].get("residues", residues)
        wall = min(t["wall"] for t in turns)
        row = {
            "contestant": name,
            "input": "gz" if file == packed else "plain",
            "seconds": wall,
            "mb_per_s": done / wall / 1e6,
            "median_mb_per_s": done / statistics.median(t["wall"] for t in turns) / 1e6,
            "mb_per_core_s": done / min(t["cpu"] for t in turns) / 1e6,
            "peak_bytes": max(t["memory"] for t in turns),
            "duplicates": turns[0].get("duplicates"),
        }
        rows.append(row)
        median = f"({row['median_mb_per_s']:.0f})"
        print(
            f"{name:18}{row['input']:6}{wall:9.2f}{row['mb_per_s']:7.0f}"
            f"{median:>8}{row['mb_per_core_s']:11.0f}"
            f"{row['peak_bytes'] / 2**20:7.0f}"
        )
    print()
    for name in ("ours", "ours, threads"):
        if (turns := results.get((name, packed))) is None:
            continue
        alone = min(t["wall"] for t in results["read", packed])
        whole, cleaned = (min(t[key] for t in turns) for key in ("wall", "cleaned"))
        print(
            f"{name}, on .gz: {alone / whole:.0%} of the speed of decompression alone; "
            f"{alone / cleaned:.0%} until all is cleaned, hashed and written to the store"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
