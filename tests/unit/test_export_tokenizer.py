"""The exported tokenizer reads proteins as the corpus does."""

from __future__ import annotations

import random

import pytest

from plmscale.corpus.alphabet import BOS, EOS, LETTERS, MASK, PAD, encode
from plmscale.export.tokenizer import write_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, context=128, causal=False)
    return transformers.AutoTokenizer.from_pretrained(folder)


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_ids_are_those_of_the_alphabet(tokenizer):
    rng = random.Random(0)
    for length in (1, 2, 60, 500):
        protein = "".join(rng.choices(LETTERS, k=length))
        assert ids(tokenizer, protein) == [BOS, *encode(protein).tolist(), EOS]
        without = tokenizer(protein, add_special_tokens=False)["input_ids"]
        assert without == encode(protein).tolist()
    assert tokenizer.convert_tokens_to_ids(list(LETTERS)) == encode(LETTERS).tolist()


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("", ""),
        ("mktX", "MKTX"),
        ("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIXKLMNOPQRSTUVWXYZ"),
        ("M K\tT\n", "MKT"),
        ("JM", "XM"),
        ("BUZO", "BUZO"),
        ("MK*", "MK"),
        ("MK*\n", "MK"),
        ("M*K", "MXK"),
        ("M-K.1", "MXKXX"),
        ("MÜ→K", "MXXK"),
    ],
)
def test_odd_letters(tokenizer, text, read_as):
    assert ids(tokenizer, text) == [BOS, *encode(read_as).tolist(), EOS]
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True) == read_as


def test_special_tokens(tokenizer):
    assert ids(tokenizer, "mk<mask>a") == [BOS, *encode("MK").tolist(), MASK, *encode("A"), EOS]
    named = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert [*named, tokenizer.mask_token_id] == [PAD, BOS, EOS, MASK]
    start = tokenizer("<bos>MK", add_special_tokens=False)["input_ids"]
    assert start == [BOS, *encode("MK").tolist()]
    assert tokenizer.decode([BOS, *encode("MXK"), EOS], skip_special_tokens=True) == "MXK"
    assert "X" not in tokenizer.all_special_tokens
    assert tokenizer.model_max_length == 128


def test_a_batch_is_padded_and_holds_what_the_models_take(tokenizer):
    batch = tokenizer(["MKT", "M"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][1] == [BOS, *encode("M").tolist(), EOS, PAD, PAD]
    assert batch["attention_mask"][1] == [1, 1, 1, 0, 0]


def test_a_causal_model_is_padded_on_the_left(tmp_path):
    write_tokenizer(tmp_path, context=128, causal=True)
    left = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert left(["MKT", "M"], padding=True)["attention_mask"][1] == [0, 0, 1, 1, 1]


def test_a_pair_is_two_proteins(tokenizer):
    pair = tokenizer("MK", "LL")["input_ids"]
    assert pair == ids(tokenizer, "MK") + ids(tokenizer, "LL")
