"""Killed, diverged and broken: what the workflow does and says."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import time

import pytest
from conftest import Checkout

pytestmark = pytest.mark.slow

LONG = """
overlays: smoke.yaml
study: long
grid:
  isoflop: {kind: isoflop, objectives: [clm], budgets: [2.0e+10], sizes: [3k]}
subsets: {}
execution: {checkpoint_seconds: 0.3}
"""
SAME = ["loss", "loss_se", "n_valid_tokens", "tokens", "steps", "weights_sha256"]


def results(checkout, study):
    runs = sorted((checkout.folder / f"results/{study}/runs").glob("*/metrics.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in runs}


def test_a_killed_workflow_resumes_and_ends_with_the_same_numbers(copy):
    copy.write_study("long", LONG)
    corpus = copy.folder / "results/long"
    # The corpus is that of the smoke study: same sources, same rules.
    assert set(copy.jobs("grid", study="long")) == {"recipe", "train", "collect", "grid"}
    copy.snakemake("grid", study="long")
    whole = results(copy, "long")
    curve = next(corpus.glob("runs/*/curve.csv")).read_text()
    subprocess.run(["rm", "-rf", corpus / "runs", corpus / "checkpoints"], check=True)

    workflow = subprocess.Popen(
        copy.command("grid", study="long"), cwd=copy.folder, env=copy.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(corpus.glob("checkpoints/*/latest*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    assert not results(copy, "long"), "the run ended before it could be killed"
    copy.snakemake("--unlock", study="long")
    copy.snakemake("grid", study="long")
    again = results(copy, "long")
    for run_id, metrics in again.items():
        assert metrics["resumed"] >= 1
        assert {k: metrics[k] for k in SAME} == {k: whole[run_id][k] for k in SAME}
    assert next(corpus.glob("runs/*/curve.csv")).read_text() == curve


def test_a_diverged_run_ends_clearly_and_the_laws_leave_it_out(copy):
    copy.write_study(
        "diverging",
        "overlays: smoke.yaml\nstudy: diverging\nsubsets: {}\ngrid:\n"
        "  isoflop: {kind: isoflop, objectives: [clm], budgets: [1.0e+9, 2.0e+9], sizes: [2k, 3k, 7k]}\n"
        "  bad: {kind: isoflop, objectives: [clm], budgets: [1.0e+9], sizes: [3k],"
        " training: {lr: {1: 1.0e+12}, grad_clip: 1.0e+30}}\n",
    )
    copy.snakemake(study="diverging")
    runs = results(copy, "diverging")
    status = sorted(m["status"] for m in runs.values())
    assert status == ["diverged"] + ["done"] * 6
    bad = next(run_id for run_id, m in runs.items() if m["status"] == "diverged")
    assert runs[bad]["status_detail"]
    laws = json.loads((copy.folder / "results/diverging/laws/laws.json").read_text())
    assert bad in json.dumps(laws["excluded"])
    assert bad in (copy.folder / "results/diverging/report.html").read_text()


def broken_source(checkout, data, name="broken.fasta", sha256=None):
    (checkout.folder / name).write_bytes(data)
    digest = sha256 or hashlib.sha256(data).hexdigest()
    checkout.write_study(
        "broken",
        "overlays: smoke.yaml\nstudy: broken\ncorpus:\n  sources:\n"
        f"    one: {{path: {name}, sha256: '{digest}'}}\n  mixes: {{}}\ngrid:\n"
        "  isoflop: {kind: isoflop, budgets: [1.0e+9], sizes: [2k]}\nsubsets: {}\n",
    )
    done = checkout.snakemake("corpus", study="broken", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.text, done.text[-3000:]
    return done.text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b">a\n" + os.urandom(4000).hex().upper().encode() + b"\n")[:-900], "truncated or damaged"),
        (b"", "no FASTA records"),
        (b">a\nMKV\n>b\n>c\nMKL\n", "record 2 (b) has no sequence"),
        (b">a\nMKV\n>b\nMK1L\n", "record 2 (b): '1' at position 3 is no amino acid"),
        (b"MKVL\n", "expected '>'"),
    ],
    ids=["truncated-gz", "empty", "no-sequence", "odd-letter", "no-fasta"],
)  # fmt: skip
def test_bad_fasta_is_one_clear_line(tmp_path, data, said):
    text = broken_source(Checkout(tmp_path / "clone"), data)
    assert said in text


def test_a_wrong_checksum_names_file_expected_and_found(tmp_path):
    text = broken_source(Checkout(tmp_path / "clone"), b">a\nMKV\n", sha256="0" * 64)
    assert "broken.fasta" in text and "0" * 64 in text
    assert hashlib.sha256(b">a\nMKV\n").hexdigest() in text


def test_a_typo_in_the_config_stops_before_any_job(tmp_path):
    checkout = Checkout(tmp_path / "clone")
    checkout.write_study("typo", "overlays: smoke.yaml\nstudy: typo\ntraining: {weight_decy: 1}\n")
    done = checkout.snakemake(study="typo", check=False)
    assert "training.weight_decy: unknown key; did you mean weight_decay or decay?" in done.text
    assert done.returncode != 0 and "Traceback" not in done.text
    assert not (checkout.folder / "results").exists()


def test_a_budget_too_small_for_one_step_stops_before_any_job(tmp_path):
    checkout = Checkout(tmp_path / "clone")
    checkout.write_study(
        "small",
        "overlays: smoke.yaml\nstudy: small\nsubsets: {}\ngrid:\n"
        "  isoflop: {kind: isoflop, budgets: [1000], sizes: [2k]}\n",
    )
    done = checkout.snakemake(study="small", check=False)
    assert "cannot make one step" in done.text and done.returncode != 0


def test_a_corrupt_shard_is_named_and_no_model_is_trained_on_it(copy):
    shard = next((copy.folder / "results/smoke/corpus/shards").glob("diverse.train.*.bin"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    run = next(p for p in (copy.folder / "results/smoke/runs").iterdir() if "-mix-" in p.name)
    (run / "metrics.json").unlink()
    done = copy.snakemake(run.relative_to(copy.folder) / "metrics.json", check=False)
    assert done.returncode != 0 and shard.name in done.text
    assert "Traceback" not in done.text
