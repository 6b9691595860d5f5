"""`plmscale score`, `embed` and `generate` on a GPU, against a CPU; all in fp32."""

import csv

import numpy as np
import pytest
from gpu_example import DEVICE, on_gpu
from inference_fixtures import plmscale, save_run, small_model, write_fasta

pytestmark = on_gpu


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "some.fasta")


def both(command, run, *words, out):
    """The file that a command writes on the CPU and the one on the GPU."""
    files = []
    for device in ("cpu", DEVICE):
        path = out.with_stem(f"{out.stem}-{len(files)}")
        how = ("--device", device, "--dtype", "fp32", "--out", path)
        assert plmscale(command, run, *words, *how) == 0
        files.append(path)
    return files


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_scores(tmp_path, fasta, objective):
    run = save_run(tmp_path / "run", small_model(), objective)
    tables = []
    for path in both("score", run, fasta, out=tmp_path / "scores.csv"):
        with path.open(newline="") as handle:
            tables.append(list(csv.DictReader(handle)))
    assert [row["id"] for row in tables[0]] == [row["id"] for row in tables[1]]
    cpu, gpu = (np.array([float(row["nll"]) for row in table]) for table in tables)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-4)
    assert cpu.std() > 1


def test_embeddings(tmp_path, fasta):
    run = save_run(tmp_path / "run", small_model(), "mlm")
    cpu, gpu = map(np.load, both("embed", run, fasta, out=tmp_path / "e.npy"))
    np.testing.assert_allclose(gpu, cpu, atol=1e-3)
    assert cpu.std() > 0.1


def test_generated_sequences(tmp_path):
    """The most probable tokens from prompts, so that only the logits' order matters."""
    run = save_run(tmp_path / "run", small_model(), "clm")
    prompts = write_fasta(tmp_path / "prompts.fasta", ["MKV", "GAST", "WYF", "DEKR"])
    words = ("--prompts", prompts, "--temperature", 0, "--min-length", 20, "--max-length", 40)
    texts = [path.read_text() for path in both("generate", run, *words, out=tmp_path / "new.fa")]
    cpu, gpu = (
        ["".join(record.splitlines()[1:]) for record in text.split(">")[1:]] for text in texts
    )
    assert cpu == gpu and len(cpu) == 4 and all(len(sequence) >= 20 for sequence in cpu)
