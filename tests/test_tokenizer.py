"""The C++ tokenizer gives the ids and the text of Hugging Face `tokenizers`, for any text and any ids."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

import tokenizer_texts as texts
from checkpoints import MINI_PYTHIA
from pythia_cpu import _tokenizer
from pythia_cpu._core import IncrementalDecoder, Tokenizer
from pythia_cpu._tokenizer_export import compile_tokenizer

NEOX = Path(__file__).parents[2] / "shared" / "data" / "tokenizer-neox"


class Pair:
    """Both implementations of one tokenizer.json."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self.reference = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        self.ours = Tokenizer(compile_tokenizer(tokenizer_json))

    def check_encode(self, text: str) -> None:
        expected = self.reference.encode(text, add_special_tokens=False).ids
        found = self.ours.encode(text)
        if found != expected:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                min(len(found), len(expected)),
            )
            context = self.reference.decode(expected[max(at - 5, 0) : at + 5], skip_special_tokens=False)
            pytest.fail(f"token {at}: {found[at : at + 5]}, expected {expected[at : at + 5]}, near {context!a}")

    def check_decode(self, ids: list[int]) -> None:
        for skip in (True, False):
            expected = self.reference.decode(ids, skip_special_tokens=skip)
            assert self.ours.decode(ids, skip) == expected
            decoder = IncrementalDecoder(self.ours, skip)
            pieces = [decoder.push(token_id) for token_id in ids] + [decoder.finish()]
            assert "".join(pieces) == expected


@pytest.fixture(scope="module", params=["mini", "neox"])
def pair(request: pytest.FixtureRequest) -> Pair:
    folder = MINI_PYTHIA if request.param == "mini" else NEOX
    if not folder.exists():
        pytest.skip("the GPT-NeoX tokenizer is not beside this checkout")
    return Pair((folder / "tokenizer.json").read_bytes())


@pytest.fixture(scope="module")
def byte_ids(pair: Pair) -> dict[int, int]:
    """The token of each single byte that has one."""
    single = {pair.ours.token_bytes(i): i for i in range(pair.ours.vocab_size)}
    return {b: single[bytes([b])] for b in range(256) if bytes([b]) in single}


TEXTS = {
    "empty": "",
    "words": "Hello world, hello World! it's we'll they've I'd 'tis rock'n'roll O'Neill's 'Sblood",
    "contractions": " ".join(f"a{a}{b}" for a in texts.CONTRACTIONS for b in ["", "x", " x", "1", *texts.CONTRACTIONS]),
    "spaces": "".join(" " * n + "x" for n in range(1, 61)),
    "trailing spaces": "x" + " " * 60,
    "white space of all kinds": "".join(
        before + c * n + after
        for c in texts.WHITE_SPACE
        for n in (1, 2, 3, 60)
        for before in ("", "a", " ")
        for after in ("b", " b", "1", "!", "")
    ),
    "white space runs": "".join(c * n + "y" for c in " \t\n\u00a0\u3000" for n in range(1, 61)),
    "special tokens": "a<|endoftext|>b <|padding|> <|endoftext|><|endoftext|>  <|padding|>\n<|endoftext",
    "special token, decomposed around": "e<|endoftext|>\u0301<|padding|>\u0301\u0323",
    "digits": "".join(texts.code_points("digits")),
    "controls": "".join(map(chr, range(0x20))) + "".join(texts.code_points("controls")) + "\0\0a\0",
    "paragraph": texts.PARAGRAPH,
    "emoji": "👩🏽‍🚀 👨‍👩‍👧‍👦🏳️‍🌈 1️⃣ ☠️",
    "hangul, jamo by jamo": unicodedata.normalize("NFD", "대한민국 한국어 텍스트 값"),
    "composition exclusions": "\u0958\u2adc\u0344\u0340\u0341\u0343\u0f43\ufb1d\ufb2a\U0001d15e\U0001d160\u212b",
    "blocked composition": "a\u0327\u0301 a\u0301\u0327 a\u0301\u0301 \u0301a \u1100\u0301\u1161 o\u0328\u0304",
    "long words": "a" * 47 + " " + "b" * 48 + " " + "c" * 49 + " " + "the" * 20 + " " + "xyz" * 3000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_encode_of_known_traps(pair: Pair, name: str) -> None:
    pair.check_encode(TEXTS[name])
    pair.check_decode(pair.ours.encode(TEXTS[name]))


def test_encode_of_assigned_code_points(pair: Pair) -> None:
    # Han and Hangul come in every tenth: the slow test has all.
    characters = [
        c
        for c in texts.code_points("assigned")
        if not ("\u3400" <= c <= "\ud7a3" or c >= "\U00017000") or ord(c) % 10 == 0
    ]
    for start in range(0, len(characters), 4096):
        pair.check_encode("".join(f"a{c} {c}1{c}" for c in characters[start : start + 4096]))


def test_encode_of_every_composition(pair: Pair) -> None:
    for c in texts.code_points("decomposable"):
        decomposed = unicodedata.normalize("NFD", c)
        if decomposed != c:
            pair.check_encode(
                f"{c} x{c}\u0301{decomposed} {decomposed}\u0323{decomposed[0]}\u0334{decomposed[1:]} {decomposed[::-1]}"
            )


def test_encode_of_marks_in_every_order(pair: Pair) -> None:
    # One text for each pair: a longer one would be normalized for the sake of any other part of it.
    by_class = {unicodedata.combining(mark): mark for mark in reversed(texts.code_points("marks"))}
    for first in by_class.values():
        for second in by_class.values():
            pair.check_encode("x" + first + second)
    pair.check_encode("\u05d1\u05bc\u05b7")  # Hebrew as it is typed: dagesh before patah
    pair.check_encode("\u0628\u0651\u064e")  # Arabic: shadda before fatha


def test_encode_of_every_hangul_composition(pair: Pair) -> None:
    syllables = [chr(c) for c in range(0xAC00, 0xD7A4)]
    pair.check_encode(" ".join(unicodedata.normalize("NFD", s) for s in syllables))
    open_syllables = [chr(c) for c in range(0xAC00, 0xD7A4, 28)]
    finals = list(map(chr, range(0x11A6, 0x11C5)))
    pair.check_encode(" ".join(s + t for s in open_syllables for t in finals))
    pair.check_encode(" ".join(a + b for a in "\uac01\u1100\u1161\u11a8\u11a7" for b in texts.HANGUL_JAMO))
    leads, vowels = map(chr, range(0x10FF, 0x1115)), list(map(chr, range(0x1160, 0x1178)))
    pair.check_encode(" ".join(lead + vowel for lead in leads for vowel in vowels))


@given(text=st.one_of(texts.any_text, texts.mixed_text, texts.fuzzed_text))
@example(text="\u0301")
@example(text=" \u0301")
@example(text="\n \u200b \n")
def test_encode_of_any_text(pair: Pair, text: str) -> None:
    pair.check_encode(text)
    # decode of encode is the text in NFC, so this also compares the normalisers character by character.
    pair.check_decode(pair.ours.encode(text))


def test_encode_of_fuzzed_text(pair: Pair) -> None:
    rng = random.Random(7)
    for size in (10, 100, 1000, 10_000):
        for _ in range(20 if size < 10_000 else 10):
            pair.check_encode(texts.fuzz_text(rng, size))


def test_encode_of_real_text(pair: Pair) -> None:
    text = texts.real_text()
    pair.check_encode(text)
    ids = pair.ours.encode(text)
    assert pair.ours.decode(ids) == text
    pair.check_decode(ids[:5000])


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "<|endoftext|>\ud83d"])
def test_encode_refuses_lone_surrogates(pair: Pair, text: str) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        pair.ours.encode(text)


@pytest.mark.parametrize(
    "unit", ["a", " ", "ab", "\u00e9", "e\u0301", "\u0323\u0301", "7", "=", "\n", "\uac00\u11a8", "<|padding|>"]
)
def test_encode_of_a_megabyte_of_one_thing(pair: Pair, unit: str) -> None:
    text = unit * (1_000_000 // len(unit.encode()))
    started = time.perf_counter()
    ids = pair.ours.encode(text)
    # A quadratic algorithm takes hours; the limit only has to be far from both on a busy machine.
    assert time.perf_counter() - started < 20
    assert pair.ours.decode(ids, False) == pair.reference.normalizer.normalize_str(text)
    pair.check_encode(text[: 50_000 * len(unit)][:50_000])


@given(ids=st.lists(st.integers(0, 60_000), max_size=30))
def test_decode_of_any_ids(pair: Pair, ids: list[int]) -> None:
    pair.check_decode(ids)
    pair.check_decode([i % pair.ours.vocab_size for i in ids])


@given(data=st.binary(max_size=40))
@example(data=b"\xf0\x9f\x98")
@example(data=b"\xe0\x80\x80\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf\xff")
@example(data=b"\xf0\x9f\x98A\xe2\x82\xe2\x82\xac\xc3")
def test_decode_of_any_bytes(pair: Pair, byte_ids: dict[int, int], data: bytes) -> None:
    known = bytes(b for b in data if b in byte_ids)
    ids = [byte_ids[b] for b in known]
    pair.check_decode(ids)
    assert pair.ours.decode(ids) == known.decode("utf-8", "replace")


def test_decode_of_all_that_is_nearly_utf8(pair: Pair, byte_ids: dict[int, int]) -> None:
    """Every first byte, and after it those at the borders of what may follow one."""
    borders = (0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
    ends = (b"", b"\x80", b"\xbf\x80", b"\x80\x7f", b"\x80\xbf\x80", b"\xc0\x80")
    data = b"".join(bytes([lead, second]) + end + b"." for lead in range(256) for second in borders for end in ends)
    known = bytes(b for b in data if b in byte_ids)
    assert pair.ours.decode([byte_ids[b] for b in known]) == known.decode("utf-8", "replace")
    decoder = IncrementalDecoder(pair.ours)
    assert "".join(decoder.push(byte_ids[b]) for b in known) == known.decode("utf-8", "replace")


def test_incremental_decode_never_splits_a_character(pair: Pair, byte_ids: dict[int, int]) -> None:
    decoder = IncrementalDecoder(pair.ours)
    pieces = [decoder.push(byte_ids[b]) for b in "a😀é".encode()]
    assert pieces == ["a", "", "", "", "😀", "", "é"]
    assert decoder.finish() == ""
    assert [decoder.push(byte_ids[b]) for b in "😀".encode()[:3]] == ["", "", ""]
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_vocabulary(pair: Pair) -> None:
    vocab = pair.reference.get_vocab(with_added_tokens=True)
    assert pair.ours.vocab_size == max(vocab.values()) + 1
    special = {i for i, token in pair.reference.get_added_tokens_decoder().items() if token.special}
    assert {i for i in range(pair.ours.vocab_size) if pair.ours.is_special(i)} == special == {0, 1}
    for token_id in range(pair.ours.vocab_size):
        text = pair.ours.token_bytes(token_id).decode("utf-8", "replace")
        assert text == pair.reference.decode([token_id], skip_special_tokens=False)


def test_ids_without_a_token(pair: Pair) -> None:
    padding_row = pair.ours.vocab_size + 7
    assert pair.ours.token_bytes(padding_row) == b""
    assert not pair.ours.is_special(padding_row)
    assert pair.ours.decode([padding_row, 2**31, 2**40, 2**70]) == ""
    assert pair.ours.token_bytes(-1) == b""
    for bad in (-1, -(2**40), -(2**70)):
        with pytest.raises(ValueError, match="expected 0 or more"):
            pair.ours.decode([5, bad])
    with pytest.raises(TypeError):
        pair.ours.decode([1.5])


@pytest.mark.slow
def test_ten_million_characters(pair: Pair) -> None:
    """Every code point in context, then fuzz and real text up to ten million characters."""
    checked = 0

    def check(text: str) -> None:
        nonlocal checked
        pair.check_encode(text)
        checked += len(text)

    every = [c for c in map(chr, range(0x110000)) if not "\ud800" <= c <= "\udfff"]
    for start in range(0, len(every), 8192):
        check("".join(f"{c} {c}1{c}" for c in every[start : start + 8192]))
    rng = random.Random(20)
    while checked < 9_500_000:
        check(texts.fuzz_text(rng, rng.choice([50, 1000, 50_000])))
    real = texts.real_text()
    while checked < 10_000_000:
        check(real[rng.randrange(len(real)) :])


def test_offsets_of_a_tokenizer_that_cuts_and_pads() -> None:
    """As fast tokenizers are saved after a call with truncation and padding: that is of the call, not of texts."""
    plain = (MINI_PYTHIA / "tokenizer.json").read_bytes()
    other = tokenizers.Tokenizer.from_buffer(plain)
    other.enable_truncation(3)
    other.enable_padding(length=12)
    saved = other.to_str().encode()
    assert b'"max_length":3' in saved
    for text in ("Once upon a time there was an old man", "It was", ""):
        expected = _tokenizer.Tokenizer(compile_tokenizer(plain), None).offsets(text)
        found = _tokenizer.Tokenizer(compile_tokenizer(saved), None)
        assert found.offsets(text).tolist() == expected.tolist()
        assert len(expected) == len(found.encode(text))


def test_tokenizer_outlives_its_arguments() -> None:
    def make() -> Callable[[int], str]:
        return IncrementalDecoder(Tokenizer(compile_tokenizer((MINI_PYTHIA / "tokenizer.json").read_bytes()))).push

    assert make()(2) == "!"
