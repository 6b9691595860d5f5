"""The token shards of a corpus, read-only and memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file

# Hashing costs about 1 s a gigabyte at every start; beyond this only sizes are checked.
_HASH_BELOW_BYTES = 1 << 30


def read_manifest(corpus: str | Path, key: str | None = None) -> dict[str, Any]:
    """Return a corpus folder's manifest; another schema or another `key` is an error."""
    path = Path(corpus) / "manifest.json"
    manifest = read_json(path)
    if manifest.get("schema") != 1:
        raise PlmscaleError(f"{path}: schema {manifest.get('schema')!r}; this version reads 1")
    if key is not None and manifest["key"] != key:
        raise PlmscaleError(
            f"{path}: the corpus has key {manifest['key']!r}, the recipe asks for {key!r}; "
            "build the corpus of this study or train with the recipes that belong to it"
        )
    return manifest


class Proteins:
    """The proteins of one source and split, numbered through all its shards."""

    def __init__(
        self, corpus: str | Path, source: str, split: str, manifest: dict[str, Any]
    ) -> None:
        """Map the shards. Raises PlmscaleError naming a shard that is missing or not as listed.

        Up to 1 GB every byte is checked against its SHA-256, beyond that the sizes only.
        """
        if source not in manifest["sources"]:
            known = ", ".join(sorted(manifest["sources"]))
            raise PlmscaleError(f"corpus.mix: source {source!r} is not in the corpus ({known})")
        entry = manifest["sources"][source][split]
        self.name = f"{source}.{split}"
        hashed = entry["residues"] < _HASH_BELOW_BYTES
        self._residues: list[np.ndarray] = []
        self._offsets: list[np.ndarray] = []
        for shard in entry["shards"]:
            residues, offsets = _map(Path(corpus), shard, hashed)
            self._residues.append(residues)
            self._offsets.append(offsets)
        counts = [len(o) - 1 for o in self._offsets]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        lengths = [np.diff(o) for o in self._offsets]
        # int32 is enough for a protein and halves what a billion of them take.
        joined = np.concatenate(lengths) if lengths else np.zeros(0)
        self.lengths = joined.astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def residues(self, number: int) -> np.ndarray:
        """Return the residue tokens (length,) uint8 of protein `number`, a view into the map."""
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        offsets = self._offsets[shard]
        local = number - int(self._first[shard])
        return self._residues[shard][int(offsets[local]) : int(offsets[local + 1])]


def _map(corpus: Path, shard: dict[str, Any], hashed: bool) -> tuple[np.ndarray, np.ndarray]:
    path, index = corpus / shard["file"], corpus / shard["index"]
    advice = "build the corpus again"
    for file, digest in ((path, shard["sha256"]), (index, shard["index_sha256"])):
        if not file.exists():
            raise PlmscaleError(f"{file}: shard is missing; {advice}")
        if hashed and sha256_file(file) != digest:
            raise PlmscaleError(
                f"{file}: shard is corrupt (its SHA-256 is not the manifest's); {advice}"
            )
    try:
        offsets = np.load(index, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise PlmscaleError(f"{index}: shard index cannot be read ({error}); {advice}") from None
    if path.stat().st_size != shard["residues"] or len(offsets) != shard["sequences"] + 1:
        raise PlmscaleError(f"{path}: shard has not the size its manifest lists; {advice}")
    residues = np.memmap(path, dtype=np.uint8, mode="r") if shard["residues"] else np.zeros(0, "u1")
    return residues, offsets
