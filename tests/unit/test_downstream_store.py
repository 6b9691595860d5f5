"""Embeddings that are kept: the same numbers, computed once, by several processes, within a limit."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_fixtures import SEQUENCES, save_run, small_model

from plmscale.corpus.alphabet import BOS, EOS, encode
from plmscale.downstream import models
from plmscale.downstream import store as store_module
from plmscale.downstream.batches import windows
from plmscale.downstream.store import Store
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]


def opened(folder, kind="mlm", context=64, seed=3):
    return models.open(save_run(folder, small_model(seed=seed), kind, context=context))


def expected_states(adapter, sequence, context=0):
    """One window after another, alone, without the adapter's own encoding."""
    out = []
    for start, stop, first, last in windows(len(sequence), context, adapter.causal):
        tokens = torch.tensor([[BOS, *encode(sequence[start:stop]).tolist(), EOS]])
        with torch.no_grad():
            states = adapter.module.hidden(tokens, causal=adapter.causal)[0, 1:-1]
        out.append(states[first - start : last - start].numpy())
    return np.concatenate(out)


class Counting:
    """Counts the sequences that an adapter encodes."""

    def __init__(self, adapter, monkeypatch):
        self.seen = []
        plain = adapter.encode
        monkeypatch.setattr(adapter, "encode", lambda s: self.seen.extend(s) or plain(s))


@pytest.mark.parametrize("context", [64, 16])
@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_states_and_means_are_the_models(tmp_path, kind, context):
    adapter, store = opened(tmp_path / "run", kind, context), Store(tmp_path / "store")
    residues, means = store.residues(adapter, SEQUENCES), store.means(adapter, SEQUENCES)
    assert means.shape == (len(SEQUENCES), 32) and means.dtype == np.float32
    for sequence, found, mean in zip(SEQUENCES, residues, means, strict=True):
        expected = expected_states(adapter, sequence, adapter.info.context)
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-5)
        assert np.allclose(mean, expected.mean(0), atol=1e-5)


def test_layers_are_kept_apart(tmp_path):
    adapter, store = opened(tmp_path / "run"), Store(tmp_path / "store")
    layers = [store.means(adapter, SEQUENCES, layer) for layer in (0, 1, 2)]
    assert np.array_equal(store.means(adapter, SEQUENCES, -1), layers[2])
    assert not np.allclose(layers[0], layers[1]) and not np.allclose(layers[1], layers[2])
    with pytest.raises(PlmscaleError, match="layer 9 does not exist"):
        store.means(adapter, SEQUENCES, 9)


def test_each_sequence_is_computed_once(tmp_path, monkeypatch):
    adapter, store = opened(tmp_path / "run"), Store(tmp_path / "store")
    counting = Counting(adapter, monkeypatch)
    first = store.means(adapter, SEQUENCES[:4])
    assert len(counting.seen) == 4
    second = store.means(adapter, [*SEQUENCES[2:6], SEQUENCES[2]])
    assert len(counting.seen) == 6
    assert np.array_equal(second[:2], first[2:]) and np.array_equal(second[4], first[2])
    # Another store on the same folder, as in a later process, reads them.
    again = Store(tmp_path / "store").means(adapter, SEQUENCES[:6])
    assert len(counting.seen) == 6 and np.array_equal(again[:4], first)
    store.residues(adapter, SEQUENCES[:4])
    assert len(counting.seen) == 10


def test_models_do_not_share(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    one, other = opened(tmp_path / "a"), opened(tmp_path / "b", seed=4)
    twin = one.twin(0)
    found = [store.means(a, SEQUENCES) for a in (one, other, twin)]
    assert not np.allclose(found[0], found[1]) and not np.allclose(found[0], found[2])
    counting = Counting(twin, monkeypatch)
    store.means(twin, SEQUENCES)
    assert counting.seen == []


def test_half_precision_of_residues(tmp_path):
    adapter = opened(tmp_path / "run")
    exact = Store(tmp_path / "store").residues(adapter, SEQUENCES)
    half = Store(tmp_path / "store", half=True).residues(adapter, SEQUENCES)
    for a, b in zip(exact, half):
        assert b.dtype == np.float16 and np.allclose(a, b, rtol=1e-3, atol=1e-3)
    means = Store(tmp_path / "store", half=True).means(adapter, SEQUENCES)
    assert means.dtype == np.float32


def test_large_values_stay_numbers_in_half_precision(tmp_path, monkeypatch):
    adapter = opened(tmp_path / "run")
    plain = adapter.hidden
    monkeypatch.setattr(adapter, "hidden", lambda rows, layer=-1: 1e5 * plain(rows, layer))
    for found in Store(half=True).residues(adapter, SEQUENCES):
        assert np.isfinite(found).all()


def test_many_parts_give_what_one_gives(tmp_path, monkeypatch):
    adapter = opened(tmp_path / "run")
    expected = Store(tmp_path / "one").residues(adapter, SEQUENCES)
    monkeypatch.setattr(store_module, "_PART_SEQUENCES", 2)
    monkeypatch.setattr(store_module, "_OPEN_PARTS", 2)
    monkeypatch.setattr(store_module, "_MAPPED_BYTES", 2000)
    found = Store(tmp_path / "many").residues(adapter, SEQUENCES)
    assert len(list((tmp_path / "many").glob("v1/*/*/part-*"))) == 5
    again = Store(tmp_path / "many").residues(adapter, SEQUENCES)
    for a, b, c in zip(expected, found, again):
        assert np.allclose(a, b, atol=1e-6) and np.array_equal(b, c)


def test_without_a_folder_nothing_is_left(tmp_path):
    adapter, store = opened(tmp_path / "run"), Store()
    folder = store.folder
    found = store.means(adapter, SEQUENCES)
    assert np.array_equal(store.means(adapter, SEQUENCES), found)
    assert folder.is_dir()
    del store
    assert not folder.exists()


def test_the_least_recently_used_parts_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_PART_SEQUENCES", 1)
    adapter, folder = opened(tmp_path / "run"), tmp_path / "store"
    proteins = [c * 40 for c in "ACDEFGHIKL"]
    Store(folder).residues(adapter, proteins)
    parts = sorted(folder.glob("v1/*/*/part-*"))
    size = sum(f.stat().st_size for f in parts[0].iterdir())
    for part in parts:
        os.utime(part, (time.time() - 9999, time.time() - 9999))
    Store(folder).residues(adapter, proteins[:2])  # used again, so young again
    young = {p for p in parts if time.time() - p.stat().st_mtime < 1000}
    assert len(young) == 2
    store = Store(folder, limit=5 * size)
    new = store.residues(adapter, ["W" * 40])[0]
    left = set(folder.glob("v1/*/*/part-*"))
    assert len(left) <= 5 and young < left
    assert np.allclose(new, expected_states(adapter, "W" * 40), atol=1e-5)
    # What was removed is computed again.
    again = Store(folder).residues(adapter, proteins)
    assert np.allclose(again[5], expected_states(adapter, proteins[5]), atol=1e-5)


def test_a_part_that_vanished_or_is_damaged_is_computed_again(tmp_path):
    adapter, folder = opened(tmp_path / "run"), tmp_path / "store"
    first = Store(folder).means(adapter, SEQUENCES)
    store = Store(folder)
    store.means(adapter, SEQUENCES[:1])
    (part,) = folder.glob("v1/*/*/part-*")
    (part / "values.npy").write_bytes((part / "values.npy").read_bytes()[:200])
    assert np.allclose(Store(folder).means(adapter, SEQUENCES), first, atol=1e-6)


def test_leavings_of_killed_writers_are_removed_when_old(tmp_path):
    adapter, folder = opened(tmp_path / "run"), tmp_path / "store"
    Store(folder).means(adapter, SEQUENCES[:1])
    place = next(folder.glob("v1/*/*/"))
    for name, age in (("old", 90000), ("new", 10)):
        left = place / f".part-{name}.tmp"
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    Store(folder).means(adapter, SEQUENCES[:1])
    assert sorted(p.name for p in place.glob(".part-*")) == [".part-new.tmp"]


def test_two_processes_share_a_store(tmp_path):
    adapter = opened(tmp_path / "run")
    code = textwrap.dedent(f"""
        import sys, torch
        torch.set_num_threads(1)
        sys.path[:0] = [{str(ROOT / "tests" / "unit")!r}, {str(ROOT / "src")!r}]
        from inference_fixtures import SEQUENCES
        from pathlib import Path
        from plmscale.downstream import models, store
        store._PART_SEQUENCES = 1
        adapter = models.open({str(tmp_path / "run")!r})
        kept = store.Store(Path({str(tmp_path / "store")!r}), limit=40000)
        for _ in range(20):
            kept.means(adapter, SEQUENCES), kept.residues(adapter, SEQUENCES)
    """)
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)
    ]
    for process in started:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    found = Store(tmp_path / "store").residues(adapter, SEQUENCES)
    for sequence, states in zip(SEQUENCES, found):
        assert np.allclose(states, expected_states(adapter, sequence), atol=1e-5)
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_bad_input(tmp_path):
    adapter, store = opened(tmp_path / "run"), Store(tmp_path / "store")
    assert store.means(adapter, []).shape == (0, 32) and store.residues(adapter, []) == []
    with pytest.raises(PlmscaleError, match="a sequence is empty"):
        store.means(adapter, ["MKV", ""])
    with torch.no_grad():
        adapter.module.final_norm.weight.fill_(torch.nan)
    with pytest.raises(PlmscaleError, match=r"embedding of protein 1 of 1 is no number"):
        store.means(adapter, ["MKV"])
    assert not list((tmp_path / "store").glob("v1/*/*/part-*"))
