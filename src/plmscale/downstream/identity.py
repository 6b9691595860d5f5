"""How near given sequences are to what a model was trained on, by MMseqs2.

The measure is that of the corpus' own split (plmscale.corpus.nearest), so that identities found
here and those recorded with held-out sequences are one scale: alignments over at least `coverage`
of the given sequence, scored by the matrix alone, identity within the alignment
(`--alignment-mode 3`). An alignment is a hit if its identity is at least the limit of the split or
its E-value, in the whole of what is trained on, is at most 1e-3. Of the hits the highest identity
counts. So a domain of a longer training protein is found, and a short fragment of one is none.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from plmscale.corpus import alphabet, mmseqs
from plmscale.corpus.nearest import MAX_EVALUE, MAX_SEQS
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, fingerprint, follow_umask
from plmscale.training.shards import Proteins, read_manifest

# What is known of a sequence.
HIT, NO_HIT, UNKNOWN = "hit", "no hit", "unknown"
COLUMNS = ("id", "status", "identity", "evalue", "coverage", "target")
COVERAGE = 0.8
_MIN_SEQ_ID, _SENSITIVITY = 0.5, 5.0
# Residues of a database that is searched at once: its index takes about eight bytes a residue.
CHUNK_RESIDUES = 50_000_000
# Databases of a corpus larger than this are not kept: each is searched and removed.
KEEP_RESIDUES = 2_000_000_000
_READ_CHUNKS = 256


@dataclass(frozen=True)
class Trained:
    """The training part of a corpus, or of some sources of it, and the rule of its split."""

    folder: Path
    sources: tuple[str, ...]
    content: str
    residues: int
    min_seq_id: float
    sensitivity: float


def trained(corpus: str | Path, sources: Sequence[str] = ()) -> Trained:
    """Return what is trained on: `sources` of the corpus, or all that have a training part.

    Raises PlmscaleError for a folder that holds no corpus, or a source it does not have.
    """
    folder = Path(corpus)
    if not (folder / "manifest.json").exists():
        raise PlmscaleError(
            f"{folder}: no corpus (no manifest.json); build it (snakemake corpus), or evaluate "
            "without one: identities are then unknown"
        )
    manifest = read_manifest(folder)
    there = [name for name, entry in manifest["sources"].items() if entry["train"]["sequences"]]
    if strange := sorted(set(sources) - set(there)):
        raise PlmscaleError(
            f"{folder}: nothing to train on of source {strange[0]!r}; it has {', '.join(there)}"
        )
    # In the order of the corpus, whatever the order asked for: one key, one result.
    chosen = tuple(name for name in there if not sources or name in sources)
    split = manifest.get("split", {})
    searches = split.get("searches") or [{}]
    return Trained(
        folder,
        chosen,
        manifest["content_sha256"],
        sum(manifest["sources"][name]["train"]["residues"] for name in chosen),
        split.get("min_seq_id", _MIN_SEQ_ID),
        # As sensitive as the search that proved the split.
        searches[-1].get("sensitivity", _SENSITIVITY),
    )


def nearest(
    sequences: Mapping[str, str],
    corpus: str | Path | None,
    sources: Sequence[str] = (),
    cache: Path | None = None,
    threads: int = 2,
    coverage: float = COVERAGE,
    chunk_residues: int = CHUNK_RESIDUES,
) -> pd.DataFrame:
    """Return the nearest training sequence of each of `sequences` (letters by id), in their order.

    corpus: folder of a built corpus; None where what a model was trained on is not known (a hub
    model): every status is then `unknown`, which is not `no hit`. sources: those of the corpus that
    were trained on; all by default. cache: folder that keeps databases and results; nothing is kept
    without.

    Columns: id; status (hit, no hit, unknown); identity (0..1, NaN without a hit); evalue, of the
    sequence searched in all that is trained on; coverage, share of the given sequence in the
    alignment; target, `SOURCE:NUMBER` with the number of the protein in the source's training part,
    from 0. Raises PlmscaleError where the corpus or MMseqs2 is missing or broken.
    """
    ids = list(sequences)
    if corpus is None:
        return _frame(ids, [UNKNOWN] * len(ids))
    what = trained(corpus, sources)
    letters = [_clean(sequences[name]) for name in ids]
    unique = list(dict.fromkeys(text for text in letters if text))
    rule = [what.content, what.sources, what.min_seq_id, what.sensitivity, coverage, chunk_residues]
    key = fingerprint([*rule, MAX_SEQS, MAX_EVALUE, mmseqs.version(), *unique])
    kept = cache / "results" / f"{key}.parquet" if cache else None
    if kept and kept.exists():
        found = pd.read_parquet(kept)
    else:
        found = _search(unique, what, cache, threads, coverage, chunk_residues)
        if kept:
            with atomic_write(kept, "wb") as handle:
                found.to_parquet(handle, index=False)
    number = {text: i for i, text in enumerate(unique)}
    rows = found.set_index("query").reindex([number.get(text, -1) for text in letters])
    status = np.where(rows["identity"].notna(), HIT, NO_HIT)
    return _frame(ids, status, rows)


def _frame(ids: list[str], status: Sequence[str], rows: pd.DataFrame | None = None) -> pd.DataFrame:
    table = pd.DataFrame({"id": ids, "status": list(status)})
    for column in ("identity", "evalue", "coverage"):
        table[column] = np.nan if rows is None else rows[column].to_numpy(float)
    table["target"] = "" if rows is None else rows["target"].fillna("").to_numpy()
    table["identity"] = table["identity"].astype(np.float32)
    return table[list(COLUMNS)]


def _clean(sequence: str) -> str:
    """Return a sequence in the letters that MMseqs2 knows; what is none of them is X."""
    return "".join(c if "A" <= c <= "Z" else "X" for c in sequence.strip().upper().rstrip("*"))


def _search(
    unique: list[str], what: Trained, cache: Path | None, threads: int, coverage: float, size: int
) -> pd.DataFrame:
    """Return query (number), identity, evalue, coverage, target of the best hit of each query."""
    best: list[pd.DataFrame] = [_table([])]
    with tempfile.TemporaryDirectory(dir=cache and _made(cache), prefix=".search-") as name:
        work = Path(name)
        if unique:
            lines = [f">{i}\n{text}\n" for i, text in enumerate(unique)]
            (work / "queries.fasta").write_text("".join(lines))
            _createdb(work / "queries.fasta", work / "queries")
            lengths = np.array([len(text) for text in unique])
            for target in _databases(what, cache, work, size):
                found = _aligned(work, target, what, threads, coverage)
                found["evalue"] = (
                    lengths[found["query"]] * float(what.residues) * np.exp2(-found["bits"])
                )
                hit = found["identity"] >= np.float32(what.min_seq_id)
                best.append(_best(found[hit | (found["evalue"] <= MAX_EVALUE)]))
    return _best(pd.concat(best))[list(_table([]).columns)].reset_index(drop=True)


def _best(found: pd.DataFrame) -> pd.DataFrame:
    """Return the row of highest identity of each query; then lowest E-value, then by name."""
    order = found.sort_values(
        ["query", "identity", "evalue", "target"], ascending=[True, False, True, True]
    )
    return order.drop_duplicates("query")


def _table(rows: list[tuple]) -> pd.DataFrame:
    types = {
        "query": np.int64, "target": object, "identity": np.float32, "coverage": float,
        "evalue": float,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def _aligned(
    work: Path, target: Path, what: Trained, threads: int, coverage: float
) -> pd.DataFrame:
    """Return query, target, identity, bits and coverage of all alignments of the queries."""
    for old in ("found", "aligned"):
        for path in work.glob(f"{old}*"):
            path.unlink()
    query, found, aligned = work / "queries", work / "found", work / "aligned"
    # As in plmscale.corpus.nearest: coverage of the query (mode 2), no mask of low complexity, no
    # correction for composition, no limit on MMseqs2's own E-values, which depend on the database.
    common = ["-c", coverage, "--cov-mode", 2, "--threads", threads]
    mmseqs.run(
        "prefilter", query, target, found, "-s", what.sensitivity, "--max-seqs", MAX_SEQS,
        "--mask", 0, "--split", 1, *common,
    )  # fmt: skip
    mmseqs.run(
        "align", query, target, found, aligned, "--alignment-mode", 3, "-e", 1e9,
        "--comp-bias-corr", 0, *common,
    )  # fmt: skip
    table = work / "aligned.tsv"
    mmseqs.run(
        "convertalis", query, target, aligned, table, "--threads", threads,
        "--format-output", "query,target,fident,bits,qcov",
    )  # fmt: skip
    types = {"query": np.int64, "target": str, "identity": np.float32, "bits": float, "coverage": float}  # fmt: skip
    if not table.stat().st_size:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    return pd.read_csv(table, sep="\t", names=list(types), dtype=types)


def _databases(what: Trained, cache: Path | None, work: Path, size: int) -> Iterator[Path]:
    """Yield MMseqs2 databases that together hold all that is trained on, `size` residues each.

    In `cache` they are made once; a corpus too large for that is streamed through `work`.
    """
    if cache is None or what.residues > KEEP_RESIDUES:
        for number, lines in enumerate(_pieces(what, size)):
            with _database(lines, work / f"targets{number}") as path:
                yield path
        return
    key = fingerprint([what.content, what.sources, size])[:16]
    home = cache / "databases" / key
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{key}-"))
        try:
            for number, lines in enumerate(_pieces(what, size)):
                _fill(lines, new / f"{number:05}")
            follow_umask(new)
            # Another process may have been faster: its databases are the same.
            if not home.exists():
                new.rename(home)
        except OSError:
            if not home.exists():
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    yield from sorted(path for path in home.iterdir() if path.name.isdigit())


@contextmanager
def _database(lines: Iterator[bytes], path: Path) -> Iterator[Path]:
    _fill(lines, path)
    yield path
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()


def _fill(lines: Iterator[bytes], path: Path) -> None:
    """Make the MMseqs2 database `path` of FASTA records."""
    fasta = path.with_name(path.name + ".fasta")
    with fasta.open("wb", buffering=1 << 20) as out:
        out.writelines(lines)
    _createdb(fasta, path)
    fasta.unlink()


def _createdb(fasta: Path, path: Path) -> None:
    mmseqs.run("createdb", fasta, path, "--shuffle", 0, "--dbtype", 1)


def _pieces(what: Trained, size: int) -> Iterator[Iterator[bytes]]:
    """Yield FASTA records of the training proteins, about `size` residues at a time."""

    def numbered() -> Iterator[tuple[int, bytes]]:
        before = 0
        for record, residues in _records(what):
            yield before // size, record
            before += residues

    for _, group in groupby(numbered(), key=lambda item: item[0]):
        yield (record for _, record in group)


def _records(what: Trained) -> Iterator[tuple[bytes, int]]:
    """Yield (FASTA record named SOURCE:NUMBER, residues) of every training protein, in order."""
    manifest = read_manifest(what.folder)
    for source in what.sources:
        proteins = Proteins(what.folder, source, "train", manifest)
        number = 0
        for start in range(0, proteins.chunks, _READ_CHUNKS):
            chunks = np.arange(start, min(start + _READ_CHUNKS, proteins.chunks))
            residues, lengths = proteins.read(chunks)
            text = alphabet.decode(residues).encode()
            end = 0
            for length in lengths.tolist():
                begin, end = end, end + length
                yield b">%b:%d\n%b\n" % (source.encode(), number, text[begin:end]), length
                number += 1


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
