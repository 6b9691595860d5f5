"""The token shards of a corpus, read-only and memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.sharding import CHUNK
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file
from plmscale.native import rows as native

# Hashing costs about 1 s a gigabyte at every start; beyond this only sizes are checked.
_HASH_BELOW_BYTES = 1 << 30
# The second brought parts of held-out sources, identities and chunk files; all else is the same.
_SCHEMAS = (1, 2)
_ADVICE = "build the corpus again"


def read_manifest(corpus: str | Path, key: str | None = None) -> dict[str, Any]:
    """Return a corpus folder's manifest; another schema or another `key` is an error."""
    path = Path(corpus) / "manifest.json"
    manifest = read_json(path)
    if manifest.get("schema") not in _SCHEMAS:
        raise PlmscaleError(
            f"{path}: schema {manifest.get('schema')!r}; this version reads "
            f"{' and '.join(map(str, _SCHEMAS))}"
        )
    if key is not None and manifest["key"] != key:
        raise PlmscaleError(
            f"{path}: the corpus has key {manifest['key']!r}, the recipe asks for {key!r}; "
            "build the corpus of this study or train with the recipes that belong to it"
        )
    return manifest


class Proteins:
    """The proteins of one source and part, numbered through all its shards.

    They are known by chunks of 64: all that is held in memory is a line per shard. Offsets,
    residues and the positions of chunks stay in memory-mapped files.
    """

    def __init__(
        self, corpus: str | Path, source: str, split: str, manifest: dict[str, Any]
    ) -> None:
        """Map the shards. Raises PlmscaleError naming a file that is missing or not as listed.

        Up to 1 GB every byte is checked against its SHA-256, beyond that the sizes only. A part
        may be empty: that is an error only where rows of it are wanted.
        """
        if source not in manifest["sources"]:
            known = ", ".join(sorted(manifest["sources"]))
            raise PlmscaleError(f"corpus.mix: source {source!r} is not in the corpus ({known})")
        entry = manifest["sources"][source].get(split)
        if entry is None:
            raise PlmscaleError(f"{corpus}: source {source} has no part {split!r}; {_ADVICE}")
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
        # Residues before each chunk, int64 (chunks + 1,).
        self._before = _chunks(Path(corpus), entry, self._offsets, len(self))

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def chunks(self) -> int:
        """How many chunks of 64 proteins there are; the last may hold fewer."""
        return len(self._before) - 1

    @property
    def tokens(self) -> int:
        """Tokens of all proteins: residues and two marks each."""
        return int(self._before[-1]) + 2 * len(self)

    def chunk_tokens(self) -> np.ndarray:
        """Return the tokens of every chunk, int64 (chunks,)."""
        tokens = np.diff(np.asarray(self._before))
        tokens += 2 * CHUNK
        if self.chunks:
            tokens[-1] -= 2 * (self.chunks * CHUNK - len(self))
        return tokens

    def read(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (residues uint8, lengths int64) of the proteins of `chunks`, one after another.

        `chunks` are ascending numbers. Raises PlmscaleError where the index files contradict the
        shards or the positions of the chunks.
        """
        numbers = (chunks[:, None].astype(np.int64) * CHUNK + np.arange(CHUNK)).ravel()
        numbers = numbers[: np.searchsorted(numbers, len(self))]
        shards = np.searchsorted(self._first, numbers, side="right") - 1
        # Runs of neighbours within a shard: a run is one read of the index and one of residues.
        cuts = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shards) != 0)) + 1
        begins = np.concatenate([[0], cuts])
        counts = np.diff(np.append(begins, len(numbers)))
        which = shards[begins]
        try:
            # A run of k proteins has k + 1 offsets.
            offsets = native.gather(
                self._offsets, which, numbers[begins] - self._first[which], counts + 1
            )
            ends = np.cumsum(counts + 1) - 1
            starts = offsets[ends - counts]
            lengths = np.delete(np.diff(offsets), ends[:-1])
            residues = native.gather(self._residues, which, starts, offsets[ends] - starts)
        except (ValueError, MemoryError):
            residues = lengths = np.full(1, -1)
        listed = int((self._before[chunks + 1] - self._before[chunks]).sum())
        if len(residues) != listed or lengths.min() < 0:
            raise PlmscaleError(
                f"corpus: index files of {self.name} contradict its shards or its chunk file; "
                f"{_ADVICE}, or find the damaged file with `plmscale corpus verify`"
            )
        return residues, lengths

    def residues(self, number: int) -> np.ndarray:
        """Return the residue tokens (length,) uint8 of protein `number`, a view into the map."""
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        offsets = self._offsets[shard]
        local = number - int(self._first[shard])
        return self._residues[shard][int(offsets[local]) : int(offsets[local + 1])]


def _chunks(
    corpus: Path, entry: dict[str, Any], offsets: list[np.ndarray], proteins: int
) -> np.ndarray:
    """Return the residues before every chunk, int64 (chunks + 1,), from the part's chunk file.

    A corpus that has none was built by an earlier version: they are then read off the index.
    """
    listed = entry.get("chunks")
    if listed is None:
        before, total, seen = [], 0, 0
        for shard in offsets:
            before.append(total + shard[-seen % CHUNK : -1 : CHUNK])
            total += int(shard[-1])
            seen += len(shard) - 1
        return np.concatenate([*before, [total]]).astype(np.int64)
    path = corpus / listed["file"]
    if not path.exists():
        raise PlmscaleError(f"{path}: chunk file is missing; {_ADVICE}")
    # At most 72 MB for half a billion proteins, so always in full: all positions rest on it.
    if sha256_file(path) != listed["sha256"]:
        raise PlmscaleError(
            f"{path}: chunk file is corrupt (its SHA-256 is not the manifest's); {_ADVICE}"
        )
    before = _load(path)
    if before.shape != (-(-proteins // CHUNK) + 1,) or before[-1] != entry["residues"]:
        raise PlmscaleError(f"{path}: chunk file does not fit the shards; {_ADVICE}")
    return before


def _map(corpus: Path, shard: dict[str, Any], hashed: bool) -> tuple[np.ndarray, np.ndarray]:
    path, index = corpus / shard["file"], corpus / shard["index"]
    for file, digest in ((path, shard["sha256"]), (index, shard["index_sha256"])):
        if not file.exists():
            raise PlmscaleError(f"{file}: shard is missing; {_ADVICE}")
        if hashed and sha256_file(file) != digest:
            raise PlmscaleError(
                f"{file}: shard is corrupt (its SHA-256 is not the manifest's); {_ADVICE}"
            )
    offsets = _load(index)
    if path.stat().st_size != shard["residues"] or len(offsets) != shard["sequences"] + 1:
        raise PlmscaleError(f"{path}: shard has not the size its manifest lists; {_ADVICE}")
    residues = np.memmap(path, dtype=np.uint8, mode="r") if shard["residues"] else np.zeros(0, "u1")
    return residues, offsets


def _load(path: Path) -> np.ndarray:
    """Map an int64 array, read-only."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise PlmscaleError(f"{path}: array cannot be read ({error}); {_ADVICE}") from None
    if array.dtype != np.int64 or array.ndim != 1:
        raise PlmscaleError(f"{path}: holds {array.dtype}, not a list of int64; {_ADVICE}")
    return array
