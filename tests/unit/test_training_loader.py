"""The loader at any size: order and windows of an epoch, memory, processes, mixtures."""

import hashlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from loader_fixtures import numbered, numbers_in, opened, random_chains, write_part
from training_fixtures import laid_out, make_corpus, make_recipe

from plmscale import native
from plmscale.corpus.alphabet import BOS, EOS
from plmscale.errors import PlmscaleError
from plmscale.files import read_json
from plmscale.training.data import training_samples
from plmscale.training.show import batch_text


def philox(seed, name, epoch, block, count):
    stream = int.from_bytes(hashlib.sha256(f"order:{name}".encode()).digest()[:8], "little")
    generator = np.random.Philox(
        key=np.array([seed, stream], np.uint64), counter=np.array([0, 0, epoch, block], np.uint64)
    )
    return generator.random_raw(count)


def marked(chains, order):
    """The stream of proteins in an order, written out."""
    pieces = [np.concatenate([[BOS], chains[i], [EOS]]) for i in order]
    return np.concatenate(pieces).astype(np.uint8)


def windowed_order(seed, name, epoch, count, window):
    """The order as the head of packed.py tells it, in plain words."""
    chunks = list(range(-(-count // 64)))
    if len(chunks) > window:
        words = philox(seed, name, epoch, 2**64 - 1, len(chunks))
        chunks.sort(key=lambda c: int(words[c]))
    order = []
    for block, first in enumerate(range(0, len(chunks), window)):
        members = [
            p
            for chunk in sorted(chunks[first : first + window])
            for p in range(64 * chunk, min(64 * chunk + 64, count))
        ]
        words = philox(seed, name, epoch, block, len(members))
        order += [members[i] for i in sorted(range(len(members)), key=lambda i: int(words[i]))]
    return order


@pytest.mark.parametrize("kernel", ["1", "0"])
@pytest.mark.parametrize("window", [1024, 4, 1])
def test_every_row_of_two_epochs_is_where_the_rules_put_it(tmp_path, monkeypatch, kernel, window):
    """With 1024 chunks a window this is the order of all earlier versions."""
    monkeypatch.setenv("PLMSCALE_NATIVE", kernel)
    rng = np.random.default_rng(window)
    chains = random_chains(rng, 700)
    chains[3] = rng.integers(4, 24, 900, np.uint8)  # a protein of many rows
    # Shards that end inside a chunk, one of a single protein, one without any.
    manifest = write_part(tmp_path, chains, cuts=(100, 101, 101, 640))
    rows = opened(tmp_path, manifest, window_chunks=window)
    for epoch in range(2):
        stream = marked(chains, windowed_order(5, "s", epoch, 700, window))
        expected = stream[: len(stream) // 32 * 32].reshape(-1, 32)
        assert rows.rows_per_epoch == len(expected)
        first = epoch * len(expected)
        assert np.array_equal(rows.rows(np.arange(first, first + len(expected))), expected)


def test_one_window_is_ordered_as_in_earlier_versions(tmp_path):
    """The former loader, word for word: it permuted all proteins of a source at once."""
    corpus = make_corpus(tmp_path)
    samples = training_samples(corpus, make_recipe())
    for source, rows in samples.rows.items():
        count = len(rows.proteins)
        lengths = np.array([len(rows.proteins.residues(i)) for i in range(count)], np.int32)
        for epoch in (0, 1, 7):
            order = np.argsort(philox(2024, source, epoch, 0, count), kind="stable")
            ends = np.cumsum(lengths[order] + 2, dtype=np.int64)
            for local in range(rows.rows_per_epoch):
                out = np.empty(64, np.uint8)
                position = local * 64
                place = int(np.searchsorted(ends, position, side="right"))
                filled = 0
                while filled < 64:
                    residues = rows.proteins.residues(int(order[place]))
                    length = len(residues) + 2
                    skip = position + filled - (int(ends[place]) - length)
                    piece = np.empty(length, np.uint8)
                    piece[0], piece[1:-1], piece[-1] = BOS, residues, EOS
                    taken = min(length - skip, 64 - filled)
                    out[filled : filled + taken] = piece[skip : skip + taken]
                    filled += taken
                    place += 1
                assert np.array_equal(rows.row(epoch * rows.rows_per_epoch + local), out)


def test_every_protein_comes_once_an_epoch_also_in_windows(tmp_path):
    rows = opened(tmp_path, write_part(tmp_path, numbered(1000)), window_chunks=3, context=8)
    assert rows.windows == 6
    orders = []
    for epoch in range(3):
        first = epoch * rows.rows_per_epoch
        found = numbers_in(rows.rows(np.arange(first, first + rows.rows_per_epoch)))
        assert sorted(found) == list(range(1000))
        orders.append(found.tolist())
    assert orders[0] != orders[1] != orders[2]
    other = opened(tmp_path, write_part(tmp_path, numbered(1000)), window_chunks=3, seed=6)
    assert numbers_in(other.rows(np.arange(20))).tolist() != orders[0][:80]


def test_rows_are_the_same_in_whatever_order_they_are_asked_for(tmp_path):
    chains = random_chains(np.random.default_rng(1), 600)
    manifest = write_part(tmp_path, chains, cuts=(200,))
    rows = opened(tmp_path, manifest, window_chunks=2)
    count = 3 * rows.rows_per_epoch
    forward = rows.rows(np.arange(count))
    for ahead in (False, True):
        other = opened(tmp_path, manifest, window_chunks=2, ahead=ahead)
        mixed = np.random.default_rng(2).permutation(count)
        assert np.array_equal(other.rows(mixed), forward[mixed])
        for at in range(0, count, 37):
            part = np.arange(at, min(at + 37, count))
            assert np.array_equal(other.rows(part), forward[part])
        for number in mixed[:50].tolist():
            assert np.array_equal(other.row(number), forward[number])


def _digest(rows, count, sender):
    sender.send_bytes(hashlib.sha256(rows.rows(np.arange(count)).tobytes()).digest())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same_rows(tmp_path, method):
    chains = random_chains(np.random.default_rng(3), 600)
    manifest = write_part(tmp_path, chains)
    rows = opened(tmp_path, manifest, window_chunks=2)
    count = 2 * rows.rows_per_epoch
    expected = hashlib.sha256(rows.rows(np.arange(count)).tobytes()).digest()
    context = multiprocessing.get_context(method)
    if method == "fork":
        # The worst moment: a thread of this process is loading, and is not in the child.
        rows = opened(tmp_path, manifest, window_chunks=2, ahead=True)
        rows.row(0)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_digest, args=(rows, count, sender))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv_bytes() == expected
    child.join()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_a_batch_that_does_not_depend_on_them(tmp_path, world):
    corpus = make_corpus(tmp_path)
    whole = training_samples(corpus, make_recipe())
    expected = {n: whole.row(n) for n in range(128, 192)}
    for rank in range(world):
        samples = training_samples(corpus, make_recipe())
        numbers = laid_out(64, 64, rank, world).samples(3, 64)
        batch = samples.batch(numbers)
        for number, row in zip(numbers, batch, strict=True):
            assert np.array_equal(row, expected.pop(number))
    assert not expected


def test_batches_of_any_size_hold_their_rows(tmp_path):
    """Small ones are cut from blocks of 4,096 rows, or not, where they reach beyond one."""
    samples, other = (training_samples(make_corpus(tmp_path), make_recipe()) for _ in range(2))
    for first, size in ((0, 4), (5000, 4), (0, 4), (4094, 4), (8192, 4), (4095, 1), (100, 1025)):
        numbers = list(range(first, first + size))[::-1]
        expected = np.stack([other.row(number) for number in numbers])
        assert np.array_equal(samples.batch(numbers), expected)


def test_a_failed_thread_leaves_the_error_to_the_reader(tmp_path, monkeypatch):
    chains = random_chains(np.random.default_rng(4), 600)
    rows = opened(tmp_path, write_part(tmp_path, chains), window_chunks=2, ahead=True)
    load = rows.load

    def failing(epoch, window):
        if window == 1:
            raise PlmscaleError("a bad disk")
        return load(epoch, window)

    monkeypatch.setattr(rows, "load", failing)
    rows.row(0)
    with pytest.raises(PlmscaleError, match="a bad disk"):
        rows.rows(np.arange(rows.rows_per_epoch))


def test_proteins_of_a_batch_come_from_far_apart(tmp_path):
    """Chunks of neighbours are what is read from disk, but not what a batch holds."""
    count, window = 20_000, 32
    rows = opened(tmp_path, write_part(tmp_path, numbered(count)), window_chunks=window)
    found = numbers_in(rows.rows(np.arange(rows.rows_per_epoch)))
    # Two numbers drawn from all lie a third of the range apart.
    assert np.abs(np.diff(found)).mean() == pytest.approx(count / 3, rel=0.05)
    same_chunk = (np.diff(found // 64) == 0).mean()
    assert same_chunk == pytest.approx(1 / window, rel=0.25)
    # Not even a batch of 64 proteins is a fifth from any tenth of the source.
    shares = np.bincount(found[:64] * 10 // count, minlength=10) / 64
    assert shares.max() < 0.4 and (shares > 0).sum() >= 8


def held(thing, seen=None):
    """Bytes of the arrays that an object holds in memory, maps of files aside."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.memmap):
        return 0
    if isinstance(thing, np.ndarray):
        return held(thing.base, seen) if thing.base is not None else thing.nbytes
    if isinstance(thing, dict):
        return sum(held(v, seen) for v in thing.values())
    if isinstance(thing, list | tuple):
        return sum(held(v, seen) for v in thing)
    return held(vars(thing), seen) if hasattr(thing, "__dict__") else 0


def test_memory_is_windows_and_a_few_bytes_a_chunk(tmp_path):
    sizes = {}
    for count in (2_000, 40_000):
        folder = tmp_path / str(count)
        rows = opened(folder, write_part(folder, numbered(count), cuts=(999,)), window_chunks=4)
        for number in range(0, 5 * rows.rows_per_epoch, 40):
            rows.row(number)
        chunks = -(-count // 64)
        two_windows = 2 * 4 * 64 * 8
        sizes[count] = held(rows)
        # 4 bytes a chunk, 8 a window, the shards; of two epochs at most.
        assert sizes[count] <= two_windows + 2 * (4 * chunks + 8 * rows.windows) + 100
    assert (sizes[40_000] - sizes[2_000]) / 38_000 < 0.2, "bytes a protein"


@pytest.mark.skipif(
    native.load("_rows") is None or not Path("/proc/self/smaps").exists(),
    reason="needs the C kernel and Linux",
)
def test_pages_of_the_shards_are_let_go(tmp_path):
    """Else a process would seem to grow to the size of the corpus, and a scheduler would end it."""
    chains = random_chains(np.random.default_rng(8), 3000)
    rows = opened(tmp_path, write_part(tmp_path, chains, cuts=(900,)), window_chunks=4)
    rows.rows(np.arange(rows.rows_per_epoch))
    maps = Path("/proc/self/smaps").read_text().split(str(tmp_path))[1:]
    shards = [text for text in maps if text.split("\n")[0].endswith((".bin", ".idx.npy"))]
    assert len(shards) == 4
    assert [text.split("Rss:")[1].split()[0] for text in shards] == ["0"] * 4


def test_shares_may_be_a_rule_about_the_corpus(tmp_path):
    corpus = make_corpus(tmp_path)
    recipe = make_recipe()
    rule = {"weights": "residues", "sources": ["curated", "diverse"], "temperature": 1.0}
    recipe["corpus"] |= {"mix": {}, "rule": rule}
    sources = read_json(corpus / "manifest.json")["sources"]
    residues = {name: entry["train"]["residues"] for name, entry in sources.items()}
    counts = training_samples(corpus, recipe).mixture.count(10_000)
    for name, share in residues.items():
        assert counts[name] == pytest.approx(10_000 * share / sum(residues.values()), abs=2)


def test_a_batch_can_be_looked_at(tmp_path):
    corpus = make_corpus(tmp_path)
    recipe = make_recipe(steps=4000)
    samples = training_samples(corpus, recipe)
    for step in (0, 3000):
        text = batch_text(recipe, corpus, step, 4)
        for number in range(4 * step, 4 * step + 4):
            source, index = samples.mixture.locate(number)
            row = samples.row(number)
            # A protein ends in each EOS but at the row's end.
            proteins = int((row[:-1] == EOS).sum()) + 1
            epoch = index // samples.rows[source].rows_per_epoch
            held = f"{proteins} protein" + "s" * (proteins != 1)
            assert f"row {number} from {source}, epoch {epoch}: {held}, " in text
    assert "epoch 0:" not in text and f"batch 3000 of {recipe['steps']}" in text
