"""Sources of every format give the same sequences; mistakes are told in a line that names the file."""

import gzip
import io
import lzma
import os
import sys
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plmscale.corpus import mmseqs
from plmscale.corpus.blocks import read_blocks
from plmscale.corpus.clean import clean_source
from plmscale.corpus.config import CleanConfig, CorpusConfig
from plmscale.corpus.formats import extract, sequence_blocks
from plmscale.corpus.settling import settle
from plmscale.corpus.source_config import SourceConfig, is_extracted, is_plain_fasta
from plmscale.corpus.store import Store
from plmscale.errors import PlmscaleError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or Path(__file__).parents[3] / "shared")
METAGENOME = SHARED / "downstream/metagenome/metagenome.faa.gz"
LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


@pytest.fixture(scope="module")
def proteins():
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 900, 5000)
    return {f"P{i}": "".join(rng.choice(LETTERS, n)) for i, n in enumerate(lengths)}


def fasta(proteins):
    return "".join(f">{name} a protein\n{s[:60]}\n{s[60:]}\n" for name, s in proteins.items())


def read_fasta(path):
    """Yield (name, sequence) of a FASTA file, read line by line."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as handle:
        for record in handle.read().split(">")[1:]:
            header, *lines = record.splitlines()
            yield header.split()[0], "".join(lines)


def plain(proteins, folder):
    (folder / "p.fasta").write_text(fasta(proteins))
    return {}, [folder / "p.fasta"]


def packed(pack):
    def write(proteins, folder):
        (folder / "p").write_bytes(pack(fasta(proteins).encode()))
        return {}, [folder / "p"]

    return write


def several_files(proteins, folder):
    names, paths = list(proteins), [folder / "b.fasta", folder / "a.fasta.gz"]
    paths[0].write_text(fasta({n: proteins[n] for n in names[:2000]}))
    paths[1].write_bytes(gzip.compress(fasta({n: proteins[n] for n in names[2000:]}).encode()))
    return {}, paths


def parquet(kind, **given):
    def write(proteins, folder):
        names, sequences = pa.array(list(proteins)), pa.array(list(proteins.values()))
        if kind == "dictionary":
            column = sequences.dictionary_encode()
        elif kind == "nested":
            column = pa.StructArray.from_arrays([sequences, names], ["letters", "other"])
        else:
            column = sequences.cast(kind)
        table = pa.table({"id": names, "sequence": column})
        pq.write_table(table, folder / "p.parquet", row_group_size=1500)
        return {"format": "parquet", "id_column": "id", **given}, [folder / "p.parquet"]

    return write


def tsv(pack):
    def write(proteins, folder):
        lines = "".join(f"{name}\t{s}\n" for name, s in proteins.items())
        (folder / "t").write_bytes(pack(lines.encode()))
        return {"format": "tsv"}, [folder / "t"]

    return write


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def expandable(proteins, folder):
    """Write an archive of tables as ColabFold's: representatives, members, headers, alignments."""
    names = list(proteins)
    tables = {
        "env.tsv": [f"{i}\t{proteins[n]}" for i, n in enumerate(names) if i % 3 == 0],
        "env_aln.tsv": [f"{i - i % 3}\t{i}\t100\t0.9\t1E-9\t0\t9\t10\t0\t9\t10" for i in range(len(names))],
        "env_h.tsv": [f"{i}\t{n} a protein" for i, n in enumerate(names)],
        "env_seq.tsv": [f"{i}\t{proteins[n]}" for i, n in enumerate(names)],
    }  # fmt: skip
    with tarfile.open(folder / "env.tar.gz", "w:gz") as archive:
        for name, lines in tables.items():
            add(archive, name, "".join(f"{line}\n" for line in lines).encode())
    return {"format": "tsv", "member": "env_seq.tsv"}, [folder / "env.tar.gz"]


def inside_tar(proteins, folder):
    with tarfile.open(folder / "p.tar", "w") as archive:
        add(archive, "readme", b"hello")
        add(archive, "./data/p.fasta.gz", gzip.compress(fasta(proteins).encode()))
    return {"member": "p.fasta.gz"}, [folder / "p.tar"]


def make_database(proteins, folder, *options):
    (folder / "p.fasta").write_text(fasta(proteins))
    (folder / "db").mkdir()
    mmseqs.run("createdb", folder / "p.fasta", folder / "db/prot", *options)
    return folder / "db"


def database(*options):
    def write(proteins, folder):
        files = sorted(make_database(proteins, folder, *options).iterdir())
        return {"format": "mmseqs"}, files

    return write


def database_inside_tar(proteins, folder):
    make_database(proteins, folder)
    with tarfile.open(folder / "db.tar.gz", "w:gz") as archive:
        archive.add(folder / "db", "some/db")
        add(archive, "some/db/prot_aln.dbtype", b"\5\0\0\0")
    return {"format": "mmseqs"}, [folder / "db.tar.gz"]


def database_for_gpus(proteins, folder):
    made = make_database(proteins, folder)
    (folder / "padded").mkdir()
    mmseqs.run("makepaddedseqdb", made / "prot", folder / "padded/prot")
    return {"format": "mmseqs"}, sorted((folder / "padded").iterdir())


def database_without_headers(proteins, folder):
    made = make_database(proteins, folder, "--shuffle", "0")
    files = [made / name for name in ("prot", "prot.dbtype", "prot.index")]
    return {"format": "mmseqs"}, files


FORMATS = {
    "plain": plain,
    "gzip": packed(gzip.compress),
    "zstd": packed(zstd.compress),
    "xz": packed(lzma.compress),
    "several files": several_files,
    "Parquet": parquet(pa.string()),
    "Parquet, large": parquet(pa.large_string()),
    "Parquet, bytes": parquet(pa.binary()),
    "Parquet, dictionary": parquet("dictionary"),
    "Parquet, nested": parquet("nested", column="sequence.letters"),
    "table": tsv(bytes),
    "table, gzip": tsv(gzip.compress),
    "expandable database": expandable,
    "member of a tar": inside_tar,
    "MMseqs2": database(),
    "MMseqs2, compressed": database("--compressed", "1"),
    "MMseqs2, in a tar": database_inside_tar,
    "MMseqs2, padded for GPUs": database_for_gpus,
    "MMseqs2, no headers": database_without_headers,
}
OTHER_NAMES = ("expandable database", "MMseqs2, no headers")
OTHER_ORDER = "MMseqs2"


def read(settings, files, folder):
    """Return {name: sequence} of a source as the corpus reads it, through a store."""
    listed = {"files": [{"path": str(file)} for file in files]}
    source = SourceConfig.model_validate({**listed, **settings})
    paths, blocks = list(files), partial(sequence_blocks, source=source)
    if is_extracted(source):
        paths, blocks = [folder / "out.fasta"], read_blocks
        extract(source, files, paths[0], 2, folder / "work")
        assert not (folder / "work").exists()
    rule = CleanConfig(min_length=1, max_length=100_000)
    clean_source(paths, rule, folder / "store", 1, blocks, progress=False)
    store = Store.open(folder / "store")
    names = list(store.chosen_names(np.ones(len(store), bool)))
    ends = np.cumsum(store.lengths)
    letters = np.frombuffer(b"...." + b"ACDEFGHIKLMNPQRSTVWYXBUZO", "u1")[store.tokens].tobytes()
    sequences = [letters[e - n : e].decode() for e, n in zip(ends, store.lengths)]
    assert len(names) == len(sequences) == len(store)
    return list(zip(names, sequences))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_sequences(kind, proteins, tmp_path):
    settings, files = FORMATS[kind](proteins, tmp_path)
    found, expected = read(settings, files, tmp_path), list(proteins.items())
    if kind in OTHER_NAMES:
        expected = [(str(i), s) for i, (_, s) in enumerate(expected)]
    if kind.startswith(OTHER_ORDER):
        found, expected = sorted(found), sorted(expected)
    assert found == expected


def test_representatives_are_a_table_of_the_same_archive(proteins, tmp_path):
    settings, files = expandable(proteins, tmp_path)
    found = read(settings | {"member": "env.tsv"}, files, tmp_path)
    assert [s for _, s in found] == list(proteins.values())[::3]


def test_tables_give_what_databases_made_of_them_give(proteins, tmp_path):
    """The same archive by the way that ColabFold's own set-up goes: tsv2exprofiledb."""
    settings, files = expandable(proteins, tmp_path)
    with tarfile.open(files[0]) as archive:
        archive.extractall(tmp_path / "tables", filter="data")
    (tmp_path / "made").mkdir()
    mmseqs.run("tsv2exprofiledb", tmp_path / "tables/env", tmp_path / "made/env_db")
    made = [path for path in sorted((tmp_path / "made").iterdir()) if path.is_file()]
    for member, table in (("env_db", "env.tsv"), ("env_db_seq", "env_seq.tsv")):
        (tmp_path / member).mkdir()
        one = read({"format": "mmseqs", "member": member}, made, tmp_path / member)
        two = read(settings | {"member": table}, files, tmp_path / member)
        assert len(one) > 1000
        assert Counter(s for _, s in one) == Counter(s for _, s in two)


def test_blocks_of_any_size_are_the_same_text(proteins, tmp_path):
    settings, [path] = expandable(proteins, tmp_path)
    source = SourceConfig(path=str(path), **settings)
    whole = b"".join(text for text, _ in sequence_blocks(path, source, 1 << 26))
    for size in (1, 997, 65536):
        blocks = [text for text, _ in sequence_blocks(path, source, size)]
        assert b"".join(blocks) == whole
        assert all(text.startswith(b">") and text.endswith(b"\n") for text in blocks)


def test_progress_counts_the_bytes_of_the_file(proteins, tmp_path):
    for number, kind in enumerate(("gzip", "Parquet", "expandable database")):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings, [path] = FORMATS[kind](proteins, folder)
        told = []
        source = SourceConfig(path=str(path), **settings)
        for _ in sequence_blocks(path, source, advance=told.append):
            pass
        assert 0 < sum(told) <= path.stat().st_size
        assert sum(told) > 0.9 * path.stat().st_size or kind == "expandable database"


def test_rows_without_names_are_counted(tmp_path):
    pq.write_table(pa.table({"sequence": ["MKV", "MAW"] * 5000}), tmp_path / "p.parquet")
    source = SourceConfig(path="p.parquet")
    text = b"".join(block for block, _ in sequence_blocks(tmp_path / "p.parquet", source))
    assert text.startswith(b">1\nMKV\n>2\nMAW\n") and text.endswith(b">10000\nMAW\n")


def test_names_of_a_table_cannot_make_records(tmp_path):
    names = ["one two", "three\n>evil\nMMMM", "four"]
    table = pa.table({"id": names, "sequence": ["MKV", "MAW", "MLL"]})
    pq.write_table(table, tmp_path / "p.parquet")
    source = SourceConfig(path="p.parquet", id_column="id")
    [(text, _)] = sequence_blocks(tmp_path / "p.parquet", source)
    assert text == b">one_two\nMKV\n>three_>evil_MMMM\nMAW\n>four\nMLL\n"


# ---- mistakes --------------------------------------------------------------------------------


def said(settings, path, folder):
    """Return the one line that reading this file ends with."""
    with pytest.raises(PlmscaleError) as error:
        read(settings, [path], folder)
    text = str(error.value)
    assert "\n" not in text and path.name in text
    assert not (folder / "out.fasta").exists()
    return text


@pytest.mark.parametrize(
    ("column", "sequences", "words"),
    [
        ("sequence", ["MKV"] * 5000 + [None], "row 5001: column 'sequence' is empty"),
        ("sequence", ["MKV", ""], "row 2: column 'sequence' is empty"),
        ("seq", ["MKV"], "no column 'seq'; did you mean sequence?"),
        ("sequence", [1, 2], "column 'sequence' holds int64, not text"),
        ("sequence", ["MKV", "MK\n>x\nV"], "row 2: column 'sequence' holds more than one line"),
        ("sequence", [], "has no rows"),
    ],
)
def test_mistakes_of_parquet_name_row_and_column(column, sequences, words, tmp_path):
    kind = None if sequences else pa.string()
    table = pa.table({"sequence": pa.array(sequences, kind)})
    pq.write_table(table, tmp_path / "p.parquet")
    settings = {"format": "parquet", "column": column}
    assert words in said(settings, tmp_path / "p.parquet", tmp_path)


def test_damaged_files_are_told(proteins, tmp_path):
    for number, kind in enumerate(("Parquet", "expandable database", "member of a tar", "MMseqs2, in a tar", "table, gzip")):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        settings, [path] = FORMATS[kind](proteins, folder)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * 0.6)])
        words = said(settings, path, folder)
        assert "damaged" in words and "fetch it again" in words


def test_what_is_no_table_is_told(proteins, tmp_path):
    settings, [path] = expandable(proteins, tmp_path)
    words = said(settings | {"member": "env_aln.tsv"}, path, tmp_path)
    assert "line 1: expected key, tab, sequence, found '0\\t0\\t100" in words
    assert "has no env_x.tsv; it holds env.tsv, env_aln.tsv, env_h.tsv, env_seq.tsv" in said(
        settings | {"member": "env_x.tsv"}, path, tmp_path
    )
    assert "name the table inside it as member" in said({"format": "tsv"}, path, tmp_path)
    table = tmp_path / "t.tsv"
    table.write_text("1\tMKV\n2\tMAW\n3 MLL\n4\tMLL\tMLL\n5\tM\n")
    assert "line 3: expected key, tab, sequence, found '3 MLL'" in said(
        {"format": "tsv"}, table, tmp_path
    )
    assert "is no tar archive" in said(settings, table, tmp_path)
    for text in ("1\t\n", "\tMKV\n"):
        table.write_text("1\tMKV\n" + text)
        assert "line 2: expected key" in said({"format": "tsv"}, table, tmp_path)


def test_formats_taken_for_fasta_are_told(proteins, tmp_path):
    _, [path] = expandable(proteins, tmp_path)
    assert "is a tar archive; name the file inside it as member: of the source; it holds env.tsv" in said({}, path, tmp_path)  # fmt: skip
    _, [path] = parquet(pa.string())(proteins, tmp_path)
    assert "is a Parquet file; give the source format: parquet" in said(
        {"format": "fasta"}, path, tmp_path
    )
    reads = tmp_path / "reads.fq"
    reads.write_text("@r1\nACGT\n+\nIIII\n")
    assert "is a FASTQ file" in said({}, reads, tmp_path)
    bases = tmp_path / "contigs.fna"
    bases.write_text(">c1\n" + "ACGTNACGTTGCA" * 50 + "\n")
    assert "holds nucleotides where proteins belong" in said({}, bases, tmp_path)
    with tarfile.open(tmp_path / "bases.tar", "w") as archive:
        archive.add(bases, "contigs.fna")
    assert "holds nucleotides" in said({"member": "contigs.fna"}, tmp_path / "bases.tar", tmp_path)


def test_wrong_databases_are_told(proteins, tmp_path):
    settings, [path] = database_inside_tar(proteins, tmp_path)
    words = said(settings | {"member": "port"}, path, tmp_path)
    assert "holds no MMseqs2 database port; it holds some/db/prot" in words
    _, [table] = expandable(proteins, tmp_path)
    assert "tables of key and sequence are format: tsv" in said(settings, table, tmp_path)
    (tmp_path / "just.fasta").write_text(">a\nMKV\n")
    assert "holds no MMseqs2 database" in said(settings, tmp_path / "just.fasta", tmp_path)


def test_a_damaged_database_is_told(proteins, tmp_path):
    made = make_database(proteins, tmp_path)
    os.truncate(made / "prot", 10_000)
    with pytest.raises(PlmscaleError, match=r"the database cannot be read, damaged\?"):
        read({"format": "mmseqs"}, sorted(made.iterdir()), tmp_path)
    (made / "prot").unlink()
    with pytest.raises(PlmscaleError, match="prot of the database is missing"):
        read({"format": "mmseqs"}, sorted(made.iterdir()), tmp_path)
    assert not (tmp_path / "out.fasta").exists()


def test_a_database_of_several_is_named(proteins, tmp_path):
    made = make_database(proteins, tmp_path)
    few = {name: s for name, s in proteins.items() if name.endswith("7")}
    (tmp_path / "few.fasta").write_text(fasta(few))
    mmseqs.run("createdb", tmp_path / "few.fasta", made / "few")
    (tmp_path / "bases.fna").write_text(">c\n" + "ACGTTGCATG" * 20 + "\n")
    mmseqs.run("createdb", tmp_path / "bases.fna", made / "bases")
    files = sorted(made.iterdir())
    with pytest.raises(PlmscaleError, match=r"2 databases of proteins: .*member.*\(few, prot\)"):
        read({"format": "mmseqs"}, files, tmp_path)
    with pytest.raises(PlmscaleError, match="bases holds nucleotides, not proteins"):
        read({"format": "mmseqs", "member": "bases"}, files, tmp_path)
    with pytest.raises(PlmscaleError, match=r"no database 'pro'; did you mean prot"):
        read({"format": "mmseqs", "member": "pro"}, files, tmp_path)
    found = read({"format": "mmseqs", "member": "few"}, files, tmp_path)
    assert sorted(found) == sorted(few.items())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_nothing_in_an_archive_leads_out_of_it(kind, tmp_path):
    secret = tmp_path / "secret.fasta"
    secret.write_text(">s\nMKVLAW\n")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("p.fasta", "db.dbtype", "db"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
        add(archive, "../../outside.dbtype", b"\0\0\0\0")
        add(archive, "/etc/outside.index", b"0\t0\t4\n")
    words = said({"member": "p.fasta"}, tmp_path / "a.tar", tmp_path)
    assert "p.fasta is a link or device, not a file" in words
    said({"format": "mmseqs"}, tmp_path / "a.tar", tmp_path)
    assert not list(tmp_path.parent.glob("outside*"))


# ---- how a source is told ---------------------------------------------------------------------


def test_a_database_is_named_by_its_main_file_or_folder(proteins, tmp_path):
    make_database(proteins, tmp_path)
    for place in ("db/prot", "db"):
        source = {"path": place, "format": "mmseqs"}
        corpus = CorpusConfig.model_validate({"sources": {"s": source}})
        settled = settle(corpus, tmp_path).sources["s"]
        files = [tmp_path / file.path for file in settled.files]
        assert {"prot", "prot.index", "prot_h"} <= {file.name for file in files}
        (tmp_path / place.replace("/", "-")).mkdir(exist_ok=True)
        out = tmp_path / "all.fasta"
        extract(settled, files, out, 1, tmp_path / "w")
        assert dict(read_fasta(out)).keys() == proteins.keys()


def test_what_is_read_how_is_known_before_the_file_is_there():
    def kind(**settings):
        source = SourceConfig(unverified=True, **settings)
        return source.reads_as, is_extracted(source), is_plain_fasta(source)

    assert kind(url="https://x.org/p.fasta.gz") == ("fasta", False, True)
    assert kind(url="https://x.org/p.parquet") == ("parquet", False, False)
    assert kind(url="https://x.org/p.tar", member="p.fasta") == ("fasta", True, False)
    assert kind(url="https://x.org/p.tar", member="p.tsv", format="tsv") == ("tsv", False, False)
    assert kind(url="https://x.org/p.tar", format="mmseqs") == ("mmseqs", True, False)
    assert kind(url="https://x.org/p.fna", format="contigs") == ("contigs", True, False)


# ---- genes of contigs --------------------------------------------------------------------------

CODONS = {
    "A": ["GCG", "GCC", "GCA"], "C": ["TGC", "TGT"], "D": ["GAT", "GAC"], "E": ["GAA", "GAG"],
    "F": ["TTT", "TTC"], "G": ["GGC", "GGT"], "H": ["CAT", "CAC"], "I": ["ATT", "ATC"],
    "K": ["AAA", "AAG"], "L": ["CTG", "TTA", "CTC"], "M": ["ATG"], "N": ["AAC", "AAT"],
    "P": ["CCG", "CCA"], "Q": ["CAG", "CAA"], "R": ["CGT", "CGC"], "S": ["AGC", "TCT", "TCC"],
    "T": ["ACC", "ACG"], "V": ["GTG", "GTT"], "W": ["TGG"], "Y": ["TAT", "TAC"],
}  # fmt: skip


@pytest.fixture(scope="module")
def genome():
    """Contigs whose genes are real metagenomic proteins, and these proteins."""
    assert METAGENOME.is_file(), f"{METAGENOME} is missing"
    rng = np.random.default_rng(0)
    usable = [
        sequence
        for _, sequence in read_fasta(METAGENOME)
        if sequence.startswith("M") and 120 < len(sequence) < 600 and set(sequence) <= set(LETTERS)
    ][:48]
    assert len(usable) == 48
    contigs = {}
    for first in range(0, 48, 6):
        parts = []
        for number, protein in enumerate(usable[first : first + 6]):
            gene = "".join(rng.choice(CODONS[letter]) for letter in protein) + "TAA"
            # Stops in all frames, then Shine and Dalgarno's signal at its distance.
            piece = "TTAATTAATTAA" + "".join(rng.choice(list("AT"), 30)) + "AGGAGGATATACC" + gene
            if number % 2:
                piece = piece[::-1].translate(str.maketrans("ACGT", "TGCA"))
            parts.append(piece)
        contigs[f"c{first}"] = "".join([*parts, "TTAATTAATTAA"])
    return contigs, usable


def write_contigs(path, contigs):
    with gzip.open(path, "wt") as handle:
        for name, bases in contigs.items():
            lines = (bases[i : i + 70] for i in range(0, len(bases), 70))
            handle.write(f">{name} length={len(bases)}\n" + "\n".join(lines) + "\n")
    return path


def genes_of(path, out, threads=2):
    source = SourceConfig(path=str(path), format="contigs")
    return extract(source, [path], out, threads, out.parent / "work")


def test_genes_come_back_from_contigs(genome, tmp_path, capsys):
    contigs, expected = genome
    extra = {"tiny": "ACGTACGT", "unknown": "N" * 200}
    path = write_contigs(tmp_path / "c.fna.gz", contigs | extra)
    counts = genes_of(path, tmp_path / "genes.fasta")
    assert counts["contigs"] == len(contigs) + 2 and counts["contigs_too_short"] == 1
    found = dict(read_fasta(tmp_path / "genes.fasta"))
    assert counts["genes"] == len(found)
    assert not any("*" in sequence for sequence in found.values())
    # Starts may be found some codons off, ends not; a spurious gene or two is Prodigal's.
    ends = {sequence[-60:] for sequence in found.values()}
    assert np.mean([protein[-60:] in ends for protein in expected]) > 0.9
    assert np.mean([protein in found.values() for protein in expected]) > 0.7
    assert len(found) < 1.3 * len(expected)
    assert f"{len(found)} genes" in capsys.readouterr().err


def test_genes_do_not_depend_on_the_number_of_threads(genome, tmp_path):
    path = write_contigs(tmp_path / "c.fna.gz", genome[0])
    counts = [genes_of(path, tmp_path / f"{n}.fasta", n) for n in (1, 3)]
    assert counts[0] == counts[1]
    assert (tmp_path / "1.fasta").read_bytes() == (tmp_path / "3.fasta").read_bytes()


def test_genes_cut_by_the_end_of_a_contig_are_kept_and_marked(genome, tmp_path):
    contigs, expected = genome
    bases = contigs["c0"]
    # Ends within the third gene, which reads forward.
    cut = bases[: bases.index("AGGAGG", len(expected[0]) * 3 + len(expected[1]) * 3) + 250]
    write_contigs(tmp_path / "cut.fna.gz", {"cut": cut})
    counts = genes_of(tmp_path / "cut.fna.gz", tmp_path / "genes.fasta")
    assert counts["partial_genes"] >= 1
    headers = [
        line
        for line in (tmp_path / "genes.fasta").read_text().splitlines()
        if line.startswith(">cut_")
    ]
    last = headers[-1]
    assert last.endswith("# 1 # partial=01") and headers[0].endswith("partial=00")


def test_ambiguous_bases_lower_case_and_rna_are_fine(genome, tmp_path):
    name, bases = next(iter(genome[0].items()))
    middle = bases.index("AGGAGG") + 100
    odd = bases[:middle] + "RYN" + bases[middle + 3 :]
    write_contigs(tmp_path / "odd.fna.gz", {name: odd.lower().replace("t", "u")})
    genes_of(tmp_path / "odd.fna.gz", tmp_path / "genes.fasta")
    assert any("X" in s for _, s in read_fasta(tmp_path / "genes.fasta"))


def test_contigs_inside_an_archive(genome, tmp_path):
    path = write_contigs(tmp_path / "c.fna.gz", genome[0])
    genes_of(path, tmp_path / "one.fasta")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        add(archive, "c.fna", gzip.decompress(path.read_bytes()))
    source = SourceConfig(path="c.tar.gz", format="contigs", member="c.fna")
    extract(source, [tmp_path / "c.tar.gz"], tmp_path / "two.fasta", 2, tmp_path / "work")
    assert (tmp_path / "one.fasta").read_bytes() == (tmp_path / "two.fasta").read_bytes()


def test_what_are_no_contigs_is_told(genome, tmp_path):
    settings, path = {"format": "contigs"}, tmp_path / "x.fna"
    path.write_text(">p1 protein\nMKVLAWEEF\n")
    words = said(settings, path, tmp_path)
    assert "record 1 (p1) holds 'L', which is no nucleotide; are these proteins?" in words
    path.write_text(">c1\nACGT\n>c2\nACG?T\n")
    assert said(settings, path, tmp_path).endswith(
        "record 2 (c2) holds '?', which is no nucleotide"
    )
    path.write_text(">c1\n" + "ACGT" * 10 + "\n")
    assert "no gene was found in 1 contigs (1 too short)" in said(settings, path, tmp_path)
    path.write_text("ACGT\n")
    assert "expected '>' and a name, found 'ACGT'" in said(settings, path, tmp_path)
    path.write_text("")
    assert "no FASTA records; the file is empty" in said(settings, path, tmp_path)
    packed = write_contigs(tmp_path / "c.fna.gz", genome[0])
    packed.write_bytes(packed.read_bytes()[:2000])
    assert "truncated or damaged" in said(settings, packed, tmp_path)
