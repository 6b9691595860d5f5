"""New sequences from a causal model, in batches, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from plmscale.corpus.alphabet import BOS, EOS, PAD
from plmscale.errors import PlmscaleError
from plmscale.inference.forward import inference, to_device
from plmscale.inference.models import Loaded
from plmscale.inference.sampling import (
    RepeatGuard,
    Sampling,
    allowed_tokens,
    draw,
    probabilities,
    uniforms,
)
from plmscale.model.decoding import Decoder


@dataclass(frozen=True)
class Prompt:
    """What a sequence starts with: uint8 residues (length,), none for a free one."""

    id: str
    tokens: np.ndarray


@dataclass(frozen=True)
class Generated:
    """tokens: uint8, prompt and new residues. loglik: mean of log p over them, in nats, by the
    model as it is (no temperature, nothing forbidden). ended: by EOS, not by the length."""

    id: str
    tokens: np.ndarray
    loglik: float
    ended: bool

    @property
    def perplexity(self) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(-self.loglik))


def generate(
    loaded: Loaded, prompts: Iterable[Prompt], how: Sampling, seed: int = 0, batch: int = 64
) -> Iterator[Generated]:
    """Yield a sequence for each prompt, in order; sequence i uses random numbers (seed, i).

    `batch` (> 0) sequences are in memory at a time. Raises PlmscaleError for a prompt that leaves
    no room below `how.max_length`, and where the model's logits are no numbers.
    """
    number, prompts = 0, iter(prompts)
    while chunk := list(islice(prompts, batch)):
        for prompt in chunk:
            if len(prompt.tokens) >= how.max_length:
                raise PlmscaleError(
                    f"prompt {prompt.id}: has {len(prompt.tokens)} residues, the whole sequence "
                    f"may have {how.max_length}; raise --max-length"
                )
        with inference():
            found = _Batch(loaded, chunk, how, seed, number).run()
        yield from found
        number += len(chunk)


class _Batch:
    """Sequences that are decoded together; all arrays have one line a sequence."""

    def __init__(
        self, loaded: Loaded, prompts: list[Prompt], how: Sampling, seed: int, first: int
    ) -> None:
        self.loaded, self.prompts, self.how = loaded, prompts, how
        n = len(prompts)
        self.length = np.array([len(p.tokens) for p in prompts])  # residues so far
        self.tokens = np.full((n, how.max_length + 1), PAD, np.uint8)  # BOS, then residues
        self.tokens[:, 0] = BOS
        for row, prompt in enumerate(prompts):
            self.tokens[row, 1 : len(prompt.tokens) + 1] = prompt.tokens
        self.uniform = np.stack([uniforms(seed, first + i, how.max_length + 1) for i in range(n)])
        self.loglik = np.zeros(n)
        self.ended = np.zeros(n, bool)
        self.guard = RepeatGuard(n, how.no_repeat, how.repetition_window) if how.no_repeat else None

    def run(self) -> list[Generated]:
        """Decode to the end of all sequences."""
        decoder = Decoder(self.loaded.model, len(self.prompts))
        lines = np.arange(len(self.prompts))  # which sequence each row of the decoder is
        logits = self._start(decoder)
        while True:
            alive = np.flatnonzero(self._alive(lines))
            self._extend(lines[alive], logits[alive])
            alive = np.flatnonzero(self._alive(lines))
            if not len(alive):
                break
            # Finished rows are carried along until half of all are: to drop them costs a copy.
            if 2 * len(alive) <= len(lines):
                decoder.keep(torch.from_numpy(alive))
                lines = lines[alive]
            at = self.length[lines]
            tokens = to_device(self.loaded, self.tokens[lines, at][:, None])
            logits = self._numbers(decoder.feed(tokens, torch.from_numpy(at)[:, None]))[:, 0]
        return [
            Generated(
                prompt.id,
                self.tokens[i, 1 : self.length[i] + 1],
                float(self.loglik[i] / self.length[i]),
                bool(self.ended[i]),
            )
            for i, prompt in enumerate(self.prompts)
        ]

    def _alive(self, lines: np.ndarray) -> np.ndarray:
        return ~self.ended[lines] & (self.length[lines] < self.how.max_length)

    def _start(self, decoder: Decoder) -> np.ndarray:
        """Feed the prompts and count them; return the logits behind each, (rows, vocab)."""
        width = int(self.length.max()) + 1
        positions = torch.arange(width).expand(len(self.length), -1)
        # What stands behind a shorter prompt is overwritten before anything looks at it.
        logits = self._numbers(
            decoder.feed(to_device(self.loaded, self.tokens[:, :width]), positions)
        )
        logp = _log_softmax(logits)
        for row, length in enumerate(self.length):
            residues = self.tokens[row, 1 : length + 1]
            self.loglik[row] = logp[row, np.arange(length), residues].sum()
            if self.guard:
                for token in residues:
                    self.guard.add(np.array([row]), np.array([token]))
        return logits[np.arange(len(self.length)), self.length]

    def _extend(self, lines: np.ndarray, logits: np.ndarray) -> None:
        """Draw the next token of the sequences `lines` (k,) from logits (k, vocab)."""
        at = self.length[lines]
        allowed = allowed_tokens(at, logits.shape[1], self.how)
        if self.guard:
            self.guard.forbid(lines, allowed)
        token = draw(probabilities(logits, allowed, self.how), self.uniform[lines, at])
        self.ended[lines[token == EOS]] = True
        new, residue = lines[token != EOS], token[token != EOS]
        logp = _log_softmax(logits)[token != EOS]
        self.loglik[new] += logp[np.arange(len(new)), residue]
        self.length[new] += 1
        self.tokens[new, self.length[new]] = residue
        if self.guard:
            self.guard.add(new, residue)

    def _numbers(self, logits: torch.Tensor) -> np.ndarray:
        found = logits.float().cpu().numpy().astype(np.float64)
        if not np.isfinite(found).all():
            raise PlmscaleError(
                f"{self.loaded.run_id}: the model's logits are no numbers; has the run diverged?"
            )
        return found


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
