"""From sequences to rows of tokens: one token a letter, or pieces of several letters.

Rows are padded at the end, whatever a model's own tokenizer does: a causal model never sees what
stands behind, and an encoder is told by `attend`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from plmscale.downstream.models.adapter import Encoded
from plmscale.errors import PlmscaleError

# A piece of text -> its tokens, and [start, stop) of each in the text.
Tokenize = Callable[[str], tuple[list[int], list[tuple[int, int]]]]


def check_sequences(sequences: Sequence[str]) -> None:
    """Refuse nothing to encode and empty sequences."""
    if not sequences:
        raise ValueError("no sequences to encode")
    if not all(sequences):
        raise PlmscaleError("a sequence is empty; leave out proteins without residues")


@dataclass(frozen=True)
class Letters:
    """One token a letter.

    tokens: of each letter known; unknown: for any other, -1 where the model has none; begin, end: what stands before and behind
    the residues; pad: the padding token.
    """

    tokens: dict[str, int]
    unknown: int
    begin: tuple[int, ...]
    end: tuple[int, ...]
    pad: int

    def encode(self, sequences: Sequence[str], device: torch.device) -> Encoded:
        """Return rows for sequences of at least one letter each.

        PlmscaleError for a letter that neither has a token nor can be read as an unknown one.
        """
        check_sequences(sequences)
        table = np.full(256, self.unknown, np.int64)
        for letter, token in self.tokens.items():
            table[ord(letter)] = token
        lengths = np.array([len(sequence) for sequence in sequences])[:, None]
        first, behind = len(self.begin), len(self.end)
        column = np.arange(int(lengths.max()) + first + behind)
        residues = (column >= first) & (column < first + lengths)
        attend = column < first + lengths + behind
        rows = np.full(residues.shape, self.pad, np.int64)
        rows[:, :first] = self.begin
        text = "".join(sequences).encode("latin-1", "replace")
        rows[residues] = table[np.frombuffer(text, np.uint8)]
        if self.unknown < 0 and (strange := sorted(set("".join(sequences)) - set(self.tokens))):
            raise PlmscaleError(
                f"the model has no token for {', '.join(strange)}, nor one for unknown residues; leave "
                "such proteins out"
            )
        for i, token in enumerate(self.end):
            np.put_along_axis(rows, first + lengths + i, token, 1)
        move = [torch.from_numpy(part).to(device) for part in (rows, attend, residues)]
        return Encoded(*move, padded=not attend.all())

    def backwards(self) -> Letters:
        """The same for proteins that are read from their end: begin and end change places."""
        return Letters(self.tokens, self.unknown, self.end, self.begin, self.pad)


@dataclass(frozen=True)
class Pieces:
    """Tokens of several letters, as byte-pair encoding makes them.

    tokenize: the model's tokenizer, without begin and end tokens; text: what tokens stand for. line: residues a line of the text
    the model was trained on, 0 for no line breaks; with lines there is also a break before the
    first and behind the last. longest: tokens of a row at most.
    """

    tokenize: Tokenize
    text: Callable[[Sequence[int]], str]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    line: int
    longest: int

    def encode(self, sequences: Sequence[str], device: torch.device) -> Encoded:
        """Return rows with `places`; PlmscaleError for a sequence of more than `longest` tokens."""
        check_sequences(sequences)
        found = [self._one(sequence) for sequence in sequences]
        width = max(len(tokens) for tokens, _ in found)
        longest = max(len(sequence) for sequence in sequences)
        rows = np.full((len(found), width), self.pad, np.int64)
        attend = np.zeros(rows.shape, bool)
        residues = np.zeros(rows.shape, bool)
        places = np.full((len(found), longest), -1, np.int64)
        for i, (tokens, owners) in enumerate(found):
            rows[i, : len(tokens)] = tokens
            attend[i, : len(tokens)] = True
            residues[i, owners] = True
            places[i, : len(owners)] = owners
        move = [torch.from_numpy(part).to(device) for part in (rows, attend, residues, places)]
        return Encoded(*move, padded=not attend.all())

    def count(self, sequence: str) -> int:
        """Return how many tokens the row of a sequence has."""
        return len(self._one(sequence, check=False)[0])

    def _one(self, sequence: str, check: bool = True) -> tuple[list[int], np.ndarray]:
        """Return the row of one sequence, and the place in it of each residue's token."""
        text, at = self._text(sequence)
        tokens, spans = self.tokenize(text)
        owner = np.full(len(text), -1)
        for i, (start, stop) in enumerate(spans):
            owner[start:stop] = i + len(self.begin)
        if (owner[at] < 0).any():
            raise PlmscaleError(
                "the tokenizer left out a residue, so it was not made for proteins in one-letter code"
            )
        row = [*self.begin, *tokens, *self.end]
        if check and len(row) > self.longest:
            raise PlmscaleError(
                f"a protein of {len(sequence)} residues is {len(row)} tokens, the model takes "
                f"{self.longest}; cut it into windows"
            )
        return row, owner[at]

    def _text(self, sequence: str) -> tuple[str, np.ndarray]:
        """Return the text of a sequence and where in it each residue stands."""
        number = np.arange(len(sequence))
        if not self.line:
            return sequence, number
        lines = (sequence[i : i + self.line] for i in range(0, len(sequence), self.line))
        return "\n" + "\n".join(lines) + "\n", number + 1 + number // self.line
