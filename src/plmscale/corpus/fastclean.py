"""Letter rule, length limits, hash and tokens of FASTA, a block of records at a time.

The rule is that of tests/unit/record_by_record.py, which is what this is tested against; two things differ. Names are given as they stand in the file: telling equal ones
apart needs a memory of all of them, so `records`, the number within the file, identifies a
record. And the length limits are applied here, too.

Sequences are told apart by XXH3 of 128 bits over their tokens. Among n different sequences some
two share a hash with a probability of n^2 / 2^129: 1.5e-21 for n = 1e9. XXH3 is no cryptographic
hash: whoever wants to can make two proteins collide, nature does not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_128_digest

from plmscale.corpus import alphabet
from plmscale.corpus.blocks import WHITE
from plmscale.corpus.config import CleanConfig
from plmscale.native import fasta

# While the rule is applied a letter is its token; these are no tokens, and lower case adds 32.
_J, STOP, OTHER, LOWER = 29, 30, 31, 32


@dataclass(frozen=True)
class CleanBlock:
    """The n records of a block that stay. Sequence i is tokens[offsets[i]:offsets[i + 1]].

    tokens: uint8 (residues,); offsets: int64 (n + 1,), the first 0. ids: uint8, the names as
    UTF-8 one after another, split by id_offsets: int64 (n + 1,). records: int64 (n,), the number
    of the record in the file, from 1. hashes: uint64 (n, 2), high word first. counts: what was
    read and what became of it, by the names of clean/<source>.json; replaced: signs by letter.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    id_offsets: np.ndarray
    records: np.ndarray
    hashes: np.ndarray
    counts: Counter[str]
    replaced: Counter[str]

    def name(self, i: int) -> str:
        """Return the name of record `i` of this block."""
        return self.ids[self.id_offsets[i] : self.id_offsets[i + 1]].tobytes().decode()


class LetterRule:
    """A CleanConfig as tables over bytes and letters."""

    def __init__(self, rule: CleanConfig) -> None:
        source = {letter: int(alphabet.encode(letter)[0]) for letter in alphabet.LETTERS}
        source["J"] = _J if "J" in rule.letters else OTHER
        table = np.full(256, OTHER, dtype=np.uint8)
        table[ord("*")] = STOP
        for code in range(ord("A"), ord("Z") + 1):
            table[code] = source[chr(code)]
            table[code + 32] = source[chr(code)] + LOWER
        self.read = table.tobytes()
        self.drop = np.zeros(32, dtype=bool)
        # Letter by letter as given, never through one another: X may become A, and J an X.
        self.replace = {
            source[letter]: (letter, source[to])
            for letter, to in rule.letters.items()
            if len(to) == 1
        }
        self.drop[[source[letter] for letter, to in rule.letters.items() if to == "drop"]] = True
        self.min_length, self.max_length = rule.min_length, rule.max_length
        self.other_is_error = rule.other == "error"
        self.tables = fasta.Tables.of(
            self.read,
            WHITE,
            alphabet.FIRST_EXTRA,
            {code: to for code, (_, to) in self.replace.items()},
            self.drop,
        )


def clean_by_kernel(data: bytes, rule: LetterRule) -> tuple[CleanBlock, int] | None:
    """Apply `rule` to a block of whole records; return what stays and the block's line ends.

    `records` count from 1 within the block. None where `numpyclean.clean_by_numpy` is to do it.
    """
    found = fasta.clean(data, rule.tables, rule.min_length, rule.max_length, rule.other_is_error)
    if found is None:
        return None
    replaced = {letter: found.replaced[code] for code, (letter, _) in rule.replace.items()}
    block = CleanBlock(
        tokens=np.frombuffer(found.tokens, dtype=np.uint8),
        offsets=found.offsets,
        ids=found.names,
        id_offsets=found.name_offsets,
        records=found.records,
        hashes=hash_sequences(found.tokens, found.offsets),
        counts=+Counter(found.counts),
        replaced=+Counter(replaced),
    )
    return block, found.newlines


def hash_sequences(tokens: bytes | bytearray, offsets: np.ndarray) -> np.ndarray:
    """Return XXH3-128 of each tokens[offsets[i]:offsets[i + 1]], uint64 (n, 2), high word first.

    A call a sequence costs 0.1 microseconds, less than a vectorised hash of our own would.
    """
    digests = b"".join(map(xxh3_128_digest, fasta.pieces(tokens, offsets)))
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
