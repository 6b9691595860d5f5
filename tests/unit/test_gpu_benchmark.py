"""The GPU benchmark on a CPU: every path with tiny sizes, so that no typo waits for a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from training_fixtures import environment

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_speed  # noqa: E402


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """What a dry run prints, and its JSON."""
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("dry") / "numbers.json"
    words = [sys.executable, str(ROOT / "benchmarks/gpu_speed.py"), "--dry-run-cpu", "--json", path]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_contestant_gives_numbers(dry_run):
    rows = dry_run[1]["rows"]
    assert {row["section"] for row in rows} == set(gpu_speed.SECTIONS)
    notes = [row["note"] for row in rows if "note" in row]
    assert set(notes) <= {"flash_attn is not installed"}
    for row in rows:
        assert row.get("note") or row.get("tokens/s", row.get("ms")) > 0
    trained = [row for row in rows if row["section"] == "trainer"]
    assert [row["compile"] for row in trained] == ["on", "off"]
    for row in trained:
        parts = row["data ms"] + row["fwd+bwd ms"] + row["optim ms"]
        assert 0.3 * row["step ms"] < parts < 3 * row["step ms"]
        assert row["tokens/s"] == pytest.approx(4 * 64 / (row["step ms"] / 1000), rel=0.01)
    kinds = {row["what"] for row in rows if row["section"] == "kernels"}
    assert {"attention", "flex block mask", "model", "model, checkpointing"} <= kinds
    assert any(row.get("ours / this") for row in rows)


def test_tables_line_up(dry_run):
    tables = dry_run[0].split("\n\n")[1:]
    assert [table.split()[0] for table in tables] == list(gpu_speed.SECTIONS)
    for table in tables:
        _, head, *lines = table.rstrip().splitlines()
        assert lines
        # A column of numbers ends where its heading ends.
        end = head.index(" ms") + 3 if " ms" in head else head.index("tokens/s") + 8
        assert all(line[end : end + 1] in ("", " ") for line in lines)


def test_every_name_of_a_full_run_is_known():
    from gpu_training import shape_of

    for quick in (False, True):
        listed = gpu_speed.contestants(quick, tiny=False)
        assert len({json.dumps(spec, sort_keys=True) for spec in listed}) == len(listed)
        for spec in listed:
            assert shape_of(spec["size"]).vocab_size == 32 and spec["context"] == 1024
    sizes = {spec["size"] for spec in gpu_speed.contestants(False, False)}
    assert {"3M", "25M", "85M", "470M", "650M", "1.2B"} <= sizes


def test_a_contestant_in_a_process_of_its_own(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    spec = next(s for s in gpu_speed.contestants(False, True) if s["kind"] == "widths")
    rows = gpu_speed.in_a_process(spec, 120)
    assert [row["what"] for row in rows][::2] == ["MLP, d_ff 42", "MLP, d_ff 48", "MLP, d_ff 64"]
    assert all(row["ms"] > 0 for row in rows)
    (row,) = gpu_speed.in_a_process({**spec, "size": "12 parsecs"}, 120)
    assert row["note"].startswith("failed: KeyError") and "12 parsecs" in capsys.readouterr().err
    (row,) = gpu_speed.in_a_process(spec, 0.01)
    assert row == {"note": "given up after 0 s"}


def test_out_of_memory_is_a_row(monkeypatch):
    import gpu_kernels
    import torch

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_kernels, "widths", full)
    assert gpu_speed.compete({"kind": "widths"}) == [{"note": "out of memory"}]


def test_esm_takes_fewer_rows_where_memory_is_short(monkeypatch):
    pytest.importorskip("transformers")
    import gpu_esm
    import torch

    tried = []

    def step_of(arch, spec, inputs, targets, micro):
        tried.append(micro)
        if micro > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (lambda: None), arch.n_params

    monkeypatch.setattr(gpu_esm, "esm_step", step_of)
    monkeypatch.setattr(gpu_esm, "batch_of", lambda *_: (torch.zeros(16, 8), None))
    spec = {"size": "tiny", "attention": "sdpa", "micro": 16, "seconds": 0, "context": 8}
    (row,) = gpu_esm.esm(spec, None)
    assert tried == [16, 8, 4] and row["micro"] == 4


def test_ratios_are_of_equal_sizes():
    rows = [
        {"section": "trainer", "size": "85M", "compile": "on", "tokens/s": 300},
        {"section": "trainer", "size": "85M", "compile": "off", "tokens/s": 200},
        {"section": "esm", "size": "85M", "tokens/s": 150},
        {"section": "esm", "size": "650M", "tokens/s": 50},
        {"section": "pack", "size": "3M", "at once": 1, "tokens/s": 10},
        {"section": "pack", "size": "3M", "at once": 4, "tokens/s": 30},
        {"section": "pack", "size": "25M", "at once": 4, "note": "out of memory"},
    ]
    gpu_speed.compared(rows)
    assert [row.get("ours / this") for row in rows[2:4]] == [2.0, None]
    assert [row.get("over one") for row in rows[4:]] == [1.0, 3.0, None]
