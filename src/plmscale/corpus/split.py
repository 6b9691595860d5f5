"""Training and validation: whole MMseqs2 clusters, then a search that must find nothing."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plmscale.corpus import mmseqs
from plmscale.corpus.config import SplitConfig
from plmscale.corpus.fasta import read_fasta
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, write_json

_MAX_ROUNDS = 6


def split(
    sources: Mapping[str, Path], out: str | Path, rule: SplitConfig, threads: int
) -> dict[str, Any]:
    """Decide for every sequence: training, validation or left out; return what check.json says.

    1. `easy-linclust` over all sources together at the rule's identity and coverage.
    2. Clusters in the order of a hash of (seed, representative) go to validation as a whole
       until each source has its share of residues there.
    3. A sensitive search of validation against training; a validation sequence with a hit at or
       above the rule's identity and coverage is left out of both. Repeated until a search over
       what remains finds nothing: that last search is the proof in check.json.

    Writes `<source>.train.ids`, `<source>.valid.ids` and check.json into `out`. Raises
    PlmscaleError when a source has too few clusters to hold anything out.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    names = list(sources)
    lengths: dict[str, int] = {}
    work = Path(tempfile.mkdtemp(dir=out, prefix=".work."))
    try:
        everything = work / "all.fasta"
        with everything.open("wb") as handle:
            for index, name in enumerate(names):
                for header, sequence in read_fasta(sources[name]):
                    # The prefix keeps equal names of two sources apart and leads back to them.
                    key = f"{index}~{header}"
                    lengths[key] = len(sequence)
                    handle.write(b">" + key.encode() + b"\n" + sequence + b"\n")
        clusters = _cluster(everything, work, rule, threads)
        valid = choose(clusters, lengths, rule)
        train = lengths.keys() - valid
        removed: set[str] = set()
        rounds = 0
        while True:
            rounds += 1
            nearest = _nearest(everything, train, valid, work, rule, threads)
            hits = {name for name, identity in nearest.items() if identity >= rule.min_seq_id}
            if not hits:
                break
            removed |= hits
            valid -= hits
            if rounds == _MAX_ROUNDS or not valid:
                raise PlmscaleError(
                    f"the split does not settle: {len(hits)} validation sequences are still near "
                    "training ones; raise corpus.split.sensitivity"
                )
        for index, name in enumerate(names):
            for part, chosen in (("train", train), ("valid", valid)):
                ids = sorted(k.split("~", 1)[1] for k in chosen if k.startswith(f"{index}~"))
                if not ids:
                    raise PlmscaleError(
                        f"{sources[name]}: the split leaves no {part} sequence of source {name!r} "
                        f"({len(clusters)} clusters in all); it needs more sequences or another "
                        "corpus.split.valid_fraction"
                    )
                with atomic_write(out / f"{name}.{part}.ids") as handle:
                    handle.writelines(f"{i}\n" for i in ids)
        check = {
            "min_seq_id": rule.min_seq_id,
            "coverage": rule.coverage,
            "sensitivity": rule.sensitivity,
            "clusters": len(clusters),
            "valid_sequences": len(valid),
            "train_sequences": len(train),
            "left_out_near_training": len(removed),
            "searches": rounds,
            # What the last search found; the loop above ends only at none.
            "violations": len(hits),
            "max_identity_found": max(nearest.values(), default=0.0),
            "mmseqs": mmseqs.version(),
        }
        write_json(out / "check.json", check)
        return check
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _cluster(fasta: Path, work: Path, rule: SplitConfig, threads: int) -> dict[str, list[str]]:
    mmseqs.run(
        "easy-linclust", fasta, work / "c", work / "tmp", "--min-seq-id", rule.min_seq_id,
        "-c", rule.coverage, "--cov-mode", 0, "--threads", threads,
    )  # fmt: skip
    clusters: dict[str, list[str]] = defaultdict(list)
    with (work / "c_cluster.tsv").open() as handle:
        for line in handle:
            representative, member = line.rstrip("\n").split("\t")
            clusters[representative].append(member)
    return clusters


def choose(
    clusters: Mapping[str, list[str]], lengths: Mapping[str, int], rule: SplitConfig
) -> set[str]:
    """Return the names of all sequences held out: whole clusters, by a hash of seed and name.

    Names are `<source>~<name>`; lengths are in residues.
    """
    wanted: dict[str, float] = defaultdict(float)
    for key, length in lengths.items():
        wanted[key.split("~", 1)[0]] += rule.valid_fraction * length

    def order(members: list[str]) -> bytes:
        # By the smallest name, not MMseqs2's representative: that one may depend on its version.
        return hashlib.blake2b(f"{rule.seed}\t{min(members)}".encode(), digest_size=16).digest()

    held: dict[str, float] = defaultdict(float)
    valid: set[str] = set()
    for members in sorted(clusters.values(), key=order):
        shares: dict[str, float] = defaultdict(float)
        for member in members:
            shares[member.split("~", 1)[0]] += lengths[member]
        # A cluster serves every source it touches, so none of them may be full already.
        if all(held[source] < wanted[source] for source in shares):
            valid.update(members)
            for source, residues in shares.items():
                held[source] += residues
    return valid


def _nearest(
    fasta: Path, train: set[str], valid: set[str], work: Path, rule: SplitConfig, threads: int
) -> dict[str, float]:
    """Return the highest identity (3 digits) each validation sequence has to a training one.

    Only alignments that cover the rule's share of both count; without one a sequence is not named.
    """
    with (work / "train.fa").open("wb") as t, (work / "valid.fa").open("wb") as v:
        for header, sequence in read_fasta(fasta):
            target = v if header in valid else t if header in train else None
            if target:
                target.write(b">" + header.encode() + b"\n" + sequence + b"\n")
    shutil.rmtree(work / "tmp", ignore_errors=True)
    # Short relatives have E-values above MMseqs2's default limit and are relatives all the same.
    mmseqs.run(
        "easy-search", work / "valid.fa", work / "train.fa", work / "hits.tsv", work / "tmp",
        "--min-seq-id", 0, "-c", rule.coverage, "--cov-mode", 0, "-e", 1000,
        "--alignment-mode", 3, "-s", rule.sensitivity, "--threads", threads,
        "--format-output", "query,target,fident",
    )  # fmt: skip
    identities: dict[str, float] = {}
    with (work / "hits.tsv").open() as handle:
        for line in handle:
            query, _, identity = line.rstrip("\n").split("\t")
            identities[query] = max(identities.get(query, 0.0), float(identity))
    return identities
