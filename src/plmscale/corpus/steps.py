"""The steps of the corpus in order, as the rules run them one by one and `build` all at once.

A corpus folder: extracted/ and clean/<source>/ (temporary), split/, shards/, parts/, manifest.json.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from plmscale.corpus import formats, mmseqs, seqkit
from plmscale.corpus.build import write_manifest
from plmscale.corpus.clean import clean_source
from plmscale.corpus.config import CleanConfig, CorpusConfig
from plmscale.corpus.duplicates import remove_duplicates
from plmscale.corpus.fetch import fetch_file
from plmscale.corpus.sharding import write_source
from plmscale.corpus.source_config import SourceConfig, file_names, is_extracted
from plmscale.corpus.split import split
from plmscale.corpus.split_config import SplitConfig
from plmscale.corpus.store import Store
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.progress import Progress


def build(corpus: CorpusConfig, out: Path, threads: int = 2) -> dict[str, Any]:
    """Run every step for `corpus` into `out` and return the manifest; fetched files are kept."""
    files = out / "files"
    for name in corpus.priority:
        source = corpus.sources[name]
        paths = [files / file for file in file_names(source)]
        for index, path in enumerate(paths):
            fetch_file(source, index, path, Path(f"{path}.json"))
        if is_extracted(source):
            target = out / "extracted" / f"{name}.fasta"
            extract(source, paths, target, threads)
            paths = [target]
        clean(source, paths, out / "clean" / name, corpus.clean, threads)
        if is_extracted(source):
            paths[0].unlink()
    deduplicate(out, corpus.priority, threads)
    hold_out(out, corpus.priority, corpus.held_out, corpus.split, threads)
    for name in corpus.priority:
        shards(out, name, corpus.shards.max_residues, threads, out / "parts" / f"{name}.json")
    written = manifest(out, corpus, files)
    for name in corpus.priority:
        shutil.rmtree(out / "clean" / name)
        for path in (f"clean/{name}.keep", f"split/{name}.parts", f"split/{name}.identity"):
            (out / f"{path}.bin").unlink()
    return written


def extract(source: SourceConfig, files: Sequence[Path], out: Path, threads: int) -> None:
    """Turn a source that cannot be streamed into one FASTA file."""
    formats.extract(source, files, out, threads, out.parent / f".{out.stem}.work")


def clean(
    source: SourceConfig, files: Sequence[Path], out: Path, rule: CleanConfig, threads: int
) -> dict[str, Any]:
    """Clean the files of a source, or the one they were extracted to, into the store `out`."""
    if is_extracted(source):
        return clean_source(files, rule, out, threads)
    return clean_source(files, rule, out, threads, partial(formats.sequence_blocks, source=source))


def deduplicate(folder: Path, sources: Sequence[str], threads: int) -> None:
    """Write clean/<source>.keep.bin and clean/duplicates.json, sources in order of priority."""
    stores = {name: folder / "clean" / name for name in sources}
    counts = remove_duplicates(stores, folder / "clean", threads)
    write_json(folder / "clean" / "duplicates.json", counts)


def hold_out(
    folder: Path,
    sources: Sequence[str],
    held_out: Sequence[str],
    rule: SplitConfig,
    threads: int,
) -> dict[str, Any]:
    """Decide what is trained on and what is held out; `held_out` names sources of that role."""
    stores = {name: folder / "clean" / name for name in sources}
    keep = {name: folder / "clean" / f"{name}.keep.bin" for name in sources}
    return split(stores, keep, folder / "split", rule, held_out, threads)


def shards(folder: Path, name: str, max_residues: int, threads: int, out: Path) -> None:
    """Write the shards of one source, and their lines of the manifest to `out`."""
    store = Store.open(folder / "clean" / name)
    progress = Progress(f"shards {name}")
    progress.at(0, store.counts["residues"])
    entry = write_source(name, store, folder / "split", folder, max_residues, threads, progress.add)
    progress.end()
    write_json(out, entry)


def manifest(
    folder: Path, corpus: CorpusConfig, files: Path, counted: Path | None = None
) -> dict[str, Any]:
    """Gather what the steps wrote into manifest.json.

    `files` holds the fetched files' <name>.json; `counted` seqkit's table of each file it counted,
    against which what we read is checked.
    """
    removed = read_json(folder / "clean" / "duplicates.json")
    cleaning, parts, fetched = {}, {}, {}
    for name, source in corpus.sources.items():
        counts = read_json(folder / "clean" / name / "counts.json")
        names = file_names(source)
        if counted:
            _agree(name, counts, [counted / f"{file}.tsv" for file in names])
        # `sequences` and `residues` of cleaning are those before duplicates are removed.
        cleaning[name] = {**counts, **removed[name]}
        parts[name] = read_json(folder / "parts" / f"{name}.json")
        fetched[name] = [read_json(files / f"{file}.json") for file in names]
    check = read_json(folder / "split" / "check.json")
    tools = {"mmseqs": mmseqs.version(), "seqkit": seqkit.version()}
    return write_manifest(folder, corpus, parts, cleaning, check, tools, fetched)


def _agree(name: str, counts: Mapping[str, Any], tables: Sequence[Path]) -> None:
    """Raise PlmscaleError unless seqkit counted as many sequences and residues as were read."""
    sequences = residues = 0
    for path in tables:
        if not path.exists():
            return
        with path.open(newline="") as handle:
            for row in csv.DictReader(handle, delimiter="\t"):
                sequences += int(row["num_seqs"])
                residues += int(row["sum_len"])
    ours = counts["read_sequences"], counts["read_residues"]
    if ours != (sequences, residues):
        raise PlmscaleError(
            f"corpus.sources.{name}: plmscale read {ours[0]:,} sequences and {ours[1]:,} residues, "
            f"seqkit counts {sequences:,} and {residues:,}; the file is not plain FASTA, or one of "
            "the two is wrong: please report it"
        )
