"""Where sources come from: what a study may say, what is pinned by it, and how files are brought in."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from misbehaving_site import File, running_site

from plmscale import cli, grid, snakefile, study
from plmscale.corpus import settling
from plmscale.corpus.config import CorpusConfig
from plmscale.corpus.fetch import fetch_file
from plmscale.corpus.metalink import published, read_metalink
from plmscale.corpus.settling import settle
from plmscale.corpus.source_config import SourceConfig, file_names, identity
from plmscale.download.download import download
from plmscale.errors import PlmscaleError
from plmscale.files import read_json

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or Path(__file__).parents[3] / "shared")
FASTA = gzip.compress(b">UniRef50_P1 a protein\nMKVLAW\n" * 3000, mtime=0)
SIZE = len(FASTA)
MD5, SHA256 = hashlib.md5(FASTA).hexdigest(), hashlib.sha256(FASTA).hexdigest()


@pytest.fixture
def site():
    with running_site() as running:
        yield running


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def metalink_text(release="2025_04", md5=MD5, size=SIZE, url="https://x.org/f"):
    """A RELEASE.metalink as UniProt writes it."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink version="3.0" type="dynamic" xmlns="http://www.metalinker.org/"
          origin="https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/RELEASE.metalink">
  <publisher><name>UniProt</name><url>https://www.uniprot.org</url></publisher>
  <license><name>Creative Commons Attribution</name><url>https://www.uniprot.org/help/license</url></license>
  <version>{release}</version>
  <files>
    <file name="README">
      <size>7</size>
      <verification><hash type="md5">{hashlib.md5(b"readme!").hexdigest()}</hash></verification>
      <resources><url location="us" preference="100" type="https">https://x.org/README</url></resources>
    </file>
    <file name="uniref50.fasta.gz">
      <size>{size}</size>
      <verification>
        <hash type="md5">{md5}</hash>
      </verification>
      <resources maxconnections="1">
        <url location="us" preference="100" type="ftp">ftp://x.org/uniref50.fasta.gz</url>
        <url location="uk" preference="90" type="https">{url}</url>
      </resources>
    </file>
  </files>
</metalink>
""".encode()


def uniref(site, **given):
    settings = {
        "url": f"{site.url}/uniref50.fasta.gz",
        "metalink": f"{site.url}/RELEASE.metalink",
        "release": "2025_04",
    }
    return SourceConfig.model_validate(settings | given)


# ---- what a study may say -------------------------------------------------------------------

URL = "https://x.org/p.fasta.gz"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give either path or url, or files"),
        ({"path": "a", "url": URL}, "give either path or url"),
        ({"path": "a", "files": [{"path": "b"}]}, "give either path or url, or files"),
        ({"url": URL}, "needs sha256, md5 or metalink; or unverified: true"),
        ({"files": [{"url": URL}]}, "needs sha256, md5 or metalink; or unverified: true"),
        ({"files": [{"path": "a", "url": URL}]}, "give either path or url"),
        ({"files": [{"path": "a"}, {}]}, "files: each has either path or url"),
        ({"files": [{"path": "a"}], "md5": "0" * 32}, "stand with each of files"),
        ({"url": URL, "md5": "0" * 31}, "md5 must be 32 lower-case hex digits (md5sum FILE)"),
        ({"path": "a", "sha256": "0" * 63}, "sha256 must be 64 lower-case hex digits"),
        ({"path": "*.fa", "sha256": "0" * 64}, "a pattern has no checksum"),
        ({"path": "a", "metalink": URL}, "metalink stands beside a url"),
        ({"url": URL, "metalink": URL}, "metalink needs release"),
        ({"path": "a", "mirrors": [URL]}, "mirrors stand beside a url"),
        ({"path": "a", "release": 202504}, "write it in quotes"),
        ({"path": "a", "role": "held_out", "weight": 2}, "nothing of a held-out source is trained on"),
        ({"path": "a.parquet", "member": "b"}, "Parquet is not read from inside an archive"),
        ({"path": "a", "format": "fastq"}, "Input should be 'auto', 'fasta', 'parquet'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_source_are_told(settings, words):
    with pytest.raises(ValueError) as error:
        SourceConfig.model_validate(settings)
    assert words in str(error.value)


def test_identity_is_of_content_and_reading_not_of_place():
    one = SourceConfig(url=URL, sha256=SHA256)
    for same in (
        SourceConfig(url="https://y.org/q.fa", sha256=SHA256, mirrors=["https://z.org/"]),
        SourceConfig(path="elsewhere/p.fasta", sha256=SHA256, format="fasta", licence="x"),
        SourceConfig(files=[{"path": "p", "sha256": SHA256}], weight=0.3, release="7"),
        SourceConfig(path="p", sha256=SHA256, column="of a format that this is not"),
    ):
        assert identity(same) == identity(one)
    for other in (
        SourceConfig(url=URL, sha256="0" * 64),
        SourceConfig(url=URL, sha256=SHA256, format="contigs"),
        SourceConfig(url=URL, sha256=SHA256, member="x"),
        SourceConfig(url=URL, sha256=SHA256, role="held_out"),
        SourceConfig(files=[{"path": "p", "sha256": SHA256}] * 2),
    ):
        assert identity(other) != identity(one)
    table = {"path": "p.parquet", "sha256": SHA256}
    assert identity(SourceConfig(**table)) != identity(SourceConfig(**table, column="seq"))
    metalink = {"url": URL, "metalink": URL}
    old, new = (identity(SourceConfig(**metalink, release=r)) for r in ("2025_03", "2025_04"))
    assert old != new


def test_equal_files_share_a_name_and_names_are_readable():
    names = file_names(SourceConfig(url="https://x.org/a/uniref50.fasta.gz", sha256=SHA256))
    assert names == [f"uniref50.{SHA256[:12]}"]
    archive = {"url": "https://x.org/env.tar.gz", "unverified": True, "release": "1"}
    c, m, later = (
        file_names(SourceConfig(**archive | change))
        for change in ({"member": "c"}, {"member": "m", "weight": 2}, {"release": "2"})
    )
    assert c == m != later


# ---- settling --------------------------------------------------------------------------------


def settled(source, project):
    return settle(CorpusConfig.model_validate({"sources": {"s": source}}), project).sources["s"]


def test_a_pattern_is_all_files_that_fit_in_sorted_order(tmp_path):
    (tmp_path / "mags").mkdir()
    for name in ("b.faa.gz", "a.faa.gz", "c.txt"):
        (tmp_path / "mags" / name).write_bytes(name.encode())
    source = settled({"path": "mags/*.faa.gz", "format": "fasta"}, tmp_path)
    assert [file.path for file in source.files] == ["mags/a.faa.gz", "mags/b.faa.gz"]
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in ("a.faa.gz", "b.faa.gz")]
    assert [file.sha256 for file in source.files] == digests
    assert source.format == "fasta" and not source.path
    absolute = settled({"path": str(tmp_path / "mags/?.faa.gz")}, Path("/nowhere"))
    assert identity(absolute) == identity(source)
    assert settled(source.model_dump(), tmp_path) == source
    (tmp_path / "mags/b.faa.gz").write_bytes(b"changed")
    assert identity(settled({"path": "mags/*.faa.gz"}, tmp_path)) != identity(source)


def test_what_is_not_there_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, words in (
        ("none/*.fa", "corpus.sources.s: no file fits none/*.fa"),
        ("none.fa", "none.fa: no such file"),
        ("folder", "folder is a folder; name a file, or"),
    ):
        with pytest.raises(PlmscaleError) as error:
            settled({"path": path}, tmp_path)
        assert words in str(error.value)
    with pytest.raises(PlmscaleError, match="folder holds no MMseqs2 database"):
        settled({"path": "folder", "format": "mmseqs"}, tmp_path)


def test_a_checksum_is_computed_once_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "p.fasta"
    path.write_text(">a\nMKV\n")
    first = settled({"path": "p.fasta"}, tmp_path).sha256
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(settling, "hash_file", lambda path: "f" * 64)
    assert settled({"path": "p.fasta"}, tmp_path).sha256 == first
    path.write_text(">a\nMKVL\n")
    assert settled({"path": "p.fasta"}, tmp_path).sha256 == "f" * 64
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert settled({"path": "p.fasta"}, tmp_path).sha256 == "f" * 64


def test_a_given_checksum_needs_no_file(tmp_path):
    source = settled({"path": "gone.fasta", "sha256": SHA256}, tmp_path)
    assert source.path == "gone.fasta" and not source.files


# ---- metalinks -------------------------------------------------------------------------------


def test_a_metalink_gives_release_size_and_md5(tmp_path):
    path = tmp_path / "RELEASE.metalink"
    path.write_bytes(metalink_text())
    metalink = read_metalink(path)
    file = published(metalink, "uniref50.fasta.gz", "2025_04", "x")
    assert (file.size, file.md5) == (len(FASTA), MD5)
    assert file.urls == ("ftp://x.org/uniref50.fasta.gz", "https://x.org/f")
    with pytest.raises(PlmscaleError, match=r"no file uniref5.fasta.gz; did you mean uniref50"):
        published(metalink, "uniref5.fasta.gz", "2025_04", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<html><body>moved</body></html>", "is no metalink but <html>"),
        (b"moved", "is no metalink (syntax error"),
        (b"", "is no metalink (no element found"),
        (metalink_text()[:400], "is no metalink ("),
        (metalink_text().replace(b"<version>2025_04</version>", b""), "names no release"),
        (
            b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><metalink>&b;</metalink>',
            "declares XML entities",
        ),
        (
            b'<!doctype m [<!ENTITY a SYSTEM "file:///etc/passwd">]><metalink>&a;</metalink>',
            "declares XML entities",
        ),
        (b" " * (9 << 20), "is larger than"),
    ],
)
def test_what_is_no_metalink_is_told(text, words, tmp_path):
    path = tmp_path / "RELEASE.metalink"
    path.write_bytes(text)
    with pytest.raises(PlmscaleError) as error:
        read_metalink(path)
    assert words in str(error.value) and "RELEASE.metalink" in str(error.value)


# ---- bringing files in ------------------------------------------------------------------------


def test_size_and_md5_of_the_metalink_verify_the_file(site, tmp_path):
    site.files |= {
        "RELEASE.metalink": File(metalink_text()),
        "uniref50.fasta.gz": File(FASTA),
    }
    source = uniref(site)
    fetch_file(source, 0, tmp_path / "file", tmp_path / "file.json")
    assert (tmp_path / "file").read_bytes() == FASTA
    found = read_json(tmp_path / "file.json")
    assert found == {
        "name": "uniref50.fasta.gz", "url": source.url, "size": len(FASTA), "md5": MD5,
        "sha256": SHA256, "release": "2025_04", "verified_by": "md5",
    }  # fmt: skip


def test_another_release_is_told_before_anything_is_downloaded(site, tmp_path):
    site.files |= {
        "RELEASE.metalink": File(metalink_text("2026_01")),
        "uniref50.fasta.gz": File(FASTA),
    }
    with pytest.raises(PlmscaleError) as error:
        fetch_file(uniref(site), 0, tmp_path / "file", tmp_path / "file.json")
    assert "is now of release 2026_01, the study names 2025_04" in str(error.value)
    assert "write release: 2026_01 in the study" in str(error.value)
    assert len(site.asked) == 1 and not list(tmp_path.glob("file*"))


def test_a_file_that_does_not_fit_its_metalink_is_refused(site, tmp_path, monkeypatch):
    # A file of another size is asked for again; the pauses between add up to half a minute.
    monkeypatch.setitem(download.__kwdefaults__, "wait", lambda seconds: None)
    for change, words in (
        ({"md5": "0" * 32}, f"MD5 is {MD5}, expected {'0' * 32}"),
        ({"size": 5}, f"has {len(FASTA):,} bytes, expected 5"),
    ):
        site.files |= {
            "RELEASE.metalink": File(metalink_text(**change)),
            "uniref50.fasta.gz": File(FASTA),
        }
        with pytest.raises(PlmscaleError) as error:
            fetch_file(uniref(site), 0, tmp_path / "file", tmp_path / "file.json")
        assert words in str(error.value)
        assert not (tmp_path / "file").exists() and not (tmp_path / "file.json").exists()
    source = uniref(site, size=7)
    with pytest.raises(PlmscaleError, match="the study gives size 7, its metalink 5"):
        fetch_file(source, 0, tmp_path / "file", tmp_path / "file.json")


def test_copies_that_a_metalink_names_are_mirrors(site, tmp_path):
    site.files |= {
        "RELEASE.metalink": File(metalink_text(url=f"{site.url}/copy/uniref50.fasta.gz")),
        "copy/uniref50.fasta.gz": File(FASTA),
    }
    fetch_file(uniref(site), 0, tmp_path / "file", tmp_path / "file.json")
    assert (tmp_path / "file").read_bytes() == FASTA


def test_each_of_many_files_is_fetched_under_a_name_of_its_own(site, tmp_path):
    parts = [b">a\nMKV\n", b">b\nMAW\n", b">c\nMLL\n"]
    site.files |= {f"p{i}.fasta": File(data) for i, data in enumerate(parts[:2])}
    (tmp_path / "local.fasta").write_bytes(parts[2])
    corpus = {
        "sources": {
            "s": {
                "files": [
                    {"url": f"{site.url}/p0.fasta", "md5": hashlib.md5(parts[0]).hexdigest()},
                    {"url": f"{site.url}/p1.fasta", "sha256": hashlib.sha256(parts[1]).hexdigest()},
                    {"path": "local.fasta", "size": 7},
                ]
            }
        }
    }
    source = settle(CorpusConfig.model_validate(corpus), tmp_path).sources["s"]
    names = file_names(source)
    assert [name.split(".")[0] for name in names] == ["p0", "p1", "local"]
    for index, name in enumerate(names):
        fetch_file(source, index, tmp_path / "files" / name, tmp_path / f"{name}.json", tmp_path)
    found = [read_json(tmp_path / f"{name}.json") for name in names]
    assert [(tmp_path / "files" / name).read_bytes() for name in names] == parts
    assert [entry["sha256"] for entry in found] == [hashlib.sha256(p).hexdigest() for p in parts]
    assert [entry["verified_by"] for entry in found] == ["md5", "sha256", "sha256"]
    # Of a local file the name alone is told: the manifest is for other machines.
    assert str(tmp_path) not in str(found) and found[2]["url"] == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"md5": "0" * 32}, f"MD5 is {MD5}, expected"),
        ({"sha256": "0" * 64}, f"SHA-256 is {SHA256}, expected"),
        ({"md5": MD5, "size": 8}, "expected 8; the file is another release"),
        ({"unverified": True, "size": 8}, "expected 8; the file is another release"),
    ],
)
def test_what_is_not_as_the_study_says_is_refused(given, words, site, tmp_path):
    site.files["p.gz"] = File(FASTA)
    source = SourceConfig(url=f"{site.url}/p.gz", **given)
    with pytest.raises(PlmscaleError) as error:
        fetch_file(source, 0, tmp_path / "file", tmp_path / "file.json")
    assert words in str(error.value)
    assert not (tmp_path / "file").exists()


def test_an_unverified_file_is_written_down_and_brought_in_once(site, tmp_path):
    site.files["p.gz"] = File(FASTA)
    source = SourceConfig(url=f"{site.url}/p.gz", unverified=True)
    for _ in range(2):
        found = fetch_file(source, 0, tmp_path / "file", tmp_path / "file.json")
        assert found["sha256"] == SHA256 and "nothing" in found["verified_by"]
    assert len(site.asked) == 1


def test_a_local_file_that_changed_since_is_refused(tmp_path):
    (tmp_path / "p.fasta").write_text(">a\nMKV\n")
    source = settled({"path": "p.fasta"}, tmp_path)
    (tmp_path / "p.fasta").write_text(">a\nMKW\n")
    with pytest.raises(PlmscaleError, match=r"SHA-256 is .*, expected"):
        fetch_file(source, 0, tmp_path / "file", tmp_path / "file.json", tmp_path)


# ---- the study of the paper ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper():
    return study.load(study.PROJECT / "studies/cheng2024.yaml")


def test_the_papers_corpus_has_its_sizes_and_shares(paper):
    sources = paper.corpus.sources
    assert list(sources) == ["uniref50", "uniref90", "colabfold_c", "colabfold_m"]
    assert sum(source.sequences for source in sources.values()) == pytest.approx(939e6, rel=1e-3)
    assert sum(source.residues for source in sources.values()) == pytest.approx(194e9, rel=2e-3)
    weights = [0.085, 0.195, 0.195, 0.525]
    assert [source.weight for source in sources.values()] == weights
    assert list(paper.corpus.mixes["mix"].weights.values()) == weights
    for source in sources.values():
        assert source.url.startswith("https://") and source.licence and source.citation
    c, m = sources["colabfold_c"], sources["colabfold_m"]
    assert file_names(c) == file_names(m) and identity(c) != identity(m)


def test_the_papers_models_are_trained_as_in_the_paper(paper):
    """What the demo sets for models of a thousand parameters must not come through."""
    plain = type(paper.training)()
    assert paper.training.model_dump(exclude={"precision"}) == plain.model_dump(
        exclude={"precision"}
    )
    assert paper.model == type(paper.model)()
    assert paper.validation == type(paper.validation)()
    assert not paper.sizes


def test_the_papers_grid_is_of_runs_that_the_paper_has(paper):
    points = pd.read_csv(SHARED / "paper/isoflop_points.csv")
    theirs = {
        (o.lower(), float(b), s)
        for o, b, s in zip(points["objective"], points["budget_flops"], points["model_size_label"])
    }
    ours = {
        (run.recipe["objective"], run.recipe["budget"], run.recipe["architecture"]["name"])
        for run in grid.expand(paper)
        if "isoflop_clm" in run.experiments or "isoflop_mlm" in run.experiments
    }
    assert ours <= theirs
    budgets = sorted({budget for _, budget, _ in theirs})
    for objective in ("clm", "mlm"):
        for budget in budgets:
            sizes = [s for o, b, s in ours if (o, b) == (objective, budget)]
            here = points[
                (points["objective"] == objective.upper())
                & np.isclose(points["budget_flops"], budget)
            ]
            best = here.sort_values("final_validation_loss")["model_size_label"].iloc[0]
            assert len(sizes) >= 6 and best in sizes


def test_the_papers_grid_is_shown(paper, capsys):
    path = study.PROJECT / "studies/cheng2024.yaml"
    assert cli.main(["runs", str(path)]) == 0
    assert "clm-470M-1e20-mix-" in capsys.readouterr().out
    assert snakefile.corpus_folder(paper).startswith("results/corpora/")
