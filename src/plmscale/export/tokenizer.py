"""The alphabet as tokenizer files of Hugging Face: one token a letter, no code of ours."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from plmscale.corpus.alphabet import BOS, EOS, FIRST_RESIDUE, LETTERS, MASK, PAD, SPECIAL_NAMES
from plmscale.files import write_json

_ROLES = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "mask_token": MASK}


def write_tokenizer(folder: Path, context: int, causal: bool) -> list[str]:
    """Write the tokenizer of rows of `context` tokens; return the names of its files.

    A protein becomes <bos>, its letters, <eos>. White space and a trailing * are taken away, lower
    case is read as upper case, every sign outside the alphabet becomes X. Padding is on the left
    for a causal model, so that generation goes on behind the last letter.
    """
    special = {role: SPECIAL_NAMES[token] for role, token in _ROLES.items()}
    config = {
        **special,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left" if causal else "right",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in t if k != "id"} for t in _added()},
    }
    files = {
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": config,
        "special_tokens_map.json": special,
    }
    for name, content in files.items():
        write_json(folder / name, content)
    return list(files)


def _added() -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": name, "special": True, **plain}
        for number, name in enumerate(SPECIAL_NAMES)
    ]


def _tokenizer() -> dict[str, Any]:
    vocabulary = {name: number for number, name in enumerate(SPECIAL_NAMES)}
    vocabulary |= {letter: FIRST_RESIDUE + n for n, letter in enumerate(LETTERS)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers()},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": _ends(),
        "decoder": {"type": "Fuse"},
        # Not named as unk_token in the config: that would make the letter X a special token.
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "X"},
    }


def _normalizers() -> list[dict[str, Any]]:
    """There is no rule for upper case in the format, so each letter has one."""
    rules = [({"Regex": r"\s+"}, ""), ({"Regex": r"\*+$"}, "")]
    rules += [({"String": letter}, letter.upper()) for letter in string.ascii_lowercase]
    return [{"type": "Replace", "pattern": pattern, "content": new} for pattern, new in rules]


def _ends() -> dict[str, Any]:
    """<bos> before and <eos> behind each protein, also of a pair."""

    def one(sequence: str) -> list[dict[str, Any]]:
        bos, eos = ({"SpecialToken": {"id": SPECIAL_NAMES[t], "type_id": 0}} for t in (BOS, EOS))
        return [bos, {"Sequence": {"id": sequence, "type_id": 0}}, eos]

    return {
        "type": "TemplateProcessing",
        "single": one("A"),
        "pair": [*one("A"), *one("B")],
        "special_tokens": {
            SPECIAL_NAMES[t]: {"id": SPECIAL_NAMES[t], "ids": [t], "tokens": [SPECIAL_NAMES[t]]}
            for t in (BOS, EOS)
        },
    }
