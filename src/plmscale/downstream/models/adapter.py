"""The one interface behind which every protein model stands.

Low level on purpose: an adapter turns sequences into its tokens and runs its network on a batch. What
is common to all models (sorting by length, windows, sums of nats, masking one residue after the
other, caches) is written once, above it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plmscale.downstream.base import ModelInfo
from plmscale.errors import PlmscaleError

STANDARD = "ACDEFGHIKLMNPQRSTVWY"


@dataclass(frozen=True)
class Encoded:
    """Rows of tokens on the model's device.

    tokens: int64 (b, s); attend: bool (b, s), False for padding at the end; residues: bool (b, s),
    True for what stands for a residue: row r has as many as its sequence has letters, in order.

    places: None but for models whose tokens are several letters each (`Adapter.letterwise` is
    False). There it is int64 (b, longest sequence), the token of each residue, -1 behind the last,
    and `residues` is True for tokens that hold at least one. padded: False where it is known that
    no row has padding.
    """

    tokens: Tensor
    attend: Tensor
    residues: Tensor
    places: Tensor | None = None
    padded: bool = True

    def of_residues(self, values: Tensor) -> Tensor:
        """Pick from values (b, s, ...) those of the residues, one row after another: (n, ...)."""
        if self.places is None:
            return values[self.residues]
        row, column = torch.nonzero(self.places >= 0, as_tuple=True)
        return values[row, self.places[row, column]]


class Adapter(ABC):
    """A loaded protein model.

    info: what tables say of it. module: the network, in eval mode, its parameters what training
    would change. device, dtype: where and in what it computes. letters: token of each letter it
    knows, empty where tokens are no letters. mask: the mask token, None for a model without one.
    lora_targets: names of linear modules that LoRA adapts (attention's projections), as suffixes for
    peft's `target_modules`.

    letterwise: whether each letter is one token. reversible: whether it was trained on proteins in
    both directions (`encode_reversed`). vocab_size: width of the logits, 0 where not told. begin, end:
    the tokens that `encode` puts before and behind a protein.
    """

    info: ModelInfo
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    letters: dict[str, int]
    mask: int | None
    lora_targets: tuple[str, ...]
    letterwise: bool = True
    reversible: bool = False
    vocab_size: int = 0
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    @abstractmethod
    def encode(self, sequences: Sequence[str]) -> Encoded:
        """Return tokens with the begin and end tokens that the model was trained with.

        A letter the model does not know becomes its token for an unknown residue, one a letter.
        """

    @abstractmethod
    def hidden(self, rows: Encoded, layer: int = -1) -> Tensor:
        """Return states (b, s, d): layer 0 are embeddings, n_layers or -1 what the output head reads.

        With gradients where they are enabled; `rows.residues` tells which places are residues.
        """

    @abstractmethod
    def logits(self, rows: Encoded) -> Tensor:
        """Return logits (b, s, v) over the model's tokens.

        mlm: of the token at the place itself; clm: of the token that follows.
        """

    @abstractmethod
    def attentions(self, rows: Encoded) -> Tensor:
        """Return attention probabilities (b, layers x heads, s, s), each row of them a distribution."""

    @abstractmethod
    def twin(self, seed: int) -> Adapter:
        """Return the same architecture with random weights, as its own initialisation draws them."""

    def encode_reversed(self, sequences: Sequence[str]) -> Encoded:
        """Return tokens of the sequences read from the last residue to the first.

        Only for a `reversible` model; residues are then in that order.
        """
        raise PlmscaleError(f"{self.info.name}: was not trained on proteins read backwards")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the residues that tokens stand for; all other tokens are left out."""
        letter_of = {token: letter for letter, token in self.letters.items()}
        return "".join(letter_of.get(int(token), "") for token in tokens)

    @property
    def causal(self) -> bool:
        return self.info.kind == "clm"

    def fits(self, sequence: str) -> bool:
        """Whether the model takes the whole sequence at once."""
        return not self.info.context or len(sequence) <= self.info.context

    def layer_number(self, layer: int) -> int:
        """Return `layer` as 0 to n_layers; negative ones count from the end."""
        layers = self.info.n_layers
        if not -layers - 1 <= layer <= layers:
            raise PlmscaleError(
                f"{self.info.name}: layer {layer} does not exist; there are 0 (embeddings) to "
                f"{layers} (what the output head reads), or -1 to {-layers - 1} from the end"
            )
        return layer % (layers + 1)

    def letter_tokens(self, letters: str = STANDARD) -> Tensor:
        """Return the tokens of `letters`, int64 (len(letters),), on the model's device."""
        if missing := [letter for letter in letters if letter not in self.letters]:
            raise PlmscaleError(
                f"{self.info.name}: has no token of its own for the letters {''.join(missing)}, so "
                "it cannot give probabilities of single residues"
            )
        return torch.tensor([self.letters[letter] for letter in letters], device=self.device)
