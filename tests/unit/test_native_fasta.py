"""The compiled kernel gives, byte for byte, what numpy gives, and leaves to it what is at fault."""

import dataclasses
import importlib
import random
import shutil
import sysconfig

import numpy as np
import pytest

from plmscale import native
from plmscale.corpus import alphabet
from plmscale.corpus.blocks import Fault, read_blocks
from plmscale.corpus.config import CleanConfig
from plmscale.corpus.fastclean import LetterRule, clean_by_kernel
from plmscale.corpus.numpyclean import clean_by_numpy
from plmscale.corpus.stream import clean_block
from plmscale.native import fasta

compiled = pytest.mark.skipif(
    native.load("_fasta") is None, reason="plmscale was installed without a C compiler"
)
RULES = [
    {},
    {"min_length": 3, "max_length": 5},
    {"letters": {"U": "C", "O": "K", "J": "L", "B": "X"}, "other": "drop"},
    {"letters": {"X": "drop", "J": "X", "U": "X", "Z": "keep"}, "other": "drop", "max_length": 9},
    {"letters": {"J": "drop", "X": "A", "O": "drop"}, "other": "drop", "min_length": 2},
    {"letters": {"X": "X"}, "max_length": 10**30},
    {"letters": {}, "other": "drop"},
]


def letter_rule(**settings):
    return LetterRule(CleanConfig(**{"min_length": 1, "max_length": 10**6, **settings}))


def same(one, other):
    """Whether two results of clean_block agree in every field and its type."""
    if one[1] != other[1]:
        return False
    for field in dataclasses.fields(one[0]):
        a, b = (getattr(block, field.name) for block, _ in (one, other))
        if isinstance(a, np.ndarray):
            if (a.dtype, a.shape) != (b.dtype, b.shape) or (a != b).any():
                return False
        elif a != b:
            return False
    return True


def compare(data, rule):
    """Return what became of a block: taken by the kernel as numpy takes it, or declined, or wrong."""
    found = clean_by_kernel(data, rule)
    try:
        expected = clean_by_numpy(data, rule)
    except Fault:
        assert found is None, data
        return "at fault"
    if found is None:
        return "declined"
    assert same(found, expected), data
    return "taken"


@compiled
@pytest.mark.parametrize("settings", RULES)
def test_random_blocks_come_out_as_from_numpy(settings):
    rule = letter_rule(**settings)
    rng = random.Random(repr(settings))
    names = [
        b">n%d",
        b">n%d of\tmany",
        b">\x1c n%d\r",
        b">n%d \xc3\xa4 >x",
        b">\tn%d",
        b">a\x1fb%d",
    ]
    lines = [b"MKV", b"ACDEFGHIKLMNPQRSTVWY" * 3, b"M K\tV", b"mkv", b"XBZ", b"U*O", b"J", b"*"]
    lines += [b"", b" ", b"\x0b\x0c", b"MK\r", b"**", b"\r\r", b"A" * 7 + b"x", b"W" * 8]
    wrong = [b"MK1", b"-", b"M\0", b"M\xff", b">", b" >n", b"\x1c", b".A"]
    became = {"taken": 0, "at fault": 0, "declined": 0}
    for trial in range(1500):
        text = []
        for number in range(rng.randrange(1, 6)):
            text.append(rng.choice(names) % number)
            text += rng.choices(lines + wrong * (trial % 5 == 0), k=rng.randrange(1, 6))
        data = rng.choice([b"\n", b"\n", b"\r\n"]).join(text) + rng.choice([b"", b"\n", b"\n\n"])
        became[compare(data, rule)] += 1
    assert became["taken"] > 300 and became["at fault"] > 100
    assert became["declined"] == 0


@compiled
def test_every_byte_in_a_sequence_and_in_a_name_fares_as_with_numpy():
    for settings in RULES:
        rule = letter_rule(**settings)
        for code in range(256):
            for data in (b">a\nMKVL%bA\n>b\nMKV\n", b">a%bb\nMKVLA\n>b\nMKV\n", b">%b\nMKV\n"):
                became = compare(data % bytes([code]), rule)
                # Only names that are not ASCII are declined without a fault.
                assert became != "declined" or code >= 128


@compiled
@pytest.mark.parametrize("width", [7, 60, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_large_blocks_come_out_as_from_numpy(width, end):
    rng = random.Random(width)
    letters = alphabet.STANDARD * 200 + "XXBUZOJ" + "acdx"
    lines = []
    for number in range(3000):
        sequence = "".join(rng.choices(letters, k=rng.randint(1, 600))).encode()
        lines.append(b">sp|P%05d|NAME_HUMAN Some protein OS=Homo sapiens" % number)
        lines += [sequence[k : k + width] for k in range(0, len(sequence), width)]
    data = end.join(lines) + end
    for settings in ({}, {"min_length": 30, "max_length": 400}, RULES[2]):
        assert compare(data, letter_rule(**settings)) == "taken"


@compiled
def test_a_name_that_is_not_ascii_is_left_to_numpy_without_loss():
    data = ">ä x\nMKV\n>b\xa0c d\nMKL\n".encode()
    assert clean_by_kernel(data, letter_rule()) is None
    block, _ = clean_block(data, letter_rule())
    assert [block.name(i) for i in range(2)] == ["ä", "b"]


@compiled
def test_the_kernel_reads_nothing_before_and_behind_its_block():
    # A block of every length, cut from one text: what lies behind the cut must not matter.
    text = b">a b\nMKVLAWYCMKVLAWYC\n>b\r\nMK\n"
    for size in range(len(text)):
        compare(bytes(bytearray(text[: size + 1])), letter_rule())


def test_pieces_are_those_of_a_slice_in_both_ways(monkeypatch):
    data, offsets = b"MKVLAWYC", np.array([0, 0, 3, 8, 8])
    for setting in ("1", "0"):
        monkeypatch.setenv("PLMSCALE_NATIVE", setting)
        assert fasta.pieces(data, offsets) == [b"", b"MKV", b"LAWYC", b""]
        assert fasta.pieces(b"", np.array([0])) == []


@compiled
def test_wrong_arguments_are_errors_and_no_crash():
    kernel = native.load("_fasta")
    for offsets in ([0, 9], [3, 2], [-1, 2]):
        with pytest.raises(ValueError, match="ascend"):
            kernel.pieces(b"MKVLAWYC", np.array(offsets))
    with pytest.raises(ValueError, match="tables"):
        kernel.clean(b">a\nM\n", b"short", bytes(32), 1, 9, True)
    assert kernel.clean(b"", bytes(256), bytes(32), 1, 9, True) is None
    assert kernel.clean(b"MKV", bytes(256), bytes(32), 1, 9, True) is None


@compiled
def test_the_environment_turns_the_kernel_off(monkeypatch):
    monkeypatch.setenv("PLMSCALE_NATIVE", "0")
    assert not native.available()
    assert clean_by_kernel(b">a\nMKV\n", letter_rule()) is None
    block, _ = clean_block(b">a\nMKV\n", letter_rule())
    assert alphabet.decode(block.tokens) == "MKV"


@pytest.mark.parametrize("what", ["missing", "of another version"])
def test_a_library_that_is_missing_or_old_is_left_aside(monkeypatch, what):
    def missing(name):
        raise ImportError(name)

    if what == "missing":
        monkeypatch.setattr(importlib, "import_module", missing)
    else:
        monkeypatch.setitem(native.KERNELS, "_fasta", -1)
    native._imported.cache_clear()
    try:
        assert not native.available()
        assert native.load("_fasta") is None
        assert same(
            clean_block(b">a\nMKV*\n", letter_rule()), clean_by_numpy(b">a\nMKV*\n", letter_rule())
        )
    finally:
        native._imported.cache_clear()


def test_a_machine_with_a_c_compiler_has_the_kernel():
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    assert native.load("_fasta") is not None, "built from other sources: run pip install -e ."


@compiled
def test_memory_of_many_blocks_is_given_back(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.fasta"
    path.write_bytes(b"".join(b">n%d\n%b\n" % (i, b"MKVLAWYC" * 40) for i in range(5000)))
    data = next(read_blocks(path))[0]
    rule = letter_rule()
    for bad in (b"", b">x\nM1\n"):  # taken, and declined
        clean_by_kernel(data + bad, rule)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(60):
            clean_by_kernel(data + bad, rule)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < 10 * len(data)
