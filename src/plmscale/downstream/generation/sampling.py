"""Proteins from any causal model, by one rule.

At each step the 20 amino acids and the end token are allowed, nothing else; then temperature, then
top-p, and the draw (plmscale.inference.sampling). Protein i of a setting uses random numbers of its
own, which follow from the seed, the setting and i. So it depends on no other protein or setting, up
to the rounding of a model's arithmetic in other batches. The end may come at once: a protein can be
empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plmscale.corpus.alphabet import STANDARD
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint
from plmscale.inference.sampling import Sampling, draw, probabilities, uniforms

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter

# Characters that stand between residues in the text of some models.
_BREAKS = "\n\r "
_LINE = 60


@dataclass(frozen=True)
class Setting:
    """A point of the grid; `name` is the group of its metrics."""

    temperature: float
    top_p: float

    @property
    def name(self) -> str:
        return f"T={self.temperature:.12g} top-p={self.top_p:.12g}"

    def seed(self, seed: int) -> int:
        """Return the seed of the setting's random numbers."""
        return int(fingerprint([seed, self.temperature, self.top_p])[:15], 16)


@dataclass(frozen=True)
class Made:
    """A generated protein; ended: by the model's end token, not by the greatest length."""

    sequence: str
    ended: bool


class _FromNothing(Sampling):
    """Sampling in which the first token may be the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "min_length", 0)


def generate(
    model: Adapter, setting: Setting, count: int, max_length: int, seed: int, batch: int
) -> list[Made]:
    """Return `count` proteins of at most `max_length` residues, `batch` of them at a time.

    Raises PlmscaleError for a model that cannot generate, and where its logits are no numbers.
    """
    if not model.causal:
        raise PlmscaleError(f"{model.info.name}: only a causal model (clm) generates proteins")
    if model.info.context and max_length > model.info.context:
        raise PlmscaleError(
            f"{model.info.name}: generates at most {model.info.context} residues, not {max_length}"
        )
    how = _FromNothing(max_length, temperature=setting.temperature, top_p=setting.top_p,
                       standard=True)  # fmt: skip
    if model.info.origin == "run":
        return list(_of_run(model, how, count, setting.seed(seed), batch))
    return list(_of_transformers(model, how, count, setting.seed(seed), batch))


def _of_run(model: Any, how: Sampling, count: int, seed: int, batch: int) -> Iterator[Made]:
    from plmscale.corpus.alphabet import decode
    from plmscale.inference.generate import Prompt
    from plmscale.inference.generate import generate as of_run

    prompts = (Prompt(str(i), np.zeros(0, np.uint8)) for i in range(count))
    # The mean of the likelihood of an empty protein is none, and not asked for here.
    with np.errstate(invalid="ignore"):
        for made in of_run(model.loaded, prompts, how, seed, batch):
            yield Made(decode(made.tokens), made.ended)


def _of_transformers(
    model: Adapter, how: Sampling, count: int, seed: int, batch: int
) -> Iterator[Made]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    name = model.info.name
    if not hasattr(model.module, "generate"):
        raise PlmscaleError(f"{name}: its class cannot generate ({type(model.module).__name__})")
    if not model.begin:
        raise PlmscaleError(f"{name}: has no begin token, so nothing to start a protein from")
    tokens = _Tokens.of(model)
    # Room for the end, and for line breaks where the text has them.
    new = how.max_length + 1 + (0 if model.letterwise else how.max_length // _LINE + 2)
    if not model.letterwise and model.info.context:
        new = min(new, model.info.context + model.info.context // _LINE + 2)
    # All that a model's own defaults could bring (top-k, penalties) is told to be off.
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=new, min_length=0, temperature=1.0, top_k=0,
        top_p=1.0, repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True,
        bos_token_id=model.begin[0], eos_token_id=tokens.end, pad_token_id=tokens.stop,
    )  # fmt: skip
    for start in range(0, count, batch):
        rows = min(batch, count - start)
        chooser = _Chooser(model, tokens, how, seed, start, rows, new)
        begin = torch.tensor([model.begin] * rows, device=model.device)
        with torch.no_grad():
            model.module.generate(
                begin,
                attention_mask=torch.ones_like(begin),
                generation_config=config,
                logits_processor=LogitsProcessorList([chooser]),
            )
        yield from chooser.made()


@dataclass(frozen=True)
class _Tokens:
    """Which tokens may follow: ids, ascending, of the residues' tokens and of the end.

    residues: how many residues each of ids has. end: None for a model without an end token. stop: what
    a finished row is filled with.
    """

    ids: np.ndarray
    residues: np.ndarray
    end: int | None
    stop: int

    @classmethod
    def of(cls, model: Adapter) -> _Tokens:
        end = model.end[-1] if model.end else None
        if model.letterwise:
            counts = {int(token): 1 for token in model.letter_tokens().tolist()}
        else:
            texts = ((token, model.decode([token])) for token in range(model.vocab_size))
            counts = {token: len(text) for token, text in texts if not set(text) - set(STANDARD)}
            counts = {t: n for t, n in counts.items() if n or _breaks(model, t)}
        if end is not None:
            counts[end] = 0
        if len(counts) < 2:
            raise PlmscaleError(
                f"{model.info.name}: no token of its vocabulary is made of residues"
            )
        ids = np.array(sorted(counts))
        stop = int(ids[0]) if end is None else end
        return cls(ids, np.array([counts[i] for i in ids.tolist()]), end, stop)


def _breaks(model: Any, token: int) -> bool:
    """Whether a token without residues is a line break, not a mark of the model's own."""
    line = model.encode(["A"]).tokens[0].tolist()
    return token in line and token not in (*model.begin, *model.end)


class _Chooser:
    """Stands in the way of transformers' choice: leaves one token of each row, drawn by our rule."""

    def __init__(
        self, model: Adapter, tokens: _Tokens, how: Sampling, seed: int, first: int, rows: int,
        steps: int,
    ) -> None:  # fmt: skip
        self.model, self.tokens, self.how = model, tokens, how
        self.uniform = np.stack([uniforms(seed, first + i, steps + 1) for i in range(rows)])
        self.length = np.zeros(rows, np.int64)
        self.ended = np.zeros(rows, bool)
        self.chosen: list[list[int]] = [[] for _ in range(rows)]
        self.step = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        ids = torch.as_tensor(self.tokens.ids, device=scores.device)
        logits = scores[:, ids].float().cpu().numpy().astype(np.float64)
        alive = np.flatnonzero(~self.ended & (self.length < self.how.max_length))
        if np.isnan(logits[alive]).any() or np.isposinf(logits[alive]).any():
            raise PlmscaleError(
                f"{self.model.info.name}: the model's logits are no numbers; has it diverged, or is "
                "its dtype too coarse for it (fp32)?"
            )
        chosen = np.full(len(self.length), self.tokens.stop)
        if len(alive):
            allowed = np.ones((len(alive), len(ids)), bool)
            at = draw(
                probabilities(logits[alive], allowed, self.how), self.uniform[alive, self.step]
            )
            chosen[alive] = self.tokens.ids[at]
            for row, token in zip(alive.tolist(), chosen[alive].tolist()):
                self.chosen[row].append(token)
            self.length[alive] += self.tokens.residues[at]
            if self.tokens.end is not None:
                self.ended[alive] = chosen[alive] == self.tokens.end
        self.step += 1
        left = torch.full_like(scores, -torch.inf)
        place = torch.as_tensor(chosen, device=scores.device)
        left.scatter_(1, place[:, None], 0.0)
        return left

    def made(self) -> Iterator[Made]:
        for tokens, ended in zip(self.chosen, self.ended.tolist(), strict=True):
            residues: Sequence[int] = tokens[:-1] if ended else tokens
            sequence = self.model.decode(residues)
            yield Made(
                sequence[: self.how.max_length], ended and len(sequence) <= self.how.max_length
            )
