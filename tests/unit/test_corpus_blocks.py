"""The block reader gives what the record-by-record steps give, and errors with file, record, line."""

import gzip
import io
import lzma
import random
import re
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xxhash
from record_by_record import apply_letter_rule, read_fasta

from plmscale import native
from plmscale.corpus import alphabet
from plmscale.corpus.blocks import BLOCK_BYTES, LONGEST_RECORD, read_blocks
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.fastclean import hash_sequences
from plmscale.corpus.stream import ahead, clean_fasta
from plmscale.errors import PlmscaleError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DEMO = Path(__file__).parents[2] / "resources/demo"
ANY_LENGTH = {"min_length": 1, "max_length": 10**9}
PACKERS = {"gz": gzip.compress, "zst": zstd.compress, "xz": lzma.compress}


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def kernel(request, monkeypatch):
    """Every test here is met by the compiled kernel and by numpy alone."""
    if request.param == "numpy":
        monkeypatch.setenv("PLMSCALE_NATIVE", "0")
    elif native.load("_fasta") is None:
        pytest.skip("built without a C compiler")


def cleaned(path, rule, threads=1, block_bytes=BLOCK_BYTES, longest_record=LONGEST_RECORD):
    return clean_fasta(path, rule, threads, read_blocks(path, block_bytes, longest_record))


def fast(path, rule, **options):
    """Return [(record number, name, sequence)], counts and replaced letters over all blocks."""
    records, counts, replaced = [], {}, {}
    for block in cleaned(path, rule, **options):
        for i, number in enumerate(block.records.tolist()):
            tokens = block.tokens[block.offsets[i] : block.offsets[i + 1]]
            records.append((number, block.name(i), alphabet.decode(tokens)))
        for total, part in ((counts, block.counts), (replaced, block.replaced)):
            for key, n in part.items():
                total[key] = total.get(key, 0) + n
    return records, counts, replaced


def slow(path, rule, folder):
    """The same, from the present steps; the length limits in plain Python."""
    counts = apply_letter_rule(path, folder / "slow.fasta", rule)
    sequences = [s.decode() for _, s in read_fasta(folder / "slow.fasta")]
    within = [s for s in sequences if rule.min_length <= len(s) <= rule.max_length]
    replaced = counts.pop("replaced_letters")
    counts["dropped_by_length"] = len(sequences) - len(within)
    counts["written_sequences"] = len(within)
    counts.pop("renamed_duplicate_ids", None)
    return within, {k: n for k, n in counts.items() if n}, replaced


def outcome(function, *arguments, **options):
    """What a function returns or, of the error it raises, the words without the line number."""
    try:
        return function(*arguments, **options)
    except PlmscaleError as error:
        words = re.sub(r": line \d+: record", ": record", str(error))
        return words.replace(" and length limits", "")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["uniprot_reviewed", "uniprot_unreviewed"])
def test_embedded_corpus_comes_out_as_from_the_present_steps(tmp_path, name, threads):
    path = DEMO / f"{name}.fasta.gz"
    records, counts, replaced = fast(path, CleanConfig(), threads=threads, block_bytes=1 << 20)
    headers = [header for header, _ in read_fasta(path)]
    assert len(records) > 1000
    assert all(name == headers[number - 1].split()[0] for number, name, _ in records)
    found = [sequence for _, _, sequence in records], counts, replaced
    assert found == slow(path, CleanConfig(), tmp_path)


RULES = [
    {},
    {"letters": {"U": "C", "O": "K", "J": "L", "B": "X"}, "other": "drop"},
    {"letters": {"X": "drop", "J": "X", "U": "X"}, "other": "drop"},
    {"letters": {"J": "drop", "X": "A"}, "other": "drop"},
    {"letters": {}},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bounds", [(1, 10**9), (2, 4)])
def test_random_text_fares_as_with_the_present_steps_whatever_the_block_size(
    tmp_path, rule, bounds
):
    rule = CleanConfig(**rule, min_length=bounds[0], max_length=bounds[1])
    rng = random.Random(repr(rule))
    harmless = [b"A", b"CD", b"KWYV", b"X", b"j", b"U", b"*", b"o", b"\n", b"\r\n", b" ", b"\n>b\n"]
    harmless += [b"\n>n%d x\xc3\xa4\ty\nMK" % i for i in range(3)] + [b"\n>\xc2\xa0d\xff e\nA"]
    harmful = [b"1", b"-", b"\0", b"\xff", b"\x1c", b">", b"\n>\n", b"\n>  \n", b"\n> s t\nA"]
    seen = set()
    for trial in range(250):
        pieces = harmless + (harmful if trial % 3 == 0 else [])
        start = rng.choice([b">a\nMK", b">a\nM", b"\n \r\n>a b\nA", b">a\x1cb\nA", b""])
        text = start + b"".join(rng.choices(pieces, k=rng.randrange(30)))
        path = written(tmp_path / "random.fasta", text)
        expected = outcome(slow, path, rule, tmp_path)
        size = rng.choice([1, 2, 3, 5, 16, 1 << 20])
        found = outcome(fast, path, rule, threads=rng.choice([1, 1, 2]), block_bytes=size)
        if "no sequence is left" in expected:  # which is told for a whole source
            assert found[0] == []
        elif isinstance(found, str):
            assert found == expected, (text, size)
            seen.add(re.sub(r"[\d,']|\(.*\)", "", found.split(": ", 1)[1])[:20])
        else:
            headers = [header for header, _ in read_fasta(path)]
            assert all(name == headers[number - 1].split()[0] for number, name, _ in found[0])
            assert ([s for *_, s in found[0]], *found[1:]) == expected, (text, size)
            seen.add("fine")
    assert "fine" in seen and len(seen) > 3  # the trials met good and bad input


@pytest.mark.parametrize("size", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no FASTA records; the file is empty"),
        (b"\n\n MKV\n>a\nMKV\n", "line 3: expected '>' and a name, found 'MKV'"),
        (b"\n>a\nMKV\n\n>b x{y}\r\n>c\nMKL\n", "line 5: record 2 (b x{y}) has no sequence"),
        (b">a\nMKV\n>b", "line 3: record 2 (b) has no sequence"),
        (b">a\nMKV\n>\nMKV\n", "line 3: record 2 has no name"),
        (
            b">a\nMKV\n>b c\nMK V\r\n\nL1K\n",
            "line 6: record 2 (b c): '1' at position 5 is no amino",
        ),
        (b">a\nMKV\n>b\nM\0KV\n", r"line 4: record 2 (b): '\x00' at position 2 is no amino"),
        (b">a\nM\xc3\xa4\n", "line 2: record 1 (a): 'Ã' at position 2 is no amino"),
    ],
)
def test_errors_name_file_record_and_line(tmp_path, text, said, size):
    path = written(tmp_path / "bad.fasta", text)
    with pytest.raises(PlmscaleError) as error:
        fast(path, CleanConfig(**ANY_LENGTH), block_bytes=size)
    assert str(error.value).startswith(f"{path}: {said}")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(PlmscaleError, match="nothing: no such FASTA file"):
        fast(tmp_path / "nothing", CleanConfig())
    with pytest.raises(PlmscaleError, match="cannot be read: Is a directory"):
        fast(tmp_path, CleanConfig())


def proteins(n, seed=1, length=90):
    rng = random.Random(seed)
    return ["".join(rng.choices(alphabet.LETTERS, k=rng.randint(1, 2 * length))) for _ in range(n)]


def as_fasta(sequences, width=60, end="\n"):
    lines = []
    for i, s in enumerate(sequences, 1):
        lines += [f">p{i} of many", *(s[k : k + width] for k in range(0, len(s), width))]
    return (end.join(lines) + end).encode()


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_files_are_known_by_content_and_read_through_all_their_members(tmp_path, kind):
    sequences = proteins(300)
    text = as_fasta(sequences)
    half = len(text) // 2 + 7
    content = PACKERS[kind](text[:half]) + PACKERS[kind](text[half:])
    path = written(tmp_path / "no_ending", content)
    assert [s for *_, s in fast(path, CleanConfig(**ANY_LENGTH))[0]] == sequences


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", PACKERS)
def test_a_cut_packed_file_is_an_error_after_all_that_could_be_read(tmp_path, kind, threads):
    sequences = proteins(20_000, length=60)
    whole = PACKERS[kind](as_fasta(sequences))
    path = written(tmp_path / "cut", whole[: len(whole) * 3 // 4])
    read = []
    with pytest.raises(PlmscaleError) as error:
        for block in cleaned(path, CleanConfig(**ANY_LENGTH), threads, block_bytes=50_000):
            read += block.records.tolist()
    assert read == list(range(1, len(read) + 1)) and len(read) > 1000
    told = rf"{path}: the \.{kind} is truncated or damaged in record {len(read) + 1} "
    assert re.match(told + rf"\(p{len(read) + 1}.*fetch it again", str(error.value))


def test_a_flipped_byte_and_a_lost_end_of_a_gz_are_errors(tmp_path):
    whole = gzip.compress(as_fasta(proteins(100)))
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # of the checksum
    for content in (bytes(flipped), whole[:-8], whole[:15], whole[:3]):
        path = written(tmp_path / "x.gz", content)
        with pytest.raises(PlmscaleError, match=r"x\.gz: the \.gz is truncated or damaged"):
            fast(path, CleanConfig(**ANY_LENGTH))


def test_the_first_fault_is_told_even_if_the_file_is_cut_later(tmp_path):
    whole = gzip.compress(b">a\nMK1\n" + as_fasta(proteins(5000)))
    path = written(tmp_path / "cut.gz", whole[: len(whole) // 2])
    for threads in (1, 2):
        with pytest.raises(PlmscaleError, match=r"line 2: record 1 \(a\): '1' at position 3"):
            fast(path, CleanConfig(**ANY_LENGTH), threads=threads, block_bytes=10_000)


def test_a_record_longer_than_many_blocks_is_read_and_one_beyond_the_limit_named(tmp_path):
    long = "MKVLAWYC" * 5000
    path = written(tmp_path / "long.fasta", as_fasta(["MKV", long, "ACD"]))
    rule = CleanConfig(**ANY_LENGTH)
    assert [s for *_, s in fast(path, rule, block_bytes=100)[0]] == ["MKV", long, "ACD"]
    with pytest.raises(PlmscaleError, match=r"record 2 \(p2 of many\) is longer than 20,000 bytes"):
        fast(path, rule, block_bytes=100, longest_record=20_000)


def test_records_that_end_just_where_blocks_do_are_not_taken_for_one_long_record(tmp_path):
    path = written(tmp_path / "even.fasta", b">a\nMKVLA\n" * 40)  # of 9 bytes
    read = list(read_blocks(path, block_bytes=9, longest_record=30))
    assert b"".join(data for data, _ in read) == path.read_bytes()
    assert max(len(data) for data, _ in read) <= 20


def test_damage_is_told_after_what_was_read_before_it_even_if_the_unpacker_tells_it_once(
    tmp_path, monkeypatch
):
    class Cut(io.BytesIO):
        parts = iter([b">a\nMKV\n>b\nMK", EOFError("cut"), b""])

        def read1(self, size=-1):
            part = next(self.parts)
            if isinstance(part, EOFError):
                raise part
            return part

    monkeypatch.setattr("plmscale.corpus.blocks.open_sequences", lambda path, advance: Cut())
    path = written(tmp_path / "x", b"")
    with pytest.raises(PlmscaleError, match=r"damaged in record 2 \(b\): cut; fetch it again"):
        fast(path, CleanConfig(**ANY_LENGTH))


def test_hash_is_xxh3_of_the_tokens_of_each_sequence():
    sequences = proteins(500)
    tokens = [alphabet.encode(s).tobytes() for s in sequences]
    offsets = np.cumsum([0] + [len(t) for t in tokens])
    hashes = hash_sequences(b"".join(tokens), offsets)
    assert hashes.shape == (500, 2) and hashes.dtype == np.uint64
    found = [(int(high) << 64) | int(low) for high, low in hashes]
    assert found == [xxhash.xxh3_128_intdigest(t) for t in tokens]


def test_equal_sequences_hash_equal_in_any_wrapping_case_and_block(tmp_path):
    sequences = proteins(40)
    text = as_fasta(sequences, width=7, end="\r\n") + as_fasta(
        [s.lower() + "*" for s in sequences], width=31
    )
    path = written(tmp_path / "twice.fasta", text)
    for size in (64, 1000, 1 << 20):
        blocks = cleaned(path, CleanConfig(**ANY_LENGTH), block_bytes=size)
        hashes = np.concatenate([block.hashes for block in blocks]).tolist()
        assert hashes[:40] == hashes[40:]
        assert len({tuple(h) for h in hashes}) == len(set(sequences))


def test_memory_does_not_grow_with_the_file(tmp_path):
    text = as_fasta(proteins(400, length=300))
    peaks = []
    for copies in (30, 150):
        path = tmp_path / "large.fasta.gz"
        with gzip.open(path, "wb", compresslevel=1) as handle:
            for _ in range(copies):
                handle.write(text)
        tracemalloc.start()
        try:
            blocks = cleaned(path, CleanConfig(), threads=2, block_bytes=1 << 18)
            residues = sum(len(block.tokens) for block in blocks)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert residues > 1.5 * peaks[1]  # more than could be held at once
    assert peaks[1] < 1.5 * peaks[0]


def test_a_reader_given_up_early_leaves_no_thread_behind(tmp_path):
    before = threading.active_count()
    items = ahead(iter(range(1000)))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert threading.active_count() == before
