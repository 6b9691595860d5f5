"""FASTA record by record: what is read, and what is said of what cannot be."""

import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from inference_fixtures import (
    SEQUENCES,
    failure,
    save_run,
    small_model,
    summary,
    write_fasta,
)
from record_by_record import read_fasta

from plmscale.corpus.alphabet import decode
from plmscale.corpus.openers import zstd
from plmscale.errors import PlmscaleError
from plmscale.inference import progress, records
from plmscale.inference.records import FastaReader

torch.set_num_threads(1)
PACKERS = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd.compress, "xz": lzma.compress}


def read(path, **how):
    return [(r.number, r.id, decode(r.tokens)) for r in FastaReader(path, **how)]


def fault(path, **how):
    with pytest.raises(PlmscaleError) as caught:
        read(path, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("stdin", [False, True])
def test_however_it_comes(tmp_path, monkeypatch, pack, stdin):
    path = write_fasta(tmp_path / "in.fasta")
    data = pack(path.read_bytes())
    path.write_bytes(data)
    if stdin:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    expected = [(i + 1, f"p{i}", s) for i, s in enumerate(SEQUENCES)]
    counted = []
    assert read("-" if stdin else path, advance=counted.append) == expected
    assert sum(counted) == len(data)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_odd_but_valid_text(tmp_path, monkeypatch, chunk):
    """Against a reader that goes line by line, wherever chunks are cut."""
    monkeypatch.setattr(records, "_CHUNK", chunk)
    text = (
        b"\n \r\n>a one > two\r\nMK tv\r\n\r\nAC\tD*\r\n>b\nACDEF\nGHIKLM\n>a\nm\n"
        b"> spaced name\nUOBZXJuobzxj**\n>\xc3\xa4\xff\nMKT"
    )
    (tmp_path / "in.fasta").write_bytes(text)
    expected = []
    for i, (header, sequence) in enumerate(read_fasta(tmp_path / "in.fasta"), 1):
        letters = sequence.decode().upper().rstrip("*").replace("J", "X")
        expected.append((i, header, letters))
    assert expected[3] == (4, "spaced name", "UOBZXXUOBZXX")
    assert read(tmp_path / "in.fasta", headers=True) == expected
    words = [(i, header.split()[0], s) for i, header, s in expected]
    assert read(tmp_path / "in.fasta") == words
    assert [name for _, name, _ in words] == ["a", "b", "a", "spaced", "ä\ufffd"]


BAD = {
    ">a\nMK\n>b odd\nMK1T\n>c\nM\n": "line 3: record 2 (b odd) has '1' at position 3, which is no amino",
    ">a\nMK\n>b\nM*KT\n>c\nM\n": "line 3: record 2 (b) has '*' at position 2, which is a stop inside",
    ">a\nMK\n>b\nM-KT\n>c\nM\n": "record 2 (b) has '-' at position 2",
    ">a\nMK\n>b\n\n>c\nM\n": "line 3: record 2 (b) has no sequence",
    ">a\nMK\n>b\n**\n>c\nM\n": "record 2 (b) has no sequence",
    ">a\nMK\n>\nMKT\n>c\nM\n": "line 3: record 2 () has no name",
}


@pytest.mark.parametrize("text", BAD)
def test_a_record_at_fault_is_named_or_left_out(tmp_path, text):
    path = tmp_path / "in.fasta"
    path.write_text(text)
    line = fault(path)
    assert BAD[text] in line and str(path) in line and "--on-error skip" in line
    told = []
    reader = FastaReader(path, skip=True, warn=told.append)
    assert [(r.number, r.id) for r in reader] == [(1, "a"), (3, "c")]
    assert reader.skipped == len(told) == 1 and BAD[text] in told[0]


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_a_header_begins_a_line(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(records, "_CHUNK", chunk)
    (tmp_path / "in.fasta").write_text(">a\nMKTVMKT>MK\n>b\nMK\n")
    assert "record 1 (a) has '>' at position 8" in fault(tmp_path / "in.fasta")


@pytest.mark.parametrize("lines", [1, 60])
def test_a_genome_costs_no_more_than_the_limit(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(records, "_CHUNK", 1000)
    genome = ("ACGT" * 50 + ("\n" if lines > 1 else "")) * 500
    (tmp_path / "in.fasta").write_text(f">a\nMK\n>chr1\n{genome}\n>c\nMKV\n")
    line = fault(tmp_path / "in.fasta", longest=5000)
    assert "record 2 (chr1) is longer than 5,000 bytes" in line
    assert read(tmp_path / "in.fasta", longest=5000, skip=True)[1] == (3, "c", "MKV")
    assert len(read(tmp_path / "in.fasta", longest=200_000)[1][2]) == 100_000


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz"])
def test_damage_is_an_error_even_when_skipping(tmp_path, kind):
    data = PACKERS[kind](write_fasta(tmp_path / "whole.fasta").read_bytes())
    for size in (len(data) - 3, len(data) // 2, 12):
        (tmp_path / "cut.fasta.gz").write_bytes(data[:size])
        assert "cut.fasta.gz: the compressed file is truncated" in fault(
            tmp_path / "cut.fasta.gz", skip=True
        )


def test_what_is_no_fasta(tmp_path):
    path = tmp_path / "in.fasta"
    for content in (b"", b"\n\n"):
        path.write_bytes(content)
        assert "no FASTA records; the file is empty" in fault(path, skip=True)
    path.write_bytes(b"\nid,seq\na,MK\n")
    assert "line 2: expected '>' and a name, found 'id,seq'" in fault(path, skip=True)
    assert "no such FASTA file" in fault(tmp_path / "none.fasta")


def test_errors_of_commands(tmp_path, capsys):
    run = save_run(tmp_path / "run", small_model())
    (tmp_path / "odd.fasta").write_text(">a\nMK\n>b\nM1\n>b\nMKT\n")
    out = tmp_path / "out.tsv"
    line = failure(capsys, "score", run, tmp_path / "odd.fasta", "--out", out)
    assert "odd.fasta: line 3: record 2 (b)" in line and not out.exists()
    told = summary(capsys, "score", run, tmp_path / "odd.fasta", "--out", out, "--on-error", "skip")
    assert (told["records"], told["skipped"]) == (2, 1)
    assert [x.split("\t")[0] for x in out.read_text().splitlines()] == ["id", "a", "b"]
    (tmp_path / "odd.fasta").write_text(">a\n1\n")
    line = failure(capsys, "score", run, tmp_path / "odd.fasta", "--on-error", "skip", "--out", out)
    assert "no record is left" in line and len(out.read_text().splitlines()) == 3


def test_runs_that_cannot_be_used(tmp_path, capsys):
    fasta = write_fasta(tmp_path / "in.fasta")
    assert "no such run folder" in failure(capsys, "score", tmp_path / "none", fasta)
    run = save_run(tmp_path / "run", small_model())
    (run / "model.safetensors").rename(tmp_path / "kept")
    line = failure(capsys, "score", run, fasta)
    assert f"{run}: model.safetensors missing; has the run finished?" in line
    (run / "model.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:-100])
    assert "model.safetensors: not a readable safetensors file" in failure(
        capsys, "score", run, fasta
    )
    (run / "config.json").write_text("{}")
    assert "config.json: no 'architecture'" in failure(capsys, "score", run, fasta)
    (run / "config.json").write_text("{")
    assert "config.json: not valid JSON" in failure(capsys, "score", run, fasta)
    run = save_run(tmp_path / "lost", small_model())
    (run / "metrics.json").write_text('{"status": "parent_failed"}')
    assert "parent run was lost" in failure(capsys, "score", run, fasta)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path, capsys):
    run, fasta = save_run(tmp_path / "run", small_model()), write_fasta(tmp_path / "in.fasta")
    assert "torch sees no GPU" in failure(capsys, "score", run, fasta, "--device", "cuda")
    assert summary(capsys, "score", run, fasta, "--out", tmp_path / "o.tsv")["device"] == "cpu"


def test_bf16_is_close(tmp_path, capsys):
    run, fasta = save_run(tmp_path / "run", small_model()), write_fasta(tmp_path / "in.fasta")
    exact = summary(capsys, "score", run, fasta, "--out", tmp_path / "a.tsv")
    rough = summary(capsys, "score", run, fasta, "--out", tmp_path / "b.tsv", "--dtype", "bf16")
    assert exact["dtype"] == "fp32" and rough["dtype"] == "bf16"
    assert rough["nll"] != exact["nll"]
    assert rough["nll_per_token"] == pytest.approx(exact["nll_per_token"], rel=0.02)


def test_a_killed_job_leaves_no_file_under_the_final_name(tmp_path):
    run = save_run(tmp_path / "run", small_model())
    out = tmp_path / "out.tsv"
    # Standard input stays open, so the command waits for more when it is killed.
    words = [sys.executable, "-m", "plmscale.cli", "score", run, "-", "--out", out]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        job.stdin.write(write_fasta(tmp_path / "in.fasta").read_bytes())
        job.stdin.flush()
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".out.tsv.*")):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(job.pid, signal.SIGKILL)
    assert not out.exists()


def test_standard_input_as_a_pipe(tmp_path, capsys):
    run = save_run(tmp_path / "run", small_model())
    fasta = write_fasta(tmp_path / "in.fasta")
    words = [sys.executable, "-m", "plmscale.cli", "score", str(run), "-"]
    piped = subprocess.run(words, input=gzip.compress(fasta.read_bytes()), capture_output=True)
    summary(capsys, "score", run, fasta, "--out", tmp_path / "out.tsv")
    rows, expected = ([x.split("\t") for x in text.splitlines()]
                      for text in (piped.stdout.decode(), (tmp_path / "out.tsv").read_text()))  # fmt: skip
    assert [r[:3] for r in rows] == [r[:3] for r in expected] and len(rows) == 11
    # Another number of threads may add in another order.
    for row, other in zip(rows[1:], expected[1:]):
        assert float(row[3]) == pytest.approx(float(other[3]), rel=1e-5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(monkeypatch):
    monkeypatch.setattr(progress, "_LINE", 0.0)
    for stream in (Terminal(), io.StringIO()):
        with progress.Pass("score", 2000, stream) as counted:
            counted.advance(1000)
            counted.done(1, 300)
            counted.say("a word")
            counted.done(1, 200)
        text = stream.getvalue()
        assert (counted.records, counted.residues) == (2, 500)
        assert "plmscale: a word\n" in text
        if stream.isatty():
            assert "50%" in text and "1.00k/2.00k" in text
        else:
            assert "plmscale: score: 1 records (50% read), " in text and "\r" not in text
