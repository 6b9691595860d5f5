"""The kernels of the loader: C and numpy give the same, and refuse the same."""

import numpy as np
import pytest

from plmscale import native
from plmscale.corpus.alphabet import BOS, EOS
from plmscale.native import rows as kernels
from plmscale.training.mixture import Mixture


@pytest.mark.skipif(native.load("_rows") is None, reason="the C kernel is not built")
def test_kernels_give_what_numpy_gives(monkeypatch):
    rng = np.random.default_rng(5)

    def both(function, *args):
        monkeypatch.setenv("PLMSCALE_NATIVE", "1")
        fast = function(*args)
        monkeypatch.setenv("PLMSCALE_NATIVE", "0")
        return fast, function(*args)

    for _ in range(100):
        sources = [rng.integers(0, 99, rng.integers(1, 5000)) for _ in range(3)]
        which = rng.integers(0, 3, rng.integers(1, 20))
        offsets = np.array([rng.integers(0, len(sources[w])) for w in which])
        sizes = np.array([rng.integers(0, len(sources[w]) - o + 1) for w, o in zip(which, offsets)])
        before = [source.copy() for source in sources]
        fast, plain = both(kernels.gather, sources, which, offsets, sizes)
        assert np.array_equal(fast, plain)
        assert all(map(np.array_equal, sources, before)), "only maps of files may be let go"

        residues = rng.integers(4, 24, 3000, np.uint8)
        starts = rng.integers(0, 3000, rng.integers(1, 40))
        lengths = np.array([rng.integers(0, 3001 - s) for s in starts])
        fast, plain = both(kernels.pack, residues, starts, lengths, BOS, EOS)
        assert np.array_equal(fast, plain) and len(fast) == lengths.sum() + 2 * len(lengths)

        begins, places = rng.integers(0, 4000, 20), rng.permutation(25)[:20]

        stream = residues[: rng.integers(1, 3000)]

        def filled(begins=begins, places=places, stream=stream):
            out = np.zeros((25, 64), np.uint8)
            kernels.cut(stream, 500, begins, places, out)
            return out

        fast, plain = both(filled)
        assert np.array_equal(fast, plain)

        n, length = int(rng.integers(1, 9)), int(rng.integers(0, 70))
        rows = rng.integers(0, 32, (n, length), np.uint8)
        samples = rng.integers(0, 2**62, n)
        limits = tuple(sorted(rng.integers(0, 2**32, 3).tolist()))
        seed, stream = rng.integers(-(2**63), 2**63, 2).tolist()
        fast, plain = both(kernels.mask, rows, samples, seed, stream, limits, (3, 4, 20), -100)
        assert np.array_equal(fast[0], plain[0]) and np.array_equal(fast[1], plain[1])


@pytest.mark.parametrize("kernel", ["1", "0"])
def test_what_lies_outside_a_buffer_is_refused(monkeypatch, kernel):
    monkeypatch.setenv("PLMSCALE_NATIVE", kernel)
    data = np.arange(10, dtype=np.uint8)
    one = np.array([0])
    for offset, size in ((8, 3), (-1, 2), (11, 0)):
        with pytest.raises(ValueError, match="outside"):
            kernels.gather([data], one, np.array([offset]), np.array([size]))
        with pytest.raises(ValueError, match="outside"):
            kernels.pack(data, np.array([offset]), np.array([size]), BOS, EOS)
    for place in (-1, 3):
        with pytest.raises(ValueError, match="outside"):
            kernels.cut(data, 0, one, np.array([place]), np.zeros((3, 4), np.uint8))


def drawn(seed, stream, number, count):
    """The words behind a row's mask, found by asking of each which limits it is below."""
    row, samples = np.full((1, count), 9, np.uint8), np.array([number])
    words = np.zeros(count, np.int64)
    for bit in reversed(range(32)):
        for k in range(count):
            limit = int(words[k]) + (1 << bit)
            limits = (0, 0, limit)
            _, targets = kernels.mask(row, samples, seed, stream, limits, (3, 4, 20), -100)
            words[k] = limit if targets[0, k] == -100 else words[k]
    return words


@pytest.mark.parametrize("kernel", ["1", "0"])
def test_masks_are_drawn_by_numpys_philox(monkeypatch, kernel):
    """The first words of Philox4x64-10 as numpy, an independent implementation, gives them."""
    monkeypatch.setenv("PLMSCALE_NATIVE", kernel)
    for seed, stream, number in ((5, 77, 0), (2**64 - 1, 1, 2**62 - 1), (-1, 0, 12345)):
        key = np.array([seed % 2**64, stream], np.uint64)
        counter = np.array([0, 0, number, 0], np.uint64)
        raw = np.random.Philox(key=key, counter=counter).random_raw(5)
        expected = [int(word) >> shift & 0xFFFFFFFF for word in raw for shift in (0, 32)]
        assert kernels.philox_words(seed, stream, number, 10).tolist() == expected
        assert drawn(seed, stream, number, 9).tolist() == expected[:9]


@pytest.mark.parametrize("kernel", ["1", "0"])
def test_masks_that_do_not_fit_are_refused(monkeypatch, kernel):
    monkeypatch.setenv("PLMSCALE_NATIVE", kernel)
    rows, samples = np.full((2, 8), 9, np.uint8), np.arange(2)
    for numbers, limits in (
        (np.arange(3), (1, 2, 3)),
        (np.arange(4), (1, 2, 3)),
        (samples, (3, 2, 4)),
        (samples, (1, 2, 2**32)),
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            kernels.mask(rows, numbers, 1, 1, limits, (3, 4, 20), -100)


@pytest.mark.parametrize("kernel", ["1", "0"])
@pytest.mark.parametrize(
    "weights",
    [
        [1.0],
        [0.3, 0.7],
        [0.085, 0.195, 0.195, 0.525],
        [1.0, 1e-12],
        [1e-12, 1.0],
        [1e-12, 1, 1e-12],
    ],
)
def test_a_mixture_locates_many_as_it_locates_one(monkeypatch, weights, kernel):
    monkeypatch.setenv("PLMSCALE_NATIVE", kernel)
    mixture = Mixture({f"s{i}": w for i, w in enumerate(weights)})
    rng = np.random.default_rng(7)
    numbers = [np.arange(3000), rng.integers(0, 10**15, 500), rng.integers(0, 2**62 - 1, 500)]
    edges = np.array(
        [10**15 + k for k in range(100)]
        + [k * 2**32 + d for k in range(1, 99) for d in (-2, -1, 0, 1)]
    )
    for samples in (*numbers, edges):
        sources, indices = mixture.locate_all(samples)
        for sample, source, index in zip(samples.tolist(), sources, indices):
            assert mixture.locate(sample) == (mixture.sources[source], index)
