"""A small corpus of given sequences, with identities recorded as a real build records them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.alphabet import LETTERS, STANDARD, encode
from plmscale.files import fingerprint, sha256_file, write_json

KEY = "5e1f" * 16


def protein(rng: np.random.Generator, length: int) -> str:
    """Return random residues."""
    return "".join(rng.choice(list(STANDARD), length))


def mutated(sequence: str, count: int, rng: np.random.Generator) -> str:
    """Return `sequence` with `count` residues replaced by others, never the first or last eight."""
    letters = list(sequence)
    for at in rng.choice(np.arange(8, len(letters) - 8), count, replace=False):
        letters[at] = rng.choice([c for c in STANDARD if c != letters[at]])
    return "".join(letters)


def write_corpus(
    folder: Path,
    sources: Mapping[str, Mapping[str, Sequence[str]]],
    identity: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    shards: int = 2,
) -> Path:
    """Write {source: {part: sequences}} as a built corpus; `identity` likewise, for held-out parts."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {}
    for source, parts in sources.items():
        entries[source] = {"role": "train"}
        for part in ("train", "valid", "test"):
            sequences = list(parts.get(part, ()))
            listed = [
                _shard(folder, f"{source}.{part}.{n:05d}", [sequences[i] for i in members])
                for n, members in enumerate(np.array_split(np.arange(len(sequences)), shards))
                if len(members)
            ]
            entry = {
                "sequences": len(sequences),
                "residues": sum(map(len, sequences)),
                "shards": listed,
            }
            found = (identity or {}).get(source, {}).get(part)
            if found is not None:
                path = folder / "shards" / f"{source}.{part}.identity.npy"
                np.save(path, np.array(found, np.float32))
                entry["identity"] = {"file": f"shards/{path.name}", "sha256": sha256_file(path)}
            entries[source][part] = entry
    manifest = {"schema": 2, "key": KEY, "alphabet": LETTERS, "sources": entries, "split": {}}
    manifest["content_sha256"] = fingerprint([str(sources)])
    write_json(folder / "manifest.json", manifest)
    return folder


def _shard(folder: Path, name: str, sequences: list[str]) -> dict[str, Any]:
    path, index = folder / "shards" / f"{name}.bin", folder / "shards" / f"{name}.idx.npy"
    encode("".join(sequences)).tofile(path)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    np.save(index, offsets)
    return {
        "file": f"shards/{path.name}",
        "index": f"shards/{index.name}",
        "sequences": len(sequences),
        "residues": int(offsets[-1]),
        "sha256": sha256_file(path),
        "index_sha256": sha256_file(index),
    }
