"""Token streams of the training loader: in C where it was built, else in Python, the same bytes.

The C functions let go of Python's lock, so that a thread which prepares the next window of
proteins does not slow down training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plmscale import native

_WORD = (1 << 64) - 1


def gather(
    sources: Sequence[np.ndarray], which: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Return the ranges sources[which[i]][offsets[i] : offsets[i] + sizes[i]] one after another.

    All sources are contiguous and of one dtype, the result's; `which`, `offsets` and `sizes` are
    int64 (n,), in items. Raises ValueError for a range outside its source.
    """
    dtype = sources[0].dtype
    out = np.empty(int(sizes.sum()), dtype)
    kernel = native.load("_rows")
    if kernel is not None:
        step = dtype.itemsize
        mapped = all(
            not len(source) or (isinstance(source, np.memmap) and source.mode == "r")
            for source in sources
        )
        kernel.gather(sources, which, offsets * step, sizes * step, mapped, out)
        return out
    # A slice of a plain array costs a tenth of one of a memmap.
    sources = [np.asarray(source) for source in sources]
    filled = 0
    ranges = zip(which.tolist(), offsets.tolist(), sizes.tolist(), strict=True)
    for number, (source, start, size) in enumerate(ranges):
        if not 0 <= start <= start + size <= len(sources[source]):
            raise ValueError(f"range {number} lies outside its buffer")
        out[filled : filled + size] = sources[source][start : start + size]
        filled += size
    return out


def pack(
    residues: np.ndarray, starts: np.ndarray, lengths: np.ndarray, begin: int, end: int
) -> np.ndarray:
    """Return `begin`, residues[starts[i] : starts[i] + lengths[i]], `end` of every i, as uint8.

    `residues` is uint8, `starts` and `lengths` int64 (n,). Raises ValueError for a sequence
    outside `residues`.
    """
    kernel = native.load("_rows")
    if kernel is not None:
        out = np.empty(int(lengths.sum()) + 2 * len(lengths), np.uint8)
        kernel.pack(residues, starts, lengths, begin, end, out)
        return out
    ends = starts + lengths
    if len(starts) == 0:
        return np.empty(0, np.uint8)
    if min(starts.min(), lengths.min()) < 0 or ends.max() > len(residues):
        raise ValueError("a sequence lies outside the residues")
    view = residues.data
    pieces = [view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    joined = bytes([end, begin]).join(pieces)
    return np.frombuffer(bytes([begin]) + joined + bytes([end]), np.uint8)


def cut(
    stream: np.ndarray, base: int, begins: np.ndarray, places: np.ndarray, out: np.ndarray
) -> None:
    """Copy what `stream` holds of the rows that begin at `begins` to their places in `out`.

    `stream` uint8 are the tokens from number `base` on of a longer one, in which a row is
    out.shape[1] tokens from begins[i] on; row i goes to out[places[i]] (uint8), and where it
    reaches beyond `stream` that part of it is left alone. `begins` and `places` are int64 (k,).
    Raises ValueError for a place outside `out`.
    """
    context = out.shape[1]
    kernel = native.load("_rows")
    if kernel is not None:
        kernel.cut(stream, base, begins, places, context, out)
        return
    if len(places) and not 0 <= places.min() <= places.max() < len(out):
        raise ValueError("a row lies outside the output")
    starts = begins - base
    whole = (starts >= 0) & (starts + context <= len(stream))
    if whole.any():
        # Every row that could be cut, one a token: a view, nothing is copied.
        shape = (len(stream) - context + 1, context)
        out[places[whole]] = np.ndarray(shape, np.uint8, stream, strides=(1, 1))[starts[whole]]
    for i in np.flatnonzero(~whole).tolist():
        start = int(starts[i])
        a, b = max(start, 0), min(start + context, len(stream))
        if a < b:
            out[places[i], a - start : b - start] = stream[a:b]


def locate(
    samples: np.ndarray, weights: Sequence[int], rests: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each sample's source and its index there, both int64 (k,).

    What plmscale.training.mixture.Mixture.locate says of one sample, for many: int64 (k,), from 0
    to 2^62. rests[i] is the sum of the weights from i on, below 1.4 * 2^32.
    """
    sources, indices = np.empty((2, len(samples)), np.int64)
    kernel = native.load("_rows")
    if kernel is not None:
        both = np.array([weights, rests], np.int64)
        kernel.locate(samples, both[0], both[1], sources, indices)
        return sources, indices
    left = np.arange(len(samples))
    for number, (weight, rest) in enumerate(zip(weights, rests, strict=True)):
        if weight == rest:
            sources[left], indices[left] = number, samples
            break
        before, mine = _take(samples, weight, rest)
        here = left[mine]
        sources[here], indices[here] = number, before[mine]
        left, samples = left[~mine], (samples - before)[~mine]
    return sources, indices


def philox_words(seed: int, stream: int, number: int, count: int) -> np.ndarray:
    """Return `count` uint32 of Philox4x64-10 (Salmon et al. 2011) with the key (seed, stream).

    The counter starts at (1, 0, number, 0), so each `number` has words of its own; of each 64 bits
    the low 32 come first. `seed`, `stream` and `number` are taken modulo 2^64.
    """
    key = np.array([seed & _WORD, stream & _WORD], np.uint64)
    # numpy's generator adds one to the counter before its first block.
    counter = np.array([0, 0, number & _WORD, 0], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(count + 1 >> 1)
    return raw.astype("<u8").view("<u4")[:count]


def mask(
    rows: np.ndarray,
    samples: np.ndarray,
    seed: int,
    stream: int,
    limits: tuple[int, int, int],
    alphabet: tuple[int, int, int],
    ignored: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, s) uint8 and targets (n, s) int64 of masked language modelling.

    `rows` (n, s) uint8; row i draws philox_words(seed, stream, samples[i], s), one a token. With
    `limits` (hidden, random, chosen), ascending and below 2^32, a word u < chosen makes a token
    a target: the mask stands in its place if u < hidden, one of the `letters` tokens from `first`
    on if hidden <= u < random, else itself. `alphabet` is (mask, first, letters); tokens below
    `first` are never chosen. The target of a token not chosen is `ignored`. Raises ValueError for
    another number of samples and for other limits.
    """
    hidden, random, chosen = limits
    if len(samples) != len(rows) or not 0 <= hidden <= random <= chosen < 1 << 32:
        raise ValueError("rows, samples, limits and outputs do not fit together")
    kernel = native.load("_rows")
    inputs, targets = np.empty(rows.shape, np.uint8), np.empty(rows.shape, np.int64)
    if kernel is not None:
        rows, samples = np.ascontiguousarray(rows), np.ascontiguousarray(samples, np.int64)
        kernel.mask(
            rows, samples, seed & _WORD, stream, limits, *alphabet, ignored, inputs, targets
        )
        return inputs, targets
    token, first, letters = alphabet
    words = [philox_words(seed, stream, sample, rows.shape[1]) for sample in samples.tolist()]
    draws = np.array(words, np.uint32).reshape(rows.shape)
    residue = rows >= first
    np.copyto(inputs, rows)
    inputs[(draws < hidden) & residue] = token
    other = (draws >= hidden) & (draws < random) & residue
    inputs[other] = first + (draws[other].astype(np.int64) - hidden) * letters // (random - hidden)
    targets.fill(ignored)
    np.copyto(targets, rows, where=(draws < chosen) & residue)
    return inputs, targets


def _take(samples: np.ndarray, weight: int, rest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return floor(s weight / rest), and whether it is one more for s + 1, of every sample s.

    Exact in 64 bits for weight < rest < 1.4 * 2^32 and s < 2^62: with s = q rest + t it is
    q weight + floor(t weight / rest), and taking the smaller of weight and rest - weight keeps
    t weight below 2^64.
    """
    few = min(weight, rest - weight)
    whole, part = np.divmod(samples, rest)
    above, left = np.divmod(part.astype(np.uint64) * np.uint64(few), np.uint64(rest))
    below = whole * few + above.astype(np.int64)
    if few == weight:
        return below, left >= rest - weight
    # s weight = s rest - s few: rounding down the one is rounding up the other.
    return samples - below - (left > 0), (left > 0) & (left <= weight)
