"""One byte a token: four special tokens, the 20 amino acids, five more letters."""

from __future__ import annotations

import numpy as np

PAD, BOS, EOS, MASK = 0, 1, 2, 3
STANDARD = "ACDEFGHIKLMNPQRSTVWY"
EXTRA = "XBUZO"
LETTERS = STANDARD + EXTRA
FIRST_RESIDUE = 4
FIRST_EXTRA = FIRST_RESIDUE + len(STANDARD)
VOCAB_SIZE = 32
SPECIAL_NAMES = ("<pad>", "<bos>", "<eos>", "<mask>")

_ENCODE = np.zeros(256, dtype=np.uint8)
_ENCODE[np.frombuffer(LETTERS.encode(), dtype=np.uint8)] = FIRST_RESIDUE + np.arange(len(LETTERS))
_DECODE = np.frombuffer(("-^$#" + LETTERS).ljust(256, "?").encode(), dtype=np.uint8)


def encode(sequence: str | bytes) -> np.ndarray:
    """Return residues as tokens, uint8 of shape (length,); letters outside the alphabet give 0."""
    raw = sequence.encode() if isinstance(sequence, str) else sequence
    return _ENCODE[np.frombuffer(raw, dtype=np.uint8)]


def decode(tokens: np.ndarray) -> str:
    """Return tokens as text; pad, bos, eos and mask read as `-`, `^`, `$`, `#`."""
    return _DECODE[np.asarray(tokens, dtype=np.uint8)].tobytes().decode()
