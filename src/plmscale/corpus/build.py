"""Shards: cleaned and split sequences as uint8 tokens, with a manifest of hashes and counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus import seqkit
from plmscale.corpus.alphabet import LETTERS, encode
from plmscale.corpus.config import CorpusConfig
from plmscale.corpus.fasta import read_fasta
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, fingerprint, read_json, sha256_file, write_json


def write_shards(
    clean: Mapping[str, Path], split_dir: str | Path, out: str | Path, corpus: CorpusConfig
) -> dict[str, Any]:
    """Write `out`/shards/* and `out`/manifest.json; return the manifest.

    A shard holds residues only, proteins one after another in the order of the cleaned file; its
    index is int64 of shape (sequences + 1,), offsets into it. Files of an earlier build that this
    one does not name are removed.
    """
    out, split_dir = Path(out), Path(split_dir)
    sources: dict[str, Any] = {}
    for name, path in clean.items():
        settings = corpus.sources[name]
        entry: dict[str, Any] = {
            "weight": settings.weight,
            "source_sha256": settings.sha256,
            "provenance": settings.model_dump(include={"release", "licence", "citation", "url"}),
        }
        ids = {
            p: set((split_dir / f"{name}.{p}.ids").read_text().split("\n"))
            for p in ("train", "valid")
        }
        writers = {p: _Writer(out, f"{name}.{p}", corpus.shards.max_residues) for p in ids}
        for header, sequence in read_fasta(path):
            for part, chosen in ids.items():
                if header in chosen:
                    writers[part].add(sequence)
        for part, writer in writers.items():
            shards = writer.close()
            entry[part] = {
                "sequences": sum(s["sequences"] for s in shards),
                "residues": sum(s["residues"] for s in shards),
                "shards": shards,
            }
        sources[name] = entry
    named = {
        shard[kind] for s in sources.values() for p in ("train", "valid")
        for shard in s[p]["shards"] for kind in ("file", "index")
    }  # fmt: skip
    for old in (out / "shards").iterdir():
        if f"shards/{old.name}" not in named:
            old.unlink()
    check = read_json(split_dir / "check.json")
    manifest = {
        "schema": 1,
        "key": corpus.key(),
        "alphabet": LETTERS,
        "sources": sources,
        "split": check,
        "tools": {"mmseqs": check["mmseqs"], "seqkit": seqkit.version()},
        "content_sha256": fingerprint(
            [
                [
                    name,
                    part,
                    [[s["sha256"], s["index_sha256"]] for s in sources[name][part]["shards"]],
                ]
                for name in sources
                for part in ("train", "valid")
            ]
        ),
    }
    write_json(out / "manifest.json", manifest)
    return manifest


class _Writer:
    """Fills shards up to a number of residues; a protein is never cut by a shard's end."""

    def __init__(self, out: Path, stem: str, max_residues: int) -> None:
        self.out, self.stem, self.max = out, stem, max_residues
        self.parts: list[np.ndarray] = []
        self.size = 0
        self.shards: list[dict[str, Any]] = []

    def add(self, sequence: bytes) -> None:
        if self.size and self.size + len(sequence) > self.max:
            self._flush()
        self.parts.append(encode(sequence))
        self.size += len(sequence)

    def close(self) -> list[dict[str, Any]]:
        if self.parts:
            self._flush()
        return self.shards

    def _flush(self) -> None:
        name = f"shards/{self.stem}.{len(self.shards):05d}"
        offsets = np.zeros(len(self.parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in self.parts], out=offsets[1:])
        with atomic_write(self.out / f"{name}.bin", "wb") as handle:
            handle.write(np.concatenate(self.parts).tobytes())
        with atomic_write(self.out / f"{name}.idx.npy", "wb") as handle:
            np.save(handle, offsets, allow_pickle=False)
        self.shards.append(
            {
                "file": f"{name}.bin",
                "index": f"{name}.idx.npy",
                "sequences": len(self.parts),
                "residues": int(offsets[-1]),
                "sha256": sha256_file(self.out / f"{name}.bin"),
                "index_sha256": sha256_file(self.out / f"{name}.idx.npy"),
            }
        )
        self.parts, self.size = [], 0


def load_manifest(corpus_dir: str | Path) -> dict[str, Any]:
    """Read a corpus' manifest; raises PlmscaleError when it is missing or of another format."""
    path = Path(corpus_dir) / "manifest.json"
    manifest = read_json(path)
    if manifest.get("schema") != 1 or manifest.get("alphabet") != LETTERS:
        raise PlmscaleError(
            f"{path}: written by another version of plmscale; build the corpus again"
        )
    return manifest


def verify(corpus_dir: str | Path) -> dict[str, int]:
    """Check every shard against the manifest: there, size, hash, offsets, tokens in the alphabet.

    Returns counts. Raises PlmscaleError naming the first shard at fault.
    """
    corpus_dir = Path(corpus_dir)
    manifest = load_manifest(corpus_dir)
    shards = residues = 0
    for source in manifest["sources"].values():
        for part in ("train", "valid"):
            for shard in source[part]["shards"]:
                for kind, digest in (("file", "sha256"), ("index", "index_sha256")):
                    path = corpus_dir / shard[kind]
                    if not path.exists():
                        raise PlmscaleError(f"{path}: shard is missing; build the corpus again")
                    if (found := sha256_file(path)) != shard[digest]:
                        raise PlmscaleError(
                            f"{path}: shard is corrupt: SHA-256 is {found[:16]}..., the manifest "
                            f"says {shard[digest][:16]}...; remove it and build the corpus again"
                        )
                offsets = np.load(corpus_dir / shard["index"], allow_pickle=False)
                size = (corpus_dir / shard["file"]).stat().st_size
                if len(offsets) != shard["sequences"] + 1 or offsets[-1] != size:
                    raise PlmscaleError(
                        f"{corpus_dir / shard['index']}: offsets do not fit the shard"
                    )
                shards += 1
                residues += size
    return {"shards": shards, "residues": residues}
