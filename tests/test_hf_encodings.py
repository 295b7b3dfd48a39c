"""Encodings of single rows, as transformers gives them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import transformers

from pythia_cpu import hf

TEXTS = ["Once upon  a time", "x", "Ünï 中文 e\u0301<|endoftext|>", "It was a dark night, and the old man"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": True, "padding_side": "left"},
        {"padding": True, "truncation": True, "max_length": 3},
        {"padding": "max_length", "truncation": True, "max_length": 12, "return_tensors": "np"},
    ],
    ids=str,
)
@pytest.mark.parametrize("truncation_side", ["left", "right"])
def test_rows(mini_checkpoint: Path, options: dict[str, Any], truncation_side: str) -> None:
    found = []
    for tokenizers in (hf.AutoTokenizer, transformers.AutoTokenizer):
        tokenizer = tokenizers.from_pretrained(mini_checkpoint)
        tokenizer.pad_token, tokenizer.truncation_side = tokenizer.eos_token, truncation_side
        found.append(tokenizer(TEXTS, **options))
    ours, theirs = found
    assert len(ours.encodings) == len(TEXTS)
    for i in range(len(TEXTS)):
        assert (ours.tokens(i), ours.word_ids(i)) == (theirs.tokens(i), theirs.word_ids(i))
        for name in ("ids", "attention_mask", "offsets", "tokens", "sequence_ids"):
            assert getattr(ours[i], name) == getattr(theirs[i], name), (i, name)
        for place in range(len(ours[i].ids)):
            assert ours.char_to_token(i, place) == theirs.char_to_token(i, place)
            assert ours.token_to_chars(i, place) == theirs.token_to_chars(i, place)
    if "return_tensors" not in options:
        assert ours[1:3] == {name: rows[1:3] for name, rows in theirs.items()}


def test_one_text_and_copies(mini_checkpoint: Path) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(mini_checkpoint)
    encoding = tokenizer("It was")
    assert encoding.tokens() == encoding[0].tokens == tokenizer.tokenize("It was")
    assert encoding.char_to_token(3) == 1 and encoding.token_to_chars(1) == (2, 6)
    assert tokenizer.convert_ids_to_tokens(range(3)) == tokenizer.convert_ids_to_tokens([0, 1, 2])
    for other in (pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding), tokenizer.pad(encoding)):
        assert other == encoding and other.encodings is None
        with pytest.raises(ValueError, match="the encoding has no Encodings"):
            other.tokens()
    with pytest.raises(KeyError):
        encoding["labels"]
