"""Scores and perplexity of texts: right, as the harness and the guide define them, and the same bits in any company."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pythia_cpu
from bits import assert_same_bits
from frames import Column, Table
from pythia_cpu import _core
from reference import Reference

TOLERANCE = 2e-5  # of a log-probability, in nats
QUESTION = "It was a dark and stormy night, and the old man who sat by the fire said to his daughter that he would"
CHOICES = (" go.", " never speak to her again.", " have the carriage brought round", " sit")


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load(threads=2)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, by rows."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def assert_scores_agree(score: pythia_cpu.Score, logits: np.ndarray) -> None:
    """`logits` are the reference's, of every position."""
    reference = log_softmax(logits)[:-1]
    targets = score.tokens[1:]
    chosen = reference[np.arange(len(targets)), targets]
    assert score.logprobs.dtype == np.float32 and score.is_greedy.dtype == np.bool_
    assert score.logprobs.shape == score.is_greedy.shape == (len(targets),)
    assert np.abs(score.logprobs - chosen).max() <= TOLERANCE
    others = reference.copy()
    others[np.arange(len(targets)), targets] = -np.inf
    margin = chosen - others.max(1)
    clear = np.abs(margin) > TOLERANCE
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(score.is_greedy[clear], (margin > 0)[clear])
    assert score.total == pytest.approx(chosen.sum(), abs=TOLERANCE * len(targets))
    np.testing.assert_array_equal(score.ranks == 0, score.is_greedy)
    assert (score.ranks >= (reference > chosen[:, None] + 2 * TOLERANCE).sum(1)).all()
    assert (score.ranks <= (reference > chosen[:, None] - 2 * TOLERANCE).sum(1)).all()
    entropies = -(np.exp(reference) * reference).sum(1)
    assert np.abs(score.entropies - entropies).max() <= 2 * TOLERANCE


@pytest.mark.parametrize("length", [2, 17, 512, 2048])
def test_shipped_model_against_transformers(
    model: pythia_cpu.Model, length: int, mini_checkpoint: Path, reference: Callable[[Path], Reference]
) -> None:
    tokens = np.random.default_rng(length).integers(0, 4096, length).tolist()
    if length == 17:  # a text the model knows about, where greedy tokens occur
        tokens = model.generate(QUESTION, max_new_tokens=40).tokens
    assert_scores_agree(model.score(tokens), reference(mini_checkpoint).logits(tokens))


@pytest.mark.parametrize("vocab_size", [4099, 50304])
def test_random_model_against_transformers(
    vocab_size: int, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    checkpoint = make_checkpoint(
        hidden_size=128, num_attention_heads=2, num_hidden_layers=2, vocab_size=vocab_size, dtype="float32"
    )
    tokens = np.random.default_rng(1).integers(0, vocab_size, 300).tolist()
    model = pythia_cpu.load(make_model_file(checkpoint, "f32"), threads=2)
    assert_scores_agree(model.score(tokens), Reference(checkpoint).logits(tokens))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "arguments"),
    [
        (600, {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6, "vocab_size": 50304}),
        (600, {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 6, "vocab_size": 50304}),
        (2048, {"hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 4, "parallel": False}),
        (2048, {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 3, "rotary_pct": 1.0}),
    ],
    ids=str,
)
def test_shapes_and_lengths_against_transformers(
    length: int, arguments: dict[str, Any], make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    checkpoint = make_checkpoint(dtype="float32", seed=3, **arguments)
    model = pythia_cpu.load(make_model_file(checkpoint, "f32"), threads=2)
    tokens = np.random.default_rng(2).integers(0, model.config.vocab_size, length).tolist()
    assert_scores_agree(model.score(tokens), Reference(checkpoint).logits(tokens))


def test_continuation(model: pythia_cpu.Model) -> None:
    context, continuation = model.tokenizer.encode(QUESTION), model.tokenizer.encode(CHOICES[1])
    whole = model.score(context + continuation)
    for score in (model.score(context, continuation), model.score(QUESTION, CHOICES[1])):
        assert score.tokens == continuation
        assert_same_bits(score.logprobs, whole.logprobs[len(context) - 1 :])
        np.testing.assert_array_equal(score.is_greedy, whole.is_greedy[len(context) - 1 :])
        assert score.total == math.fsum(map(float, score.logprobs))
    spaced = model.score(QUESTION + " ", CHOICES[1][1:])  # white space moves to the continuation
    assert spaced.tokens == continuation
    start = model.score("", "Once upon")
    assert start.tokens == model.tokenizer.encode("Once upon")
    assert_same_bits(start.logprobs, model.score([0, *start.tokens]).logprobs)


def test_the_greedy_text_is_greedy(model: pythia_cpu.Model) -> None:
    generation = model.generate(QUESTION, max_new_tokens=30, ignore_eos=True, logprobs=0)
    score = model.score(generation.prompt_tokens, generation.tokens)
    assert score.is_greedy.all()
    assert generation.logprobs is not None
    np.testing.assert_allclose(score.logprobs, generation.logprobs, atol=2e-6)


def test_lists_give_lists(model: pythia_cpu.Model) -> None:
    texts = ["Once upon a time", "It was", "Once upon a time there was a man"]
    for text, score in zip(texts, model.score(texts), strict=True):
        assert_same_bits(score.logprobs, model.score(text).logprobs)
        assert score.tokens == model.tokenizer.encode(text)
    pairs = model.score([QUESTION] * len(CHOICES), list(CHOICES))
    for choice, score in zip(CHOICES, pairs, strict=True):
        assert_same_bits(score.logprobs, model.score(QUESTION, choice).logprobs)
    several = model.score(QUESTION, list(CHOICES))  # one context for all
    from_ids = model.score(model.tokenizer.encode(QUESTION), [model.tokenizer.encode(choice) for choice in CHOICES])
    assert len(several) == len(from_ids) == len(pairs)
    for one, other, expected in zip(several, from_ids, pairs, strict=True):
        assert one.tokens == other.tokens == expected.tokens
        assert_same_bits(one.logprobs, expected.logprobs)
        assert_same_bits(other.logprobs, expected.logprobs)
    single = model.score([7])
    assert (single.tokens, len(single.logprobs), single.total) == ([7], 0, 0.0)


@pytest.mark.parametrize("form", [np.array, lambda texts: np.array(texts, object), Column])
def test_arrays_of_texts(model: pythia_cpu.Model, form: Callable[[list[str]], Any]) -> None:
    texts = ["Once upon a time", "It was"]
    assert [score.tokens for score in model.score(form(texts))] == [model.tokenizer.encode(text) for text in texts]
    pairs = model.score(form(texts), form([" there", " a"]))
    assert [score.tokens for score in pairs] == [model.tokenizer.encode(text) for text in (" there", " a")]
    assert [one.prompt_tokens for one in model.generate(form(texts), max_new_tokens=1)] == [
        model.tokenizer.encode(text) for text in texts
    ]


def test_empty_lists(model: pythia_cpu.Model) -> None:
    no_texts = np.array([], object)
    for arguments in ((no_texts,), (np.empty((0, 5), int),), (no_texts, no_texts), ("Once", [])):
        assert model.score(*arguments) == []
    assert model.score([], [5, 6]).tokens == [5, 6]  # a context without tokens


def scores(model: pythia_cpu.Model, requests: list[Any], **options: Any) -> list[tuple[np.ndarray, ...]]:
    return _core.score_sequences(model._core, requests, **options)


def assert_same_scores(actual: list[Any], expected: list[Any]) -> None:
    assert len(actual) == len(expected)
    for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
        for array, expected_array in zip(one, other, strict=True):
            assert_same_bits(array, expected_array, f"request {i}")


@settings(max_examples=30)
@given(data=st.data())
def test_any_company_and_sharing(model: pythia_cpu.Model, data: st.DataObject) -> None:
    """Trees of shared prefixes, duplicates, any order, any size of a pass, hardly any memory: each as if alone."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    header = rng.integers(0, 4096, data.draw(st.integers(0, 80))).tolist()
    requests = []
    for _ in range(data.draw(st.integers(1, 5))):
        context = header + rng.integers(0, 4096, data.draw(st.integers(1, 60))).tolist()
        for _ in range(data.draw(st.integers(1, 4))):
            continuation = rng.integers(0, 3, data.draw(st.integers(1, 40))).tolist()
            requests.append((context + continuation, data.draw(st.sampled_from([1, len(context)]))))
    requests.append((requests[0][0], len(requests[0][0])))  # nothing to score
    rng.shuffle(requests)  # type: ignore[arg-type]
    requests = [(list(map(int, ids)), int(first)) for ids, first in requests]
    alone = [scores(model, [request], share_prefixes=False)[0] for request in requests]
    options = {
        "rows_per_pass": data.draw(st.sampled_from([7, 64, 512, 4096])),
        "cache_bytes": data.draw(st.sampled_from([0, 2**20, 2**30])),
    }
    for share_prefixes in (True, False):
        assert_same_scores(scores(model, requests, share_prefixes=share_prefixes, **options), alone)


def test_bad_scoring_arguments(model: pythia_cpu.Model) -> None:
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("",), "text has no tokens"),
        ((["Once", ""],), r"text\[1\] has no tokens"),
        ((np.array([], np.int32),), "text has no tokens"),
        (([4096],), "token id 4096"),
        (([0] * 2050,), "text has 2050 tokens, expected at most 2049"),
        (([[0], [0] * 2050],), r"text\[1\] has 2050 tokens, expected at most 2049"),
        ((["Once", "\ud800"],), r"text\[1\]: text has a lone surrogate at position 0"),
        (("Once", ""), "continuation has no tokens"),
        (("Th", "e"), "continuation adds no token to the 1 of context, .* begin it with a space"),
        (([1], []), "continuation has no tokens"),
        (("Once", [1]), "one of context and continuation is a str"),
        ((["Once", "It"], [" upon", ""]), r"continuation\[1\] has no tokens"),
        (([[0], [0]], [[0], [4096]]), r"continuation\[1\] holds token id 4096"),
        (([[0], [-1]], [[0], [0]]), r"context\[1\] holds token id -1"),
        (([[0], [0] * 2040], [[0], [0] * 10]), r"context\[1\] and continuation\[1\] have 2050 tokens"),
        ((["Once", [1]], ["upon", "a"]), r"one of context\[1\] and continuation\[1\] is a str"),
        (([0] * 2040, [[0], [0] * 10]), r"context and continuation\[1\] have 2050 tokens"),
        ((["Once"], "upon"), "text is a list of contexts and continuation is one"),
        (([],), "text has no tokens"),
        (([], []), "continuation has no tokens"),
        (([], "upon"), "one of context and continuation is a str"),
        ((["Once"], ["upon", "a"]), "text has 1 contexts and continuation 2, expected"),
        ((np.array([], object), ["upon", "a"]), "text has 0 contexts and continuation 2"),
        ((np.array([["Once"]]),), r"text is an array of <U4 \[1, 1\], expected texts \[n\]"),
        ((Table(),), r"text is of type Table, expected texts or token ids: pass one column, or \.to_numpy"),
        ((3,), "int"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            model.score(*arguments)
    assert len(model.score([0] * 2049).logprobs) == 2048
    with pytest.raises(ValueError, match="text has no tokens"):
        model.perplexity([])


def harness_windows(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """(inputs, predictions) as lm-evaluation-harness's documentation of rolling windows describes them."""
    windows = []
    for begin in range(0, len(tokens), length):
        predictions = tokens[begin : begin + length]
        known = [prefix, *tokens][: begin + len(predictions)]
        windows.append((known[-length:], predictions))
    return windows


def guide_windows(num_tokens: int, length: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, end, scored from) as the perplexity guide of transformers loops over them."""
    windows, previous = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + length, num_tokens)
        windows.append((begin, end, max(previous, begin + 1)))
        previous = end
        if end == num_tokens:
            break
    return windows


@given(num_tokens=st.integers(0, 70), length=st.integers(1, 20))
def test_rolling_windows(num_tokens: int, length: int) -> None:
    tokens = list(range(1, num_tokens + 1))
    expected = harness_windows(tokens, 0, length)
    actual = _core.rolling_windows(tokens, 0, length)
    assert [(ids[:-1], ids[first:]) for ids, first in actual] == expected
    assert [t for ids, first in actual for t in ids[first:]] == tokens


@given(num_tokens=st.integers(1, 70), length=st.integers(2, 20), stride=st.integers(1, 20))
def test_strided_windows(num_tokens: int, length: int, stride: int) -> None:
    tokens, stride = list(range(num_tokens)), min(length, stride)
    expected = [(tokens[begin:end], first - begin) for begin, end, first in guide_windows(num_tokens, length, stride)]
    assert [(ids.tolist(), first) for ids, first in _core.strided_windows(tokens, length, stride)] == expected


@pytest.mark.parametrize("stride", [None, 64, 23])
def test_perplexity_against_transformers(
    model: pythia_cpu.Model, stride: int | None, mini_checkpoint: Path, reference: Callable[[Path], Reference]
) -> None:
    text = model.generate(QUESTION, max_new_tokens=200, do_sample=True, seed=1, ignore_eos=True).text + "\n The end. "
    tokens, length = model.tokenizer.encode(text), 64
    logprobs: list[float] = []
    if stride is None:
        for inputs, predictions in harness_windows(tokens, 0, length):
            rows = log_softmax(reference(mini_checkpoint).logits(inputs))[-len(predictions) :]
            logprobs += rows[np.arange(len(predictions)), predictions].tolist()
    else:
        for begin, end, first in guide_windows(len(tokens), length, stride):
            rows = log_softmax(reference(mini_checkpoint).logits(tokens[begin:end]))
            logprobs += [rows[i - 1 - begin, tokens[i]] for i in range(first, end)]
    result = model.perplexity(text, context_length=length, stride=stride)
    assert result.num_tokens == len(logprobs)
    assert result.nll == pytest.approx(-sum(logprobs), rel=1e-6)
    assert result.value == pytest.approx(math.exp(-np.mean(logprobs)), rel=1e-6)
    unscored = [] if stride is None else tokens[::stride] if stride == length else tokens[:1]
    assert result.num_bytes == len(text.encode()) - sum(len(model.tokenizer.token_bytes(id)) for id in unscored)
    assert result.num_words is not None
    assert result.word_perplexity == pytest.approx(math.exp(result.nll / result.num_words))
    assert result.byte_perplexity == pytest.approx(math.exp(result.nll / result.num_bytes))
    assert result.bits_per_byte == pytest.approx(result.nll / result.num_bytes / math.log(2))
    ids = model.perplexity(tokens, context_length=length, stride=stride)
    assert (ids.nll, ids.value, ids.num_words, ids.word_perplexity) == (result.nll, result.value, None, None)


def test_perplexity_of_long_and_short_texts(model: pythia_cpu.Model) -> None:
    tokens = np.random.default_rng(2).integers(0, 4096, 5000)
    assert model.perplexity(tokens).num_tokens == 5000
    assert model.perplexity(tokens, stride=2048).num_tokens == 5000 - 3
    whole = model.perplexity(tokens[:2048], stride=2048)
    assert whole.nll == -model.score(tokens[:2048]).total
    assert model.perplexity([7]).num_tokens == 1
    for arguments, message in [
        ({"text": [7], "stride": 8}, "none of them has one before it"),
        ({"text": ""}, "no tokens"),
        ({"text": ["a", ""]}, r"text\[1\] has no tokens"),
        ({"text": [[5, 6], [7]], "stride": 8}, r"text\[1\] has 1 tokens and none of them has one before it"),
        ({"text": "a", "context_length": 2049}, "context_length is 2049"),
        ({"text": "a", "context_length": 1}, "context_length is 1"),
        ({"text": "a", "stride": 0}, "stride is 0"),
        ({"text": "a", "context_length": 8, "stride": 9}, "stride is 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.perplexity(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"context_length": 16}, {"context_length": 16, "stride": 5}])
def test_perplexities_of_lists(model: pythia_cpu.Model, options: dict[str, int]) -> None:
    texts = ["It was a dark night.", "He said that he would " * 30, "Once upon a time"]
    alone = [model.perplexity(text, **options) for text in texts]
    assert model.perplexity(texts, **options) == alone
    assert model.perplexity(np.array(texts), **options) == alone
    ids = [model.tokenizer.encode(text) for text in texts]
    found = model.perplexity(ids, **options)
    assert [(one.nll, one.num_bytes) for one in found] == [(one.nll, None) for one in alone]


def test_a_perplexity_above_all_floats() -> None:
    found = pythia_cpu.Perplexity(nll=1e6, num_tokens=1000, num_words=100, num_bytes=5000)
    assert found.value == found.word_perplexity == math.inf
    assert found.byte_perplexity == pytest.approx(math.exp(200), rel=1e-15)
    worse = pythia_cpu.Perplexity(nll=1e6, num_tokens=1, num_bytes=1)
    assert worse.value == worse.byte_perplexity == math.inf
    assert worse.bits_per_byte == 1e6 / math.log(2)
