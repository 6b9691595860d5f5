"""The tokens of a model of Hugging Face's transformers, found out from its tokenizer.

Begin and end tokens, by family:

    ESM-2, ESM C            <cls> residues <eos>
    our own exports         <bos> residues <eos>
    ProteinGLM              as its tokenizer adds them: residues <eos>, or a prompt before the residues
    ProGen2                 1 residues 2, where 1 is the N and 2 the C terminus; backwards 2 residues 1
    ProtGPT2                <|endoftext|>, lines of 60 residues, each ended by a line break (and one
                            before the first), <|endoftext|>: the text it was trained on
    other causal models     what the tokenizer adds; if it adds nothing, its begin token (else its end
                            token, which stood between proteins) before, its end token behind
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from plmscale.downstream.models import progen
from plmscale.downstream.models.adapter import STANDARD
from plmscale.downstream.models.fetch import Place
from plmscale.downstream.models.letters import Letters, Pieces
from plmscale.errors import PlmscaleError

# ProtGPT2 was trained on FASTA files without their headers.
_FASTA_LINE = 60
# Every pair of residues: a tokenizer that joins any two letters shows it here.
_PROBE = "".join(a + b for a, b in product(STANDARD, STANDARD))


@dataclass(frozen=True)
class Speech:
    """How a model is spoken to. limit: tokens of a row at most, 0 where it takes any number."""

    code: Letters | Pieces
    mask: int | None
    reversible: bool
    limit: int
    context: int


def speech(place: Place, config: Any, causal: bool, remote: bool) -> Speech:
    """Read a model's tokenizer; PlmscaleError where it cannot be read or is not for residues."""
    tokenizer = _tokenizer(place, remote)
    vocabulary = tokenizer.get_vocab()
    letters = {c: vocabulary[c] for c in string.ascii_uppercase if c in vocabulary}
    if place.config.get("model_type") == progen.MODEL_TYPE:
        begin, end = ((vocabulary[name],) for name in "12")
        return _speech(letters, tokenizer, begin, end, config, causal, reversible=True)
    begin, end = _ends(tokenizer, config, causal)
    if _letterwise(tokenizer, letters):
        return _speech(letters, tokenizer, begin, end, config, causal)
    if not causal or not getattr(tokenizer, "is_fast", False):
        raise PlmscaleError(
            f"{place.label}: its tokenizer has no token a residue; such models can be used only as "
            "causal ones with a fast tokenizer (tokenizer.json)"
        )
    backend = tokenizer.backend_tokenizer

    def tokenize(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = backend.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def text(tokens: Sequence[int]) -> str:
        letters = tokenizer.decode(list(tokens), skip_special_tokens=True)
        return "".join(letters.split())

    limit = _positions(config)
    line = _FASTA_LINE if config.model_type == "gpt2" else 0
    code = Pieces(tokenize, text, begin, end, _pad(tokenizer, config), line, limit or 1 << 60)
    return Speech(code, None, False, limit, _fitting(limit, len(begin) + len(end), line))


def _speech(
    letters: dict[str, int],
    tokenizer: Any,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    config: Any,
    causal: bool,
    reversible: bool = False,
) -> Speech:
    unknown = letters.get("X", tokenizer.unk_token_id)
    code = Letters(letters, -1 if unknown is None else unknown, begin, end, _pad(tokenizer, config))
    positions = _positions(config)
    hard = positions if _absolute(config) else 0
    mask = tokenizer.mask_token_id
    mask = tokenizer.get_vocab().get("<mask>") if mask is None else mask
    context = max(1, positions - len(begin) - len(end)) if positions else 0
    return Speech(code, None if causal else mask, reversible, hard, context)


def _positions(config: Any) -> int:
    """Return the tokens of a row in training, 0 where the config does not say."""
    for name in ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length"):
        if value := getattr(config, name, None):
            # ESM counts positions from behind the padding token.
            return int(value) - (config.pad_token_id + 1 if config.model_type == "esm" else 0)
    return 0


def _absolute(config: Any) -> bool:
    """Whether positions come from a table, so that beyond its end there is nothing."""
    if config.model_type == "esm":
        return config.position_embedding_type == "absolute"
    return config.model_type in ("gpt2", "codegen", "bert", "opt")


def _fitting(limit: int, ends: int, line: int) -> int:
    """Return how many residues fit into `limit` tokens even if each is a token of its own."""
    if not limit:
        return 0
    residues = limit - ends
    if line:
        # r residues have ceil(r / line) + 1 line breaks.
        while residues > 1 and residues - (-residues // line) + 1 > limit - ends:
            residues -= 1
    return max(1, residues)


def _tokenizer(place: Place, remote: bool) -> Any:
    import transformers

    folder = str(place.folder)
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=remote, local_files_only=True
        )
    except Exception as error:
        # Whatever a tokenizer's own code raises; ProGen2 comes with this file and no class.
        path = Path(folder) / "tokenizer.json"
        if path.is_file():
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        raise PlmscaleError(
            f"{place.label}: no tokenizer that can be read ({' '.join(str(error).split())[:200]})"
        ) from None


def _letterwise(tokenizer: Any, letters: dict[str, int]) -> bool:
    if any(letter not in letters for letter in STANDARD):
        return False
    wanted = [letters[letter] for letter in _PROBE]
    spelled = (_PROBE, " ".join(_PROBE))
    return any(tokenizer.encode(text, add_special_tokens=False) == wanted for text in spelled)


def _ends(tokenizer: Any, config: Any, causal: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a tokenizer puts before and behind a protein, or what a causal model needs."""
    bare = tokenizer.encode("M", add_special_tokens=False)
    whole = tokenizer.encode("M")
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
    begin, end = tuple(whole[:at]), tuple(whole[at + len(bare) :])
    if causal:
        eos = _named("eos", tokenizer, config)
        bos = _named("bos", tokenizer, config)
        bos = eos if bos is None else bos
        begin = begin or (() if bos is None else (bos,))
        end = end or (() if eos is None else (eos,))
    return begin, end


def _pad(tokenizer: Any, config: Any) -> int:
    found = [_named(role, tokenizer, config) for role in ("pad", "eos")]
    return next((token for token in found if token is not None), 0)


def _named(role: str, *owners: Any) -> int | None:
    """Return the token of a role (`bos`, `eos`, `pad`) that the first of `owners` names."""
    for owner in owners:
        value = getattr(owner, f"{role}_token_id", None)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int):
            return value
    return None
