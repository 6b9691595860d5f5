"""Sources of every format give the same sequences; what is wrong with them is told in one line."""

import gzip
import io
import lzma
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_by_record import read_fasta

from plmscale import grid, study
from plmscale.corpus import alphabet, mmseqs
from plmscale.corpus.config import CleanConfig, CorpusConfig
from plmscale.corpus.fetch import fetch_file
from plmscale.corpus.openers import zstd
from plmscale.corpus.settling import settle
from plmscale.corpus.source_config import SourceConfig, file_names, is_extracted
from plmscale.corpus.steps import clean, extract
from plmscale.corpus.store import Store
from plmscale.errors import PlmscaleError

ROOT = Path(__file__).parents[2]
METAGENOME = ROOT.parent / "shared/downstream/metagenome/metagenome.faa.gz"
RNG = np.random.default_rng(5)
PROTEINS = {
    f"p{i}": "".join(RNG.choice(list(alphabet.STANDARD), n))
    for i, n in enumerate(RNG.integers(30, 300, 60))
}
FASTA = "".join(f">{name} of a test\n{s}\n" for name, s in PROTEINS.items()).encode()
RULE = CleanConfig(min_length=1)


def read(tmp_path, **settings):
    """Settle, fetch, extract and clean a source as the workflow does; return {name: sequence}."""
    corpus = CorpusConfig.model_validate({"sources": {"s": settings}})
    source = settle(corpus, tmp_path).sources["s"]
    paths = []
    for index, name in enumerate(file_names(source)):
        paths.append(tmp_path / "files" / name)
        fetch_file(source, index, paths[-1], Path(f"{paths[-1]}.json"), tmp_path)
    if is_extracted(source):
        extract(source, paths, tmp_path / "extracted/s.fasta", 2)
        paths = [tmp_path / "extracted/s.fasta"]
    clean(source, paths, tmp_path / "store", RULE, 1)
    store = Store.open(tmp_path / "store")
    ends = np.cumsum(store.lengths)
    found = [alphabet.decode(store.tokens[e - n : e]) for e, n in zip(ends, store.lengths)]
    return dict(zip(store.chosen_names(np.ones(len(store), bool)), found, strict=True))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress, lzma.compress])
def test_fasta_however_packed(tmp_path, pack):
    (tmp_path / "in.fasta").write_bytes(pack(FASTA))
    assert read(tmp_path, path="in.fasta") == PROTEINS


def test_many_files_and_a_pattern(tmp_path):
    half = FASTA.index(b">p30 ")
    (tmp_path / "b.fa").write_bytes(gzip.compress(FASTA[half:]))
    (tmp_path / "a.fa").write_bytes(FASTA[:half])
    assert list(read(tmp_path, path="*.fa").items()) == list(PROTEINS.items())
    backwards = read(tmp_path, files=[{"path": "b.fa"}, {"path": "a.fa"}])
    assert next(iter(backwards)) == "p30" and backwards == PROTEINS
    with pytest.raises(PlmscaleError, match=r"corpus\.sources\.s: no file fits \*\.none"):
        read(tmp_path, path="*.none")


def test_parquet(tmp_path):
    table = pa.table({"id": list(PROTEINS), "seq": pa.array(PROTEINS.values(), pa.large_string())})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    assert read(tmp_path, path="t.parquet", column="seq", id_column="id") == PROTEINS
    numbered = read(tmp_path, path="t.parquet", column="seq")
    assert list(numbered.values()) == list(PROTEINS.values())
    with pytest.raises(PlmscaleError, match=r"no column 'sequence'.*seq"):
        read(tmp_path, path="t.parquet")
    pq.write_table(pa.table({"sequence": ["MKV", None]}), tmp_path / "null.parquet")
    with pytest.raises(PlmscaleError, match="row 2"):
        read(tmp_path, path="null.parquet")


def make_database(folder):
    folder.mkdir()
    (folder / "in.fasta").write_bytes(FASTA)
    subprocess.run(
        [mmseqs.program(), "createdb", folder / "in.fasta", folder / "db", "-v", "1"], check=True
    )
    (folder / "in.fasta").unlink()


def test_an_mmseqs2_database(tmp_path):
    make_database(tmp_path / "d")
    assert read(tmp_path, path="d/db", format="mmseqs") == PROTEINS


def test_a_database_inside_an_archive(tmp_path):
    make_database(tmp_path / "d")
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "d", "inside")
    assert read(tmp_path, path="d.tar.gz", format="mmseqs", member="inside/db") == PROTEINS
    with pytest.raises(PlmscaleError, match="holds no MMseqs2 database other"):
        read(tmp_path, path="d.tar.gz", format="mmseqs", member="inside/other")


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def colabfold_like(path):
    rows = "".join(f"{i}\t{s}\n" for i, s in enumerate(PROTEINS.values())).encode()
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "envdb_h.tsv", b"0\theader\n")
        add(archive, "envdb_seq.tsv", rows)
        add(archive, "envdb.tsv", rows.split(b"\n")[0] + b"\n")


def test_tables_of_an_archive_as_colabfold_has_them(tmp_path):
    colabfold_like(tmp_path / "envdb.tar.gz")
    found = read(tmp_path, path="envdb.tar.gz", format="tsv", member="envdb_seq.tsv")
    assert list(found.values()) == list(PROTEINS.values())
    assert len(read(tmp_path, path="envdb.tar.gz", format="tsv", member="envdb.tsv")) == 1
    with pytest.raises(PlmscaleError, match=r"no envdb_sec\.tsv; it holds.*envdb_seq\.tsv"):
        read(tmp_path, path="envdb.tar.gz", format="tsv", member="envdb_sec.tsv")


def test_two_sources_of_one_archive_share_its_download():
    there = {"url": "https://x.org/e.tar.gz", "unverified": True, "format": "tsv"}
    one, two = (SourceConfig(**there, member=m) for m in ("a.tsv", "b.tsv"))
    assert file_names(one) == file_names(two)


@pytest.mark.parametrize("name", ["../evil.tsv", "/tmp/evil.tsv"])
def test_an_archive_writes_nowhere_but_where_it_should(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    with tarfile.open(inner / "a.tar", "w") as archive:
        add(archive, name, b"MKV\n")
    with pytest.raises(PlmscaleError):
        read(inner, path="a.tar", format="mmseqs", member=name)
    assert not (tmp_path / "evil.tsv").exists() and not Path("/tmp/evil.tsv").exists()


CODONS = dict(zip("ACDEFGHIKLMNPQRSTVWY", ["GCG", "TGC", "GAT", "GAA", "TTT", "GGC", "CAT", "ATT",
              "AAA", "CTG", "ATG", "AAC", "CCG", "CAG", "CGT", "AGC", "ACC", "GTG", "TGG", "TAT"]))  # fmt: skip


@pytest.mark.skipif(not METAGENOME.exists(), reason="no real metagenome beside the project")
def test_genes_of_contigs(tmp_path):
    """Real complete proteins, written back as genes with a ribosome's binding site before each."""
    proteins = []
    for header, sequence in read_fasta(METAGENOME):
        text = sequence.decode().rstrip("*")
        partial = "partial=00" not in header and "partial" in header
        if (
            not partial
            and text.startswith("M")
            and 120 < len(text) < 500
            and set(text) <= set(CODONS)
        ):
            proteins.append(text)
    proteins = proteins[:40]
    assert len(proteins) == 40
    rng = np.random.default_rng(1)
    contigs = []
    for k in range(0, 40, 4):
        parts = ["".join(rng.choice(list("ACGT"), 60))]
        for protein in proteins[k : k + 4]:
            parts.append("AGGAGGTAACAT" + "".join(CODONS[a] for a in protein) + "TAA")
            parts.append("".join(rng.choice(list("ACGT"), 60)))
        contigs.append("".join(parts))
    text = "".join(f">contig{i}\n{c}\n" for i, c in enumerate(contigs)) + ">short\nACGT\n"
    (tmp_path / "contigs.fna").write_text(text)
    found = read(tmp_path, path="contigs.fna", format="contigs")
    again = set(found.values()) & set(proteins)
    assert len(again) >= 30, f"{len(again)} of 40 genes were found to the letter"
    assert next(iter(found)).startswith("contig0_")
    (tmp_path / "protein.fna").write_bytes(FASTA)
    with pytest.raises(PlmscaleError, match=r"protein"):
        read(tmp_path, path="protein.fna", format="contigs")
    with pytest.raises(PlmscaleError, match="holds nucleotides where proteins belong"):
        read(tmp_path, path="contigs.fna")


def test_an_address_without_a_checksum_is_refused():
    with pytest.raises(ValueError, match="needs sha256, md5 or metalink; or unverified: true"):
        SourceConfig(url="https://x.org/a.fasta")


def test_the_study_of_the_paper_has_its_sources_in_its_shares():
    loaded = study.load(ROOT / "studies/cheng2024.yaml")
    assert list(loaded.corpus.sources) == ["uniref50", "uniref90", "colabfold_c", "colabfold_m"]
    assert loaded.corpus.mixes["mix"].weights == {
        "uniref50": 0.085, "uniref90": 0.195, "colabfold_c": 0.195, "colabfold_m": 0.525,
    }  # fmt: skip
    assert sum(s.residues for s in loaded.corpus.sources.values()) == pytest.approx(194e9, rel=0.01)
    runs = grid.expand(loaded)
    assert {r.recipe["budget"] for r in runs} >= {1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21}
