"""The manifest of a corpus: what is in it, where it came from, and whether that is still true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.alphabet import LETTERS
from plmscale.corpus.config import CorpusConfig
from plmscale.corpus.store import PARTS
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint, read_json, sha256_file, write_json
from plmscale.progress import Progress

SCHEMA = 2
_AGAIN = "remove the corpus folder and build it again"


def write_manifest(
    out: str | Path,
    corpus: CorpusConfig,
    parts: Mapping[str, Mapping[str, Any]],
    cleaning: Mapping[str, Mapping[str, Any]],
    check: Mapping[str, Any],
    tools: Mapping[str, str],
    fetched: Mapping[str, list[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Write `out`/manifest.json and return it.

    By source: `parts` from sharding.write_source, `cleaning` counts, `fetched` files with their
    checksums. `check` is split/check.json. Nothing in it is a date or a path of this machine, so
    another lab that builds the same corpus gets the same file.
    """
    sources = {
        name: {
            **parts[name],
            "role": settings.role,
            "files": list(fetched[name]),
            "cleaning": cleaning[name],
            "provenance": settings.model_dump(include={"release", "licence", "citation", "url"}),
        }
        for name, settings in corpus.sources.items()
    }
    manifest = {
        "schema": SCHEMA,
        "key": corpus.key(),
        "alphabet": LETTERS,
        "rules": {
            name: getattr(corpus, name).model_dump() for name in ("clean", "split", "shards")
        },
        "sources": sources,
        "split": check,
        "tools": tools,
    }
    manifest["content_sha256"] = content_hash(manifest)
    write_json(Path(out) / "manifest.json", manifest)
    return manifest


def content_hash(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the hashes of all files that the manifest lists."""
    return fingerprint([[file, digest] for file, digest, _ in listed_files(manifest)])


def listed_files(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (file, SHA-256, line of the manifest) of each file of a corpus."""
    for name in sorted(manifest["sources"]):
        for part in PARTS:
            entry = manifest["sources"][name][part]
            for shard in entry["shards"]:
                yield shard["file"], shard["sha256"], shard
                yield shard["index"], shard["index_sha256"], shard
            for extra in ("chunks", "identity"):
                if extra in entry:
                    yield entry[extra]["file"], entry[extra]["sha256"], entry[extra]


def load_manifest(corpus_dir: str | Path) -> dict[str, Any]:
    """Read a corpus' manifest; raises PlmscaleError when it is missing or of another format."""
    path = Path(corpus_dir) / "manifest.json"
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA or manifest.get("alphabet") != LETTERS:
        raise PlmscaleError(
            f"{path}: written by another version of plmscale; build the corpus again"
        )
    return manifest


def verify(corpus_dir: str | Path, threads: int = 2, key: str | None = None) -> dict[str, int]:
    """Check a corpus against its manifest: every file there, every byte, nothing else beside them.

    `key` is that of the study the corpus should belong to. Returns counts of what was checked.
    Raises PlmscaleError that names the first file at fault and how many others are.
    """
    corpus_dir = Path(corpus_dir)
    manifest = load_manifest(corpus_dir)
    where = corpus_dir / "manifest.json"
    if key is not None and manifest["key"] != key:
        raise PlmscaleError(
            f"{where}: its key is {manifest['key'][:12]}..., that of the study {key[:12]}...; "
            "it is the corpus of other sources or rules"
        )
    files = list(listed_files(manifest))
    if content_hash(manifest) != manifest["content_sha256"]:
        raise PlmscaleError(
            f"{where}: was changed: content_sha256 does not fit the files it lists; {_AGAIN}"
        )
    shards = [line for file, _, line in files if file.endswith(".bin")]
    residues = sum(line["residues"] for line in shards)
    progress = Progress(f"verify {corpus_dir}")
    progress.at(0, residues)
    faults = []
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda item: _fault(corpus_dir / item[0], *item[1:]), files)
        for fault, (file, _, line) in zip(found, files, strict=True):
            faults += [fault] if fault else []
            progress.add(line["residues"] if file.endswith(".bin") else 0)
    progress.end()
    listed = {file for file, _, _ in files}
    present = {f"shards/{path.name}" for path in (corpus_dir / "shards").iterdir()}
    if len(faults) > max(2, len(files) / 2):
        raise PlmscaleError(
            f"{where}: {len(faults)} of its {len(files)} files are not as listed: it is the manifest "
            f"of another build; {_AGAIN}"
        )
    if faults:
        more = f" (and {len(faults) - 1} more at fault)" if len(faults) > 1 else ""
        raise PlmscaleError(f"{faults[0]}{more}; {_AGAIN}")
    if strangers := sorted(present - listed):
        raise PlmscaleError(
            f"{corpus_dir / strangers[0]}: is not in the manifest, like {len(strangers) - 1} others: "
            f"a file of another build; remove it, or {_AGAIN}"
        )
    return {"files": len(files), "shards": len(shards), "residues": residues}


def _fault(path: Path, digest: str, line: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file, or None."""
    if not path.exists():
        return f"{path}: is missing"
    if (found := sha256_file(path)) != digest:
        return f"{path}: is corrupt: its SHA-256 is {found[:16]}..., the manifest says {digest[:16]}..."
    if path.name.endswith(".idx.npy"):
        offsets = np.load(path, mmap_mode="r", allow_pickle=False)
        if len(offsets) != line["sequences"] + 1 or offsets[-1] != line["residues"]:
            return f"{path}: its offsets do not fit the shard"
    return None
