"""Offsets of tokens, and surprisal of words."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given

import pythia_cpu
import tokenizer_texts as texts
from checkpoints import MINI_PYTHIA
from frames import Column, Table
from pythia_cpu._tokenizer import Tokenizer
from pythia_cpu._tokenizer_export import compile_tokenizer

NEOX = Path(__file__).parents[2] / "shared" / "data" / "tokenizer-neox"
TEXT = "  It was a dark and stormy night,\n\nand the 🤖 e\u0301te\u0301 rain\u00a0fell.\u3000x  \n"


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load(threads=2)


# Offsets


class Pair:
    """Our tokenizer and Hugging Face's of the same file."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self.ours = Tokenizer(compile_tokenizer(tokenizer_json), 0)
        self.reference = tokenizers.Tokenizer.from_buffer(tokenizer_json)

    def check(self, text: str) -> None:
        expected = self.reference.encode(text, add_special_tokens=False).offsets
        offsets = self.ours.offsets(text)
        assert offsets.dtype == np.int64 and offsets.shape == (len(self.ours.encode(text)), 2)
        assert [tuple(pair) for pair in offsets.tolist()] == expected


@pytest.fixture(scope="module", params=["mini", "neox", "trimmed"])
def pair(request: pytest.FixtureRequest) -> Pair:
    folder = NEOX if request.param == "neox" else MINI_PYTHIA
    if not folder.exists():
        pytest.skip("the GPT-NeoX tokenizer is not beside this checkout")
    text = (folder / "tokenizer.json").read_bytes()
    if request.param == "trimmed":
        step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        text = json.dumps({**json.loads(text), "post_processor": step}).encode()
    return Pair(text)


def test_offsets_of_known_traps(pair: Pair) -> None:
    rng = random.Random(3)
    for text in ("", " ", TEXT, texts.PARAGRAPH, *(texts.fuzz_text(rng, 300) for _ in range(30))):
        pair.check(text)


@given(text=texts.mixed_text)
def test_offsets_of_any_text(pair: Pair, text: str) -> None:
    pair.check(text)


def test_offsets_count_characters_as_given(model: pythia_cpu.Model) -> None:
    text = "e\u0301🤖 dog"  # one character after NFC, and one of several tokens
    offsets = model.tokenizer.offsets(text)
    assert {tuple(pair) for pair in offsets[:-1].tolist()} == {(0, 1), (2, 3)} and len(offsets) > 4
    assert text[slice(*offsets[-1])] == " dog"
    with pytest.raises(ValueError, match="expected str"):
        model.tokenizer.offsets(["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lone surrogate at position 1"):
        model.tokenizer.offsets("a\ud800")


# Words


def test_words_are_those_of_split_and_sum_to_the_text(model: pythia_cpu.Model) -> None:
    words = model.word_surprisals(TEXT)
    assert [w.word for w in words] == TEXT.split()
    assert all(TEXT[w.start : w.end] == w.word for w in words)
    ids = model.tokenizer.encode(TEXT)
    assert sum(w.num_tokens for w in words) == len(ids)
    assert sum(w.nats for w in words) == pytest.approx(-model.score([0, *ids]).total)
    assert words[0].bits == words[0].nats / math.log(2)


def test_a_token_belongs_to_the_word_it_ends_in(model: pythia_cpu.Model) -> None:
    text = "The dog barked.\n\nIt ran  "
    ids = model.tokenizer.encode(text)
    logprobs = model.score([0, *ids]).logprobs.astype(float)
    owners = [min(len((model.tokenizer.decode(ids[: i + 1]) + ".").split()) - 1, 4) for i in range(len(ids))]
    found = model.word_surprisals(text)
    assert [w.word for w in found] == ["The", "dog", "barked.", "It", "ran"]
    expected = [-sum(x for x, owner in zip(logprobs, owners, strict=True) if owner == i) for i in range(5)]
    assert [w.nats for w in found] == pytest.approx(expected)


def test_long_texts_are_read_in_overlapping_windows(model: pythia_cpu.Model) -> None:
    text = "It was a dark and stormy night, and the rain fell. " * 3
    ids = [0, *model.tokenizer.encode(text)]
    length, stride = 16, 5
    nats = 0.0
    for i in range(1, len(ids)):
        begin = max(0, -(-(i - length + 1) // stride)) * stride  # of the first window that holds token i
        nats -= float(model.score(ids[begin : i + 1]).logprobs[-1])
    words = model.word_surprisals(text, context_length=length, stride=stride)
    assert sum(w.nats for w in words) == pytest.approx(nats, rel=1e-6)
    assert model.word_surprisals(text, context_length=16) == model.word_surprisals(text, context_length=16, stride=8)
    assert model.word_surprisals(text, context_length=16) != model.word_surprisals(text)


def test_lists_give_lists(model: pythia_cpu.Model) -> None:
    several = ["Once upon a time", TEXT, "x " * 40, "\n"]
    found = model.word_surprisals(several, context_length=32)
    assert found == [model.word_surprisals(text, context_length=32) for text in several]
    assert found[3] == []
    assert model.word_surprisals([]) == []
    for form in (tuple(several), np.array(several), Column(several), iter(several)):
        assert model.word_surprisals(form, context_length=32) == found  # type: ignore[call-overload]


def test_bad_arguments(model: pythia_cpu.Model) -> None:
    cases: list[tuple[object, dict[str, int], str]] = [
        ("", {}, "text has no tokens"),
        (["a", ""], {}, r"text\[1\] has no tokens"),
        ([1, 2], {}, r"text\[0\] is of type int, expected str"),
        (3, {}, "text is of type int, expected a str or a list"),
        ({"a": "b"}, {}, "text is of type dict, expected a str or a list"),
        (Column(["a", None]), {}, r"text\[1\] is of type NoneType, expected str"),
        (Table(), {}, "text is of type Table.*: pass one column"),
        ("a", {"context_length": 1}, "context_length is 1"),
        ("a", {"context_length": 8, "stride": 8}, "stride is 8, expected 1 to 7"),
    ]
    for text, options, message in cases:
        with pytest.raises(ValueError, match=message):
            model.word_surprisals(text, **options)  # type: ignore[call-overload]
