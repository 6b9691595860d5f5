"""The proteins that perplexity is measured on: held out from a corpus, or of a FASTA file.

Held-out proteins are drawn within strata, a part of the corpus and a bin of recorded identity, so
that rare bins have enough; `weight` says how many of the stratum each stands for. A FASTA file is
one stratum. The draw follows from the seed alone, so all models of a study see the same proteins.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from plmscale.corpus import alphabet
from plmscale.corpus.stats import IDENTITY_BINS, identity_bins
from plmscale.downstream.base import Example
from plmscale.errors import PlmscaleError
from plmscale.files import sha256_file
from plmscale.inference.records import FastaReader
from plmscale.training.shards import Proteins, read_manifest

HELD_OUT = ("valid", "test")
SHUFFLED, UNIGRAM = "shuffled", "unigram"
# Frequencies of residues are counted in so many of a source: errors of them are below 1e-4.
_COUNTED = 200_000_000
_PIECE = 1 << 24


@dataclass(frozen=True)
class Drawn:
    """A protein before its identity is known for good. stratum: what it was drawn within."""

    id: str
    sequence: str
    split: str
    source: str
    stratum: str
    weight: float
    identity: float | None


def held_out(corpus: Path, per_bin: int, seed: int) -> list[Drawn]:
    """Return at most `per_bin` held-out proteins of each part and bin of identity, in order.

    `identity` is the one recorded with the split, NaN without a hit; None where the corpus was
    built before identities were recorded: then a part is drawn as a whole, five times as many.
    """
    manifest = read_manifest(corpus)
    found = []
    for number, part in enumerate(HELD_OUT):
        sources, places, identities = [], [], []
        for source, entry in manifest["sources"].items():
            if entry.get(part, {}).get("sequences"):
                sources.append(Proteins(corpus, source, part, manifest))
                places.append(np.arange(len(sources[-1])))
                identities.append(_recorded(corpus, entry[part], len(sources[-1])))
        if not sources:
            continue
        owner = np.repeat(np.arange(len(sources)), [len(p) for p in places])
        place, identity = np.concatenate(places), np.concatenate(identities)
        known = not np.isposinf(identity).any()
        stratum = identity_bins(identity) if known else np.zeros(len(identity), int)
        for which in np.unique(stratum).tolist():
            members = np.flatnonzero(stratum == which)
            wanted = min(len(members), per_bin * (1 if known else len(IDENTITY_BINS)))
            rng = np.random.default_rng([seed, number, which])
            for at in np.sort(rng.choice(members, wanted, replace=False)).tolist():
                proteins = sources[owner[at]]
                source = proteins.name.rsplit(".", 1)[0]
                found.append(
                    Drawn(
                        f"{source}:{part}:{place[at]}",
                        alphabet.decode(proteins.residues(int(place[at]))),
                        part,
                        source,
                        f"{part}/{IDENTITY_BINS[which] if known else 'all'}",
                        len(members) / wanted,
                        float(identity[at]) if known else None,
                    )
                )
    return found


def _recorded(corpus: Path, entry: Mapping[str, Any], count: int) -> np.ndarray:
    """Return the identities recorded for a held-out part, float32 (count,); infinite if none are."""
    if "identity" not in entry:
        return np.full(count, np.inf, np.float32)
    path = corpus / entry["identity"]["file"]
    if not path.exists() or sha256_file(path) != entry["identity"]["sha256"]:
        raise PlmscaleError(
            f"{path}: is missing or not as the manifest lists it; build the corpus again"
        )
    identity = np.load(path, allow_pickle=False)
    if len(identity) != count:
        raise PlmscaleError(
            f"{path}: {len(identity):,} identities for {count:,} proteins; build the corpus again"
        )
    return identity


def of_fasta(name: str, path: Path, count: int, seed: int) -> tuple[list[Drawn], int]:
    """Return at most `count` proteins of a FASTA file, and how many records were left out.

    They are drawn by a hash of (seed, sequence), so the order of the file does not matter; records
    that are no proteins are left out.
    """
    if not Path(path).is_file():
        raise PlmscaleError(f"{path}: no such file; correct the key fasta.{name} of perplexity")
    reader = FastaReader(path, skip=True)
    kept: list[tuple[int, int, str, bytes]] = []
    total = 0
    for record in reader:
        total += 1
        # The largest hash of those kept goes first: heapq keeps the smallest item at the top.
        hashed = -xxh3_64_intdigest(record.tokens.tobytes(), seed)
        item = (hashed, record.number, record.id, record.tokens.tobytes())
        if len(kept) < count:
            heapq.heappush(kept, item)
        else:
            heapq.heappushpop(kept, item)
    if not kept:
        raise PlmscaleError(f"{path}: no record is a protein")
    weight = total / len(kept)
    return [
        Drawn(
            f"{name}:{number}:{known_as}", alphabet.decode(np.frombuffer(tokens, np.uint8)), name, name,
            name, weight, None,
        )
        for _, number, known_as, tokens in sorted(kept, key=lambda item: item[1])
    ], reader.skipped  # fmt: skip


def frequencies(corpus: Path, sources: tuple[str, ...]) -> dict[str, float]:
    """Return the frequency of each of the 20 residues in the training part of `sources`.

    Of the first _COUNTED residues of each source, one residue of each kind added.
    """
    manifest = read_manifest(corpus)
    counts = np.ones(256)
    for source in sources:
        left = _COUNTED
        for shard in manifest["sources"][source]["train"]["shards"]:
            with (corpus / shard["file"]).open("rb") as handle:
                while left > 0 and len(tokens := np.fromfile(handle, np.uint8, min(_PIECE, left))):
                    counts += np.bincount(tokens, minlength=256)
                    left -= len(tokens)
    return _normalised(counts[alphabet.encode(alphabet.STANDARD)])


def composition(sequences: Iterator[str]) -> dict[str, float]:
    """Return the frequency of each of the 20 residues in sequences, one of each kind added."""
    counts = np.ones(256)
    for sequence in sequences:
        counts += np.bincount(alphabet.encode(sequence), minlength=256)
    return _normalised(counts[alphabet.encode(alphabet.STANDARD)])


def _normalised(counts: np.ndarray) -> dict[str, float]:
    return dict(zip(alphabet.STANDARD, (counts / counts.sum()).tolist(), strict=True))


def control(natural: Example, kind: str, letters: Mapping[str, float], seed: int) -> Example:
    """Return a protein of the same length that is none: the residues of `natural` in random order
    (shuffled), or residues drawn from the frequencies `letters` (unigram)."""
    key = xxh3_64_intdigest(f"{kind}/{natural.id}".encode(), seed)
    rng = np.random.default_rng(key)
    if kind == SHUFFLED:
        drawn = rng.permutation(list(natural.sequence))
    else:
        drawn = rng.choice(list(letters), len(natural.sequence), p=list(letters.values()))
    extra = {**natural.extra, "control": kind, "natural": natural.id}
    return replace(natural, id=f"{natural.id}:{kind}", sequence="".join(drawn), extra=extra)
